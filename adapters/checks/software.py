"""Whether the software is the one that is expected."""

from adapters.checks.outcome import Outcome, ignored, ok, warned
from adapters.checks.subject import Subject
from adapters.release import VERSION


def up_to_date(subject: Subject) -> Outcome:
    """Against the option only: nobody publishes this program's latest version at a known place."""
    actual, expected = VERSION, subject.options.expected_version
    if expected is None:
        return ignored(
            "no place says which version is the latest; name one with --expected-aziot-version",
            expected_version=None,
            actual_version=actual,
        )
    if actual == expected:
        return ok(f"version {actual}, as expected", expected_version=expected, actual_version=actual)
    return warned(
        "comparing the installed version with --expected-aziot-version",
        f"version {actual} is installed, {expected} is expected",
        "install the expected version",
        info={"expected_version": expected, "actual_version": actual},
    )
