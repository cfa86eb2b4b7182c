"""Signals: SIGTERM and SIGINT ask for a graceful stop, SIGHUP for the configuration to be read again."""

import signal
from collections.abc import Awaitable, Callable

import trio

from adapters.ports import Post
from statemachine.events import ShutdownRequested


async def watch_signals(
    post: Post,
    reload: Callable[[], Awaitable[object]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Lives as long as the service; started once the signals are caught. Main thread only.

    ``reload`` is awaited before the next signal is looked at; it must raise nothing for a bad configuration.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                await reload()
            else:
                post(ShutdownRequested(reason=signal.Signals(number).name))
