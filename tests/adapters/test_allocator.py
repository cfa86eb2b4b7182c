"""One arena for all threads, in processes of their own: what was said to the allocator cannot be unsaid."""

import ctypes
import subprocess
import sys

import pytest

_libc = ctypes.CDLL(None)

PROGRAM = """
import ctypes, sys, threading
from adapters.driven.allocator import share_one_arena

if sys.argv[1] == "shared":
    share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
begun = threading.Barrier(4)

def allocate():
    begun.wait()
    for _ in range(1000):
        libc.malloc(ctypes.c_size_t(1000))

threads = [threading.Thread(target=allocate) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(_libc, "mallopt"), reason="arenas are glibc's")
@pytest.mark.parametrize(("how", "one"), [("shared", True), ("as usual", False)])
def test_threads_share_one_arena(how, one):
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert told.startswith("<malloc")
    assert (told.count("<heap nr=") == 1) is one


def test_another_c_library_is_left_alone(monkeypatch):
    from adapters.driven import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.share_one_arena()
