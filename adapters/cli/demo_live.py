"""``identityd demo``: cloud and service run, and what happens is told as it happens, until Ctrl-C."""

import os
import shlex
import shutil
import sys
import time
from typing import NoReturn

from adapters.cli.control_client import Line
from adapters.cli.demo_peers import API_VERSION, BUNDLE, LONG, SHORT
from adapters.cli.demo_screen import Begin, End, JsonLines, Note, Screen, Show, Suggestion, Try
from adapters.cli.demo_stage import CERT_LIFETIME_S, DEVICE, Child, Root, Stage
from adapters.cli.failure import DONE, CommandFailed
from adapters.cli.follower import Follower
from adapters.cli.happenings import Timeline
from statemachine.errors import JournalUnreadable
from statemachine.journal import Record, decode_line

TICK_S = 0.25
"How often the line at the bottom is drawn, and whether both processes still run is looked at."
QUICK_S = 3.0
"A service that ends sooner after its start has a problem of its own: it is not started again."


def live(root: Root, *, as_json: bool) -> int:
    """Status 0 when it was ended by Ctrl-C. Raises CommandFailed when cloud or service do not run."""
    show: Show = JsonLines() if as_json else Screen()
    try:
        with Stage(root.paths) as stage:
            _run(stage, show)
    except KeyboardInterrupt:
        if root.temporary:
            root.remove()
            show.tell(End(text=f"Stopped. {root.paths.root} was only for now and is removed."))
        else:
            show.tell(End(text=f"Stopped. A demo with --root {root.paths.root} goes on from here."))
        return DONE
    except BaseException:
        if root.temporary:
            print(f"identityd: what happened is kept in {root.paths.root}", file=sys.stderr)
        raise


def _run(stage: Stage, show: Show) -> NoReturn:
    start = stage.last_sequence() + 1
    stage.start_cloud()
    stage.start_service()
    show.tell(
        Begin(
            root=stage.paths.root,
            endpoint=stage.endpoint,
            cloud_pid=stage.cloud_process.pid,
            service_pid=stage.service.pid,
            device=DEVICE,
            certificate_lifetime_s=CERT_LIFETIME_S,
        )
    )
    follower = Follower(stage.control, start)
    timeline = Timeline()
    suggested = False
    while True:
        for line in follower.within(TICK_S):
            happening = timeline.take(_record(line)) if line.type == "record" else None
            if happening is None:
                continue
            show.tell(happening)
            if happening.renewed and not suggested:
                suggested = True
                show.tell(Try(lines=suggestions(stage)))
        if stage.cloud_process.ended is not None:
            raise stage.cloud_process.failed(_how(stage.cloud_process))
        if stage.service.ended is not None:
            _start_again(stage, show)
        show.tick(stage.control.status)


def _start_again(stage: Stage, show: Show) -> None:
    """Whoever kills the service to see what happens shall see it."""
    gone = stage.service
    if time.monotonic() - gone.started_s < QUICK_S:
        raise gone.failed(f"{_how(gone)} right after its start")
    show.tell(Note(text=f"The service, pid {gone.pid}, {_how(gone)}; it is started again, as systemd would."))
    stage.start_service()
    show.tell(Note(text=f"The service runs again, pid {stage.service.pid}."))


def _how(child: Child) -> str:
    status = child.ended
    return f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with {status}"


def _record(line: Line) -> Record:
    try:
        record = decode_line(line.raw + b"\n")
    except JournalUnreadable as exc:
        raise CommandFailed(f"/v1/events sends a line that is no record: {exc}") from exc
    assert isinstance(record, Record)
    return record


# --- what to try -------------------------------------------------------------------------------------


def suggestions(stage: Stage) -> tuple[Suggestion, ...]:
    """Lines that work as they are, while the demo runs."""
    paths, root = stage.paths, shlex.quote(stage.paths.root)
    certd, control = shlex.quote(paths.certd_sock), shlex.quote(paths.control_sock)
    query = f"{BUNDLE}?api-version={API_VERSION}"
    faults = f"curl --cacert {shlex.quote(stage.ca_file)} -X PUT {stage.endpoint}/_cloud/faults"
    fault = '{"fault": [{"on": "register", "kind": "status", "status": 503, "times": 2}]}'
    identityd = program()
    return (
        Suggestion(
            about="the trust bundle, by the path of the original",
            line=f"curl --unix-socket {certd} 'http://localhost{LONG}{query}'",
        ),
        Suggestion(
            about="the same by the short path",
            line=f"curl --unix-socket {certd} 'http://localhost{SHORT}{query}'",
        ),
        Suggestion(
            about="what the machine knows", line=f"curl --unix-socket {control} http://localhost/v1/status"
        ),
        Suggestion(about="why it is so, in words", line=f"{identityd} explain --root {root}"),
        Suggestion(about="a new certificate now", line=f"{identityd} renew --root {root}"),
        Suggestion(about="registration from the start", line=f"{identityd} reprovision --root {root}"),
        Suggestion(about="fold the journal again and compare", line=f"{identityd} replay --root {root}"),
        Suggestion(about="two registrations fail; watch the backoff", line=f"{faults} -d '{fault}'"),
        Suggestion(about="a crash; it goes on where it was", line=f"kill -9 {stage.service.pid}"),
    )


def program() -> str:
    """How this command line is called here."""
    called = sys.argv[0]
    if os.path.basename(called) != "identityd":
        return f"{shlex.quote(sys.executable)} -m adapters"
    found = shutil.which("identityd")
    known = found is not None and os.path.realpath(found) == os.path.realpath(called)
    return "identityd" if known else shlex.quote(called)
