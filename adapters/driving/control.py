"""control.sock: what the machine is doing, and the commands people give it.

================================  ======================================================================
``GET /v1/status``                the Status object
``GET /v1/events?from=SEQ``       journal records as JSON Lines: the stored ones, then each new one
``GET /v1/machine``               the machine's tables as data and as Mermaid text
``GET /metrics``                  every metric, as Prometheus text
``POST /v1/renew``                a new certificate now
``POST /v1/reprovision``          registration from the start
``POST /v1/module-keys``          the hub is given the keys of this device's modules
``POST /v1/hold``                 no attempt begins from now on; what is in use is served
``POST /v1/release``              attempts may begin again
``POST /v1/purge``                whatever identifies the device to the cloud is erased, and attempts are held
``POST /v1/reload``               the configuration is read again
================================  ======================================================================

**Who may.** Reading is for whoever can open the socket: root, the service's own user, and the socket's
group, because the socket's mode is 0660. Commands are for root, the service's own uid and the uids in
``principals``, told by SO_PEERCRED. A purge is for root alone, and its body says which device is meant:
``{"confirm": "DEVICE"}``, by its device id or registration id (``unprovisioned`` where it has neither).
Another word is answered with 409, none with 400; both say in ``expected`` what would do.

**Events.** Without ``from`` the stream begins after the newest record. Records that are no longer kept are
left out: the first line then has a higher sequence than asked for. ``{"type": "heartbeat", "sequence": N}``
follows the stored records and, after that, 15 seconds of silence; the stream goes on at N + 1, which is
also the ``from`` to come back with. A reader that cannot keep up is dropped, never waited for: its stream
ends. A journal that cannot be read ends the stream with ``{"type": "error", "message": …}``.

A command is answered as soon as its record is durable: 202 ``{"sequence", "verdict", "why"}``, 409 when the
machine refuses it, 503 with Retry-After when the journal cannot take it now. A reload is answered with what
became of it, ``{"outcome", "message", "sequence", "keys": [{"key", "effect"}], "findings", "notes"}``: 200
when the files are in force, 409 when they cannot be used and what was in force stays. Every error is JSON
with a ``message`` that names the cause and the fix.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping

import msgspec
import trio
from msgspec import Struct, structs

from adapters.errors import StoreUnavailable, bounded
from adapters.ports import Lifecycle, Reloaded
from adapters.wire.http_server import Handler, Request, Response, error_response
from statemachine.events import (
    AnyEvent,
    HoldRequested,
    ModuleKeysRequested,
    PurgeRequested,
    RenewRequested,
    ReprovisionRequested,
)
from statemachine.journal import sequence_of

HEARTBEAT_S = 15.0
MAX_SEQUENCE = 2**63 - 1
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"Prometheus' text format."
RETRY_AFTER_S = 5
"When the journal does not say when to come back."

ROUTES: Mapping[str, str] = {
    "/v1/status": "GET",
    "/v1/events": "GET",
    "/v1/machine": "GET",
    "/metrics": "GET",
    "/v1/renew": "POST",
    "/v1/reprovision": "POST",
    "/v1/module-keys": "POST",
    "/v1/hold": "POST",
    "/v1/release": "POST",
    "/v1/purge": "POST",
    "/v1/reload": "POST",
}
NAMELESS = "unprovisioned"
"What a device is called that has no name yet."


class Purge(Struct, frozen=True):
    """The body of ``POST /v1/purge``. Unknown members are ignored."""

    confirm: str


_json = msgspec.json.Encoder()
_purge = msgspec.json.Decoder(Purge)


def control_handler(
    lifecycle: Lifecycle,
    *,
    own_uid: int,
    principals: Callable[[], Collection[int]] = tuple,
    names: Callable[[], Collection[str]] = tuple,
    machine: Callable[[], bytes],
    metrics: Callable[[], bytes] = lambda: b"",
    reload: Callable[[], Awaitable[Reloaded]] | None = None,
) -> Handler:
    """The handler of control.sock. ``principals`` is asked at each command: a reload may change them.

    ``names`` are what this device is called, asked at each purge.
    ``machine`` makes the JSON of ``GET /v1/machine``, ``metrics`` the text of ``GET /metrics``; ``reload``
    reads the configuration again.
    """

    async def handle(request: Request) -> Response:
        allowed = ROUTES.get(request.path)
        if allowed is None:
            return error_response(404, f"no such path; there are {', '.join(ROUTES)}")
        if request.method != allowed:
            message = f"{request.path} takes {allowed}, not {bounded(request.method, 20)}"
            return structs.replace(error_response(405, message), headers=(("allow", allowed),))
        match request.path:
            case "/v1/status":
                return Response(200, _json.encode(lifecycle.status()))
            case "/v1/machine":
                return Response(200, machine())
            case "/metrics":
                return Response(200, metrics(), content_type=METRICS_TYPE)
            case "/v1/events":
                return _events(lifecycle, request)
            case path:
                uid, commanders = request.peer.uid, frozenset({0, own_uid, *principals()})
                if uid is None or uid not in commanders:
                    return _not_yours(uid, commanders)
                if path == "/v1/reload":
                    return await _reload(reload)
                if path == "/v1/purge" and (no := _purge_refused(request, tuple(names()) or (NAMELESS,))):
                    return no
                return await _command(lifecycle, path, uid)

    return handle


def _not_yours(uid: int | None, commanders: frozenset[int]) -> Response:
    # Root is in the set without being worth naming: `sudo` is.
    others = ", ".join(str(one) for one in sorted(commanders - {0}))
    who = f"root (try sudo) or uid {others}" if others else "root (try sudo)"
    return error_response(403, f"uid {uid} may read but not command this service; commands are for {who}")


def _purge_refused(request: Request, expected: tuple[str, ...]) -> Response | None:
    """None when root names this device."""
    if request.peer.uid != 0:
        return error_response(403, f"uid {request.peer.uid} may not purge this device; root may (try sudo)")
    wanted = " or ".join(f'"{bounded(name, 128)}"' for name in expected)
    try:
        confirm = _purge.decode(request.body).confirm
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        status, message = 400, f'the body is not {{"confirm": "DEVICE"}}: {bounded(str(exc), 120)}'
    else:
        if confirm in expected:
            return None
        status, message = 409, f'"{bounded(confirm, 128)}" is not this device'
    said = {"message": f"{message}; nothing was erased. To erase it confirm {wanted}", "expected": expected}
    return Response(status, _json.encode(said))


async def _reload(reload: Callable[[], Awaitable[Reloaded]] | None) -> Response:
    if reload is None:
        return error_response(503, "there is no configuration to read again")
    done = await reload()
    return Response(200 if done.outcome == "reloaded" else 409, _json.encode(done))


async def _command(lifecycle: Lifecycle, path: str, uid: int) -> Response:
    try:
        taken = await lifecycle.command(_COMMANDS[path](uid))
    except StoreUnavailable as exc:
        seconds = RETRY_AFTER_S if exc.retry_after_ms is None else max(1, -(-exc.retry_after_ms // 1000))
        message = (
            f"the journal cannot be written, so nothing was done: {exc.message}; "
            f"free or repair its disk and repeat this in {seconds} s"
        )
        return structs.replace(error_response(503, message), headers=(("retry-after", str(seconds)),))
    if taken.verdict == "refused":
        refusal = {"message": taken.why, "sequence": taken.sequence, "verdict": taken.verdict}
        return Response(409, _json.encode(refusal))
    return Response(202, _json.encode(taken))


_COMMANDS: Mapping[str, Callable[[int], AnyEvent]] = {
    "/v1/renew": lambda uid: RenewRequested(uid=uid),
    "/v1/reprovision": lambda uid: ReprovisionRequested(uid=uid, privileged=True),
    "/v1/module-keys": lambda uid: ModuleKeysRequested(uid=uid),
    "/v1/hold": lambda uid: HoldRequested(hold=True, uid=uid),
    "/v1/release": lambda uid: HoldRequested(hold=False, uid=uid),
    "/v1/purge": lambda uid: PurgeRequested(uid=uid),
}


def _events(lifecycle: Lifecycle, request: Request) -> Response:
    asked = request.query("from")
    if asked is None:
        start = lifecycle.status().sequence + 1
    elif asked.isascii() and asked.isdecimal() and len(asked) <= 19 and 1 <= int(asked) <= MAX_SEQUENCE:
        start = int(asked)
    else:
        return error_response(
            400, f"from={bounded(asked, 40)} is not a record's sequence; use a number from 1"
        )
    return Response(200, content_type="application/jsonl", stream=event_lines(lifecycle, start))


async def event_lines(lifecycle: Lifecycle, start: int) -> AsyncIterator[bytes]:
    """Lines from the record ``start`` on, in order, each exactly once, until the reader is dropped."""
    last = start - 1
    # Followed before the stored lines are read, so that nothing falls between; what comes twice is dropped.
    with lifecycle.follow() as live:
        stored = lifecycle.lines_from(start)
        try:
            async for line in stored:
                # Heads of files are not history.
                if (sequence := sequence_of(line) or 0) > last:
                    last = sequence
                    yield _terminated(line)
        except StoreUnavailable as exc:
            yield _json.encode({"type": "error", "message": exc.message}) + b"\n"
            return
        finally:
            # A reader that leaves early must not keep a file open until the garbage collector comes.
            if isinstance(stored, AsyncGenerator):
                await stored.aclose()
        yield _heartbeat(last)
        while True:
            line = b""
            with trio.move_on_after(HEARTBEAT_S):
                try:
                    line = await live.receive()
                except trio.EndOfChannel:
                    return
            if not line:
                yield _heartbeat(last)
            elif (sequence := sequence_of(line) or 0) > last:
                last = sequence
                yield _terminated(line)


def _terminated(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"


def _heartbeat(last: int) -> bytes:
    return _json.encode({"type": "heartbeat", "sequence": last}) + b"\n"
