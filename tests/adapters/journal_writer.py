"""Journals of any content for tests of what reads them: records are said, not decided."""

import msgspec

from statemachine.events import (
    ChainFacts,
    Inventory,
    Started,
    StoredCredential,
)
from statemachine.journal import Header, Record, encode_line, head_lines
from statemachine.settings import PolicySettings
from statemachine.snapshot import Snapshot

START = 1_795_572_000_000
"2026-11-25T02:00:00Z."
DAY = 86_400_000


class Writer:
    """Records one after the other; ``at`` is a stamp in milliseconds after START."""

    def __init__(self, snapshot=None):
        self.snapshot = snapshot or Snapshot()
        self.records = []

    def say(self, at, event, *effects, state="Provisioned", phase="Idle", verdict="taken", why="So it is."):
        record = Record(
            sequence=self.snapshot.sequence + 1 + len(self.records),
            now_unix_ms=START + at,
            event=event,
            effects=effects,
            state=state,
            phase=phase,
            verdict=verdict,
            why=why,
        )
        self.records.append(record)
        return record

    @property
    def content(self):
        header = Header(
            rules_revision=1,
            software_version="0.1.0",
            machine="m",
            device="dev-1",
            epoch=self.snapshot.epoch,
            first_sequence=self.snapshot.sequence + 1,
            created_unix_ms=START,
        )
        lines, digest = head_lines(header, self.snapshot)
        written = list(lines)
        for record in self.records:
            line, digest = encode_line(record, digest)
            written.append(line)
        return b"".join(written)


def chain(begins, ends, serial="1f"):
    return ChainFacts(
        chain_pem=b"-----BEGIN CERTIFICATE-----",
        spki_sha256="00",
        subject_cn="dev-1",
        not_before_unix_ms=START + begins,
        not_after_unix_ms=START + ends,
        sha256="00",
        serial=serial,
    )


def stored(generation, begins, ends, **facts):
    known = {
        "source": "issued",
        "hub": "hub.test",
        "device_id": "dev-1",
        "fingerprint": "f",
        "serial": f"{generation:x}",
        "not_before_unix_ms": START + begins,
        "not_after_unix_ms": START + ends,
    }
    return StoredCredential(generation=generation, **(known | facts))


def started(current=None, **policy):
    return Started(
        policy=msgspec.structs.replace(PolicySettings(dps=True), **policy),
        fingerprint="f",
        inventory=Inventory(current=current),
        build_unix_ms=0,
        rules_revision=1,
        software_version="0.1.0",
    )
