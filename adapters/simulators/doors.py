"""Connections that go wrong before anything is said over them: faults on `accept`."""

import socket
import struct
from typing import cast

import trio

from adapters.simulators.distortions import STALL_S
from adapters.simulators.faults import Fault, Faults


def guarded(listener: trio.SocketListener, faults: Faults, nursery: trio.Nursery) -> trio.SocketListener:
    """The same listener, which keeps to itself what a fault spoils."""
    # ``serve`` asks a listener for no more than a connection and its socket; the class is final.
    return cast("trio.SocketListener", _Doors(listener, faults, nursery))


class _Doors:
    def __init__(self, listener: trio.SocketListener, faults: Faults, nursery: trio.Nursery) -> None:
        self._listener = listener
        self._faults = faults
        self._nursery = nursery
        self.socket = listener.socket

    async def accept(self) -> trio.SocketStream:
        while True:
            transport = await self._listener.accept()
            fault = self._faults.take("accept")
            if fault is None:
                return transport
            self._nursery.start_soon(_spoil, transport, fault)


async def _spoil(transport: trio.SocketStream, fault: Fault) -> None:
    try:
        match fault.kind:
            case "stall":
                await trio.sleep(STALL_S if fault.seconds is None else fault.seconds)
            case "reset":
                transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "raw":
                await transport.send_all((fault.text or "").encode("latin-1"))
                # As after any answer: what comes meanwhile must not reset the connection.
                await transport.send_eof()
                while await transport.receive_some(65_536):
                    pass
    except trio.BrokenResourceError:
        pass  # the other side had enough of it
    finally:
        await trio.aclose_forcefully(transport)
