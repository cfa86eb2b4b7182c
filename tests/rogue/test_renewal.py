"""A slice of ``python -m tests.rogue``: one renewal for each thing that may happen next."""

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from adapters.simulators.case import NEXT, Case
from adapters.simulators.catalogue import CASES
from tests.rogue.life import Template, provisioned, renewal_under

SLICE = tuple({(case.then, case.asks): case for case in reversed(CASES)}.values())


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    with provisioned() as made:
        yield made


@pytest.mark.parametrize("case", SLICE, ids=lambda case: case.name)
def test_a_renewal_keeps_what_it_has_and_comes_through_in_the_end(case: Case, template: Template) -> None:
    assert renewal_under(case, template) == []


def test_the_slice_has_everything_that_may_happen_next() -> None:
    assert {case.then for case in SLICE} == set(NEXT)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PUT 403", {"failure_class": "retry"}),
        ("PUT 403", {"code": "dps-500"}),
        ("PUT 429", {"retry_after_ms": 86_400_000}),
        ("GET 404", {"failure_class": "retry"}),
        ("chain wrong_key, PEM", {"failure_class": "retry"}),
        ("hub 401", {"refused": False}),
        ("GET moved", {"failure_class": "retry", "code": "dps-500"}),
    ],
)
def test_what_the_catalogue_says_wrongly_is_found(
    name: str, changes: dict[str, Any], template: Template
) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert renewal_under(structs.replace(case, **changes), template)
