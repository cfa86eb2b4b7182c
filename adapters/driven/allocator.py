"""How the C library hands out memory to the few threads there are."""

import ctypes

_M_ARENA_MAX = -8
"mallopt(3), of glibc."


def share_one_arena() -> None:
    """Threads take turns anyway; an arena for each, as glibc would have it, leaves some 2 MiB in pieces.

    Call it before the first thread. Other C libraries have no such arenas, and no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
