"""What is counted and measured: each hook, and what the machine says at the moment of the question."""

import json

import pytest
import trio
import trio.testing
from msgspec import structs

from adapters.driven.exchange import with_retries
from adapters.driven.journal_file import open_journal
from adapters.errors import PeerRefused, PeerUnreachable
from adapters.fakes.clock import VirtualClock
from adapters.meters import Meters
from adapters.wire.admission import Admission, ServerLimits
from adapters.wire.http_client import HttpAnswer
from adapters.wire.http_server import Response, serve, unix_listener
from statemachine.explain import status_of
from statemachine.snapshot import ClockTrust, Credential, Ended, Problem, Snapshot
from statemachine.states import State
from tests.adapters.test_metrics import samples
from tests.adapters.unix_peer import exchange

NOW = 1_796_000_000_000
ISSUED = Credential(
    generation=1, source="issued", not_before_unix_ms=NOW, not_after_unix_ms=NOW + 1_000_500, draw_ppm=0
)


def ended(number: int, failure_class: str | None = None) -> Ended:
    error = (
        None if failure_class is None else Problem(failure_class=failure_class, code="some", message="")  # type: ignore[arg-type]
    )
    return Ended(number=number, started_unix_ms=NOW, ended_unix_ms=NOW, error=error)


def metered(work):
    """What ``work`` returns, given a Meters on a virtual clock; the clock goes as fast as it is told."""

    async def main():
        clock = VirtualClock(NOW)
        return await work(Meters(clock), clock)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def text_of(meters, snapshot, *, available=True):
    return meters.text(snapshot, status_of(snapshot, NOW), journal_available=available)


def read(snapshot, name, **options):
    async def work(meters, clock):
        return samples(text_of(meters, snapshot, **options), name)

    return metered(work)


# --- read off the machine ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
def test_the_state_is_one_hot(state):
    found = read(Snapshot(state=state), "identityd_state")
    assert found == {(one.value,): float(one is state) for one in State}


@pytest.mark.parametrize(
    ("snapshot", "name", "value"),
    [
        (Snapshot(), "identityd_stuck", 0),
        (Snapshot(foreign_machine=True), "identityd_stuck", 1),
        (Snapshot(degraded=("a", "b"), configuration_notes=("c",)), "identityd_degraded", 3),
        (Snapshot(hold=True), "identityd_hold", 1),
        (Snapshot(), "identityd_hold", 0),
        (Snapshot(clock=ClockTrust(trusted=True)), "identityd_clock_trusted", 1),
        (Snapshot(), "identityd_clock_trusted", 0),
        (Snapshot(failures=4), "identityd_attempts_failed_in_a_row", 4),
        (Snapshot(), "identityd_journal_available", 1),
        (Snapshot(credential=ISSUED), "identityd_certificate_not_before_timestamp_seconds", NOW // 1000),
        (
            Snapshot(credential=ISSUED),
            "identityd_certificate_not_after_timestamp_seconds",
            NOW / 1000 + 1000.5,
        ),
        (Snapshot(credential=ISSUED), "identityd_renewal_due_timestamp_seconds", NOW / 1000 + 700.35),
        (
            Snapshot(onboarding_not_after_unix_ms=NOW),
            "identityd_onboarding_certificate_not_after_timestamp_seconds",
            NOW // 1000,
        ),
        (Snapshot(), "identityd_process_start_time_seconds", NOW // 1000),
    ],
)
def test_what_the_machine_says(snapshot, name, value):
    assert read(snapshot, name) == {(): value}


@pytest.mark.parametrize("credential", [None, structs.replace(ISSUED, source="configured")])
def test_without_a_certificate_nothing_is_said_of_one(credential):
    for name in (
        "identityd_certificate_not_before_timestamp_seconds",
        "identityd_certificate_not_after_timestamp_seconds",
        "identityd_renewal_due_timestamp_seconds",
        "identityd_onboarding_certificate_not_after_timestamp_seconds",
    ):
        assert read(Snapshot(credential=credential), name) == {}


def test_a_certificate_that_is_gone_is_not_shown_any_more():
    async def work(meters, clock):
        text_of(meters, Snapshot(credential=ISSUED))
        return samples(text_of(meters, Snapshot()), "identityd_certificate_not_after_timestamp_seconds")

    assert metered(work) == {}


def test_the_journal_is_said_to_be_unavailable():
    assert read(Snapshot(), "identityd_journal_available", available=False) == {(): 0}


def test_where_the_identity_comes_from_is_said_once():
    async def work(meters, clock):
        text_of(meters, Snapshot())
        policy = structs.replace(Snapshot().policy, attestation="x509")
        return samples(text_of(meters, Snapshot(policy=policy)), "identityd_provisioning_info")

    assert metered(work) == {("dps", "x509"): 1}


@pytest.mark.parametrize(("step_ms", "moved_s"), [(0, 0), (400, 0), (-999, 0), (86_400_000, 86_400)])
def test_the_start_moves_with_a_clock_that_is_set(step_ms, moved_s):
    async def work(meters, clock):
        await trio.sleep(500)
        clock.step(step_ms)
        return samples(text_of(meters, Snapshot()), "identityd_process_start_time_seconds")

    assert metered(work) == {(): NOW // 1000 + moved_s}


# --- attempts ----------------------------------------------------------------------------------------


def attempts(*snapshots):
    async def work(meters, clock):
        for snapshot in snapshots:
            meters.observe(snapshot)
        found = samples(text_of(meters, snapshots[-1]), "identityd_attempts_total")
        return {labels: count for labels, count in found.items() if count}, len(found)

    return metered(work)


@pytest.mark.parametrize(
    ("ends", "counted"),
    [
        ([None], {}),
        ([ended(3)], {}),  # of the process before
        ([None, ended(1)], {("succeeded", ""): 1}),
        ([ended(1), ended(2, "retry")], {("failed", "retry"): 1}),
        ([ended(1), ended(2, "operator"), ended(2, "operator")], {("failed", "operator"): 1}),
        (
            [None, ended(1, "clock"), ended(2, "clock"), ended(3)],
            {("failed", "clock"): 2, ("succeeded", ""): 1},
        ),
    ],
)
def test_attempts_are_counted_when_they_end(ends, counted):
    assert attempts(*(Snapshot(ended=one) for one in ends)) == (counted, 7)


# --- DPS and hub -------------------------------------------------------------------------------------


def test_each_try_is_timed_with_what_it_came_to():
    outcomes = [
        PeerUnreachable("no route", code="unreachable"),
        HttpAnswer(status=429, headers={}, body=b""),
    ]

    async def work(meters, clock):
        async def send():
            await trio.sleep(0.2)
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        await with_retries(send, 3, meters.exchanged("dps"))
        text = text_of(meters, Snapshot())
        return (
            samples(text, "identityd_cloud_requests_total"),
            samples(text, "identityd_cloud_request_duration_seconds_count"),
            samples(text, "identityd_cloud_request_duration_seconds_sum")["dps",],
        )

    counted, timed, seconds = metered(work)
    assert counted == {("dps", "unreachable"): 1, ("dps", "429"): 1}
    assert timed == {("dps",): 2, ("hub",): 0}
    assert seconds == pytest.approx(0.4)


def test_what_cannot_be_repeated_is_timed_as_well():
    async def work(meters, clock):
        async def send():
            raise PeerRefused("no", code="tls-certificate-alert")

        with pytest.raises(PeerRefused):
            await with_retries(send, 3, meters.exchanged("hub"))
        return samples(text_of(meters, Snapshot()), "identityd_cloud_requests_total")

    assert metered(work) == {("hub", "tls-certificate-alert"): 1}


# --- the journal -------------------------------------------------------------------------------------


class Figures:
    def __init__(self):
        self.syncs, self.sizes = [], []

    def synced(self, seconds):
        self.syncs.append(seconds)

    def stored(self, journal_bytes):
        self.sizes.append(journal_bytes)


def sequence_of(line):
    return json.loads(line).get("sequence")


LINE = b'{"type":"record","sequence":%d}' + b" " * 500 + b"\n"


def on_disk(directory):
    return sum(path.stat().st_size for path in directory.glob("journal*.jsonl"))


def test_every_record_is_timed_and_the_size_is_that_on_disk(tmp_path):
    home, figures = tmp_path / "journal", Figures()
    journal = open_journal(str(home), sequence_of, segment_bytes=2_000, keep_bytes=6_000, meter=figures)
    journal.begin([b'{"type":"header"}\n'])
    assert figures.sizes[-1] == on_disk(home)
    for sequence in range(1, 40):
        journal.append_now(LINE % sequence)
        assert figures.sizes[-1] == on_disk(home)
        if journal.rotation_due:
            journal.rotate_now([b'{"type":"header"}\n'])
            assert figures.sizes[-1] == on_disk(home)
    assert len(figures.syncs) == 39
    assert all(seconds >= 0 for seconds in figures.syncs)
    assert len(list(home.glob("journal-*.jsonl"))) > 1, "closed files were among it"

    again = Figures()
    resumed = open_journal(str(home), sequence_of, meter=again)
    resumed.resume()
    assert again.sizes[-1] == on_disk(home)
    assert again.syncs == []
    for one in (journal, resumed):
        one.close()


def test_their_figures_are_shown():
    async def work(meters, clock):
        before = samples(text_of(meters, Snapshot()), "identityd_journal_bytes")
        meters.stored(4096)
        meters.synced(0.002)
        text = text_of(meters, Snapshot())
        return (
            before,
            samples(text, "identityd_journal_bytes"),
            samples(text, "identityd_journal_sync_duration_seconds_count"),
        )

    assert metered(work) == ({}, {(): 4096}, {(): 1})


# --- local sockets -----------------------------------------------------------------------------------

REQUEST = "{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LONG = "GET /" + "x" * 20_000 + " HTTP/1.1\r\n\r\n"


class Counting:
    """A server whose answers are counted; a path is the status that is asked for."""

    def __init__(self):
        self.statuses: list[int] = []
        self.in_flight: list[int] = []
        self.admission: Admission | None = None

    def answered(self, status):
        assert self.admission is not None
        self.statuses.append(status)
        self.in_flight.append(self.admission.requests)

    async def handle(self, request):
        if request.path == "/fails":
            raise RuntimeError("a defect")
        if request.path == "/stream":
            return Response(200, stream=self.chunks())
        return Response(int(request.path[1:]))

    async def chunks(self):
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            assert self.statuses == [], "a stream counts when it ends"
            yield b"x"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (REQUEST.format("GET /200"), 200),
        (REQUEST.format("GET /404"), 404),
        (REQUEST.format("HEAD /200"), 200),
        (REQUEST.format("GET /204"), 204),
        (REQUEST.format("GET /fails"), 500),
        (REQUEST.format("GET /stream"), 200),
        (REQUEST.format("CONNECT x:1"), 400),
        ("\x16\x03\x01 TLS", 400),
        (LONG, 431),
    ],
)
def test_every_answer_is_counted_once_it_is_over(tmp_path, said, status):
    counting = Counting()

    async def main():
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def served(task_status):
                    await serve(
                        [unix_listener(str(tmp_path / "s"))],
                        counting.handle,
                        on_answer=counting.answered,
                        on_error=lambda doing, exc: None,
                        task_status=task_status,
                    )

                counting.admission = await nursery.start(lambda task_status: served(task_status))
                await exchange(str(tmp_path / "s"), said)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert (counting.statuses, counting.in_flight) == ([status], [0])


@pytest.mark.parametrize(("when_busy", "statuses"), [("close", []), ("503", [503])])
def test_what_is_over_a_limit_is_turned_away(tmp_path, when_busy, statuses):
    counting = Counting()

    async def main():
        limits = ServerLimits(requests_per_uid=0, when_busy=when_busy)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def served(task_status):
                    await serve(
                        [unix_listener(str(tmp_path / "s"))],
                        counting.handle,
                        limits,
                        on_answer=counting.answered,
                        task_status=task_status,
                    )

                counting.admission = await nursery.start(lambda task_status: served(task_status))
                for _ in range(3):
                    await exchange(str(tmp_path / "s"), REQUEST.format("GET /200"))
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert counting.admission is not None
    assert counting.admission.turned_away == 3
    assert counting.statuses == statuses * 3


def test_sockets_are_shown_by_name():
    async def work(meters, clock):
        admission = Admission(ServerLimits())
        admission.turned_away = 2
        meters.listening("keyd", admission)
        meters.answered("keyd")(200)
        meters.answered("keyd")(200)
        meters.answered("certd")(404)
        text = text_of(meters, Snapshot())
        return [
            samples(text, f"identityd_requests_{name}")
            for name in ("total", "in_flight", "turned_away_total")
        ]

    assert metered(work) == [
        {("keyd", "200"): 2, ("certd", "404"): 1},
        {("keyd",): 0},
        {("keyd",): 2},
    ]


# --- changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "happens",
    [
        lambda meters: meters.observe(Snapshot()),
        lambda meters: meters.exchanged("dps")("200", 0.1),
        lambda meters: meters.answered("keyd")(200),
    ],
)
def test_whoever_keeps_a_copy_hears_of_a_change(happens):
    async def work(meters, clock):
        heard = []
        meters.on_change(lambda: heard.append(True))
        happens(meters)
        return heard

    assert metered(work) == [True]
