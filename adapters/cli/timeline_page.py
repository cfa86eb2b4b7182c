"""The timeline as one HTML page: no network, no scripts; for a phone, for paper, for light and dark.

Everything a journal says is escaped, and the page's own policy lets nothing run or be fetched.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from adapters.cli.chronicle import Chronicle, Entry
from adapters.cli.history import Attempt, Section, Stretch
from adapters.cli.timeline_plot import picture
from adapters.cli.timeline_words import (
    attempt_title,
    in_use,
    mishaps,
    period,
    section_title,
    stamp,
    summary,
    title,
    took,
    verdict,
)
from adapters.page_style import definitions, document, legend

MOST_SECTIONS = 12
MOST_ATTEMPTS, OPEN_ATTEMPTS = 300, 12
MOST_ENTRIES = 2_000
"The newest; `journal show` has all of them."

_STYLE = """
.plot{display:grid;grid-template-columns:max-content 1fr;gap:6px 10px;align-items:center;margin:8px 0}
.plot>b{font-weight:400;color:var(--dim);font-size:.85rem}
.lane{position:relative;height:calc(var(--n)*22px);background:var(--ground);border-radius:3px}
.lane.axis{background:none;height:1.1rem}.lane.certificates{height:calc(var(--n)*24px)}
.tick{position:absolute;top:0;height:100%;border-left:1px solid var(--line);padding-left:3px;
font:.72rem/1.1rem system-ui,sans-serif;color:var(--dim);white-space:nowrap;font-variant-numeric:tabular-nums}
.ahead{position:absolute;top:0;bottom:0;right:0;border-left:1px dashed var(--dim);
background:repeating-linear-gradient(135deg,transparent 0 5px,var(--line) 5px 6px)}
.axis .ahead{background:none;border:0}
.box{position:absolute;top:0;height:22px;min-width:3px;border-radius:2px}
.certificates .box{top:calc(var(--l)*24px + 2px);height:20px}
.box.thin{z-index:1}
.box em{position:absolute;left:3px;top:3px;max-width:calc(100% - 6px);padding:0 4px;border-radius:2px;
background:#0009;color:#fff;font:.72rem/16px system-ui,sans-serif;overflow:hidden;white-space:nowrap}
.certificates em{top:2px}
.box:focus,.dot:focus{outline:2px solid var(--ink);outline-offset:1px;z-index:4}
.box:hover,.dot:hover{z-index:5}
.cert{background:var(--left)}.cert i{position:absolute;top:0;bottom:0}.cert .used{background:var(--used);
border-radius:2px}
.cert .window{background:repeating-linear-gradient(135deg,var(--wait) 0 3px,transparent 3px 7px);top:13px}
.cert.cut{border-top-right-radius:0;border-bottom-right-radius:0;border-right:2px dotted var(--dim)}
.due{position:absolute;top:calc(var(--l)*24px + 7px);width:10px;height:10px;margin-left:-5px;
background:var(--paper);border:2px solid var(--ink);transform:rotate(45deg);pointer-events:none;z-index:2}
.box.late{background:var(--bad)}
.s-Provisioned{background:var(--calm)}.s-CertExpiring{background:var(--wait)}.s-Renewing{background:var(--wait)}
.s-Registering{background:var(--used)}.s-Reprovisioning{background:var(--work)}
.s-Unprovisioned{background:var(--bad)}
.r-succeeded{background:var(--good)}.r-failed{background:var(--bad)}.r-abandoned{background:var(--outage)}
.r-running{background:var(--wait)}
.box.dps{background:var(--outage);top:1px;height:9px}.box.hub{background:var(--hub);top:12px;height:9px}
.box.down{background:repeating-linear-gradient(45deg,var(--dim) 0 2px,transparent 2px 5px);
border:1px solid var(--dim)}
.dot{position:absolute;top:6px;width:10px;height:10px;margin-left:-5px;border-radius:50%;background:var(--outage)}
.dot.turn{background:var(--used)}.dot.bad{background:var(--bad)}.dot.many{border:2px solid var(--ink)}
.tip{display:none;position:absolute;z-index:9;top:100%;left:50%;transform:translateX(-50%);width:max-content;
max-width:min(380px,60vw);background:var(--paper);color:var(--ink);border:1px solid var(--dim);
border-radius:6px;padding:6px 10px;font:.82rem/1.4 system-ui,sans-serif;
box-shadow:0 3px 12px #0004;overflow-wrap:anywhere}
.tip>b,.tip>span{display:block}.tip .why,.tip .day{color:var(--dim)}
.tip.west{left:0;transform:none}.tip.east{left:auto;right:0;transform:none}
.box:hover>.tip,.box:focus>.tip,.box:focus-within>.tip,.dot:hover>.tip,.dot:focus>.tip,.dot:focus-within>.tip
{display:block}
a{color:inherit}
.attempt{margin:10px 0;padding-left:10px;border-left:4px solid var(--outage)}
.attempt.succeeded{border-color:var(--good)}.attempt.failed{border-color:var(--bad)}
.attempt.running{border-color:var(--wait)}.attempt b{font-weight:600}
.cards div:nth-child(2){grid-column:span 2}
.phases{display:flex;gap:1px;margin:3px 0}.phases i{flex:1 1 0;min-width:4px;height:14px;overflow:hidden;
background:var(--left);font:.68rem/14px system-ui,sans-serif;color:var(--ink);padding-left:3px;
white-space:nowrap}
.ev{border-bottom:1px solid var(--line);scroll-margin-top:8px}
.ev>summary,.ev>.row{margin:0;padding:4px 0;color:var(--ink);display:grid;
grid-template-columns:5.4rem 7.6rem 1fr;gap:0 10px}
.ev>summary::marker{content:""}.ev>summary::-webkit-details-marker{display:none}
.ev time,.ev .st{color:var(--dim);font-variant-numeric:tabular-nums;white-space:nowrap}
.ev .what{overflow-wrap:anywhere}.ev .what b{font-weight:600}
.ev:target{background:var(--card);outline:2px solid var(--used)}.ev summary:hover{background:var(--card)}
.ev p{color:var(--dim);margin:0 0 4px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.78rem;background:var(--card);padding:8px;
margin:0 0 8px;border-radius:4px}
h3{font-size:.95rem;margin:18px 0 4px;color:var(--dim);font-weight:600}
@media (max-width:560px){.plot{grid-template-columns:1fr;gap:2px}.plot>b{margin-top:6px}
.plot>b:empty{display:none}.tick:nth-of-type(even),.tick.far{display:none}
.ev>summary,.ev>.row{grid-template-columns:5.4rem 1fr}.ev .what{grid-column:1/3}.tip{max-width:60vw}}
@media print{.attempt,.ev,.plot{break-inside:avoid}.tip{display:none!important}}
"""

_STATES = (
    ("--bad", "Unprovisioned"),
    ("--used", "Registering"),
    ("--calm", "Provisioned"),
    ("--wait", "CertExpiring"),
    ("--wait", "Renewing"),
    ("--work", "Reprovisioning"),
)
_RESULTS = (
    ("--good", "succeeded"),
    ("--bad", "failed"),
    ("--outage", "abandoned"),
    ("--wait", "running"),
)


def page(told: Chronicle) -> str:
    """The whole page. The same journal gives the same text."""
    return document(f"identityd timeline: {title(told)}", _STYLE, _parts(told))


def _parts(told: Chronicle) -> Iterator[str]:
    last = told.sections[-1]
    yield f"<h1>{escape(title(told))}</h1><p class='dim'>{escape(period(told))}</p>\n"
    style = "good" if _well(last) else "bad"
    yield f"<p class='verdict {style}'>{escape(verdict(told))}</p>\n"
    for note in told.notes:
        yield f"<p class='bad'>{escape(note)}</p>\n"
    yield f"<dl class='cards'>{definitions(summary(told))}</dl>\n"
    yield "<h2>Its life</h2>\n"
    first = max(len(told.sections) - MOST_SECTIONS, 0)
    if first:
        yield f"<p class='dim'>The clock was set {first} times before what is drawn here.</p>\n"
    for number, section in enumerate(told.sections[first:], first):
        if section.clock_moved_ms:
            yield f"<h3>{escape(section_title(section))}: {escape(stamp(section.from_unix_ms))}</h3>\n"
        entries = [one for one in told.entries if one.section == number]
        yield f"{picture(section, entries, last=section is last)}\n"
    yield f"<ul class='legend'>{_legend(told.sections[first:])}</ul>\n"
    if told.left_out:
        at = stamp(told.entries[0].at_unix_ms)
        yield f"<p class='dim'>Events before {escape(at)} are too many to be marked.</p>\n"
    yield from _attempts(told.sections)
    yield from _events(told)


def _legend(sections: Sequence[Section]) -> str:
    """Only what there is to be seen."""
    states = {one.what for section in sections for one in section.states}
    results = {one.result for section in sections for one in section.attempts}
    peers = {one.what for section in sections for one in section.outages}
    rows = [row for row in _STATES if row[1] in states]
    signs = ""
    if any(section.certificates for section in sections):
        rows += [("--used", "certificate in use"), ("--left", "the rest of its life")]
        signs = "<li>▨ renewal window</li><li>◇ drawn instant of renewal</li>"
    rows += [(colour, f"attempt {result}") for colour, result in _RESULTS if result in results]
    if "DPS" in peers:
        rows.append(("--outage", "DPS not reached"))
    if peers - {"DPS"}:
        rows.append(("--hub", "hub not reached"))
    if any(section.down for section in sections):
        signs += "<li>▧ service not running</li>"
    if in_use(sections[-1]) is not None:
        signs += "<li>╎ end of the journal; what lies right of it was to come</li>"
    return legend(rows) + signs


def _well(section: Section) -> bool:
    """A configured credential serves as well as a certificate that has not ended."""
    current = in_use(section)
    ended = current is not None and current.ends_unix_ms <= section.until_unix_ms
    state = section.states[-1].what if section.states else ""
    return not ended and state in ("Provisioned", "CertExpiring", "Renewing")


# --- attempts ----------------------------------------------------------------------------------------


def _attempts(sections: Iterable[Section]) -> Iterator[str]:
    newest = [(one, section) for section in sections for one in section.attempts][::-1]
    if not newest:
        return
    yield "<h2>Attempts, the latest first</h2>\n"
    yield from (_attempt(one, section) for one, section in newest[:OPEN_ATTEMPTS])
    more = newest[OPEN_ATTEMPTS:MOST_ATTEMPTS]
    if more:
        shown = "".join(_attempt(one, section) for one, section in more)
        left = len(newest) - OPEN_ATTEMPTS - len(more)
        note = f"<p class='dim'>and {left} before them</p>" if left else ""
        yield f"<details><summary>{len(more)} more</summary>{shown}{note}</details>\n"


def _attempt(one: Attempt, section: Section) -> str:
    until = section.until_unix_ms if one.until_unix_ms is None else one.until_unix_ms
    lasted = max(until - one.from_unix_ms, 1)
    head = f"{stamp(one.from_unix_ms)}, {took(lasted)}"
    phases = "".join(_phase(part, until, lasted) for part in one.phases)
    bad = "".join(f"<p class='bad'>{escape(text)}</p>" for text in mishaps(one, 8))
    why = f"<p class='dim'>{escape(one.why)}</p>" if one.why and one.result != "succeeded" else ""
    link = f"<a href='#r{one.sequence}'>record {one.sequence}</a>"
    return (
        f"<div class='attempt {one.result}'><b>{escape(attempt_title(one))}</b> "
        f"<span class='dim'>{escape(head)}, {link}</span><div class='phases'>{phases}</div>{bad}{why}</div>\n"
    )


def _phase(part: Stretch, end: int, lasted: int) -> str:
    """As wide as it was long; its name where there is room for it."""
    ms = max((end if part.until_unix_ms is None else part.until_unix_ms) - part.from_unix_ms, 0)
    name = escape(part.what)
    label = name if ms * 100 >= 14 * lasted else ""
    return f"<i style='flex-grow:{max(ms / lasted, 0.001):.4f}' title='{name}: {took(ms)}'>{label}</i>"


# --- events ------------------------------------------------------------------------------------------


def _events(told: Chronicle) -> Iterator[str]:
    entries = told.entries[-MOST_ENTRIES:]
    yield "<h2>Every record</h2>\n"
    before = told.left_out + len(told.entries) - len(entries)
    if before:
        yield f"<p class='dim'>{before:,} earlier ones are left out; `identityd journal show` has them.</p>\n"
    day = ""
    for entry in entries:
        date = stamp(entry.at_unix_ms)[:10]
        if date != day:
            day = date
            yield f"<h3>{escape(day)}</h3>\n"
        yield _event(entry)


def _event(entry: Entry) -> str:
    at = stamp(entry.at_unix_ms)[11:] or str(entry.at_unix_ms)
    state = entry.state if entry.phase == "Idle" else f"{entry.state}, {entry.phase}"
    style = " bad" if entry.failed else "" if entry.notable else " dim"
    what = f"<b>{escape(entry.what)}</b>" if entry.entered else escape(entry.what)
    row = (
        f"<time>{escape(at)}</time><span class='st'>{escape(entry.state)}</span>"
        f"<span class='what{style}'>{what}</span>"
    )
    if not entry.detail:
        return f"<div class='ev' id='r{entry.sequence}'><div class='row'>{row}</div></div>\n"
    return (
        f"<details class='ev' id='r{entry.sequence}'><summary>{row}</summary>"
        f"<p>{escape(entry.why)} Record {entry.sequence}, {escape(state)}.</p>"
        f"<pre>{escape(entry.detail)}</pre></details>\n"
    )
