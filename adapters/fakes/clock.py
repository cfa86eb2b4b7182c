"""Virtual time and seeded chance, for ``trio.testing.MockClock``."""

import random

import trio

DRAWS = 1_000_000


class VirtualClock:
    """Wall time begins at ``start_unix_ms`` and follows trio's clock, except when it is stepped.

    Fills ``ports.Clock``, and ``timers.ClockChanges`` so that a step is noticed at once.
    """

    def __init__(self, start_unix_ms: int, *, synchronised: bool = True) -> None:
        self._start_unix_ms = start_unix_ms
        self._synchronised = synchronised
        self._changed = trio.Event()

    def now_unix_ms(self) -> int:
        return self._start_unix_ms + self.elapsed_ms()

    def elapsed_ms(self) -> int:
        # round: 0.3 s of virtual time are 299.99… ms.
        return round(trio.current_time() * 1000)

    def kernel_synchronised(self) -> bool:
        return self._synchronised

    def step(self, by_ms: int) -> None:
        """Set the wall clock; elapsed time does not notice."""
        self._start_unix_ms += by_ms
        self._announce()

    def synchronise(self, synchronised: bool = True) -> None:
        self._synchronised = synchronised
        self._announce()

    async def wait(self) -> None:
        await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class SeededChance:
    """The same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def draw_ppm(self) -> int:
        return self._random.randrange(DRAWS)
