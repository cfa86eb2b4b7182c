"""A cloud that minds dates as the real one does: TLS, tokens and certificates end, answers carry a Date."""

from collections.abc import Callable

from msgspec import structs

from adapters.driven.onboarding import TOKEN_LIFE_S
from adapters.fakes.chains import Leaf, read_leaf
from adapters.fakes.cloud import FakeHub, FakeRegistrar
from adapters.fakes.peer import Peer, no
from adapters.fakes.store import MemoryStore
from adapters.ports import Clock
from statemachine.effects import PollRegistration, ProveCredential, SubmitRegistration
from tests.clocks.scenario import DAY

TOKEN_LIFE_MS = TOKEN_LIFE_S * 1000
TLS_BEGUN_MS, TLS_LEFT_MS = 30 * DAY, 60 * DAY
"A server's certificate began so long ago and ends so far ahead, at any true instant: it is renewed."


class Dated(Peer):
    """What both services do with the clock of whoever asks."""

    device: Clock
    true: Clock
    shows_ms: int | None = 0
    "How far its Date is off; None: it sends none."
    tries: list[int]
    "True instants at which somebody tried to connect."

    async def _answer(self, effect_id, effect, usual):
        self.tries.append(self.true.now_unix_ms())
        return await super()._answer(effect_id, effect, lambda *asked: self._through(*asked, usual))

    def _through(self, effect_id, effect, usual):
        shown, true = self.device.now_unix_ms(), self.true.now_unix_ms()
        if not true - TLS_BEGUN_MS <= shown <= true + TLS_LEFT_MS:
            # The client ends the handshake: there is no answer, so no Date either.
            return no("tls-dates", "clock")(effect_id, effect)
        self._arrived(effect)
        date = None if self.shows_ms is None else (true + self.shows_ms) // 1000 * 1000
        believed = shown + effect.clock_offset_ms
        if self._token_ended(effect, believed, true):
            return self._refuse_token(effect_id, effect, believed, date)
        return structs.replace(usual(effect_id, effect), server_date_unix_ms=date)

    def _arrived(self, effect) -> None:
        """A request came through TLS."""

    def _token_ended(self, effect, believed: int, true: int) -> bool:
        return believed + TOKEN_LIFE_MS < true

    def _refuse_token(self, effect_id, effect, believed, date):
        raise NotImplementedError


class DatedRegistrar(Dated, FakeRegistrar):
    """DPS, asked with a token."""

    ca_ahead_ms = 0
    puts: list[int]
    "True instants of registrations that arrived."
    polls: list[int]

    def _arrived(self, effect: SubmitRegistration | PollRegistration) -> None:
        arrived = self.puts if isinstance(effect, SubmitRegistration) else self.polls
        arrived.append(self.true.now_unix_ms())

    def _refuse_token(self, effect_id, effect, believed, date):
        # As driven.dps judges it: by the Date that came with the answer.
        dead = date is not None and abs(believed - date) > TOKEN_LIFE_MS
        return no("dps-401", "clock" if dead else "operator", server_date_unix_ms=date)(effect_id, effect)

    def _leaf(self, spki_sha256: str) -> Leaf:
        leaf = super()._leaf(spki_sha256)
        self.issued[-1] = structs.replace(
            leaf,
            not_before_unix_ms=leaf.not_before_unix_ms + self.ca_ahead_ms,
            not_after_unix_ms=leaf.not_after_unix_ms + self.ca_ahead_ms,
        )
        return self.issued[-1]


class DatedHub(Dated, FakeHub):
    """IoT Hub, asked with a certificate: when that is refused, TLS says so and nobody sends a Date."""

    def _token_ended(self, effect: ProveCredential, believed: int, true: int) -> bool:
        return not effect.issued and super()._token_ended(effect, believed, true)

    def _refuse_token(self, effect_id, effect, believed, date):
        return no("hub-401", refused=True, server_date_unix_ms=date)(effect_id, effect)

    def _through(self, effect_id, effect, usual):
        answer = super()._through(effect_id, effect, usual)
        if effect.issued and getattr(answer, "refused", False):
            return structs.replace(answer, code="tls-certificate-alert", server_date_unix_ms=None)
        return answer

    def _lets_in(self, effect: ProveCredential) -> bool:
        if not super()._lets_in(effect):
            return False
        if not effect.issued:
            return True
        leaf = read_leaf(effect.chain_pem or self._staged.chain_pem(effect.generation))
        return leaf.not_before_unix_ms <= self.true.now_unix_ms()


class WatchedStore(MemoryStore):
    """Remembers what was deleted, and can be caught at the instant of a flip."""

    def __init__(self, true: Clock, **facts) -> None:
        super().__init__(true, **facts)
        self.deleted: list[tuple[int, int, bytes | None]] = []
        "True instant, generation, chain."
        self.before_flip: Callable[[], None] | None = None
        self.after_flip: Callable[[], None] | None = None

    def _flip(self, current):
        before, self.before_flip = self.before_flip, None
        if before is not None:
            before()
        super()._flip(current)
        after, self.after_flip = self.after_flip, None
        if after is not None:
            after()

    def _retire(self, effect_id, effect):
        held = dict(self.generations)
        answer = super()._retire(effect_id, effect)
        self.deleted += [
            (self._clock.now_unix_ms(), number, one.chain_pem)
            for number, one in held.items()
            if number not in self.generations
        ]
        return answer
