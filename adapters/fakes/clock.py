"""Virtual time and seeded chance, for ``trio.testing.MockClock``."""

import random

import trio

DRAWS = 1_000_000


class VirtualClock:
    """Wall time begins at ``start_unix_ms`` and follows trio's clock, except when it is stepped.

    Fills ``ports.Clock``, and ``timers.ClockChanges`` so that a step is noticed at once. ``drift_ppm`` is
    how much faster its wall time goes: one oscillator drives a machine's wall and elapsed time alike, so
    it is for the clock of whoever else is there.
    """

    def __init__(self, start_unix_ms: int, *, synchronised: bool = True, drift_ppm: int = 0) -> None:
        self._start_unix_ms = start_unix_ms
        self._synchronised = synchronised
        self._drift_ppm = drift_ppm
        self._asleep_ms = 0
        self._changed, self._set = trio.Event(), trio.Event()

    def now_unix_ms(self) -> int:
        elapsed_ms = self.elapsed_ms()
        return self._start_unix_ms + elapsed_ms + elapsed_ms * self._drift_ppm // 1_000_000

    def elapsed_ms(self) -> int:
        # round: 0.3 s of virtual time are 299.99… ms.
        return round(trio.current_time() * 1000) + self._asleep_ms

    def kernel_synchronised(self) -> bool:
        return self._synchronised

    def step(self, by_ms: int) -> None:
        """Set the wall clock; elapsed time does not notice."""
        self._start_unix_ms += by_ms
        self._was_set()

    def suspend(self, for_ms: int) -> None:
        """The machine sleeps: wall and elapsed time go on, and trio's clock stands still meanwhile."""
        self._asleep_ms += for_ms
        # The kernel cancels the same timers as when its clock is set.
        self._was_set()

    def drift(self, ppm: int) -> None:
        """Go faster by so much from now on."""
        now = self.now_unix_ms()
        self._drift_ppm = ppm
        self._start_unix_ms += now - self.now_unix_ms()

    def synchronise(self, synchronised: bool = True) -> None:
        self._synchronised = synchronised
        self._announce()

    async def wait(self) -> None:
        await self._changed.wait()

    async def wait_until_set(self) -> None:
        """As the kernel has it: becoming synchronised is not announced."""
        await self._set.wait()

    def _was_set(self) -> None:
        self._set.set()
        self._set = trio.Event()
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class SeededChance:
    """The same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def draw_ppm(self) -> int:
        return self._random.randrange(DRAWS)
