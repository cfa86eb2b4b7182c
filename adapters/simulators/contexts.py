"""TLS of the stand-in cloud as of now, and faults on `handshake`."""

import logging
import os
import ssl
from collections.abc import Callable

from adapters.simulators import ca
from adapters.simulators.faults import Fault, Faults
from adapters.simulators.state import State

log = logging.getLogger(__name__)


class Contexts:
    """The CAs and certificates in ``clients`` may be added to at any time."""

    def __init__(self, state: State, faults: Faults, now: Callable[[], float]) -> None:
        self._state = state
        self._faults = faults
        self._now = now
        self._server = state.authority.server_chain(now())
        self._anchors: list[tuple[str, bytes]] | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """Of the next connection."""
        fault = self._faults.take("handshake")
        if fault is not None:
            return self._faulty(fault)
        anchors = self._state.client_anchors()
        if self._context is None or anchors != self._anchors:
            self._anchors, self._context = anchors, self._make(anchors)
        return self._context

    def _make(self, anchors: list[tuple[str, bytes]]) -> ssl.SSLContext:
        context = _server_context(*self._server)
        # An enrolled certificate is trusted itself, without its issuer.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self._state.authority.root_pem.decode())
        for path, content in anchors:
            try:
                context.load_verify_locations(cadata="".join(ca.certificates_in(content)))
            except (ValueError, ssl.SSLError) as exc:
                log.warning("%s is not a certificate: %s", path, exc)
        return context

    def _faulty(self, fault: Fault) -> ssl.SSLContext:
        if fault.kind == "server_certificate":
            flaw = next(flaw for flaw in ca.SERVER_FLAWS if flaw == fault.flaw)
            context = _server_context(
                *self._state.authority.server_chain(self._now(), flaw), weak=flaw == "weak_key"
            )
            context.load_verify_locations(cadata=self._state.authority.root_pem.decode())
            return context
        context = _server_context(*self._server)
        if fault.kind == "tls_alert":
            alert = ssl.AlertDescription[f"ALERT_DESCRIPTION_{fault.alert.upper()}"]
            context.sni_callback = lambda *_: alert
            return context
        # Nobody who could vouch for a client is loaded, so that each one that is shown is refused.
        context.maximum_version = ssl.TLSVersion.TLSv1_2 if fault.version == "1.2" else ssl.TLSVersion.TLSv1_3
        return context


def _server_context(chain_pem: bytes, key_pem: bytes, *, weak: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No resumption: a resumed session would bring back a certificate that is trusted no more.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_OPTIONAL
    if weak:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    chain = _memory_file(chain_pem + key_pem)
    try:
        context.load_cert_chain(f"/proc/self/fd/{chain}")
    finally:
        os.close(chain)
    return context


def _memory_file(content: bytes) -> int:
    handle = os.memfd_create("server")
    with open(handle, "wb", closefd=False) as file:
        file.write(content)
    return handle
