"""Whether the clock is right, and whether the service believes it."""

import os
import socket
import time
from datetime import UTC, datetime

from adapters.checks.outcome import Finding, Outcome, failed, judged, ok, warned
from adapters.checks.subject import Subject, split_host
from adapters.driven.clock import SystemClock
from adapters.errors import bounded
from adapters.release import BUILD_UNIX_MS

WITHIN_S = 5.0
WORST_OFFSET_S = 10.0
_SINCE_1900_S = 2_208_988_800
"From the beginning of NTP's time to that of Unix (RFC 868)."
_PACKET_BYTES = 48
_SET_IT = "start a time service (timedatectl set-ntp true), or correct the clock by hand"


class _Refused(Exception):
    """The server answered, but not with the time."""


def begin(subject: Subject) -> None:
    """Ask the time server while the other checks go on."""
    subject.background.begin("ntp", lambda: _offset_s(subject.options.ntp_server))


def host_local_time(subject: Subject) -> Outcome:
    """Against an NTP server (RFC 4330)."""
    server = subject.options.ntp_server
    tried = f"asking {bounded(server, 100)} for the time"
    try:
        offset = subject.background.result("ntp", WITHIN_S, None)
    except _Refused as exc:
        return failed(
            tried, f"it did not tell: {exc}", "name another one with --ntp-server", info={"offset": None}
        )
    except (OSError, UnicodeError) as exc:
        offset, why = None, bounded(getattr(exc, "strerror", None) or str(exc) or "no answer", 120)
    else:
        why = f"no answer within {WITHIN_S:g} s"
    if offset is None:
        fix = "name a server that can be reached with --ntp-server, or let UDP port 123 out"
        return warned(tried, f"it could not be asked: {why}", fix, info={"offset": None})
    off = abs(offset)
    if off >= WORST_OFFSET_S:
        seen = f"the clock is {off:.1f} s {'behind' if offset > 0 else 'ahead of'} it"
        return warned(tried, seen, _SET_IT, info={"offset": off})
    return ok(f"the clock differs by {off:.1f} s", offset=off)


def trusted(subject: Subject) -> Outcome:
    """By what the service itself goes by."""
    tried = "asking the kernel whether its clock is disciplined, and the journal what was learned of it"
    synchronised = SystemClock().kernel_synchronised()
    findings = []
    if subject.now_unix_ms < BUILD_UNIX_MS:
        build = f"{datetime.fromtimestamp(BUILD_UNIX_MS / 1000, UTC):%Y-%m-%d}"
        seen = f"it is {_date(subject.now_unix_ms)} by the clock, and this release was made on {build}"
        findings.append(Finding(seen=seen, fix=_SET_IT))
    if subject.snapshot is not None and subject.snapshot.clock.floor_unix_ms > subject.now_unix_ms:
        floor = subject.snapshot.clock.floor_unix_ms
        seen = f"it is {_date(subject.now_unix_ms)} by the clock, but {_date(floor)} has passed for certain"
        findings.append(Finding(seen=seen, fix=_SET_IT))
    if subject.snapshot is not None and subject.snapshot.sequence and not subject.snapshot.clock.trusted:
        clock = subject.snapshot.clock
        seen = f"the service does not trust the clock: {clock.reason}"
        if clock.measured and clock.offset_ms:
            seen += f"; by the cloud's Date it is off by {clock.offset_ms / 1000:+.0f} s"
        findings.append(Finding(seen=seen, fix=_SET_IT, severe=False))
    elif not synchronised and (subject.snapshot is None or not subject.snapshot.clock.trusted):
        seen = "nothing disciplines the kernel's clock, and the cloud has not confirmed it yet"
        findings.append(Finding(seen=seen, fix=_SET_IT, severe=False))
    reason = subject.snapshot.clock.reason if subject.snapshot is not None else "disciplined by the kernel"
    return judged(tried, findings, seen=f"trusted: {reason}", info={"kernel_synchronised": synchronised})


def _offset_s(server: str) -> float:
    """True time minus ours. Raises _Refused, OSError."""
    host, port = split_host(server, 123)
    # A number that a stray answer cannot know.
    mark = os.urandom(8)
    request = bytes([0x23]) + bytes(39) + mark  # no leap warning, version 4, client
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as asked:
        asked.settimeout(WITHIN_S)
        asked.connect(address)
        sent_s = time.time()
        asked.send(request)
        answer = asked.recv(512)
        got_s = time.time()
    if len(answer) < _PACKET_BYTES:
        raise _Refused(f"an answer of {len(answer)} bytes, {_PACKET_BYTES} are needed")
    if answer[0] & 7 != 4 or answer[24:32] != mark:
        raise _Refused("an answer to another question")
    if answer[1] == 0:
        raise _Refused(f"it asks to be left alone ({bounded(answer[12:16].decode('latin-1'), 8)})")
    received_s, transmitted_s = _instant(answer[32:40]), _instant(answer[40:48])
    if not transmitted_s:
        raise _Refused("an answer without the time")
    return ((received_s - sent_s) + (transmitted_s - got_s)) / 2


def _instant(stamp: bytes) -> float:
    seconds, fraction = int.from_bytes(stamp[:4]), int.from_bytes(stamp[4:])
    if not seconds:
        return 0.0
    # RFC 4330 section 3: with the highest bit clear, counting has begun anew in 2036.
    era = 0 if seconds & 0x80000000 else 1 << 32
    return seconds + era - _SINCE_1900_S + fraction / 2**32


def _date(unix_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M}Z"
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"
