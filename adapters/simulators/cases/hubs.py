"""What the hub may say to a credential that is shown to it (reference/cloud.md §0.1 and §3; design §2).

Any answer but a refusal proves a credential: a hub that is out of quota, or out of order, let it in.
"""

from adapters.simulators.case import Case

_NO_REFUSAL = {
    201: "Created.",
    204: "No content.",
    302: "A redirect.",
    400: "The request is invalid.",
    403: "Forbidden: the hub is out of quota, or filters addresses.",
    404: "Not found, without the code of an unknown device.",
    405: "The method is not allowed.",
    409: "A conflict.",
    412: "An ETag that does not match.",
    413: "The request is too large.",
    415: "The content type is not supported.",
    429: "Throttled.",
    500: "A fault of the service, or a parent gateway that lost its own way up.",
    502: "A gateway's answer.",
    503: "Unavailable.",
    504: "A gateway's answer.",
}


def _proven(name: str, cloud: str, /, **fault: str | int) -> Case:
    return Case(name=f"hub {name}", fault={"on": "hub", **fault}, cloud=cloud, asks="prove")


def _refused(
    name: str, cloud: str, code: str, retry_after_ms: int | None = None, /, **fault: str | int
) -> Case:
    return Case(
        name=f"hub {name}",
        fault={"on": "hub", **fault},
        cloud=cloud,
        asks="prove",
        failure_class="retry",
        code=code,
        refused=True,
        retry_after_ms=retry_after_ms,
    )


CASES: tuple[Case, ...] = (
    *(_proven(str(status), cloud, kind="status", status=status) for status, cloud in _NO_REFUSAL.items()),
    _proven(
        "403002",
        "Forbidden, with the code of a quota that is used up.",
        kind="status",
        status=403,
        error_code=403002,
    ),
    _proven(
        "404010",
        "Not found: it is a module that is not known.",
        kind="status",
        status=404,
        error_code=404010,
    ),
    _proven(
        "404 in other words",
        "Not found, as a page of HTML that happens to hold the number of an unknown device.",
        kind="status",
        status=404,
        body="<html>404001</html>",
    ),
    _proven(
        "500 networkError",
        "A parent gateway that cannot reach the hub.",
        kind="status",
        status=500,
        body='{"errorMessage": "offline", "networkError": true}',
    ),
    _refused("401", "The credential is not accepted.", "hub-401", kind="hub_refuses", code=401),
    _refused(
        "401 without a body", "The credential is not accepted.", "hub-401", kind="status", status=401, body=""
    ),
    _refused(
        "401, later",
        "Not accepted, with a Retry-After.",
        "hub-401",
        9_000,
        kind="status",
        status=401,
        retry_after=9,
    ),
    _refused(
        "404001",
        "The device is not known, by the hub's own words.",
        "hub-404001",
        kind="hub_refuses",
        code=404001,
    ),
    _refused(
        "404001 in the message",
        "The device is not known; the number is in the text.",
        "hub-404001",
        kind="status",
        status=404,
        body='{"message": "Error 404001: no device"}',
    ),
    _refused(
        "404001 as errorCode",
        "The device is not known; the number is a member.",
        "hub-404001",
        kind="status",
        status=404,
        body='{"errorCode": 404001, "trackingId": "t-hub"}',
    ),
    _proven("garbage", "A 200 whose body is not JSON. It let us in.", kind="garbage"),
    _proven("gzip", "A 200 whose body is compressed.", kind="gzip"),
    _proven("nested JSON", "A 200 whose body is arrays in arrays.", kind="nested_json"),
    _proven("wrong content type", "A 200 whose body is called HTML.", kind="wrong_content_type"),
    _proven(
        "Date years behind",
        "A 200 whose Date header is years behind.",
        kind="date",
        seconds=-3 * 365 * 86_400,
    ),
    _proven("Date that is none", "A 200 whose Date header is no date.", kind="date", text="never"),
)
