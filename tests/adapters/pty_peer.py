"""A program on a terminal of its own: what it draws, what becomes of the terminal, how it ends."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

WITHIN_S = 30
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


class OnTerminal:
    """Runs ``python -m adapters`` with those arguments in a terminal of that size."""

    def __init__(self, *arguments, columns=80, rows=24, **environ):
        self._master, slave = pty.openpty()
        self._size(columns, rows)
        self.before = termios.tcgetattr(slave)
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "adapters", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=kept | {"TERM": "xterm", "LANG": "C.UTF-8"} | environ,
            preexec_fn=_own_terminal,
        )
        self._slave = slave
        self._read = b""

    @property
    def text(self):
        return self._read.decode(errors="replace")

    @property
    def frame(self):
        """The lines of the picture that was drawn last, without colours."""
        drawn = self.text.partition(LEAVE)[0].rpartition("\x1b[H")[2]
        return (
            _STYLES.sub("", drawn).replace("\x1b[K", "").replace("\x1b[J", "").replace("\r", "").split("\n")
        )

    def until(self, wanted):
        """Wait until ``wanted`` holds of this."""
        deadline = time.monotonic() + WITHIN_S
        while not wanted(self):
            left = deadline - time.monotonic()
            assert left > 0, f"never came about:\n{self.text[-3000:]}"
            assert self._more(left) or wanted(self), f"it ended:\n{self.text[-3000:]}"

    def until_frame(self, *texts):
        """Wait for a whole picture that holds these."""
        self.until(
            lambda one: one.text.endswith("\x1b[J") and all(text in "\n".join(one.frame) for text in texts)
        )

    def resize(self, columns, rows):
        """The kernel tells the foreground process (SIGWINCH)."""
        self._size(columns, rows)

    def type(self, keys):
        os.write(self._master, keys)

    def send(self, number):
        self.process.send_signal(number)

    def end(self):
        """Its exit status, once it has ended; everything it wrote is read."""
        deadline = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on:\n{self.text[-3000:]}"
            self._more(0.05)
        while self._more(0):
            pass
        return self.process.returncode

    @property
    def echoes(self):
        """What is typed is shown."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _size(self, columns, rows):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _more(self, within_s):
        if not select.select([self._master], [], [], within_s)[0]:
            return False
        read = b""
        with contextlib.suppress(OSError):
            read = os.read(self._master, 65_536)
        self._read += read
        return bool(read)


def _own_terminal():
    """A session whose terminal this is, so that Ctrl-C and sizes reach it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
