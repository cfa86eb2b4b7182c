"""What DPS may say to a registration (reference/cloud.md §1 and §9.2)."""

from typing import Any

from adapters.simulators.case import DER, Case

REFUSAL = "Device sent CSR but it is not configured in the service."
SKEW_S = 7200


def _status(status: int, failure_class: str, cloud: str, **more: Any) -> Case:  # noqa: ANN401  keys of a fault
    return Case(
        name=more.pop("name", f"PUT {status}"),
        fault={"on": "register", "kind": "status", "status": status, **more.pop("fault", {})},
        cloud=cloud,
        asks="submit",
        failure_class=failure_class,
        code=more.pop("code", f"dps-{status}"),
        **more,
    )


def _members(name: str, cloud: str, fault: dict[str, Any], **more: Any) -> Case:  # noqa: ANN401  fields of a case
    return Case(
        name=f"PUT {name}",
        fault={"on": "register", "kind": "members", **fault},
        cloud=cloud,
        asks="submit",
        **more,
    )


_MALFORMED = {"failure_class": "retry", "code": "answer-malformed"}
_FINAL = {"assignedHub": "localhost:1", "deviceId": "demo-device", "status": "assigned"}

CASES: tuple[Case, ...] = (
    _status(204, "retry", "No content."),
    _status(301, "retry", "A redirect. It is not followed: the token is for this host."),
    _status(302, "retry", "A redirect, as captive portals answer."),
    _status(307, "retry", "A redirect that keeps the method."),
    _status(400, "operator", "The body is invalid."),
    _status(
        400,
        "operator",
        "errorCode 400000 with another text than that of a refused CSR.",
        name="PUT 400000",
        fault={"error_code": 400000, "message": "Bad Request"},
    ),
    Case(
        name="PUT CSR refused",
        fault={"on": "register", "kind": "csr_refused"},
        cloud="The enrolment issues no certificates, and says so by errorCode and text.",
        asks="submit",
        failure_class="operator",
        code="csr-not-configured",
    ),
    _status(
        400,
        "operator",
        "The same text in other letters, without its final dot and without an errorCode.",
        name="PUT CSR refused, spelt otherwise",
        code="csr-not-configured",
        fault={"body": f'{{"message": "{REFUSAL.upper().removesuffix(".")}"}}'},
    ),
    _status(401, "operator", "The token is invalid.", fault={"error_code": 401002}),
    _status(
        401,
        "clock",
        "The token is refused, and the Date header is further ahead than a token lives.",
        name="PUT 401, two hours ahead",
        fault={"seconds": SKEW_S},
    ),
    _status(
        401,
        "clock",
        "The same, and the Date header is behind.",
        name="PUT 401, two hours behind",
        fault={"seconds": -SKEW_S},
    ),
    _status(
        401,
        "operator",
        "The token is refused, and the Date header is a minute ahead: that is no excuse.",
        name="PUT 401, a minute ahead",
        fault={"seconds": 60},
    ),
    _status(403, "operator", "Forbidden."),
    _status(404, "operator", "The DPS instance or the enrolment is unknown.", fault={"error_code": 404201}),
    _status(405, "operator", "The method is not allowed: a wrong endpoint."),
    _status(408, "retry", "The request did not arrive in time."),
    _status(409, "retry", "Conflict with the current state."),
    _status(412, "retry", "The ETag does not match."),
    _status(413, "operator", "The request is too large: its payload, most likely."),
    _status(415, "operator", "The content type is not supported."),
    _status(429, "retry", "Throttled, without a Retry-After.", fault={"error_code": 429001}),
    _status(500, "retry", "A fault of the service.", fault={"error_code": 500000, "tracking_id": "t-500"}),
    _status(502, "retry", "A gateway's page of HTML.", fault={"body": "<html>Bad Gateway</html>"}),
    _status(503, "retry", "Unavailable.", fault={"error_code": 503001}),
    _status(504, "retry", "A gateway's answer without a body.", fault={"body": ""}),
    _status(
        200,
        "retry",
        "200 with a page of HTML, as captive portals answer.",
        name="PUT 200, a page",
        code="answer-malformed",
        fault={"body": "<html>Welcome! Please log in.</html>"},
    ),
    _status(
        202,
        "retry",
        "202 without a body.",
        name="PUT 202, empty",
        code="answer-malformed",
        fault={"body": ""},
    ),
    _members("without an operation id", "No operationId.", {"without": ["operationId"]}, **_MALFORMED),
    _members(
        "an empty operation id",
        "An operationId without characters.",
        {"members": {"operationId": ""}},
        **_MALFORMED,
    ),
    _members(
        "a number as operation id", "operationId is a number.", {"members": {"operationId": 5}}, **_MALFORMED
    ),
    _members(
        "an operation id of two lines",
        "A line end in the operationId, which would go into a URL.",
        {"members": {"operationId": "a\r\nHost: elsewhere.example"}},
        **_MALFORMED,
    ),
    _members(
        "an operation id of 600 characters",
        "An operationId that no service gives.",
        {"members": {"operationId": "5" * 600}},
        **_MALFORMED,
    ),
    _members(
        "an unknown status",
        "A status that is not documented.",
        {"members": {"status": "pondering"}},
        failure_class="retry",
        code="status-unknown",
    ),
    _members("without a status", "No status: the operation counts as assigning.", {"without": ["status"]}),
    _members("members nobody knows", "Further members.", {"members": {"x": [1, {"y": None}]}}),
    _members(
        "disabled at once",
        "The enrolment is disabled, in the answer to the registration.",
        {"members": {"status": "disabled"}, "state": {"status": "disabled"}},
        failure_class="operator",
        code="dps-disabled",
    ),
    _members(
        "failed at once",
        "The registration failed, in the answer to it.",
        {
            "members": {"status": "failed"},
            "state": {"status": "failed", "errorCode": 401002, "errorMessage": "Unauthorized"},
        },
        failure_class="operator",
        code="dps-401002",
    ),
    _members(
        "assigned at once, without a chain",
        "A final answer to the registration, which issues nothing.",
        {"members": {"status": "assigned"}, "state": _FINAL},
        failure_class="operator",
        code="not-issued",
        judged=True,
    ),
    _members(
        "assigned at once, nowhere",
        "A final answer to the registration, without a hub.",
        {"members": {"status": "assigned"}, "state": {"deviceId": "demo-device"}},
        failure_class="reregister",
        code="assignment-invalid",
    ),
    _members(
        "a chain that is no text",
        "issuedCertificateChain is a number.",
        {"state": {"issuedCertificateChain": 5}},
        api_version=DER,
        **_MALFORMED,
    ),
    Case(
        name="PUT Date an hour behind",
        fault={"on": "register", "kind": "date", "seconds": -3600},
        cloud="A right answer; the Date header is an hour behind.",
        asks="submit",
    ),
    Case(
        name="PUT Date that is none",
        fault={"on": "register", "kind": "date", "text": "yesterday"},
        cloud="A right answer; the Date header is not a date.",
        asks="submit",
    ),
)
