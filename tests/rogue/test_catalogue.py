"""Every case of the catalogue, met by the real adapters over real TLS."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import structs

from adapters.simulators.ca import FLAWS, SERVER_FLAWS
from adapters.simulators.case import DER, PEM, Case
from adapters.simulators.catalogue import CASES
from adapters.simulators.faults import KINDS, PLACES, parse_faults
from statemachine.events import RegistrationFailed
from tests.rogue.table import STALLS, Met, differences, meet_all


@pytest.fixture(scope="module")
def met() -> Mapping[str, list[str]]:
    """One cloud for all that need not be waited for, and one on virtual time for those that stall."""
    return {**meet_all(case for case in CASES if case not in STALLS), **meet_all(STALLS, virtual=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_adapters_say_what_the_catalogue_says(case: Case, met: Mapping[str, list[str]]) -> None:
    assert met[case.name] == []


@pytest.mark.parametrize(
    "changes", [{"code": "dps-500"}, {"failure_class": "retry"}, {"retry_after_ms": 1}, {"asks": "prove"}]
)
def test_what_the_catalogue_says_wrongly_is_found(changes: dict[str, Any]) -> None:
    (case,) = (case for case in CASES if case.name == "PUT 403")
    event = RegistrationFailed(answers="1.1.0", failure_class="operator", code="dps-403", message="no")
    assert list(differences(case, Met(event), ())) == []
    assert list(differences(structs.replace(case, **changes), Met(event), ()))
    assert list(differences(case, Met(event), ("dps-403",))) == ["a secret is in the event"]


# --- the catalogue itself ----------------------------------------------------------------------------


def test_every_kind_of_fault_has_a_case_and_every_case_a_name_of_its_own() -> None:
    assert {case.fault["kind"] for case in CASES} == set(KINDS)
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_documented_statuses_are_there() -> None:
    """reference/cloud.md §9.2, and the hub's of §0 and §3."""
    asked = {
        "register": {400, 401, 403, 404, 405, 409, 412, 415, 429, 500, 503},
        "hub": {401, 403, 404, 429, 500},
    }
    for on, statuses in asked.items():
        met = {case.fault.get("status") for case in CASES if case.fault["on"] == on}
        assert statuses <= met


@pytest.mark.parametrize("on", ["register", "operation", "hub"])
@pytest.mark.parametrize("kind", ["stall", "reset", "cut"])
def test_an_answer_stops_at_every_place(kind: str, on: str) -> None:
    met = {case.fault["where"] for case in CASES if (case.fault["kind"], case.fault["on"]) == (kind, on)}
    assert met == set(PLACES)


def test_every_flaw_of_a_chain_is_met_in_both_dialects() -> None:
    met = {(case.fault["kind"], case.api_version) for case in CASES}
    assert {(flaw, version) for flaw in FLAWS for version in (PEM, DER)} <= met
    assert {case.fault.get("flaw") for case in CASES} - {None} == set(SERVER_FLAWS)


def test_a_case_can_be_written_down_as_a_file() -> None:
    """As the reference page shows it, but for tables in tables."""
    for case in CASES:
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in case.fault.items() if not isinstance(value, dict)
        ]
        tables = [
            f"[fault.{key}]\n"
            + "\n".join(f"{json.dumps(name)} = {json.dumps(one)}" for name, one in value.items())
            for key, value in case.fault.items()
            if isinstance(value, dict) and "null" not in json.dumps(value)
        ]
        (fault,) = parse_faults("\n".join(["[[fault]]", *lines, *tables]).encode())
        assert fault.kind == case.fault["kind"]
