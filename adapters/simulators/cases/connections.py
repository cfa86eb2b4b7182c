"""Connections and bytes: TCP and TLS, answers that stall, break off, or are none."""

from adapters.simulators.ca import SERVER_FLAWS
from adapters.simulators.case import Asks, Case
from adapters.simulators.faults import PLACES, On, Place

_ASKS: dict[On, Asks] = {"register": "submit", "operation": "poll", "hub": "prove"}
_TAKES: dict[On, str] = {"register": "PUT", "operation": "GET", "hub": "hub"}
_WHERE: dict[Place, str] = {
    "head": "before the first byte",
    "status_line": "in the middle of the status line",
    "headers": "between two headers",
    "body_start": "before the body",
    "body": "in the middle of the body",
    "last_byte": "before the last byte",
}


def _case(
    name: str, on: On, cloud: str, failure_class: str | None, code: str | None, /, **fault: str | int
) -> Case:
    return Case(
        name=f"{_TAKES[on]} {name}",
        fault={"on": on, **fault},
        cloud=cloud,
        asks=_ASKS[on],
        failure_class=failure_class,
        code=code,
    )


# --- TCP and TLS -------------------------------------------------------------------------------------


def _no_connection(name: str, cloud: str, failure_class: str, code: str, /, **fault: str | int) -> Case:
    return Case(
        name=name,
        fault=fault,
        cloud=cloud,
        asks="submit",
        failure_class=failure_class,
        code=code,
        unsent=True,
    )


_ALERTS = {
    # Only those that mean "your certificate" are a verdict on it.
    "handshake_failure": "tls-failed",
    "protocol_version": "tls-failed",
    "internal_error": "tls-failed",
    "unrecognized_name": "tls-failed",
    "bad_certificate": "tls-certificate-alert",
    "unsupported_certificate": "tls-certificate-alert",
    "certificate_revoked": "tls-certificate-alert",
    "certificate_expired": "tls-certificate-alert",
    "certificate_unknown": "tls-certificate-alert",
    "unknown_ca": "tls-certificate-alert",
    "access_denied": "tls-certificate-alert",
    "decrypt_error": "tls-certificate-alert",
}

TLS: tuple[Case, ...] = (
    _no_connection(
        "TCP stall before TLS",
        "The connection is accepted, and nobody speaks.",
        "retry",
        "unreachable",
        on="accept",
        kind="stall",
    ),
    _no_connection(
        "TCP reset before TLS", "The connection is reset.", "retry", "unreachable", on="accept", kind="reset"
    ),
    _no_connection(
        "TCP end before TLS", "The connection is ended.", "retry", "unreachable", on="accept", kind="cut"
    ),
    _no_connection(
        "TCP plain HTTP",
        "Plain HTTP where TLS is spoken.",
        "retry",
        "tls-failed",
        on="accept",
        kind="raw",
        text="HTTP/1.1 400 Bad Request\r\n\r\n",
    ),
    *(
        _no_connection(
            f"TLS server certificate {flaw}",
            f"The server's certificate: {meaning}.",
            *(
                ("clock", "tls-dates")
                if flaw in ("expired", "not_yet_valid")
                else ("operator", "tls-untrusted")
            ),
            on="handshake",
            kind="server_certificate",
            flaw=flaw,
        )
        for flaw, meaning in SERVER_FLAWS.items()
    ),
    *(
        _no_connection(
            f"TLS alert {alert}",
            f"The handshake ends with the alert {alert}.",
            "retry",
            code,
            on="handshake",
            kind="tls_alert",
            alert=alert,
        )
        for alert, code in _ALERTS.items()
    ),
    *(
        Case(
            name=f"TLS {version} the hub refuses the certificate",
            fault={"on": "handshake", "kind": "client_refused", "version": version},
            cloud=f"An alert about the issued certificate, with TLS {version}"
            + (": after the handshake, on the first read." if version == "1.3" else ", in the handshake."),
            asks="prove",
            failure_class="retry",
            code="tls-certificate-alert",
            refused=True,
            unsent=version == "1.2",
        )
        for version in ("1.2", "1.3")
    ),
)


# --- answers that stall, or break off ----------------------------------------------------------------

STALLS: tuple[Case, ...] = tuple(
    _case(
        f"stall {_WHERE[where]}",
        on,
        f"Silence {_WHERE[where]}.",
        "retry",
        "timeout",
        kind="stall",
        where=where,
    )
    for on in _ASKS
    for where in PLACES
)

BROKEN: tuple[Case, ...] = tuple(
    _case(
        f"{kind} {_WHERE[where]}",
        on,
        f"The connection {'is reset' if kind == 'reset' else 'ends'} {_WHERE[where]}.",
        "retry",
        "connection-broken",
        kind=kind,
        where=where,
    )
    for on in _ASKS
    for kind in ("reset", "cut")
    for where in PLACES
)


# --- answers that are none ---------------------------------------------------------------------------

_FOREIGN = {
    "another protocol": "SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "binary": "\x00\x01\x02\xff\xfe\xfd",
    "a status that is no number": "HTTP/1.1 2OO OK\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a header without a colon": "HTTP/1.1 200 OK\r\nthis is no header\r\n\r\n{}",
    "a zero byte in a header": "HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n{}",
    "two lengths": "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a negative length": "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}",
    "a length of forty digits": f"HTTP/1.1 200 OK\r\ncontent-length: {'9' * 40}\r\n\r\n{{}}",
    "an unknown coding": "HTTP/1.1 200 OK\r\ntransfer-encoding: rot13\r\n\r\n{}",
}


def _garbled(on: On) -> tuple[Case, ...]:
    malformed = ("retry", "answer-malformed")
    # The hub's answer to a proof is its head: what the body holds proves nothing and disproves nothing.
    body = (None, None) if on == "hub" else malformed
    rows = [
        _case("chunked garbage", on, "The second chunk has no size.", *malformed, kind="bad_chunk"),
        _case(
            "huge JSON",
            on,
            "JSON of eight megabytes.",
            "retry",
            "answer-too-large",
            kind="huge_body",
            bytes=8_000_000,
        ),
        _case("huge header", on, "A header of a megabyte.", *malformed, kind="huge_header"),
        _case("large header", on, "A header of 50 000 bytes.", None, None, kind="huge_header", bytes=50_000),
        _case(
            "a body shorter than said",
            on,
            "Content-Length is ten too many.",
            "retry",
            "connection-broken",
            kind="wrong_length",
            bytes=10,
        ),
        _case(
            "a body longer than said",
            on,
            "Content-Length is ten too few.",
            *body,
            kind="wrong_length",
            bytes=-10,
        )
        if on != "hub"
        else _case(
            "a body longer than said",
            on,
            "Content-Length is one too few.",
            *body,
            kind="wrong_length",
            bytes=-1,
        ),
    ]
    if on != "hub":
        rows += [
            _case("garbage", on, "Bytes that are not JSON.", *malformed, kind="garbage"),
            _case("gzip", on, "A compressed body, which nobody asked for.", *malformed, kind="gzip"),
            _case("nested JSON", on, "Arrays in arrays, 100 000 deep.", *malformed, kind="nested_json"),
            _case(
                "wrong content type",
                on,
                "The right body is called HTML.",
                None,
                None,
                kind="wrong_content_type",
            ),
        ]
    return tuple(rows)


GARBLED: tuple[Case, ...] = (
    *(case for on in _ASKS for case in _garbled(on)),
    *(
        _case(name, "register", f"The answer is {name}.", "retry", "answer-malformed", kind="raw", text=text)
        for name, text in _FOREIGN.items()
    ),
    _case(
        "informational answers without end",
        "register",
        "A hundred times 100 Continue, and no answer.",
        "retry",
        "connection-broken",
        kind="raw",
        text="HTTP/1.1 100 Continue\r\n\r\n" * 100,
    ),
)
