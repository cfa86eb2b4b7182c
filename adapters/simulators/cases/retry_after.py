"""Retry-After of every form (RFC 9110 §10.2.3), on an answer that says no and on one that says yes."""

from typing import Any

from adapters.simulators.case import Case

DAY_MS = 86_400_000
"No peer puts anything off for longer."

_FORMS: tuple[tuple[str, str | int, int | None], ...] = (
    ("seconds", 7, 7_000),
    ("zero", 0, 0),
    ("a day", 86_400, DAY_MS),
    ("thirty years", 946_080_000, DAY_MS),
    ("a number of thirty digits", "9" * 30, DAY_MS),
    ("a number of five thousand digits", "9" * 5_000, DAY_MS),
    ("a negative number", "-5", None),
    ("a fraction", "1.5", None),
    ("a sign", "+7", None),
    ("a hexadecimal number", "0x10", None),
    ("two values", "7, 8", None),
    ("a word", "soon", None),
    ("nothing", "", None),
    ("a date that is none", "Thu, 32 Foo 2026 25:61:61 GMT", None),
    ("a date long past", "Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ("a date in the year 9999", "Fri, 31 Dec 9999 23:59:59 GMT", DAY_MS),
    ("a date of RFC 850", "Friday, 31-Dec-99 23:59:59 GMT", None),
    ("a date of asctime", "Fri Dec 31 23:59:59 1999", None),
)


def _case(form: str, fault: dict[str, Any], retry_after_ms: int | None) -> Case:
    return Case(
        name=f"Retry-After {form}",
        fault={"on": "register", "kind": "status", "status": 429, **fault},
        cloud=f"Throttled; Retry-After is {form}.",
        asks="submit",
        failure_class="retry",
        code="dps-429",
        retry_after_ms=retry_after_ms,
    )


CASES: tuple[Case, ...] = (
    *(_case(form, {"retry_after": value}, wait_ms) for form, value, wait_ms in _FORMS),
    _case("a date in half a minute", {"retry_after_date": 30}, 30_000),
    _case("a date a minute ago", {"retry_after_date": -60}, 0),
    Case(
        name="Retry-After a date in half a minute, by a clock of its own",
        fault={
            "on": "register",
            "kind": "status",
            "status": 503,
            "seconds": 86_400,
            "retry_after_date": 86_430,
        },
        cloud="Retry-After is a date, and counts from the cloud's own Date, a day ahead of ours.",
        asks="submit",
        failure_class="retry",
        code="dps-503",
        retry_after_ms=30_000,
    ),
    Case(
        name="Retry-After of a poll",
        fault={"on": "operation", "kind": "status", "status": 429, "retry_after": 20},
        cloud="Polled too often.",
        asks="poll",
        failure_class="retry",
        code="dps-429",
        retry_after_ms=20_000,
    ),
    Case(
        name="Retry-After of an accepted registration",
        fault={"on": "register", "kind": "retry_after", "retry_after": 3},
        cloud="The registration is accepted; poll in three seconds.",
        asks="submit",
        retry_after_ms=3_000,
    ),
    Case(
        name="Retry-After of an accepted registration, a word",
        fault={"on": "register", "kind": "retry_after", "retry_after": "soon"},
        cloud="The registration is accepted; poll soon.",
        asks="submit",
    ),
    Case(
        name="Retry-After of an accepted registration, an hour",
        fault={"on": "register", "kind": "retry_after", "retry_after": 3_600},
        cloud="The registration is accepted; poll in an hour, of which half an attempt is waited.",
        asks="submit",
        retry_after_ms=3_600_000,
    ),
)
