"""What the timeline says, in lines and on the page alike."""

from collections import Counter
from collections.abc import Iterable, Iterator

from adapters.cli.chronicle import Chronicle
from adapters.cli.history import Attempt, Certificate, Section, Stretch
from adapters.cli.screen import clock_time, span


def stamp(unix_ms: int) -> str:
    """Without the zone, which is UTC throughout."""
    return clock_time(unix_ms).removesuffix("Z")


def title(told: Chronicle) -> str:
    return f"{told.device} at {told.hub}" if told.device else "a device without an assignment"


def period(told: Chronicle) -> str:
    first, last = told.sections[0], told.sections[-1]
    numbers = f"records {told.first_sequence} to {told.last_sequence}"
    return f"{stamp(first.from_unix_ms)} to {stamp(last.until_unix_ms)} UTC, {numbers}"


def verdict(told: Chronicle) -> str:
    """How it is at the end, in one sentence."""
    section = told.sections[-1]
    state = section.states[-1].what if section.states else "nothing"
    current = in_use(section)
    if current is None:
        return f"At the end: {state}, without an issued certificate."
    left_ms = current.ends_unix_ms - section.until_unix_ms
    if left_ms <= 0:
        return f"At the end: {state}, with a certificate that had ended {span(-left_ms)} before."
    until = stamp(current.ends_unix_ms)
    return f"At the end: {state}, with a certificate valid until {until} ({span(left_ms)} left)."


def in_use(section: Section) -> Certificate | None:
    last = section.certificates[-1] if section.certificates else None
    return last if last is not None and last.until_unix_ms is None else None


def summary(told: Chronicle) -> Iterator[tuple[str, str]]:
    """Label and text of each number."""
    sections = told.sections
    yield "recorded", span(sum(one.until_unix_ms - one.from_unix_ms for one in sections))
    spent: Counter[str] = Counter()
    for section in sections:
        for one in section.states:
            spent[one.what] += lasted_ms(one, section)
    whole = sum(spent.values())
    shares = (f"{state} {_share(ms, whole)}" for state, ms in spent.most_common())
    yield "states", ", ".join(shares)
    certificates = {one.generation for section in sections for one in section.certificates}
    current = in_use(sections[-1])
    yield (
        "certificates",
        f"{len(certificates)} used" + (f", number {current.generation} in use" if current else ""),
    )
    results = Counter(
        one.result for section in sections for one in section.attempts if one.until_unix_ms is not None
    )
    for attempt in sections[-1].attempts:
        if attempt.until_unix_ms is None:
            results["running"] += 1
    yield "attempts", ", ".join(f"{count} {result}" for result, count in results.most_common()) or "none"
    outages = [(one, section) for section in sections for one in section.outages]
    lost = span(sum(lasted_ms(one, section) for one, section in outages))
    yield "outages", f"{len(outages)}, {lost} in all" if outages else "none"
    down = [(one, section) for section in sections for one in section.down]
    starts = f"{told.starts} start{'' if told.starts == 1 else 's'}"
    off = span(sum(lasted_ms(one, section) for one, section in down))
    yield "service", f"{starts}, not running for {off}" if down else starts
    if len(sections) > 1:
        yield "clock", f"set {len(sections) - 1} time{'' if len(sections) == 2 else 's'}"


def _share(ms: int, whole: int) -> str:
    percent = ms * 100 / whole if whole else 0.0
    return "under 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %".replace(".0 %", " %")


def lasted_ms(one: Stretch, section: Section) -> int:
    """Until its end, or that of the section."""
    until = section.until_unix_ms if one.until_unix_ms is None else one.until_unix_ms
    return max(until - one.from_unix_ms, 0)


def section_title(section: Section) -> str:
    moved = section.clock_moved_ms
    if not moved:
        return ""
    return f"The clock was set {'ahead' if moved > 0 else 'back'} by {span(abs(moved))}"


def state_facts(one: Stretch, section: Section) -> tuple[str, ...]:
    until = "the end" if one.until_unix_ms is None else stamp(one.until_unix_ms)
    return (one.what, f"{stamp(one.from_unix_ms)} to {until}", f"for {span(lasted_ms(one, section))}")


def certificate_facts(one: Certificate) -> tuple[str, ...]:
    facts = [
        f"certificate {one.generation}, serial {one.serial or 'unknown'}",
        f"valid {stamp(one.begins_unix_ms)} to {stamp(one.ends_unix_ms)}",
        f"in use from {stamp(one.from_unix_ms)}"
        + ("" if one.until_unix_ms is None else f" to {stamp(one.until_unix_ms)}"),
    ]
    if one.opens_unix_ms is not None and one.closes_unix_ms is not None:
        facts.append(f"renewal window {stamp(one.opens_unix_ms)} to {stamp(one.closes_unix_ms)}")
    if one.due_unix_ms is not None:
        facts.append(f"renewal drawn for {stamp(one.due_unix_ms)}")
    if one.until_unix_ms is not None:
        left_ms = one.ends_unix_ms - one.until_unix_ms
        facts.append(f"replaced with {span(left_ms)} left" if left_ms >= 0 else f"{span(-left_ms)} too late")
    return tuple(facts)


def attempt_title(one: Attempt) -> str:
    number = "" if one.number is None else f" {one.number}"
    return f"{one.kind}{number}: {one.result}"


def attempt_facts(one: Attempt, section: Section, most: int = 5) -> tuple[str, ...]:
    until = section.until_unix_ms if one.until_unix_ms is None else one.until_unix_ms
    facts = [attempt_title(one), f"{stamp(one.from_unix_ms)}, took {took(until - one.from_unix_ms)}"]
    facts += mishaps(one, most)
    if one.why:
        facts.append(one.why)
    return tuple(facts)


def mishaps(one: Attempt, most: int) -> Iterable[str]:
    for mishap in one.mishaps[:most]:
        tracking = f", tracking id {mishap.tracking_id}" if mishap.tracking_id else ""
        yield f"{mishap.code} ({mishap.failure_class}): {mishap.message}{tracking}"
    if len(one.mishaps) > most:
        yield f"and {len(one.mishaps) - most} more failures"


def outage_facts(one: Stretch, section: Section) -> tuple[str, ...]:
    until = "the end" if one.until_unix_ms is None else stamp(one.until_unix_ms)
    lasted = f"known of for {span(lasted_ms(one, section))}"
    return (f"{one.what} was not reached", f"{stamp(one.from_unix_ms)} to {until}", lasted)


def down_facts(one: Stretch, section: Section) -> tuple[str, ...]:
    until = "the end" if one.until_unix_ms is None else stamp(one.until_unix_ms)
    what = f"the service did not run: it was {one.what}"
    if not one.what.startswith("asked"):
        what = f"the service did not run: it {one.what}"
    return (what, f"{stamp(one.from_unix_ms)} to {until}", f"for {span(lasted_ms(one, section))}")


def took(ms: int) -> str:
    """Short spans to the tenth and below: most attempts take seconds."""
    if ms < 1_000:
        return f"{max(ms, 0)} ms"
    return f"{ms / 1000:.1f} s" if ms < 60_000 else span(ms)
