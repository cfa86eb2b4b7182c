"""The onboarding certificate that the device issues itself: real keys, certificates and files, and a machine
that registers with whatever it is shown."""

import contextlib
import os

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from msgspec import structs

from adapters.driven.certificates.embedded import EmbeddedCertificates
from adapters.driven.configured import certificates_of
from adapters.driven.credentials import GenerationStore
from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.onboarding import load_credential
from adapters.driven.onboarding_issue import (
    AGAIN_FIRST_MS,
    AGAIN_LAST_MS,
    BLOCKED_MS,
    COMMANDS,
    LEAST_REST_MS,
    LOOK_MS,
    RESTART_REST_MS,
    UNREADABLE_REST_MS,
    OnboardingIssuer,
)
from adapters.driven.onboarding_trial import (
    MARKER,
    Marker,
    Places,
    accepted,
    common_name,
    effective,
)
from adapters.errors import AdapterError, StoreUnavailable
from statemachine.settings import (
    AutoRenew,
    CertificateSettings,
    Configuration,
    DpsProvisioning,
    IssuanceRule,
    IssuedSource,
    LocalCa,
    ManualProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)
from statemachine.snapshot import Assignment, Attempt, ClockTrust, Ended, Problem, Snapshot
from tests.adapters.certd_parts import EC_KEYS, ca_pem
from tests.adapters.keyd_home import Identity, pem_of

DAY = 86_400_000
HOUR = 3_600_000
MINUTE = 60_000
NOW = 1_764_000_000_000
LIFE = 30 * DAY
DEVICE, TEMPORARY = "device-id", "device-id-temp"
SELF_SIGNED = IssuanceRule(method="self_signed", expiry_days=30)
LOCAL_CA = IssuanceRule(method="local_ca", expiry_days=30)
NEVER = float("inf")
RENEWED = AutoRenew(rotate_key=True, threshold="80%", retry="4%")
SAME_KEY = AutoRenew(rotate_key=False, threshold="80%", retry="4%")

pytestmark = pytest.mark.usefixtures("quiet")


class PowerCut(BaseException):
    """Nothing that was meant to follow happens."""


class Power:
    """Counts what is done to the world, and fails before or after the chosen step."""

    def __init__(self):
        self.steps = []
        self.cut_at = None
        "A name, or which step and whether it is still done."
        self.watch = lambda: None
        "Looked at after every step."

    def before(self, name):
        self.steps.append(name)
        if self.cut_at in (name, (len(self.steps), False)):
            raise PowerCut(name)

    def after(self):
        self.watch()
        if self.cut_at == (len(self.steps), True):
            raise PowerCut(self.steps[-1])

    def guarding(self, port, names):
        """The port, with those methods as steps."""
        return _Guarded(port, self, names)


class _Guarded:
    def __init__(self, port, power, names):
        self._port, self._power, self._names = port, power, names

    def __getattr__(self, name):
        method = getattr(self._port, name)
        if name not in self._names:
            return method

        async def step(*args):
            self._power.before(f"{name} {args[0] if len(args[0]) < 20 else ''}".strip())
            # Quick keys: which kind is asked for is looked at where it matters.
            result = await method(*(arg if arg != "rsa-2048:*" else "ec-p256" for arg in args))
            self._power.after()
            return result

        return step


class GuardedPlaces(Places):
    def __init__(self, power, *homes):
        super().__init__(*homes)
        self._power = power

    def write_marker(self, marker):
        self._power.before(f"marker {None if marker is None else marker.state}")
        super().write_marker(marker)
        self._power.after()


class Clock:
    """Set by hand."""

    def __init__(self):
        self.now, self.elapsed = NOW, 5

    def now_unix_ms(self):
        return self.now

    def elapsed_ms(self):
        return self.elapsed

    def kernel_synchronised(self):
        return True

    def pass_(self, ms):
        self.now += ms
        self.elapsed += ms


class World:
    """A device, its machine, and DPS. ``start`` is a restart: only files, machine and cloud go on."""

    def __init__(self, root, rule=SELF_SIGNED, auto_renew=RENEWED):
        self.homes = tuple(os.path.join(root, name) for name in ("state", "certd", "keyd"))
        self.configuration = Configuration(
            provisioning=DpsProvisioning(
                global_endpoint="https://dps.test",
                scope_id="s",
                registration_id="press-17",
                attestation=IssuedSource(rule=rule, auto_renew=auto_renew),
            ),
            certificates=CertificateSettings(
                local_ca=LocalCa(certificate_id="local-ca", key_id="local-ca"),
            ),
        )
        self.clock = Clock()
        self.preloaded = {}
        self.power = Power()
        self.machine = Snapshot()
        self.told = []
        "What the machine was told of: who we are, and what is wrong."
        self.answers = []
        "What DPS says to the next registrations; yes when there is nothing."
        self.registered = []
        self.accepted = {}
        "Of what DPS accepted: public key to certificate."
        self.put_key("local-ca", pem_of(EC_KEYS[0]))
        self.put_certificate("local-ca", ca_pem(EC_KEYS[0], "CA", end=NOW + 3650 * DAY))
        self.start()

    def start(self):
        state, certd, keyd = self.homes
        self.power.cut_at = None
        store = GenerationStore(state, certd, keyd)
        keys = EmbeddedKeys(keyd, lambda: self.preloaded, Identity())
        self.keys = self.power.guarding(keys, {"create_key_pair", "move_key_pair", "delete_key_pair"})
        certificates = EmbeddedCertificates(
            certd, store.read_certificate, lambda: certificates_of(self.configuration), keys, self.clock
        )
        self.certificates = self.power.guarding(
            certificates, {"create_certificate", "import_certificate", "delete_certificate"}
        )
        self.issuer = OnboardingIssuer(
            lambda: self.configuration,
            self.keys,
            self.certificates,
            self.clock,
            GuardedPlaces(self.power, *self.homes),
            snapshot=lambda: self.machine,
            changed=self.changed,
            reprovision=self.reprovision,
        )
        self.issuer.open()

    # --- the machine and the cloud -------------------------------------------------------------------

    async def changed(self):
        self.power.before("changed")
        with contextlib.suppress(ValueError):  # a certificate that cannot be read: we are who we were
            self.identify()
        self.told.append((self.machine.fingerprint, self.issuer.note))
        self.power.after()

    def identify(self):
        """As the service does: by what the files say that who registers is to use."""
        chain, key = pair_of(self.issuer.trial(self.configuration))
        self.machine = structs.replace(self.machine, fingerprint=spki(chain.public_key()))
        assert spki(key.public_key()) == self.machine.fingerprint

    async def reprovision(self):
        self.power.before("reprovision")
        number = self.machine.attempts + 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        chain, _ = pair_of(self.issuer.trial(self.configuration))
        self.registered.append(chain)
        self.finish(number, answer)
        if answer is None:
            self.accepted[spki(chain.public_key())] = chain
        self.power.after()
        return answer

    def finish(self, number, why):
        error = None if why is None else Problem(failure_class="retry", code="dps", message=why)
        assignment = self.machine.assignment
        if why is None:
            assignment = Assignment(hub="hub.test", device_id="d", fingerprint=self.machine.fingerprint)
        ended = Ended(number=number, started_unix_ms=0, ended_unix_ms=0, error=error)
        self.machine = structs.replace(
            self.machine, attempts=number, ended=ended, assignment=assignment, attempt=None
        )

    # --- files ---------------------------------------------------------------------------------------

    def certificate_path(self, certificate_id):
        return os.path.join(self.homes[1], "certs", certificate_file_name(certificate_id))

    def key_path(self, key_id):
        return os.path.join(self.homes[2], "keys", key_file_name(key_id))

    @property
    def marker_path(self):
        return os.path.join(self.homes[0], MARKER)

    def put_key(self, key_id, content):
        put(self.key_path(key_id), content)

    def put_certificate(self, certificate_id, content):
        put(self.certificate_path(certificate_id), content)

    def files(self):
        """Content of the four, None for what is not there, and whether there is a marker."""
        return {
            name: content(path)
            for name, path in (
                ("certificate", self.certificate_path(DEVICE)),
                ("key", self.key_path(DEVICE)),
                ("new certificate", self.certificate_path(TEMPORARY)),
                ("new key", self.key_path(TEMPORARY)),
                ("marker", self.marker_path),
            )
        }

    @property
    def leaf(self):
        return x509.load_pem_x509_certificate(self.files()["certificate"])

    # --- what happens --------------------------------------------------------------------------------

    def prepare(self):
        return trio.run(self.issuer.prepare)

    def look(self):
        return trio.run(self.issuer.look)

    def registered_once(self):
        """A device that was provisioned with its first certificate."""
        self.prepare()
        self.identify()
        trio.run(self.reprovision)
        del self.power.steps[:]

    def settle(self):
        """Look until nothing is left to be done now."""
        for _ in range(6):
            if self.look() > 0:
                return
        raise AssertionError("it never rests")


def put(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def pair_of(configuration):
    """What a view leads to, parsed, which must fit."""
    source = configuration.provisioning.attestation
    assert isinstance(source, X509Source)
    with open(source.certificate_path, "rb") as file:
        chain = x509.load_pem_x509_certificate(file.read())
    with open(source.key_path, "rb") as file:
        key = load_pem_private_key(file.read(), None)
    assert spki(chain.public_key()) == spki(key.public_key())
    return chain, key


def spki(public_key):
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def end_of(certificate):
    return int(certificate.not_valid_after_utc.timestamp() * 1000)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def provisioned(world):
    world.registered_once()
    return world


# --- the first certificate ---------------------------------------------------------------------------


def test_nothing_is_there_before_it_is_issued(world):
    assert world.issuer.trial(world.configuration) == world.configuration
    with pytest.raises(AdapterError) as caught:
        load_credential(world.issuer.trial(world.configuration))
    assert caught.value.code == "credential-not-issued"


@pytest.mark.parametrize("rule", [SELF_SIGNED, LOCAL_CA])
def test_a_missing_certificate_is_issued(tmp_path, rule):
    world = World(tmp_path, rule=rule)
    assert world.prepare() == 0
    chain, _ = pair_of(world.issuer.current(world.configuration))
    assert world.leaf == chain
    assert [a.value for a in chain.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["press-17"]
    assert len(list(chain.subject)) == 1
    assert end_of(chain) == NOW + LIFE
    assert world.power.steps == ["create_key_pair device-id", "create_certificate device-id"]
    assert world.issuer.current(world.configuration) == world.issuer.trial(world.configuration)
    credential = load_credential(world.issuer.trial(world.configuration))
    assert (credential.registration_id, credential.tls.client_key_path) == (
        "press-17",
        world.key_path(DEVICE),
    )
    assert (world.told, world.issuer.note) == ([], None)


def test_the_key_is_of_the_kind_that_the_original_makes(tmp_path):
    world = World(tmp_path)
    world.power.guarding = lambda port, names: port
    world.start()
    world.prepare()
    assert pair_of(world.issuer.current(world.configuration))[1].key_size == 2048


def test_a_device_with_a_manual_assignment_is_named_by_its_id(world):
    source = world.configuration.provisioning.attestation
    manual = ManualProvisioning(hub="hub.test", device_id="d-1", authentication=source)
    world.configuration = structs.replace(world.configuration, provisioning=manual)
    assert world.prepare() == 0
    assert world.leaf.subject.rfc4514_string() == "CN=d-1"
    used = world.issuer.current(world.configuration).provisioning
    assert used == structs.replace(
        manual,
        authentication=X509Source(
            certificate_path=world.certificate_path(DEVICE), key_path=world.key_path(DEVICE)
        ),
    )


def test_what_is_there_is_left_alone(provisioned):
    before = provisioned.files()
    provisioned.start()
    assert provisioned.issuer.current(provisioned.configuration).provisioning.attestation is not None
    pair_of(provisioned.issuer.current(provisioned.configuration))
    assert provisioned.prepare() == 0
    assert (provisioned.files(), provisioned.power.steps) == (before, [])


def test_a_key_without_a_certificate_is_used(world):
    world.put_key(DEVICE, pem_of(EC_KEYS[1]))
    world.prepare()
    assert spki(world.leaf.public_key()) == spki(EC_KEYS[1].public_key())


def test_a_certificate_without_its_key_is_worth_nothing(provisioned):
    old = provisioned.leaf
    os.unlink(provisioned.key_path(DEVICE))
    provisioned.start()
    provisioned.prepare()
    assert provisioned.leaf.public_key() != old.public_key()
    pair_of(provisioned.issuer.current(provisioned.configuration))
    assert provisioned.power.steps[0] == "delete_certificate device-id"


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_crash_while_the_first_is_made_up_for_leaves_no_mismatch(provisioned, step, done):
    os.unlink(provisioned.key_path(DEVICE))
    provisioned.start()
    provisioned.power.cut_at = (step, done)
    with pytest.raises(PowerCut):
        provisioned.prepare()
    provisioned.start()
    assert provisioned.prepare() == 0
    pair_of(provisioned.issuer.current(provisioned.configuration))


def test_failures_are_told_once_and_tried_again_ever_later(world):
    world.put_key(DEVICE, b"")  # there, but no key: it is never replaced unasked
    waits = [world.prepare(), *(world.look() for _ in range(8))]
    assert waits == [min(AGAIN_FIRST_MS << n, AGAIN_LAST_MS) for n in range(9)]
    assert world.issuer.note.startswith("onboarding certificate: ")
    assert world.key_path(DEVICE) in world.issuer.note
    assert world.told == []  # what Started said already is no news
    os.unlink(world.key_path(DEVICE))
    assert world.look() == LOOK_MS
    assert world.told == [(spki(world.leaf.public_key()), None)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"registration_id": None}, "registration_id"),
        ({"registration_id": "x" * 65}, "cannot be the name"),
    ],
)
def test_a_name_that_cannot_be_one(world, change, says):
    provisioning = structs.replace(world.configuration.provisioning, **change)
    world.configuration = structs.replace(world.configuration, provisioning=provisioning)
    assert world.prepare() == AGAIN_FIRST_MS
    assert says in world.issuer.note
    assert world.files()["certificate"] is None


def test_a_symmetric_key_under_its_name_is_no_key_for_it(world):
    world.preloaded = {DEVICE: b"raw"}
    assert world.prepare() == AGAIN_FIRST_MS
    assert "symmetric" in world.issuer.note
    assert world.power.steps == []


def test_what_is_issued_for_another_key_is_not_used(provisioned):
    async def another(certificate_id, csr_pem, issuer):
        return ca_pem(EC_KEYS[2], "press-17", end=NOW + 400 * DAY, ca=False)

    before = provisioned.leaf
    provisioned.certificates._port.create_certificate = another
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == AGAIN_FIRST_MS
    assert "for another key" in provisioned.issuer.note
    assert (provisioned.leaf, len(provisioned.registered)) == (before, 1)


def test_nothing_is_issued_by_a_clock_that_was_never_set(world):
    world.machine = Snapshot(clock=ClockTrust(floor_unix_ms=NOW + 1))
    assert world.prepare() == AGAIN_FIRST_MS
    assert "clock" in world.issuer.note
    assert world.power.steps == []
    world.clock.pass_(1)
    assert world.prepare() == 0


@pytest.mark.parametrize(
    "provisioning",
    [
        NoProvisioning(),
        DpsProvisioning(
            global_endpoint="https://dps.test",
            scope_id="s",
            registration_id="r",
            attestation=SymmetricKeySource(value=b"key"),
        ),
    ],
)
def test_other_credentials_are_none_of_its_business(provisioned, provisioning):
    before = provisioned.files()
    provisioned.configuration = structs.replace(provisioned.configuration, provisioning=provisioning)
    provisioned.start()
    assert (provisioned.prepare(), provisioned.look()) == (NEVER, NEVER)
    assert provisioned.files() == before
    assert provisioned.issuer.trial(provisioned.configuration) is provisioned.configuration
    assert common_name(Configuration(provisioning=NoProvisioning())) == ""


# --- when it is renewed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "wait"),
    [(0, LOOK_MS), (23 * DAY, LOOK_MS), (24 * DAY - HOUR, HOUR), (24 * DAY - 1, 1)],
)
def test_it_sleeps_until_the_deadline_but_looks_at_the_clock_daily(provisioned, at, wait):
    provisioned.clock.pass_(at)
    assert provisioned.look() == wait
    assert provisioned.power.steps == []


@pytest.mark.parametrize("late", [0, 5 * DAY, 6 * DAY, 400 * DAY])
def test_it_is_renewed_when_due_or_overdue_or_expired(provisioned, late):
    old = provisioned.leaf
    provisioned.clock.pass_(24 * DAY + late)
    assert provisioned.look() == 0
    new = provisioned.leaf
    assert end_of(new) == provisioned.clock.now + LIFE
    assert new.subject == old.subject
    assert spki(new.public_key()) != spki(old.public_key())
    assert provisioned.registered[-1] == new
    assert provisioned.look() == LOOK_MS
    files = provisioned.files()
    assert (files["new certificate"], files["new key"], files["marker"]) == (None, None, None)
    assert provisioned.issuer.note is None


def test_the_order_of_a_renewal(provisioned):
    """DPS has accepted the new pair before anything of the old one is touched."""
    provisioned.clock.pass_(24 * DAY)
    provisioned.look()
    assert provisioned.power.steps == [
        "marker resting",
        "delete_certificate device-id-temp",
        "create_key_pair device-id-temp",
        "create_certificate device-id-temp",
        "marker trial",
        "changed",
        "reprovision",
        "marker promoting",
        "move_key_pair device-id-temp",
        "import_certificate device-id",
        "delete_certificate device-id-temp",
        "marker None",
        "changed",
    ]
    first, second = provisioned.told
    assert first == second == (spki(provisioned.leaf.public_key()), None)


@pytest.mark.parametrize("rule", [SELF_SIGNED, LOCAL_CA])
def test_the_key_is_kept_when_asked_for(tmp_path, rule):
    world = World(tmp_path, rule=rule, auto_renew=SAME_KEY)
    world.registered_once()
    world.put_key(TEMPORARY, pem_of(EC_KEYS[2]))  # of a trial with another setting
    old = world.leaf
    world.clock.pass_(24 * DAY)
    assert world.look() == 0
    assert world.leaf.serial_number != old.serial_number
    assert spki(world.leaf.public_key()) == spki(old.public_key())
    assert world.registered[-1] == world.leaf
    assert world.files()["new key"] is None


def test_without_auto_renew_it_is_never_renewed(tmp_path):
    world = World(tmp_path, auto_renew=None)
    world.registered_once()
    world.clock.pass_(400 * DAY)
    assert world.look() == NEVER
    assert (world.power.steps, world.issuer.note) == ([], None)


def test_without_auto_renew_what_cannot_be_used_is_told(tmp_path):
    world = World(tmp_path, auto_renew=None)
    world.registered_once()
    world.put_certificate(DEVICE, b"no certificate\n")
    assert world.look() == NEVER
    assert "remove the certificate device-id" in world.issuer.note


@pytest.mark.parametrize("broken", [b"no certificate\n", ca_pem(EC_KEYS[1], "press-17", ca=False)])
def test_what_cannot_be_used_is_due_now(provisioned, broken):
    """Malformed, or for another key."""
    provisioned.put_certificate(DEVICE, broken)
    provisioned.look()
    assert provisioned.leaf.subject.rfc4514_string() == "CN=press-17"
    pair_of(provisioned.issuer.current(provisioned.configuration))


def test_the_time_is_the_machines(provisioned):
    clock = ClockTrust(trusted=False, offset_ms=24 * DAY)
    provisioned.machine = structs.replace(provisioned.machine, clock=clock)
    assert provisioned.look() == AGAIN_FIRST_MS  # due, but by certd's clock a new one lives no longer
    assert "would not live longer" in provisioned.issuer.note
    provisioned.machine = structs.replace(provisioned.machine, clock=ClockTrust(trusted=True, offset_ms=DAY))
    provisioned.clock.pass_(23 * DAY)
    assert provisioned.look() == LOOK_MS
    assert provisioned.issuer.note is None
    assert len(provisioned.registered) == 1


@pytest.mark.parametrize("held", ["hold", "foreign_machine", "stopping"])
def test_no_registration_is_asked_for_while_none_may_begin(provisioned, held):
    provisioned.machine = structs.replace(provisioned.machine, **{held: True})
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == BLOCKED_MS
    assert provisioned.power.steps == []


# --- when it fails -----------------------------------------------------------------------------------


def refuse(world, *answers):
    world.answers = list(answers)


def test_a_refusal_leaves_everything_as_it_was(provisioned):
    before = provisioned.files()
    refuse(provisioned, "dps-401: not enrolled")
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == 0
    after = provisioned.files()
    marker = after.pop("marker")
    assert b"resting" in marker
    assert after == {name: old for name, old in before.items() if name != "marker"}
    assert provisioned.issuer.note == (
        "onboarding certificate: not renewed, the one in use is kept: dps-401: not enrolled"
    )
    assert [who for who, _ in provisioned.told][-1] == spki(provisioned.leaf.public_key())
    assert provisioned.told[-1][1] == provisioned.issuer.note
    assert provisioned.issuer.current(provisioned.configuration) == provisioned.issuer.trial(
        provisioned.configuration
    )


@pytest.mark.parametrize(
    ("retry", "rest"),
    [("4%", LIFE * 4 // 100), ("90min", 90 * MINUTE), ("1min", LEAST_REST_MS), ("3day", 3 * DAY)],
)
def test_the_next_try_follows_after_the_configured_time(tmp_path, retry, rest):
    world = World(tmp_path, auto_renew=AutoRenew(rotate_key=True, threshold="80%", retry=retry))
    world.registered_once()
    refuse(world, "no", "no")
    world.clock.pass_(24 * DAY)
    assert world.look() == 0
    assert world.look() == min(rest, LOOK_MS)
    world.clock.pass_(rest - 1)
    assert (world.look(), len(world.registered)) == (1, 2)
    world.clock.pass_(1)
    assert (world.look(), len(world.registered)) == (0, 3)
    world.clock.now += 5 * DAY  # set, not passed: no reason to hurry
    assert (world.look(), len(world.registered)) == (min(rest, LOOK_MS), 3)


def test_even_the_shortest_life_is_no_storm(tmp_path):
    world = World(tmp_path, auto_renew=AutoRenew(rotate_key=True, threshold="400day", retry="1%"))
    world.registered_once()
    world.clock.pass_(DAY)
    for _ in range(10):
        assert world.look() == 0  # always due, as the threshold exceeds the life
        assert world.look() >= LEAST_REST_MS
        world.clock.pass_(LIFE // 100)
    assert len(world.registered) == 11


def test_of_unknown_life_it_is_tried_hourly(provisioned):
    provisioned.put_certificate(DEVICE, b"no certificate\n")
    refuse(provisioned, "no")
    assert provisioned.look() == 0
    assert provisioned.look() == UNREADABLE_REST_MS


def test_a_restart_shortens_the_rest_but_does_not_end_it(provisioned):
    refuse(provisioned, "no")
    provisioned.clock.pass_(24 * DAY)
    provisioned.look()
    provisioned.start()
    assert provisioned.prepare() == 0
    assert provisioned.look() == RESTART_REST_MS
    provisioned.clock.pass_(RESTART_REST_MS)
    assert provisioned.look() == 0
    assert provisioned.registered[-1] == provisioned.leaf


def test_a_local_ca_near_its_end_is_not_asked_again_and_again(tmp_path):
    world = World(tmp_path, rule=LOCAL_CA)
    world.put_certificate("local-ca", ca_pem(EC_KEYS[0], "CA", end=NOW + 10 * DAY))
    world.registered_once()
    assert end_of(world.leaf) == NOW + 10 * DAY
    world.clock.pass_(8 * DAY)
    assert world.look() == AGAIN_FIRST_MS
    assert "renew the local CA" in world.issuer.note
    assert world.look() == 10 * DAY * 4 // 100
    assert len(world.registered) == 1
    assert world.files()["new key"] is None


def test_issuance_that_fails_is_told_and_rests(provisioned):
    certificates = structs.replace(provisioned.configuration.certificates, local_ca=None)
    source = IssuedSource(rule=LOCAL_CA, auto_renew=RENEWED)
    provisioning = structs.replace(provisioned.configuration.provisioning, attestation=source)
    provisioned.configuration = structs.replace(
        provisioned.configuration, certificates=certificates, provisioning=provisioning
    )
    provisioned.clock.pass_(24 * DAY)
    before = provisioned.files()["certificate"]
    assert provisioned.look() == AGAIN_FIRST_MS
    assert "is issued by the local CA" in provisioned.issuer.note
    assert provisioned.look() == LOOK_MS
    assert provisioned.files()["certificate"] == before


def test_a_command_that_cannot_be_taken_judges_nothing(provisioned):
    refuse(provisioned, StoreUnavailable("journal: full", code="journal-unavailable"))
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == AGAIN_FIRST_MS
    assert b"trial" in provisioned.files()["marker"]
    assert "journal: full" in provisioned.issuer.note
    old, _ = pair_of(provisioned.issuer.current(provisioned.configuration))
    new, _ = pair_of(provisioned.issuer.trial(provisioned.configuration))
    assert old == provisioned.leaf != new
    assert provisioned.look() == 0
    assert (provisioned.leaf, provisioned.issuer.note) == (new, None)


def test_success_of_an_older_attempt_is_not_the_new_certificates(tmp_path):
    """With the same key the command may join an attempt that was begun with the old certificate."""
    world = World(tmp_path, auto_renew=SAME_KEY, rule=LOCAL_CA)
    world.registered_once()
    asked = []

    async def join():
        asked.append(world.machine.attempts)
        if len(asked) == 1:
            world.finish(world.machine.attempts, None)
            return None
        return await world.reprovision()

    world.start()
    world.issuer._reprovision = join
    world.prepare()
    world.clock.pass_(24 * DAY)
    assert world.look() == 0
    assert (len(asked), world.registered[-1]) == (2, world.leaf)


def test_an_attempt_that_begins_while_the_trial_is_noted_down_does_not_count(tmp_path):
    world = World(tmp_path, auto_renew=SAME_KEY, rule=LOCAL_CA)
    world.registered_once()
    joined = []

    def begin():
        """Of an attempt that reads the old certificate; it succeeds later."""
        if world.power.steps[-1] == "marker trial" and not joined:
            joined.append(world.machine.attempts + 1)
            world.machine = structs.replace(world.machine, attempts=joined[0])

    async def join():
        if len(joined) == 1:
            joined.append(None)
            world.finish(world.machine.attempts, None)
            return None
        return "dps-401: not enrolled"

    old = world.leaf
    world.power.watch = begin
    world.issuer._reprovision = join
    world.clock.pass_(24 * DAY)
    assert world.look() == 0
    assert world.power.steps.count("marker trial") == 2
    assert world.leaf == old


def test_success_that_is_never_the_new_certificates_is_none(provisioned):
    before, asked = provisioned.leaf, []

    async def succeed():
        asked.append(1)

    provisioned.start()
    provisioned.issuer._reprovision = succeed
    provisioned.prepare()
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == 0
    assert (len(asked), provisioned.leaf) == (COMMANDS, before)
    assert "no registration was made with it" in provisioned.issuer.note


def test_an_attempt_that_outlasts_the_wait_is_judged_when_it_ends(provisioned):
    async def late():
        number = provisioned.machine.attempts + 1
        provisioned.machine = structs.replace(
            provisioned.machine,
            attempts=number,
            attempt=Attempt(number=number, fingerprint="", started_unix_ms=0),
        )
        begun.set()
        return "not ended after 590 s; it goes on"

    async def main():
        await provisioned.issuer.prepare()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provisioned.issuer.look)
            with trio.fail_after(10):
                await begun.wait()
            provisioned.issuer.wake()  # looked at: still running
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            assert provisioned.leaf == old
            provisioned.finish(provisioned.machine.attempts, None)
            provisioned.issuer.wake()

    old, begun = provisioned.leaf, trio.Event()
    provisioned.start()
    provisioned.issuer._reprovision = late
    provisioned.clock.pass_(24 * DAY)
    trio.run(main)
    assert provisioned.leaf != old


def test_a_credential_of_another_kind_ends_the_trial(provisioned):
    old, issued = provisioned.leaf, provisioned.configuration

    async def reload():
        other = structs.replace(issued.provisioning, attestation=SymmetricKeySource(value=b"key"))
        provisioned.configuration = structs.replace(issued, provisioning=other)
        provisioned.machine = structs.replace(provisioned.machine, fingerprint="another")
        provisioned.finish(99, None)

    async def changed():
        pass

    provisioned.start()
    provisioned.prepare()
    provisioned.issuer._reprovision = reload
    provisioned.clock.pass_(24 * DAY)
    provisioned.issuer._changed = changed
    assert provisioned.look() == 0
    assert provisioned.look() == NEVER
    assert provisioned.leaf == old
    assert provisioned.files()["new key"] is None


# --- after a crash -----------------------------------------------------------------------------------

STEPS = {(True, True): 13, (False, True): 11, (True, False): 11, (False, False): 9}
"Of a renewal, by whether it has a key of its own, and whether DPS accepts it."


def crashes(*, succeeds):
    return [
        pytest.param(auto_renew, step, done, id=f"{name}-{'after' if done else 'before'}-{step}")
        for name, auto_renew in (("new key", RENEWED), ("same key", SAME_KEY))
        for step in range(1, STEPS[auto_renew.rotate_key, succeeds] + 1)
        for done in (False, True)
    ]


def crashed(tmp_path, auto_renew, step, done, *, answers=()):
    """A device whose power failed at that step of a renewal, up again; its old certificate too."""
    world = World(tmp_path, rule=LOCAL_CA, auto_renew=auto_renew)
    world.registered_once()
    old = world.leaf
    old_files = {name: data for name, data in world.files().items() if name in ("certificate", "key")}
    refuse(world, *answers)

    def watch():
        """The master rule, after every step: until DPS has taken another, the old pair lies untouched."""
        if not any(one.serial_number != old.serial_number for one in world.accepted.values()):
            assert {name: world.files()[name] for name in old_files} == old_files
        pair_of(world.issuer.trial(world.configuration))
        pair_of(world.issuer.current(world.configuration))

    world.clock.pass_(24 * DAY)
    world.start()
    world.prepare()
    # The pair in memory follows the step that moved its file, so there it is looked at after the restart.
    world.power.watch = lambda: None if world.power.steps[-1].startswith(("move", "import")) else watch()
    del world.power.steps[:]
    world.power.cut_at = (step, done)
    with pytest.raises(PowerCut):
        world.settle()
    world.start()
    watch()
    world.identify()  # Started
    assert world.prepare() == 0
    watch()
    return world, old


@pytest.mark.parametrize(("auto_renew", "step", "done"), crashes(succeeds=True))
def test_a_crash_at_any_step_of_a_renewal_strands_nobody(tmp_path, auto_renew, step, done):
    world, old = crashed(tmp_path, auto_renew, step, done)
    world.settle()
    world.clock.pass_(RESTART_REST_MS)
    world.settle()
    chain, _ = pair_of(world.issuer.current(world.configuration))
    assert chain == world.leaf == world.accepted[spki(chain.public_key())]
    assert chain.serial_number != old.serial_number
    assert world.machine.fingerprint == world.machine.assignment.fingerprint == spki(chain.public_key())
    files = world.files()
    assert (files["new certificate"], files["new key"], files["marker"]) == (None, None, None)
    assert world.issuer.note is None


@pytest.mark.parametrize(("auto_renew", "step", "done"), crashes(succeeds=False))
def test_a_crash_around_a_refusal_keeps_the_old_one(tmp_path, auto_renew, step, done):
    """DPS refuses whatever is new: the same crashes, and those of giving up."""
    world, old = crashed(tmp_path, auto_renew, step, done, answers=["no"] * 9)
    world.settle()
    world.clock.pass_(RESTART_REST_MS)
    world.settle()
    assert world.leaf == old
    pair_of(world.issuer.current(world.configuration))
    assert world.issuer.trial(world.configuration) == world.issuer.current(world.configuration)
    assert world.machine.fingerprint == spki(old.public_key())
    assert b"resting" in world.files()["marker"]


@pytest.mark.parametrize("auto_renew", [RENEWED, SAME_KEY])
@pytest.mark.parametrize("succeeds", [True, False])
def test_the_crashes_are_all_there_are(tmp_path, auto_renew, succeeds):
    world = World(tmp_path, rule=LOCAL_CA, auto_renew=auto_renew)
    world.registered_once()
    refuse(world, *([] if succeeds else ["no"]))
    world.clock.pass_(24 * DAY)
    world.look()
    assert len(world.power.steps) == STEPS[auto_renew.rotate_key, succeeds]


def on_trial(world):
    """A device that lost power while DPS was asked."""
    world.clock.pass_(24 * DAY)
    world.start()
    world.prepare()
    del world.power.steps[:]
    world.power.cut_at = "reprovision"
    with pytest.raises(PowerCut):
        world.look()
    world.start()
    world.identify()


def test_what_dps_accepted_before_the_crash_is_not_asked_again(provisioned):
    on_trial(provisioned)
    trio.run(provisioned.reprovision)  # the machine's attempt went on by itself
    asked = len(provisioned.registered)
    provisioned.settle()
    assert (len(provisioned.registered), provisioned.leaf) == (asked, provisioned.registered[-1])


def test_a_trial_that_is_interrupted_twice_is_given_up(provisioned):
    old = provisioned.leaf
    on_trial(provisioned)
    provisioned.power.cut_at = (len(provisioned.power.steps) + 2, False)
    with pytest.raises(PowerCut):
        provisioned.look()
    assert b"resumed" in provisioned.files()["marker"]
    provisioned.start()
    provisioned.identify()
    asked = len(provisioned.registered)
    assert provisioned.look() == 0
    assert (provisioned.leaf, len(provisioned.registered)) == (old, asked)
    assert "interrupted twice" in provisioned.issuer.note


def test_a_trial_waits_while_no_registration_may_begin(provisioned):
    on_trial(provisioned)
    provisioned.machine = structs.replace(provisioned.machine, hold=True)
    assert provisioned.look() == BLOCKED_MS
    assert b"trial" in provisioned.files()["marker"]
    provisioned.machine = structs.replace(provisioned.machine, hold=False)
    assert provisioned.look() == 0
    assert provisioned.registered[-1] == provisioned.leaf


def test_a_trial_outlives_its_auto_renew(provisioned):
    on_trial(provisioned)
    source = structs.replace(provisioned.configuration.provisioning.attestation, auto_renew=None)
    provisioning = structs.replace(provisioned.configuration.provisioning, attestation=source)
    provisioned.configuration = structs.replace(provisioned.configuration, provisioning=provisioning)
    assert provisioned.look() == 0
    assert provisioned.registered[-1] == provisioned.leaf


def test_a_journal_that_began_anew_does_not_hide_success(tmp_path):
    world = World(tmp_path, rule=LOCAL_CA, auto_renew=SAME_KEY)
    world.registered_once()
    world.machine = structs.replace(world.machine, attempts=500)
    on_trial(world)
    world.machine = structs.replace(world.machine, attempts=0, ended=None)
    assert world.look() == 0
    assert world.registered[-1] == world.leaf


@pytest.mark.parametrize("lost", ["new key", "new certificate"])
def test_a_trial_whose_files_are_gone_is_none(provisioned, lost):
    old = provisioned.leaf
    on_trial(provisioned)
    path = provisioned.key_path if lost == "new key" else provisioned.certificate_path
    os.unlink(path(TEMPORARY))
    provisioned.start()
    chain, _ = pair_of(provisioned.issuer.trial(provisioned.configuration))
    assert chain == old
    provisioned.identify()
    assert provisioned.prepare() == 0
    assert provisioned.look() == 0
    assert provisioned.leaf == provisioned.registered[-1] != old


def test_a_lost_old_key_does_not_stop_a_trial(provisioned):
    on_trial(provisioned)
    os.unlink(provisioned.key_path(DEVICE))
    provisioned.start()
    provisioned.identify()
    assert provisioned.prepare() == 0
    assert provisioned.look() == 0
    assert provisioned.leaf == provisioned.registered[-1]
    pair_of(provisioned.issuer.current(provisioned.configuration))


DAMAGED = [b"", b"{", b"[]", b'{"state":"later"}', b"\xff\xfe", b"[" * 4000, b" " * 5000]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_note_of_a_renewal_stops_nobody(provisioned, damage):
    put(provisioned.marker_path, damage)
    provisioned.start()
    chain, _ = pair_of(provisioned.issuer.trial(provisioned.configuration))
    assert chain == provisioned.leaf
    assert (provisioned.prepare(), provisioned.look()) == (0, LOOK_MS)
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == 0
    assert provisioned.files()["marker"] is None


def test_a_note_that_cannot_be_written_stops_the_renewal_before_it_begins(provisioned):
    state = provisioned.homes[0]
    os.makedirs(provisioned.marker_path + ".new")
    provisioned.clock.pass_(24 * DAY)
    assert provisioned.look() == AGAIN_FIRST_MS
    assert state in provisioned.issuer.note
    assert len(provisioned.registered) == 1
    os.rmdir(provisioned.marker_path + ".new")


# --- small things ------------------------------------------------------------------------------------


def snapshot(fingerprint, assigned, *, number=None, error=None):
    ended = None
    if number is not None:
        problem = None if error is None else Problem(failure_class="retry", code="c", message=error)
        ended = Ended(number=number, started_unix_ms=0, ended_unix_ms=0, error=problem)
    return Snapshot(
        fingerprint=fingerprint,
        assignment=None
        if assigned is None
        else Assignment(hub="hub.test", device_id="d", fingerprint=assigned),
        ended=ended,
    )


@pytest.mark.parametrize(
    ("rotated", "machine", "expected"),
    [
        (True, snapshot("new", None), False),
        (True, snapshot("new", "old"), False),
        (True, snapshot("new", "new"), True),
        (True, snapshot("old", "old"), False),
        (True, snapshot("old", "old", number=7), False),
        (True, snapshot("old", "old", number=8), True),
        (False, snapshot("old", "old"), False),
        (False, snapshot("old", "old", number=7), False),
        (False, snapshot("old", "old", number=8), True),
        (False, snapshot("old", "old", number=8, error="refused"), False),
        (False, snapshot("new", "old", number=8), False),
    ],
)
def test_what_counts_as_acceptance(rotated, machine, expected):
    marker = Marker(state="trial", rotated=rotated, attempts=7, fingerprint="old")
    assert accepted(marker, machine) is expected


def test_nothing_is_put_in_place_of_nothing():
    configuration = Configuration(provisioning=NoProvisioning())
    pair = X509Source(certificate_path="c", key_path="k")
    assert effective(configuration, pair) is configuration


def test_the_task_sleeps_until_it_is_woken(provisioned):
    async def changed():
        await provisioned.changed()
        if len(provisioned.told) == 2:
            renewed.set()

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(provisioned.issuer.run)
            provisioned.clock.pass_(24 * DAY)
            provisioned.issuer.wake()
            with trio.fail_after(20):
                await renewed.wait()
            nursery.cancel_scope.cancel()

    renewed = trio.Event()
    provisioned.start()
    provisioned.issuer._changed = changed
    trio.run(main)
    assert provisioned.leaf == provisioned.registered[-1]
    assert len(provisioned.registered) == 2
