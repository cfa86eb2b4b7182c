"""The configured credential where this device issues it itself: made when missing, renewed in time.

The rule that everything here serves: the credential in use is given up only after DPS has accepted its
successor, and after a crash at any point there is a certificate with its key (onboarding_trial.py). It is
the only way back when all else is lost.
"""

import hashlib
import logging
import math
from collections.abc import Awaitable, Callable

import trio
from msgspec import Struct, structs

from adapters.driven.certificates.keyd_signer import remote_key
from adapters.driven.onboarding_trial import (
    Marker,
    Places,
    View,
    accepted,
    common_name,
    effective,
    issued_source,
)
from adapters.errors import AdapterError, CertificateRejected, RequestRefused
from adapters.ports import CertificateService, Clock, KeyService
from adapters.wire import remote_csr, x509
from statemachine import renewal_policy
from statemachine.renewal_policy import Life
from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    AutoRenew,
    Configuration,
    IssuedSource,
    X509Source,
)
from statemachine.snapshot import Snapshot

ALGORITHMS = "rsa-2048:*"
"cloud.md §1.4."
LEAST_REST_MS = 60_000
"Between two tries to renew, whatever the policy says: every try is a registration."
RESTART_REST_MS = 600_000
"A restart is often the last step of a repair, so it shortens the wait after a failure to this."
UNREADABLE_REST_MS = 3_600_000
"Between two tries to replace a certificate whose life nobody knows."
AGAIN_FIRST_MS, AGAIN_LAST_MS = 60_000, 3_600_000
"Bounds of the wait after files or services failed; doubling."
BLOCKED_MS = 3_600_000
"Between two looks whether attempts may begin again; `wake` is earlier."
LOOK_MS = 86_400_000
"Deadlines are looked at this often, so that a clock that drifts cannot hide one."
ATTEMPT_LOOK_MS = 600_000
"Between two looks at an attempt that takes longer than anybody waits for."
COMMANDS = 2
"Registrations asked for in one trial: the first may have joined an attempt begun with the old certificate."

log = logging.getLogger("identityd")


class _Held(Struct, frozen=True):
    """What lies under the final names."""

    facts: x509.CertificateFacts | None
    "None: the certificate cannot be read."
    matches: bool
    "It is for the key beside it."

    @property
    def usable(self) -> bool:
        return self.facts is not None and self.matches


class OnboardingIssuer:
    """One task, and two views for everybody else. Views may be asked for from any thread.

    ``settings`` is the configuration in force as it was read; it is asked for at each use. ``snapshot`` is
    the machine's latest. ``changed`` has the service say again who it is (ConfigurationChanged), with what
    ``trial`` makes of the configuration. ``reprovision`` registers from the start and returns None when that
    succeeded, else why not; it raises AdapterError when the command could not be taken.
    """

    def __init__(
        self,
        settings: Callable[[], Configuration],
        keys: KeyService,
        certificates: CertificateService,
        clock: Clock,
        places: Places,
        *,
        snapshot: Callable[[], Snapshot],
        changed: Callable[[], Awaitable[None]],
        reprovision: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._certificates = certificates
        self._clock = clock
        self._places = places
        self._snapshot = snapshot
        self._changed = changed
        self._reprovision = reprovision
        self._woken = trio.Event()
        self._marker: Marker | None = None
        self._view = View()
        self._from_before = False
        "The trial was begun before the last restart."
        self._rest_until_elapsed_ms = 0
        self._failures = 0
        self._announcing = False
        "The machine runs, so that there is somebody to tell."
        self._note: str | None = None

    # --- for everybody else --------------------------------------------------------------------------

    def current(self, configuration: Configuration) -> Configuration:
        """For what talks to the hub. An issued credential that is not there yet stays an IssuedSource."""
        return effective(configuration, self._view.current)

    def trial(self, configuration: Configuration) -> Configuration:
        """For what registers, proves, or says who we are. As ``current``, except during a renewal."""
        return effective(configuration, self._view.trial)

    @property
    def note(self) -> str | None:
        """What is wrong with it, for the status; None when nothing is."""
        return None if self._note is None else f"onboarding certificate: {self._note}"

    def wake(self) -> None:
        """Look again: the configuration, the clock, or what held attempts back has changed."""
        self._woken.set()

    def open(self) -> None:
        """Find out which files to use. Blocks, and never raises; once, before anything else."""
        try:
            self._marker = self._places.read_marker()
        except (OSError, ValueError) as exc:
            # The final names hold a pair in all but a few milliseconds of a device's life.
            log.warning("what was noted of a renewal of the onboarding certificate cannot be read: %s", exc)
        self._view = self._places.view(self._marker)
        self._from_before = True
        marker = self._marker
        if marker is not None and marker.state == "trial" and self._view.trial == self._view.current:
            log.warning("the onboarding certificate on trial is gone; the one before is used")
            self._marker = None
        if marker is not None and marker.state == "resting":
            left = min(marker.until_unix_ms - self._clock.now_unix_ms(), RESTART_REST_MS)
            self._rest(max(left, 0))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lives as long as the service. Started once a missing certificate was issued, or could not be."""
        wait_ms = await self.prepare()
        task_status.started()
        while True:
            with trio.move_on_after(wait_ms / 1000):
                await self._woken.wait()
            self._woken = trio.Event()
            wait_ms = await self.look()

    async def prepare(self) -> float:
        """Before the machine runs: finish what was begun, issue what is missing, and tell nobody.

        As ``look``.
        """
        wait_ms = await self._turn(self._complete)
        self._announcing = True
        return wait_ms

    async def look(self) -> float:
        """Do all that can be done now; milliseconds until the next look, endless without one.

        Raises nothing but cancellation.
        """
        return await self._turn(self._renew_when_due)

    async def _turn(self, work: Callable[[IssuedSource], Awaitable[float]]) -> float:
        source = issued_source(self._settings())
        if source is None:
            # What is left of an earlier one stays: the configuration may come back.
            self._note = None
            return math.inf
        try:
            wait_ms = await work(source)
            self._failures = 0
            return wait_ms
        except AdapterError as exc:
            await self._tell(exc.message)
            self._failures += 1
            return float(min(AGAIN_FIRST_MS << min(self._failures - 1, 10), AGAIN_LAST_MS))

    # --- making one ----------------------------------------------------------------------------------

    async def _complete(self, _: IssuedSource) -> float:
        """Finish what was begun, and issue what is missing. Raises AdapterError."""
        if self._marker is not None and self._marker.state == "promoting":
            await self._promote(self._marker)
        if self._marker is None or self._marker.state == "resting":
            await self._ensure()
        return 0

    async def _ensure(self) -> None:
        handle = await self._load(DEVICE_ID)
        if await self._certificates.read_certificate(DEVICE_ID) is not None:
            if handle is not None:
                self._use(self._places.pair(DEVICE_ID, DEVICE_ID))
                return
            # Without its key it is worth nothing; gone first, a crash cannot leave it beside another key.
            await self._certificates.delete_certificate(DEVICE_ID)
        name = common_name(self._settings())
        if not name:
            raise RequestRefused(
                "it cannot be issued: set registration_id, which becomes its name",
                code="registration-id-unknown",
            )
        if self._clock.now_unix_ms() < self._snapshot().clock.floor_unix_ms:
            # It would have expired by the time the clock is right, and it may be without auto_renew.
            raise AdapterError(
                "it is not issued before the clock is set: it shows a time before this software was made",
                code="clock-behind",
                failure_class="clock",
            )
        # A key that is there is used: the original would replace it, but somebody may know it already.
        handle = await self._keys.create_key_pair(DEVICE_ID, ALGORITHMS)
        await self._issue(DEVICE_ID, handle, name)
        self._use(self._places.pair(DEVICE_ID, DEVICE_ID))
        log.info("onboarding certificate for %s issued", name)
        self._note = None
        await self._announce()

    async def _issue(self, certificate_id: str, handle: str, name: str) -> x509.CertificateFacts:
        """Raises AdapterError."""
        key = await remote_key(self._keys, handle)
        try:
            csr_pem = await trio.to_thread.run_sync(remote_csr.new_request, name, key)
        except ValueError as exc:
            raise RequestRefused(
                f'"{name}" cannot be the name in a certificate: {exc}', code="name-unusable"
            ) from exc
        pem = await self._certificates.create_certificate(certificate_id, csr_pem, None)
        facts = await trio.to_thread.run_sync(x509.facts, pem)
        if facts.spki_sha256 != _spki_sha256(key.spki_der):
            raise CertificateRejected(
                "what was issued is for another key", code="key-mismatch", failure_class="operator"
            )
        return facts

    # --- renewing it ---------------------------------------------------------------------------------

    async def _renew_when_due(self, source: IssuedSource) -> float:
        """Raises AdapterError."""
        await self._complete(source)
        marker = self._marker
        if marker is not None and marker.state == "trial":
            return await self._go_on(marker, source)
        held = await self._held()
        if source.auto_renew is None:
            await self._tell(None if held.usable else _UNUSABLE)
            return math.inf
        left_ms = self._due_in_ms(held, source.auto_renew)
        if left_ms > 0:
            await self._tell(None)
            return min(left_ms, LOOK_MS)
        rest_ms = self._rest_until_elapsed_ms - self._clock.elapsed_ms()
        if rest_ms > 0:
            return min(rest_ms, LOOK_MS)
        if self._blocked():
            return BLOCKED_MS
        return await self._renew(held, source.auto_renew)

    def _due_in_ms(self, held: _Held, policy: AutoRenew) -> int:
        if held.facts is None or not held.matches:
            return 0
        life, now = _life(held.facts), self._now()
        threshold = renewal_policy.parse(policy.threshold)
        if renewal_policy.should_renew(life, threshold, now=now):
            return 0
        return renewal_policy.deadline(life, threshold) - now

    async def _renew(self, held: _Held, policy: AutoRenew) -> float:
        """A try, from its beginning to its end. Raises AdapterError when files or services failed it."""
        retry_ms = self._retry_ms(held, policy)
        # First of all, so that whatever ends this try, a crash included, does not repeat it at once.
        await self._rest_durably(retry_ms)
        name = held.facts.subject_cn if held.facts is not None else ""
        await self._clear()
        if policy.rotate_key:
            handle = await self._keys.create_key_pair(DEVICE_TEMPORARY_ID, ALGORITHMS)
        else:
            handle = await self._keys.load_key_pair(DEVICE_ID)
        facts = await self._issue(DEVICE_TEMPORARY_ID, handle, name or common_name(self._settings()))
        if held.usable and held.facts is not None and held.facts.not_after_unix_ms >= facts.not_after_unix_ms:
            # Of a local CA near its end, or with the clock wrong: asking DPS would gain nothing.
            await self._clear()
            raise CertificateRejected(
                "a new one would not live longer; renew the local CA, or raise expiry_days",
                code="not-longer",
                failure_class="operator",
            )
        marker = await self._begin_trial(rotated=policy.rotate_key)
        return await self._try(marker, retry_ms)

    async def _begin_trial(self, *, rotated: bool) -> Marker:
        while True:
            snapshot = self._snapshot()
            marker = Marker(
                state="trial",
                rotated=rotated,
                attempts=snapshot.attempts,
                fingerprint=snapshot.fingerprint,
            )
            await self._note_down(marker)
            # An attempt that began while this was written used the old certificate, and must not count.
            if self._snapshot().attempts == marker.attempts:
                break
        key_id = DEVICE_TEMPORARY_ID if rotated else DEVICE_ID
        new = self._places.pair(DEVICE_TEMPORARY_ID, key_id)
        self._view = View(current=self._view.current, trial=new)
        self._from_before = False
        await self._announce()
        return marker

    async def _go_on(self, marker: Marker, source: IssuedSource) -> float:
        """With a trial that was interrupted: by a restart, or because no command could be taken."""
        retry_ms = LEAST_REST_MS
        if source.auto_renew is not None:
            retry_ms = self._retry_ms(await self._held(), source.auto_renew)
        snapshot = self._snapshot()
        if accepted(marker, snapshot):
            await self._promote(marker)
            return 0
        if self._blocked():
            return BLOCKED_MS
        if self._from_before:
            if marker.resumed:
                return await self._give_up("the trial was interrupted twice", retry_ms)
            # A journal that began anew counts attempts anew, and all of those are with the new pair.
            attempts = min(marker.attempts, snapshot.attempts)
            marker = structs.replace(marker, resumed=True, attempts=attempts)
            await self._note_down(marker)
            self._from_before = False
        return await self._try(marker, retry_ms)

    async def _try(self, marker: Marker, retry_ms: int) -> float:
        """Register with the new pair, which stays on trial when that cannot be asked for (AdapterError)."""
        why = await self._verdict(marker)
        if why is not None:
            return await self._give_up(why, retry_ms)
        await self._promote(marker)
        return 0

    async def _verdict(self, marker: Marker) -> str | None:
        """None: DPS has accepted it. Raises AdapterError."""
        for _ in range(COMMANDS):
            why = await self._reprovision()
            while self._snapshot().attempt is not None:
                self._woken = trio.Event()
                with trio.move_on_after(ATTEMPT_LOOK_MS / 1000):
                    await self._woken.wait()
            if issued_source(self._settings()) is None:
                return "the configuration names another credential now"
            if accepted(marker, self._snapshot()):
                return None
            if why is not None:
                return why
        return "no registration was made with it"

    async def _give_up(self, why: str, retry_ms: int) -> float:
        """The old pair is as it was. Raises AdapterError."""
        await self._rest_durably(retry_ms)
        self._view = View(current=self._view.current, trial=self._view.current)
        log.warning("onboarding certificate not renewed: %s", why)
        self._note = f"not renewed, the one in use is kept: {why}"
        await self._announce()
        await self._clear()
        return 0

    async def _promote(self, marker: Marker) -> None:
        """Every step may be the last one before a crash, and is safe to repeat. Raises AdapterError."""
        if marker.state != "promoting":
            marker = Marker(state="promoting", rotated=marker.rotated)
            await self._note_down(marker)
            assert self._view.trial is not None  # a trial without one was dropped when it was opened
            self._use(self._view.trial)
        if marker.rotated and await self._load(DEVICE_TEMPORARY_ID) is not None:
            await self._keys.move_key_pair(DEVICE_TEMPORARY_ID, DEVICE_ID)
            self._use(self._places.pair(DEVICE_TEMPORARY_ID, DEVICE_ID))
        chain = await self._certificates.read_certificate(DEVICE_TEMPORARY_ID)
        if chain is not None:
            await self._certificates.import_certificate(DEVICE_ID, chain.decode(errors="replace"))
            self._use(self._places.pair(DEVICE_ID, DEVICE_ID))
            await self._certificates.delete_certificate(DEVICE_TEMPORARY_ID)
        await self._note_down(None)
        log.info("onboarding certificate renewed")
        self._note = None
        await self._announce()

    # --- small things --------------------------------------------------------------------------------

    def _use(self, pair: X509Source) -> None:
        self._view = View(current=pair, trial=pair)

    def _now(self) -> int:
        """As true as the machine knows it."""
        return self._clock.now_unix_ms() + self._snapshot().clock.correction_ms

    def _blocked(self) -> bool:
        """Registrations are held back, or the machine does not run yet."""
        snapshot = self._snapshot()
        return snapshot.hold or snapshot.foreign_machine or snapshot.stopping

    def _rest(self, wait_ms: int) -> None:
        # Elapsed time: a clock that is set forward must not make tries of many hours follow at once.
        self._rest_until_elapsed_ms = self._clock.elapsed_ms() + wait_ms

    async def _rest_durably(self, wait_ms: int) -> None:
        """From here on nothing is on trial. Raises StoreUnavailable."""
        self._rest(wait_ms)
        await self._note_down(Marker(state="resting", until_unix_ms=self._clock.now_unix_ms() + wait_ms))

    def _retry_ms(self, held: _Held, policy: AutoRenew) -> int:
        if held.facts is None:
            return UNREADABLE_REST_MS
        retry = renewal_policy.parse(policy.retry)
        return max(renewal_policy.retry_ms(_life(held.facts), retry), LEAST_REST_MS)

    async def _held(self) -> _Held:
        """Raises AdapterError."""
        pem, handle = await self._certificates.read_certificate(DEVICE_ID), await self._load(DEVICE_ID)
        if pem is None or handle is None:
            return _Held(None, False)
        key = await remote_key(self._keys, handle)
        try:
            facts = await trio.to_thread.run_sync(x509.facts, pem)
        except CertificateRejected:
            return _Held(None, False)
        return _Held(facts, facts.spki_sha256 == _spki_sha256(key.spki_der))

    async def _load(self, key_id: str) -> str | None:
        """The handle of a key pair, None when there is none. Raises AdapterError."""
        try:
            return await self._keys.load_key_pair(key_id)
        except RequestRefused as exc:
            if exc.code == "not-found":
                return None
            raise

    async def _clear(self) -> None:
        """No pair is on trial: what lies under the temporary names is worth nothing. Raises AdapterError."""
        handle = await self._load(DEVICE_TEMPORARY_ID)
        if handle is not None:
            await self._keys.delete_key_pair(handle)
        await self._certificates.delete_certificate(DEVICE_TEMPORARY_ID)

    async def _note_down(self, marker: Marker | None) -> None:
        """Durable on return. Raises StoreUnavailable."""
        await trio.to_thread.run_sync(self._places.write_marker, marker)
        self._marker = marker

    async def _tell(self, note: str | None) -> None:
        """Once for each thing that is wrong: a text that stays the same is no news."""
        if note == self._note:
            return
        if note is not None:
            log.warning("onboarding certificate: %s", note)
        self._note = note
        await self._announce()

    async def _announce(self) -> None:
        if self._announcing:
            await self._changed()


_UNUSABLE = (
    "it cannot be read, or is for another key, and has no auto_renew; remove the certificate device-id "
    "to have another issued"
)


def _life(facts: x509.CertificateFacts) -> Life:
    return Life(facts.not_before_unix_ms, facts.not_after_unix_ms)


def _spki_sha256(spki_der: bytes) -> str:
    return hashlib.sha256(spki_der).hexdigest()
