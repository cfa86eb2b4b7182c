"""Pages of the documentation, and a reader who types what they say, in the order in which they say it.

A page speaks of one device with its files under ``/``. Here every such path is below a directory of the
test, ``sudo`` and the commands are shims on the search path, and ``systemctl`` is played: it starts, reloads
and stops the service that it would. Before a block a page may say, in a comment that readers do not see:

- ``<!-- not run: REASON -->``: it cannot be done here.
- ``<!-- not compared: REASON -->``: before a ``text`` block, which shows what the commands above it print.
- ``<!-- by hand: DEED -->``: what the text has the reader do first; DEEDS lists them.
- ``<!-- exit status N: COMMAND -->``: how a command ends that is to fail.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.service.device import REPOSITORY, WITHIN_S
from tests.service.told import Told

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
TYPED = Path(__file__).with_name("typed.py")
PROGRAMS = ("identityd", "aziotctl", "iotedge")
SETTLED = ("READY Provisioned", "state=Provisioned phase=Idle", "READY Unprovisioned")
"Of the service's log: what a reader waits for after a start. Unprovisioned at once is on hold, or none."
_UNTIL = {"run": SETTLED, "cloud": ('{"endpoint"',), "watch": ("Provisioned",)}
"Commands that do not end, and what shows that they are under way."

_BLOCK = re.compile(
    r"((?:^ *<!-- [^>]* -->\n)*)^ *```(\w*)(?: [^\n]*)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_REMARK = re.compile(r"<!-- ([a-z ]+?)(?: (\d+))?: (.+?) -->")
_MONTH = r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b"
_ABSOLUTE = re.compile(r"(?<![\w./:$~-])/(?=(?:etc|run|var|tmp|usr/local/lib)/)|(?<=file://)/")
_ASSIGNED = re.compile(r"[A-Za-z_]+=")


class Block(NamedTuple):
    """What stands between two fences."""

    page: str
    line: int
    kind: str
    text: str
    not_run: str | None = None
    not_compared: str | None = None
    by_hand: str | None = None
    fails: Mapping[str, int] = {}

    def commands(self) -> list[str]:
        """One a line; a backslash at its end joins the next."""
        return [line.strip() for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: Path) -> list[Block]:
    """All of them, whatever their kind, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        told: dict[str, str] = {}
        fails: dict[str, int] = {}
        for name, status, words in _REMARK.findall(match[1]):
            if name == "exit status":
                fails[words] = int(status)
            else:
                told[name] = words
        assert set(told) <= {"not run", "not compared", "by hand"}, f"{page}: {told}"
        found.append(
            Block(
                str(page.relative_to(REPOSITORY)),
                text.count("\n", 0, match.start(2)) + 1,
                match[2],
                "\n".join(line.strip() for line in match[3].splitlines()),
                told.get("not run"),
                told.get("not compared"),
                told.get("by hand"),
                fails,
            )
        )
    return found


def shape(line: str) -> str:
    """A pattern for lines that say the same of another device at another time."""
    line = re.sub(r"\((?:in )?[^()]*\b(?:s|min|h|d)(?: ago)?\)", "…", line.strip())
    parts = re.split(rf"([0-9A-Za-z+/=]*\d[0-9A-Za-z+/=:.-]*|…|root root|{_MONTH})", line)
    words = ("".join(".*" if at % 2 else re.escape(part) for at, part in enumerate(parts))).split(r"\ ")
    return r"\s+".join(word for word in words if word)


def missing(expected: str, printed: str) -> str | None:
    """The first expected line that does not come, after those before it."""
    lines = iter(printed.splitlines())
    for line in expected.splitlines():
        if line.strip() in ("", "…"):
            continue
        pattern = re.compile(shape(line))
        if not any(pattern.search(found) for found in lines):
            return line
    return None


class Running:
    """A command that does not end by itself; its output is collected."""

    def __init__(self, what: str, process: "subprocess.Popen[bytes]") -> None:
        self.what, self._process = what, process
        assert process.stdout is not None
        self._told = Told(process.stdout)
        self.ends: int | None = None
        "Its exit status, once that was asked for."

    @property
    def printed(self) -> str:
        return self._told.text

    def until(self, wanted: Callable[[str], object]) -> str:
        """What it has printed, as soon as that is wanted."""
        if not self._told.until(lambda: wanted(self.printed), time.monotonic() + WITHIN_S):
            raise AssertionError(f"{self.what}: it never came:\n{self.printed}")
        return self.printed

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self, number: int) -> int:
        """Its exit status, after that signal (0 sends none); killed when it is deaf."""
        if self.alive:
            self._process.send_signal(number)
        try:
            self.ends = self._process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"{self.what}: still running\n{self.printed}") from None
        self._told.wait(WITHIN_S)
        return self.ends


class Reader:
    """Somebody at a terminal, with a clone of the repository, who has read nothing but the page."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clone = place / "clone"
        self.written: dict[str, str] = {}
        "Words of the pages that are others here: a host name, a number."
        self.typed_in: dict[str, bytes] = {}
        "What is given to a command that reads, by a part of its line."
        self.adds = False
        "Whether settings that are shown alone go into config.toml."
        self.uid: int | None = None
        "Who asks with curl, when it is not us."
        self.running: list[Running] = []
        self._last: list[Running | str] = []
        tools = self.clone / ".venv/bin"
        tools.mkdir(parents=True)
        (place / "tmp").mkdir()
        for name in PROGRAMS:
            _script(tools / name, f'exec "{sys.executable}" -P "{TYPED}" {name} "$@"')
        _script(tools / "sudo", 'exec env -- "$@"')
        for path in REPOSITORY.iterdir():
            if not path.name.startswith("."):
                (self.clone / path.name).symlink_to(path)
        self.environ = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(place),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
            "PAGE_READER": str(os.getpid()),
            # Whatever a page forgets to say, nothing is done to this machine.
            "AZIOT_ROOT": str(place),
        }

    # --- reading -------------------------------------------------------------------------------------

    def here(self, text: str) -> str:
        """The same words with the paths and names of this test."""
        for words, ours in self.written.items():
            text = text.replace(words, ours)
        return _ABSOLUTE.sub(f"{self.place}/", text)

    def read(self, block: Block) -> None:
        """Do what a block says, or look whether it is as a block says."""
        if block.kind == "sh" and block.not_run is None:
            self._last = []
            if block.by_hand is not None:
                DEEDS[block.by_hand](self)
            for command in block.commands():
                self._do(command, block)
        elif block.kind == "sh":
            self._last = []
        elif block.kind == "text":
            if self._last and block.not_compared is None:
                self._compare(block)
        elif block.kind == "toml":
            self._write(block)

    def _compare(self, block: Block) -> None:
        expected = self.here(block.text)

        def printed() -> str:
            return "\n".join(one if isinstance(one, str) else one.printed for one in self._last)

        for one in self._last:
            if isinstance(one, Running) and one.alive:
                one.until(lambda _: missing(expected, printed()) is None)
        line = missing(expected, printed())
        assert line is None, f"{block.page}:{block.line}: {line!r} is not in\n{printed()}"

    def _write(self, block: Block) -> None:
        """config.toml when a block is the whole of it, or else the file whose name is its first line."""
        named = re.match(r"# (\S+\.toml)\n", block.text)
        if named:
            path = self.place / named[1].lstrip("/") if named[1][0] == "/" else self.clone / named[1]
        elif "[provisioning]" in block.text or self.adds:
            path = self.place / "etc/aziot/config.toml"
        else:
            return
        more = self.written.get("more.toml", "") if named is None else ""
        if "[provisioning]" not in block.text and named is None:
            more = path.read_text()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self.here(block.text)}\n{more}")

    # --- doing ---------------------------------------------------------------------------------------

    def _do(self, command: str, block: Block) -> None:
        words = shlex.split(command)
        bare = [word for word in words if word not in ("sudo", "&") and not _ASSIGNED.match(word)]
        where = f"{block.page}:{block.line}: {command}"
        if bare[:1] == ["export"]:
            self._export(command)
        elif bare[0] == "systemctl":
            self._systemctl(bare[1:], where)
        elif Path(bare[0]).name in PROGRAMS and bare[1] in _UNTIL:
            self.begin(command.removesuffix("&"), bare[1], where)
        else:
            self._last.append(self._run(command, where, block.fails.get(command, 0)))
            if bare[0] == "kill" and "-HUP" not in bare:
                self._gone("run", -signal.SIGKILL if "-9" in bare else 0)

    def begin(self, command: str, what: str, where: str = "") -> None:
        """Something that goes on; what a terminal is needed for is left at once."""
        if what == "run":
            self.stop("run", signal.SIGTERM)
        process = subprocess.Popen(
            ["sh", "-c", f"exec {self.here(command)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environ,
            cwd=self.clone,
            start_new_session=True,
        )
        running = Running(what, process)
        self.running.append(running)
        self._last.append(running)
        running.until(lambda printed: any(text in printed for text in _UNTIL[what]))
        if what == "watch":
            status = running.end(signal.SIGINT)
            assert status == 0, f"{where}: exit status {status}"

    def wait(self, text: str) -> None:
        """Until the service has said so in its log."""
        (service,) = (one for one in self.running if one.what == "run" and one.alive)
        service.until(lambda printed: text in printed)

    def stop(self, what: str, number: int) -> None:
        """Whatever runs of that kind; a clean end, unless somebody else ended it."""
        for running in self.running:
            if running.what == what and running.alive:
                status = running.end(number)
                assert status in (0, 130), f"{what}: exit status {status}\n{running.printed}"

    def _gone(self, what: str, status: int) -> None:
        """It ends, having been told to by other means."""
        (running,) = (one for one in self.running if one.what == what and one.ends is None)
        assert running.end(0) == status, f"{what}: exit status {running.ends}"

    def _systemctl(self, words: list[str], where: str) -> None:
        verb, units = words[0], words[1:]
        assert "identityd.service" in units, f"{where}: only our own service is played here"
        if verb in ("start", "restart"):
            self.begin("identityd run", "run", where)
        elif verb == "stop":
            self.stop("run", signal.SIGTERM)
        elif verb == "reload":
            self._last.append(self._run("identityd config reload", where, 0))
        else:
            assert verb == "status", where
            assert any(one.what == "run" and one.alive for one in self.running), where

    def _export(self, command: str) -> None:
        done = subprocess.run(
            ["sh", "-c", f"{self.here(command)}; env -0"],
            env=self.environ,
            cwd=self.clone,
            capture_output=True,
            check=True,
        )
        told = dict(one.partition(b"=")[::2] for one in done.stdout.split(b"\0") if one)
        self.environ = {os.fsdecode(name): os.fsdecode(value) for name, value in told.items()}
        assert self.environ["AZIOT_ROOT"].startswith(str(self.place))

    def _run(self, command: str, where: str, status: int) -> str:
        typed = next((text for part, text in self.typed_in.items() if part in command), b"")
        other = {}
        if self.uid is not None and command.startswith("curl"):
            group = (self.place / "run/aziot/identityd.sock").stat().st_gid
            other = {"user": self.uid, "group": group, "extra_groups": []}
        done = subprocess.run(  # type: ignore[call-overload]
            ["sh", "-c", self.here(command)],
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environ,
            cwd="/" if other else self.clone,
            timeout=WITHIN_S,
            **other,
        )
        said: str = done.stdout.decode(errors="replace")
        assert done.returncode == status, f"{where}: exit status {done.returncode}\n{said}"
        if command.split()[0] == "curl" and '"message"' in said:
            raise AssertionError(f"{where}: {said}")
        return said

    def leave(self) -> None:
        """Stop what runs, the service first; it has to end well."""
        try:
            self.stop("run", signal.SIGTERM)
            self.stop("cloud", signal.SIGINT)
        finally:
            for running in self.running:
                running.end(signal.SIGKILL)


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


DEEDS: Mapping[str, Callable[[Reader], None]] = {
    "the cloud is stopped": lambda reader: reader.stop("cloud", signal.SIGINT),
    "the module is there": lambda reader: reader.wait("is created at the hub"),
}
"What a page's text has the reader do, by the words of its comment."
