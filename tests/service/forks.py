"""Services that start at once: forked from a process that has imported everything, one at a time.

Imports are most of what a start costs, and a kill during them finds nothing on the disk. What is forked is a
process of its own: its own session, descriptors and memory, and the same entry point as ever. It is killed by
the kernel with its parent, and that one with the thread that made it, so nothing is left behind.

``python -P forks.py`` is the server: it takes requests, one message each, from the socket that is its
standard input. A request to start carries the descriptor that becomes the output of what is started, and is
answered with a pid; ``reap`` is answered with an exit status, once that process has ended.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).parents[2]
MAX_REQUEST_BYTES = 64 * 1024


class ForkServer:
    """Starts one process at a time, for the thread that made it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=theirs.fileno(),
                env=kept | {"PYTHONPATH": str(REPOSITORY)},
                start_new_session=True,
            )

    def start(self, asked: Mapping[str, Any]) -> "Forked":
        """What child.py takes, but for the parent."""
        reading, writing = os.pipe()
        try:
            request = json.dumps({**asked, "parent": self._process.pid}).encode()
            socket.send_fds(self._socket, [request], [writing])
        finally:
            os.close(writing)
        return Forked(self, self._answer(), os.fdopen(reading, "rb", buffering=0))

    def reap(self, pid: int) -> int:
        """Its exit status; waits until it has ended."""
        self._socket.send(json.dumps({"reap": pid}).encode())
        return self._answer()

    def _answer(self) -> int:
        answer = self._socket.recv(64)
        if not answer:
            raise RuntimeError("the fork server has ended")
        return int(answer)

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


class Forked:
    """As much of subprocess.Popen as tests use, for a process of the fork server's."""

    stdin = None

    def __init__(self, server: ForkServer, pid: int, stdout: IO[bytes]) -> None:
        self.pid, self.stdout = pid, stdout
        self._server, self._handle = server, os.pidfd_open(pid)
        self._status: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self._status is None:
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)  # pidfd_open(2): readable when the process has ended
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("identityd", timeout or 0)
            self._status = self._server.reap(self.pid)
            os.close(self._handle)
        return self._status

    def send_signal(self, number: int) -> None:
        if self._status is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


# --- the server --------------------------------------------------------------------------------------


def main() -> int:
    """Serve until the other end is closed; then, in a forked process, the status of what it became."""
    child = importlib.import_module("tests.service.child")
    ctypes.CDLL(None).prctl(child.PR_SET_PDEATHSIG, signal.SIGKILL)
    importlib.import_module("adapters.service")
    importlib.import_module("adapters.cli.run")
    gc.freeze()  # what was imported is shared until it is written to
    door = socket.socket(fileno=os.dup(0))
    while True:
        request, descriptors, _, _ = socket.recv_fds(door, MAX_REQUEST_BYTES, 1)
        if not request:
            return 0
        asked = json.loads(request)
        if "reap" in asked:
            _, ended = os.waitpid(asked["reap"], 0)
            door.send(b"%d" % os.waitstatus_to_exitcode(ended))
            continue
        pid = os.fork()
        if pid == 0:
            door.close()
            os.setsid()
            ctypes.CDLL(None).prctl(child.PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (1, 2):
                os.dup2(descriptors[0], number)
            os.close(descriptors[0])
            status: int = child.become(asked)
            return status
        os.close(descriptors[0])
        door.send(b"%d" % pid)


if __name__ == "__main__":
    sys.exit(main())
