"""What DPS may say of an operation, and how one may end (reference/cloud.md §1.8 and §9)."""

from typing import Any

from adapters.simulators.case import Case

_POLL_CLASSES = {
    400: "operator",
    401: "operator",
    403: "operator",
    405: "operator",
    409: "retry",
    412: "retry",
    429: "retry",
    500: "retry",
    502: "retry",
    503: "retry",
    504: "retry",
}
_RESULTS = (
    # What an HTTP status would have us ask again takes another operation here: this one is over.
    (400000, "operator", "a bad request"),
    (401002, "operator", "unauthorised"),
    (403000, "operator", "forbidden"),
    (404201, "operator", "no such enrolment"),
    (409000, "reregister", "a conflict"),
    (412000, "reregister", "an ETag that does not match"),
    (415000, "operator", "a content type"),
    (429001, "reregister", "throttled"),
    (500000, "reregister", "a fault of the service"),
    (503001, "reregister", "unavailable"),
    (7, "reregister", "a number that is none of its codes"),
)
_HUBS = {
    "an empty hub": "",
    "a URL as hub": "https://hub.example",
    "a path in the hub": "hub.example/devices",
    "a user in the hub": "user@hub.example",
    "a hub of two lines": "hub.example\r\nx: y",
    "a hub with port 0": "hub.example:0",
    "a hub with port 99999": "hub.example:99999",
    "a hub in another alphabet": "häb.example",
}
_DEVICES = {
    "an empty device id": "",
    "a device id that leads up": "..",
    "a slash in the device id": "a/../b",
    "a device id of 200 characters": "d" * 200,
}


def _result(name: str, cloud: str, fault: dict[str, Any], **more: Any) -> Case:  # noqa: ANN401  fields of a case
    return Case(
        name=f"GET {name}",
        fault={"on": "operation", "kind": "members", **fault},
        cloud=cloud,
        asks="poll",
        **more,
    )


_INVALID = {"failure_class": "reregister", "code": "assignment-invalid"}
_MALFORMED = {"failure_class": "retry", "code": "answer-malformed"}

CASES: tuple[Case, ...] = (
    *(
        Case(
            name=f"GET {status}",
            fault={"on": "operation", "kind": "status", "status": status},
            cloud=f"Asked for the operation, DPS answers {status}.",
            asks="poll",
            failure_class=failure_class,
            code=f"dps-{status}",
        )
        for status, failure_class in _POLL_CLASSES.items()
    ),
    Case(
        name="GET 401, two hours ahead",
        fault={"on": "operation", "kind": "status", "status": 401, "seconds": 7200},
        cloud="The token is refused, and the Date header is further ahead than a token lives.",
        asks="poll",
        failure_class="clock",
        code="dps-401",
    ),
    Case(
        name="GET 404",
        fault={"on": "operation", "kind": "status", "status": 404},
        cloud="The operation is not known, for this time.",
        asks="poll",
        failure_class="reregister",
        code="operation-unknown",
    ),
    Case(
        name="GET the operation vanishes",
        fault={"on": "operation", "kind": "operation_vanishes"},
        cloud="The operation is not known, and never will be again.",
        asks="poll",
        failure_class="reregister",
        code="operation-unknown",
    ),
    Case(
        name="GET CSR refused",
        fault={"on": "operation", "kind": "csr_refused"},
        cloud="The operation fails, since the enrolment issues no certificates.",
        asks="poll",
        failure_class="operator",
        code="csr-not-configured",
    ),
    *(
        Case(
            name=f"GET failed {error_code}",
            fault={"on": "operation", "kind": "failed", "error_code": error_code, "tracking_id": "t-failed"},
            cloud=f"The operation ends as failed: {meaning}.",
            asks="poll",
            failure_class=failure_class,
            code=f"dps-{error_code}",
        )
        for error_code, failure_class, meaning in _RESULTS
    ),
    _result(
        "failed without a code",
        "The operation ends as failed, and nothing says why.",
        {"members": {"status": "failed"}, "state": {"status": "failed"}},
        failure_class="reregister",
        code="dps-failed",
    ),
    Case(
        name="GET disabled",
        fault={"on": "operation", "kind": "disabled"},
        cloud="The operation ends as disabled.",
        asks="poll",
        failure_class="operator",
        code="dps-disabled",
    ),
    _result(
        "an unknown status",
        "A status that is not documented.",
        {"members": {"status": "pondering"}},
        failure_class="retry",
        code="status-unknown",
    ),
    _result("without a status", "No status.", {"without": ["status"]}, **_MALFORMED),
    _result(
        "without a state",
        "Assigned, and no registrationState.",
        {"without": ["registrationState"]},
        **_INVALID,
    ),
    _result("without a hub", "Assigned to no hub.", {"without": ["assignedHub"]}, **_INVALID),
    *(
        _result(
            name,
            f"assignedHub is `{hub.encode('unicode_escape').decode()}`.",
            {"state": {"assignedHub": hub}},
            **_INVALID,
        )
        for name, hub in _HUBS.items()
    ),
    _result("a number as hub", "assignedHub is a number.", {"state": {"assignedHub": 5}}, **_MALFORMED),
    _result("without a device id", "Assigned as nobody.", {"without": ["deviceId"]}, **_INVALID),
    *(
        _result(name, f"deviceId is `{device[:20]}`.", {"state": {"deviceId": device}}, **_INVALID)
        for name, device in _DEVICES.items()
    ),
    Case(
        name="GET no certificate",
        fault={"on": "operation", "kind": "no_certificate"},
        cloud="Assigned, and no certificate although there was a CSR.",
        asks="poll",
        failure_class="operator",
        code="not-issued",
        judged=True,
    ),
    Case(
        name="GET moved",
        fault={"on": "operation", "kind": "moved"},
        cloud="Assigned to another hub, with the device's data.",
        asks="poll",
    ),
    Case(
        name="GET moved to nowhere",
        fault={"on": "operation", "kind": "moved", "hub": "localhost:1"},
        cloud="Assigned to a hub that nobody can reach.",
        asks="prove",
        failure_class="retry",
        code="unreachable",
        unsent=True,
    ),
    *(
        Case(
            name=f"GET bundle {bundle}",
            fault={"on": "operation", "kind": "bundle", "bundle": bundle},
            cloud=f"The trust bundle is {bundle}.",
            asks="poll",
            flagged=bundle == "garbage",
        )
        for bundle in ("present", "changed", "absent", "empty", "garbage")
    ),
    _result(
        "a bundle of another shape", "trustBundle is a number.", {"state": {"trustBundle": 5}}, flagged=True
    ),
    _result(
        "a policy of another shape",
        "deviceCertificateIssuanceSettings is a text.",
        {"state": {"deviceCertificateIssuanceSettings": "serverCertificate"}},
    ),
    Case(
        name="GET Date three minutes behind",
        fault={"on": "operation", "kind": "date", "seconds": -180},
        cloud="A right answer, whose Date header is before the beginning of the certificate in it.",
        asks="poll",
    ),
    Case(
        name="GET Date two hours behind",
        fault={"on": "operation", "kind": "date", "seconds": -7200},
        cloud="By its own Date header the cloud issues a certificate that is not valid yet.",
        asks="poll",
        failure_class="retry",
        code="chain-not-yet-valid",
        judged=True,
    ),
    Case(
        name="GET Date years ahead",
        fault={"on": "operation", "kind": "date", "seconds": 10 * 365 * 86_400},
        cloud="By its own Date header the cloud issues a certificate that has ended.",
        asks="poll",
        failure_class="retry",
        code="chain-expired",
        judged=True,
    ),
)
