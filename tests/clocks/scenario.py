"""What a scenario is: what is done to the clocks around one device, and when. Data only."""

from msgspec import Struct

from statemachine.states import Phase

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
YEAR = 365 * DAY
T0 = 1_790_000_000_000
"The true time of a first start, unless the scenario says otherwise: September 2026."
LIFE_MS = 90 * DAY
BUILD_MS = -30 * DAY
"The build date of the release, from the true time of the first start on."

FEW = 4
"Registrations a day that trouble with clocks may cost at most."

# --- what a clock shows ------------------------------------------------------------------------------


class Off(Struct, frozen=True, tag="off"):
    """The true time plus ``by_ms``."""

    by_ms: int


class Shows(Struct, frozen=True, tag="shows"):
    """An instant of its own, whatever the true time."""

    unix_ms: int


Dial = Off | Shows
RIGHT = Off(0)

# --- when --------------------------------------------------------------------------------------------


class Later(Struct, frozen=True, tag="later"):
    """So long after what was done before."""

    ms: int


class InPhase(Struct, frozen=True, tag="in-phase"):
    """In the middle of what that phase of the attempt with this number waits for."""

    phase: Phase
    attempt: int = 2


class AtCommit(Struct, frozen=True, tag="at-commit"):
    """At the instant of the next flip of the pointer: just before, or just after."""

    after: bool


class BeforeEnd(Struct, frozen=True, tag="before-end"):
    """So long before the certificate in use truly ends."""

    ms: int


When = Later | InPhase | AtCommit | BeforeEnd

# --- what --------------------------------------------------------------------------------------------


class Set(Struct, frozen=True, tag="set"):
    """The wall clock is set; and the kernel says that something disciplines it, or that nothing does."""

    dial: Dial
    synchronised: bool


class Suspend(Struct, frozen=True, tag="suspend"):
    """The machine sleeps. Its clock goes on meanwhile, and is off by ``slip_ms`` more afterwards."""

    ms: int
    slip_ms: int = 0


class Restart(Struct, frozen=True, tag="restart"):
    """Killed, gone for a while, and started with a clock that shows this."""

    down_ms: int
    dial: Dial
    synchronised: bool


class CloudShows(Struct, frozen=True, tag="cloud-shows"):
    """The Date of every answer is off by so much from now on; None: answers carry no Date."""

    by_ms: int | None


class Drift(Struct, frozen=True, tag="drift"):
    """From now on the device's oscillator is this much slower than true time."""

    ppm: int


Deed = Set | Suspend | Restart | CloudShows | Drift


class Happening(Struct, frozen=True):
    """Deeds at one moment."""

    when: When
    deeds: tuple[Deed, ...]


class Scenario(Struct, frozen=True, kw_only=True):
    """One life. It begins with the first start of a device that was never provisioned."""

    name: str
    family: str
    begins_unix_ms: int = T0
    dial: Dial = RIGHT
    synchronised: bool = True
    build_ms: int = BUILD_MS
    cloud_shows: int | None = 0
    hub_off_ms: int = 0
    "How far the hub's Date is off besides."
    ca_ahead_ms: int = 0
    "How far the clock that dates issued certificates is ahead of the true time."
    watch: bool = True
    "The kernel can say that its clock was set. False: the documented fallback."
    script: tuple[Happening, ...] = ()
    right: bool = True
    "After the script the device's clock is right, and it has a way to know."
    deceived: bool = False
    "Whoever confirms the clock is wrong, so that something may be declared expired too early."
    reachable: bool = True
    "TLS with the cloud does not fail over dates for good, so the device is provisioned in the end."
    days: int = 130
    "How long it is watched after the script: past the next renewal."
    a_day: int = FEW
    "Registrations (PUT that reached DPS) in any 24 hours at most."
    tries_a_day: int = 400
    "Connections in any 24 hours at most. At the cap of the backoff, with full jitter, they are about 200."
    polls_in_10_s: int = 5
    "The device quota of DPS."
    right_within_s: int = 60
    slack_ms: int = HOUR
    "How far a deadline may be off: a clock that is off by less than an hour is believed as it is."
