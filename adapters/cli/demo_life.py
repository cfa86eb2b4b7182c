"""The life that ``identityd demo --once`` leads: each step is done for real and then looked at from outside.

Nothing is waited for by the clock. A step waits for a record of ``/v1/events``; all of them together end
at one deadline. A wait that ends without its record raises CommandFailed, and the life ends there.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from adapters.cli.control_client import Line
from adapters.cli.demo_checks import Checks
from adapters.cli.demo_peers import (
    BUNDLE,
    CERTIFICATE,
    LONG,
    SHORT,
    Answer,
    Leaf,
    ask_certd,
    generation,
    key_spki,
    leaf_of,
    pair_on_disk,
    published,
)
from adapters.cli.demo_stage import DEVICE, STOP_S, Stage
from adapters.cli.failure import CommandFailed
from adapters.errors import bounded
from adapters.simulators.ca import foreign_root_pem
from statemachine.effects import CommitCredential, Effect, PollRegistration, StageKey, SubmitRegistration
from statemachine.errors import JournalUnreadable
from statemachine.events import (
    CredentialCommitted,
    CredentialProven,
    Event,
    KeyStaged,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationPending,
    Started,
)
from statemachine.journal import Record, decode_line, read
from statemachine.replay import replay_files

E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Effect)

EARLIEST = 0.5
"The part of a certificate's life before its window, as in config/demo.toml."
FOR_EVER = 10_000
"Polls before an operation ends: more than any attempt makes."
PHASES = ("Staging", "Submitting", "Polling", "Proving", "Committing", "Retiring")
EXPECTED_ERRORS = {
    "2018-01-01": {"message": 'invalid api-version "2018-01-01"'},
    None: {"message": "api-version not specified"},
}
"By the api-version asked for, None for none: the original's answers."


class Life:
    """One device, from its first start to its last stop."""

    def __init__(self, stage: Stage, checks: Checks, deadline_s: float) -> None:
        self._stage = stage
        self._checks = checks
        self._deadline_s = deadline_s
        self._bundle = ""
        self._settled = 0
        "Sequence of the record with which the latest attempt ended."

    def lead(self) -> None:
        """Raises CommandFailed where it cannot go on."""
        self._register()
        self._renew()
        self._read_bundle()
        self._reprovision()
        self._crash()
        self._replay()

    # --- chapters ------------------------------------------------------------------------------------

    def _register(self) -> None:
        stage = self._stage
        self._checks.begin("register", "cloud and service start; nothing else is told to do anything")
        stage.start_cloud()
        self._bundle = foreign_root_pem(time.time())
        stage.cloud.set_bundle(self._bundle)
        stage.start_service()
        records = self._until_settled(1)
        phases = _phases(records, "Registering")
        assigned = _one(records, RegistrationAssigned)
        self._checks.add(
            "registered",
            phases == PHASES and records[-1].state == "Provisioned",
            f"Registering ({', '.join(phases)}), then {records[-1].state} at {assigned.assigned_hub}",
        )
        leaf = self._served()
        issued = [one for one in stage.cloud.log() if one.certificate_serial == leaf.serial]
        self._checks.add(
            "certificate-issued",
            len(issued) == 1 and leaf.common_name == DEVICE and leaf.valid,
            f"serial {_short(leaf.serial)} for CN {leaf.common_name}, "
            f"valid for {leaf.not_after_s - leaf.not_before_s:.0f} s",
        )
        on_disk, spki = _published_pair(stage)
        self._checks.add(
            "key-matches",
            on_disk == leaf and spki == leaf.spki,
            f"public key {_short(leaf.spki)} of the certificate, {_short(spki)} of the key",
        )
        self._hub_accepts(records, leaf)

    def _hub_accepts(self, records: list[Record], leaf: Leaf) -> None:
        stage = self._stage
        proven = _index(records, CredentialProven)
        committed = _index(records, CredentialCommitted)
        shown = [
            one
            for one in stage.cloud.log()
            if one.path.startswith(f"/devices/{DEVICE}/modules") and (one.client, one.status) == ("x509", 200)
        ]
        credential = stage.control.status().credential
        ours = stage.cloud.hub_accepts(stage.paths, DEVICE)
        self._checks.add(
            "hub-accepts",
            bool(shown)
            and proven < committed
            and ours.status == 200
            and credential is not None
            and credential.proven
            and credential.serial == leaf.serial,
            f"proven in record {records[proven].sequence}, current in {records[committed].sequence}; "
            f"our own connection with it: {ours.status}",
        )

    def _renew(self) -> None:
        old = self._served()
        left_s = old.not_after_s - time.time()
        self._checks.begin("renew", f"waits for the window of a certificate that has {left_s:.0f} s left")
        records: list[Record] = []
        odd: list[str] = []
        for record in self._records(self._settled + 1):
            records.append(record)
            self._look(record, odd)
            if _settled(record) and any(_is(one, CredentialCommitted) for one in records):
                break
        new = self._served()
        states = tuple(dict.fromkeys(record.state for record in records))
        begun = next(record for record in records if record.state == "Renewing")
        commands = [record for record in records if "requested" in _tag(record)]
        life_s = old.not_after_s - old.not_before_s
        used = (begun.now_unix_ms / 1000 - old.not_before_s) / life_s
        self._checks.add(
            "renewed-by-itself",
            "CertExpiring" in states
            and states[-1] == "Provisioned"
            and not commands
            and EARLIEST <= used < 1,
            f"{' > '.join(states)}, begun at {used:.0%} of its life; here its window opens at {EARLIEST:.0%}",
        )
        self._checks.add(
            "new-certificate",
            new.serial != old.serial and new.spki != old.spki and pair_on_disk(self._stage.paths) == new,
            f"serial {_short(old.serial)} > {_short(new.serial)}, "
            f"public key {_short(old.spki)} > {_short(new.spki)}",
        )
        taken_over_s = records[_index(records, CredentialCommitted)].now_unix_ms / 1000
        spare_s = old.not_after_s - taken_over_s
        self._checks.add(
            "old-valid-until-then", spare_s > 0, f"the new one took over {spare_s:.1f} s before the old ended"
        )
        self._checks.add(
            "never-without", not odd, "; ".join(odd) or f"looked at {len(records)} times, always there"
        )

    def _look(self, record: Record, odd: list[str]) -> None:
        """What a client would get right now, and what a power cut would leave."""
        served, on_disk = self._served(), pair_on_disk(self._stage.paths)
        for where, leaf in (("socket", served), ("disk", on_disk)):
            if not leaf.valid:
                odd.append(f"record {record.sequence}: {where} holds {_short(leaf.serial)}, not valid now")

    def _read_bundle(self) -> None:
        paths = self._stage.paths
        self._checks.begin("trust bundle", "fetched over certd.sock by both paths")
        answers = {path: ask_certd(paths, BUNDLE, path=path) for path in (LONG, SHORT)}
        long, short = answers[LONG], answers[SHORT]
        self._checks.add(
            "long-path",
            long.status == 200 and long.json == {"pem": self._bundle},
            f'{long.status} {{"pem": …}}, {_count(long.json)}, as the cloud sent it'
            if long.json == {"pem": self._bundle}
            else _said(long),
        )
        self._checks.add(
            "short-path",
            short == long,
            f"{short.status}, the same {len(short.body)} bytes" if short == long else _said(short),
        )
        errors = {version: ask_certd(paths, BUNDLE, version=version) for version in EXPECTED_ERRORS}
        self._checks.add(
            "wrong-version",
            all(
                errors[version].status == 400 and errors[version].json == expected
                for version, expected in EXPECTED_ERRORS.items()
            ),
            ", ".join(_said(error) for error in errors.values()),
        )

    def _reprovision(self) -> None:
        stage = self._stage
        self._checks.begin("reprovision", "the cloud gets another bundle, the service is told to reprovision")
        new = "".join(foreign_root_pem(time.time()) for _ in range(2))
        stage.cloud.set_bundle(new)
        before = ask_certd(stage.paths, BUNDLE)
        self._checks.add(
            "bundle-kept", before.json == {"pem": self._bundle}, f"still {_count(before.json)}, the old"
        )
        old = self._served()
        taken = stage.control.command("reprovision")
        records = self._until_settled(taken.sequence)
        phases = _phases(records, "Reprovisioning")
        leaf = self._served()
        self._checks.add(
            "reprovisioned",
            phases == PHASES and records[-1].state == "Provisioned" and leaf.serial != old.serial,
            f"Reprovisioning ({', '.join(phases)}), then {records[-1].state}, serial {_short(leaf.serial)}",
        )
        answers = [ask_certd(stage.paths, BUNDLE, path=path) for path in (LONG, SHORT)]
        known = stage.control.status().trust_bundle
        self._checks.add(
            "bundle-replaced",
            all(answer.json == {"pem": new} for answer in answers)
            and known is not None
            and known.certificates == 2,
            f"{_count(before.json)} before, {_count(answers[0].json)} now",
        )

    def _crash(self) -> None:
        stage = self._stage
        self._checks.begin(
            "crash", "the cloud delays its answer, a renewal begins, and the service is killed"
        )
        stage.cloud.set_polls(FOR_EVER)
        old = self._served()
        start = stage.control.command("renew").sequence
        before: list[Record] = []
        for record in self._records(start):
            before.append(record)
            # One poll was answered and the next one waits: the very middle of it.
            if record.state == "Renewing" and _is(record, RegistrationPending):
                break
        status = stage.control.status()
        killed = stage.service.kill()
        self._checks.add(
            "killed-in-renewal",
            (status.state, status.phase, killed) == ("Renewing", "Polling", -9),
            f"{status.state}/{status.phase} at record {status.sequence}, ended by signal {-killed}",
        )
        left = pair_on_disk(stage.paths)
        self._checks.add(
            "disk-holds-pair",
            left == old and left.valid,
            f"serial {_short(left.serial)}, {left.not_after_s - time.time():.1f} s of it left",
        )
        staged = _one(before, KeyStaged)
        kept_spki = key_spki(generation(stage.paths, staged.generation) / "key.pem")
        submitted = [effect for record in before for effect in _effects(record, SubmitRegistration)]
        self._checks.add(
            "key-was-staged",
            kept_spki == staged.spki_sha256
            and [one.spki_sha256 for one in submitted] == [kept_spki]
            and kept_spki != old.spki,
            f"generation {staged.generation}, public key {_short(kept_spki)}, journalled and submitted",
        )
        self._recover(start, staged)

    def _recover(self, start: int, staged: KeyStaged) -> None:
        stage = self._stage
        last = self._journalled()[-1].sequence
        stage.cloud.set_polls(1)
        stage.start_service()
        after = self._until_settled(last + 1)
        life = [record for record in self._journalled() if record.sequence >= start]
        keys = {
            *(effect.spki_sha256 for record in life for effect in _effects(record, SubmitRegistration)),
            *(effect.spki_sha256 for record in life for effect in _effects(record, PollRegistration)),
            *(event.spki_sha256 for event in _all(life, KeyStaged)),
        }
        stages = [effect.generation for record in life for effect in _effects(record, StageKey)]
        commits = [effect.generation for record in life for effect in _effects(record, CommitCredential)]
        started = after[0]
        self._checks.add(
            "same-key",
            _is(started, Started)
            and started.state == "Renewing"
            and keys == {staged.spki_sha256}
            and stages == commits == [staged.generation],
            f"restarted {started.state}/{started.phase} at record {started.sequence}; "
            f"public keys {', '.join(map(_short, sorted(keys)))}, generations staged {stages}",
        )
        journalled = {event.operation_id for event in _all(life, RegistrationAccepted)}
        polled = {effect.operation_id for record in life for effect in _effects(record, PollRegistration)}
        asked = [one for one in stage.cloud.log() if one.method == "PUT" and one.operation_id in polled]
        self._checks.add(
            "same-operation",
            polled == journalled and len(polled) == 1 and len(asked) == 1,
            f"{', '.join(sorted(polled))}, submitted {'once' if len(asked) == 1 else f'{len(asked)} times'}",
        )
        leaf = self._served()
        accepted = stage.cloud.hub_accepts(stage.paths, DEVICE)
        self._checks.add(
            "recovered",
            after[-1].state == "Provisioned"
            and leaf.spki == staged.spki_sha256
            and pair_on_disk(stage.paths) == leaf
            and leaf.valid
            and accepted.status == 200,
            f"{after[-1].state} at record {after[-1].sequence}, serial {_short(leaf.serial)}, "
            f"the hub answers it {accepted.status}",
        )

    def _replay(self) -> None:
        stage = self._stage
        self._checks.begin("replay", "the service stops; its journal is folded again from the first record")
        stage.service.ask_to_stop()
        status = stage.service.wait(min(time.monotonic() + 5 * STOP_S, self._deadline_s))
        self._checks.add("stopped", status == 0, f"status {status}")
        files = stage.journals()
        outcome = replay_files(files)
        last = self._journalled()[-1].sequence
        starts = len(_all(self._journalled(), Started))
        self._checks.add(
            "replayed",
            outcome.equal and outcome.records == last and starts == 2,
            f"{outcome.records} records of {starts} starts, equal"
            if outcome.equal
            else bounded(outcome.unreadable or outcome.divergence or ""),
        )

    # --- looking -------------------------------------------------------------------------------------

    def _served(self) -> Leaf:
        """The identity certificate as certd.sock gives it out."""
        answer = ask_certd(self._stage.paths, CERTIFICATE)
        if answer.status != 200 or not isinstance(answer.json, dict):
            raise CommandFailed(f"certd.sock does not give out the identity certificate: {_said(answer)}")
        return leaf_of(str(answer.json.get("pem")).encode())

    def _records(self, start: int) -> Iterator[Record]:
        """From that sequence on, until the deadline, at which CommandFailed is raised."""
        for line in self._stage.control.follow(start, until=self._deadline_s):
            if line.type == "record":
                yield _record(line)
        raise CommandFailed("what was waited for did not happen in time")

    def _until_settled(self, start: int) -> list[Record]:
        """The records from there to the end of the attempt they begin."""
        records: list[Record] = []
        for record in self._records(start):
            records.append(record)
            if _settled(record):
                break
        self._settled = records[-1].sequence
        return records

    def _journalled(self) -> list[Record]:
        """Every record on disk, as far as whole."""
        return [record for _, content in self._stage.journals() for record in read(content).records]


# --- reading records ---------------------------------------------------------------------------------


def _record(line: Line) -> Record:
    try:
        record = decode_line(line.raw + b"\n")
    except JournalUnreadable as exc:
        raise CommandFailed(f"/v1/events sends a line that is no record: {exc}") from exc
    assert isinstance(record, Record)
    return record


def _settled(record: Record) -> bool:
    """An attempt has ended well; on a machine this slow it may not have been the first one."""
    return record.phase == "Idle" and record.state == "Provisioned"


def _phases(records: list[Record], state: str) -> tuple[str, ...]:
    """In the order in which they were entered."""
    return tuple(dict.fromkeys(record.phase for record in records if record.state == state))


def _tag(record: Record) -> str:
    return str(record.event.__struct_config__.tag)


def _is(record: Record, kind: type) -> bool:
    return isinstance(record.event, kind) and record.verdict == "taken"


def _index(records: list[Record], kind: type) -> int:
    """Place of the first record of that event. Raises CommandFailed."""
    for place, record in enumerate(records):
        if _is(record, kind):
            return place
    raise CommandFailed(
        f"no {kind.__name__} between records {records[0].sequence} and {records[-1].sequence}"
    )


def _all(records: list[Record], kind: type[E]) -> list[E]:
    return [record.event for record in records if isinstance(record.event, kind)]


def _one(records: list[Record], kind: type[E]) -> E:
    """Raises CommandFailed."""
    event = records[_index(records, kind)].event
    assert isinstance(event, kind)
    return event


def _effects(record: Record, kind: type[F]) -> list[F]:
    return [effect for effect in record.effects if isinstance(effect, kind)]


# --- words -------------------------------------------------------------------------------------------


def _published_pair(stage: Stage) -> tuple[Leaf, str]:
    """Certificate and key under the names the original's clients open."""
    certificate, key = published(stage.paths, "certificate"), published(stage.paths, "key")
    return leaf_of(Path(certificate).read_bytes()), key_spki(Path(key))


def _short(hexadecimal: str) -> str:
    return f"{hexadecimal[:8]}…"


def _said(answer: Answer) -> str:
    return bounded(f"{answer.status} {answer.body.decode(errors='replace')}", 120)


def _count(document: object) -> str:
    pem = document.get("pem") if isinstance(document, dict) else None
    count = str(pem).count("BEGIN CERTIFICATE")
    return f"{count} certificate" + ("" if count == 1 else "s")
