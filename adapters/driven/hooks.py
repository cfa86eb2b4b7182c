"""Other programs are told of a turn in the device's life: by a stamp for each kind, and by a command.

The stamp is a small file that is replaced; a path unit of systemd, or anybody who watches files, sees it. A
service that is shut in cannot restart others, and this way need not. What was told is kept on disk before
any command is run: a stamp is made again after a crash, a command is not, or one that reboots the machine
would do so for ever.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import trio
from msgspec import Struct, structs

from adapters.driven.files import read_file, unavailable
from adapters.driven.hook_command import run_command, untrusted
from adapters.driven.hook_turns import Kind, Told, Turn, told_of, turns
from adapters.durable import replace_file
from adapters.errors import bounded
from adapters.ports import Post
from statemachine.events import HookEnded
from statemachine.snapshot import Snapshot

STAMP_MODE = 0o644
"Anybody may know: it names the device, its hub and a certificate, and holds no secret."
DIRECTORY_MODE = 0o755
AGAIN_S = 60.0
"After a stamp that could not be written."
_MAX_TOLD_BYTES = 8192
_VALUE_CHARS = 255
_MESSAGE_CHARS = 300

log = logging.getLogger("identityd")


class Commands(Struct, frozen=True, kw_only=True):
    """What the operator wants run."""

    paths: Mapping[Kind, str]
    within_s: float


class Hooks:
    """``observe`` is the runtime's observer; ``run`` lives as long as the service.

    ``changed`` is awaited when ``note`` has become another: so it gets into status. How each command ended is
    posted for the journal, without what it printed.
    """

    def __init__(
        self,
        state_dir: str,
        run_dir: str,
        commands: Callable[[], Commands],
        changed: Callable[[], Awaitable[None]],
        post: Post,
        *,
        owner: int = 0,
    ) -> None:
        self._told_path = os.path.join(state_dir, "hooks-told.json")
        self._stamps = os.path.join(run_dir, "hooks")
        self._commands = commands
        self._changed = changed
        self._post = post
        self._owner = owner
        self._snapshot: Snapshot | None = None
        self._seen = trio.Event()
        self._due: dict[Kind, Turn] = {}
        "Commands that are to be run, the newest facts of each kind."
        self._wanted = trio.Event()
        self._problems: dict[str, str] = {}

    @property
    def note(self) -> str | None:
        """What did not go well the last time, for status; None when all went well."""
        return "; ".join(f"hook {what}: {why}" for what, why in self._problems.items()) or None

    def observe(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._seen.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            nursery.start_soon(self._run_commands)
            task_status.started()

    # --- stamps --------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        told = await trio.to_thread.run_sync(self._read_told)
        behind = False
        while True:
            with trio.move_on_after(AGAIN_S if behind else float("inf")):
                await self._seen.wait()
            self._seen = trio.Event()
            snapshot = self._snapshot
            now = None if snapshot is None else told_of(snapshot)
            if snapshot is None or now is None or now == told:
                continue
            # A first identity is no turn: nobody relies on one yet.
            happened = () if told is None else turns(told, snapshot)
            try:
                await trio.to_thread.run_sync(self._keep, happened, now)
            except OSError as exc:
                behind = True
                await self._report("stamp", unavailable(exc, self._stamps).message)
                continue
            told, behind = now, False
            log.debug("hooks: generation %d is known", now.generation)
            for turn in happened:
                log.info("hook %s: told in %s", turn.kind, os.path.join(self._stamps, turn.kind))
                self._due[turn.kind] = turn
                self._wanted.set()
            await self._report("stamp", None)

    def _keep(self, happened: tuple[Turn, ...], now: Told) -> None:
        """Stamps first: what is told once too often does less harm than what is not told at all."""
        if happened and not os.path.isdir(self._stamps):
            os.mkdir(self._stamps)
            os.chmod(self._stamps, DIRECTORY_MODE)  # whatever the umask is
        for turn in happened:
            stamp = os.path.join(self._stamps, turn.kind)
            replace_file(stamp, msgspec.json.encode(turn) + b"\n", mode=STAMP_MODE)
        replace_file(self._told_path, msgspec.json.encode(now))

    def _read_told(self) -> Told | None:
        try:
            content = read_file(self._told_path, _MAX_TOLD_BYTES)
            return None if content is None else msgspec.json.decode(content, type=Told)
        except OSError as exc:
            log.warning("hooks begin anew: %s", unavailable(exc, self._told_path).message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            log.warning("hooks begin anew: %s is damaged", self._told_path)
        return None

    # --- commands ------------------------------------------------------------------------------------

    async def _run_commands(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._due:
                kind = next(iter(self._due))
                turn = self._due.pop(kind)
                commands = self._commands()
                path = commands.paths.get(kind)
                await self._report(kind, None if path is None else await self._one(path, turn, commands))

    async def _one(self, path: str, turn: Turn, commands: Commands) -> str | None:
        problem = await trio.to_thread.run_sync(lambda: untrusted(path, owner=self._owner))
        if problem is not None:
            self._post(HookEnded(hook=turn.kind, outcome="refused", message=bounded(problem, _MESSAGE_CHARS)))
            return f"not run: {problem}"
        log.info("hook %s: running %s", turn.kind, path)
        ended = await run_command(path, environment_of(turn), within_s=commands.within_s)
        message = bounded(ended.why, _MESSAGE_CHARS)
        self._post(HookEnded(hook=turn.kind, outcome=ended.outcome, message=message))
        if ended.problem is not None:
            return f"{path} {ended.problem}"
        log.info("hook %s: %s ended well", turn.kind, path)
        return None

    async def _report(self, what: str, problem: str | None) -> None:
        before = self._problems.get(what)
        if problem is not None:
            log.error("hook %s: %s", what, problem)
            self._problems[what] = problem
        elif before is not None:
            del self._problems[what]
        if before != problem:
            await self._changed()


def environment_of(turn: Turn) -> dict[str, str]:
    """The facts as IDENTITYD_…; what the cloud named is one printable line, no longer than a name may be."""
    return {
        f"IDENTITYD_{name.upper()}": bounded(str(value), _VALUE_CHARS)
        for name, value in structs.asdict(turn).items()
        if value is not None
    }
