"""A journal in memory: what ``driven.journal_file`` promises, without files or threads."""

from collections.abc import AsyncIterator, Callable, Sequence

import trio

from adapters.errors import StoreUnavailable


class MemoryJournal:
    """Fills ``ports.Journal``. It outlives a runtime, so the next one may go on from it.

    ``fail`` makes the next appends and rotations fail; ``latency_s`` is how long each of them takes.
    """

    def __init__(
        self,
        sequence_of: Callable[[bytes], int | None],
        *,
        segment_bytes: int = 1_048_576,
        keep: int = 8,
        latency_s: float = 0.0,
    ) -> None:
        self._sequence_of = sequence_of
        self.segment_bytes = segment_bytes
        self.keep = keep
        "Closed segments kept."
        self.latency_s = latency_s
        self.segments: list[list[bytes]] = [[]]
        "Oldest first; the last one is written."
        self.written_bytes = 0
        "In all, what was removed since included."
        self.written_lines = 0
        self._active_bytes = 0
        self._failures = 0
        self._failing_rotations = 0

    @property
    def lines(self) -> list[bytes]:
        """All stored lines, oldest first."""
        return [line for segment in self.segments for line in segment]

    @property
    def active_bytes(self) -> int:
        return self._active_bytes

    @property
    def rotation_due(self) -> bool:
        return self._active_bytes >= self.segment_bytes

    def fail(self, times: int = 1) -> None:
        """0 mends it."""
        self._failures = times

    def fail_rotations(self, times: int = 1) -> None:
        """Appends go on."""
        self._failing_rotations = times

    def begin(self, head: Sequence[bytes]) -> None:
        self.segments[-1] = list(head)
        self._active_bytes = sum(map(len, head))
        self.written_bytes += self._active_bytes
        self.written_lines += len(head)

    async def append(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            raise ValueError("a journal line ends with a newline")
        await trio.sleep(self.latency_s)
        self._maybe_fail()
        self.segments[-1].append(line)
        self._active_bytes += len(line)
        self.written_bytes += len(line)
        self.written_lines += 1

    async def rotate(self, head: Sequence[bytes]) -> None:
        await trio.sleep(self.latency_s)
        self._maybe_fail()
        if self._failing_rotations > 0:
            self._failing_rotations -= 1
            raise _failure()
        self.segments.append([])
        self.begin(head)
        del self.segments[: -self.keep - 1]

    async def lines_from(self, sequence: int) -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        for line in self.lines:
            found = self._sequence_of(line)
            if found is not None and found >= sequence:
                yield line

    def _maybe_fail(self) -> None:
        if self._failures > 0:
            self._failures -= 1
            raise _failure()


def _failure() -> StoreUnavailable:
    return StoreUnavailable("the journal was told to fail", code="journal-unavailable")
