"""A process is killed, the next one goes on, and then the power goes.

A kill loses nothing, so the next process sees what was never synced, and may take it for granted. After
each kill of the ordered model (or a seeded choice of them) the chapter is played again by a new process on
that disk, recorded; and after each of its operations the power is cut with the least luck there is: of all
that was not synced, by it or before it, nothing is on the disk.
"""

import random

from msgspec import Struct, structs

from tests.crash.image import digest, put, with_changes
from tests.crash.judge import DOWN_MS, Wrong, empty_directory, judge
from tests.crash.models import Prefix, prefixes
from tests.crash.sequence import CHAPTERS, Life, Opening, Recording


class Kill(Struct, frozen=True):
    """After so many operations of the recorded life."""

    prefix: int


def kills(found: list[Prefix], *, sample: int, seed: int) -> list[Kill]:
    """Within a chapter; at most ``sample`` of them."""
    within = [one.count for one in found if one.moment.chapter < len(CHAPTERS)]
    if len(within) > sample:
        within = sorted(random.Random(f"{seed}/twice").sample(within, sample))
    return [Kill(count) for count in within]


def go_on(prefix: Prefix) -> int:
    """How many distinct disks were judged. Raises Wrong."""
    seen_by_all = with_changes(prefix.durable, list(prefix.pending))
    moment = structs.replace(prefix.moment, now_unix_ms=prefix.moment.now_unix_ms + DOWN_MS)
    with empty_directory() as root:
        put(seen_by_all, root)
        recording = Recording(root, moment, image=seen_by_all)
        opening = Opening(moment, seen_by_all, 0, 0)
        try:
            recording.live()
        except (Exception, BaseExceptionGroup) as exc:
            raise Wrong(f"the process after it failed: {type(exc).__name__}: {exc}") from exc
        if unrecorded := recording.recorder.unrecorded():
            raise Wrong(f"not recorded: {unrecorded}")
        life = Life(recorder=recording.recorder, opening=(opening,), end=recording.moment)
    seen = set()
    for following in prefixes(life, before=prefix):
        key = (digest(following.durable), following.moment.owed)
        if key in seen:
            continue
        seen.add(key)
        try:
            judge(following.durable, following.moment, tidy=True)
        except Wrong as exc:
            said = [one.said for one in life.recorder.operations[: following.count][-6:]]
            raise Wrong(f"{exc}; the power was cut after operation {following.count}: {said}") from exc
    return len(seen)
