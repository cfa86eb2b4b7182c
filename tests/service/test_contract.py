"""The OpenAPI documents of the local services against the running service: what they say is what it does.

Every operation gets data that fits the document and data that does not; then operations follow each other
along the documents' links. An answer with a status, content type or shape that is not in the document fails,
and so does data that should have been refused and was not. 500 is in the documents, because the original
answers so (an id without issuance rule): there the log is what must not hold a traceback.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.service.device import REPOSITORY, Cloud, Device, short_root
from tests.service.unix_session import UnixSession

DOCUMENTS = REPOSITORY / "docs/reference/openapi"
SERVICES = ("certd", "keyd", "identityd", "workload")
EXAMPLES, RUNS, STEPS = 20, 15, 8
"Cases of one operation and kind; runs along the links, and how long each is."
BASE: dict[str, Any] = {"deadline": None, "database": None, "derandomize": True}

load_all_checks()
CONFORMING = [
    check
    for name in ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    if (check := CHECKS.get_one(name))
]
REFUSING = [*CONFORMING, CHECKS.get_one("negative_data_rejection")]


def document(service: str) -> Any:
    return schemathesis.openapi.from_path(DOCUMENTS / f"{service}.yaml")


OPERATIONS = [
    pytest.param(service, operation.ok(), id=f"{service}-{operation.ok().label}")
    for service in SERVICES
    for operation in document(service).get_all_operations()
]


@pytest.fixture(scope="module")
def device(cloud: Cloud) -> Iterator[Device]:
    """Provisioned, with an issuance rule that any certificate may use."""
    with short_root() as root:
        made = Device(root / "c", cloud, "contract").configure(
            top='dps_trust_bundle = "contract-bundle"',
            attempts="backoff_base_sec = 1\nbackoff_cap_sec = 1",
        )
        made.start()
        try:
            made.until_provisioned()
            yield made
        finally:
            made.kill()


@pytest.fixture
def session(device: Device, request: pytest.FixtureRequest) -> Iterator[UnixSession]:
    service = request.getfixturevalue("service")
    with UnixSession(device.root / f"run/aziot/{service}.sock") as made:
        yield made
    assert made.sent > 0
    request.node.user_properties.append(("requests", made.sent))


@pytest.fixture(autouse=True)
def _no_traceback(device: Device) -> Iterator[None]:
    assert device.process is not None
    before = len(device.process.lines)
    yield
    assert not [line for line in device.process.lines[before:] if "Traceback" in line], device.log
    assert device.process.running


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "does not fit"]
)
@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
def test_every_operation(service, operation, mode, session):
    checks = CONFORMING if mode is GenerationMode.POSITIVE else REFUSING

    @settings(
        **BASE,
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case):
        response = case.call(session=session, base_url=f"http://{service}.sock")
        case.validate_response(response, checks=checks)

    run()


@pytest.mark.parametrize("service", ["certd", "keyd", "identityd"])
def test_operations_along_their_links(service, session):
    machine = document(service).as_state_machine()

    class Followed(machine):
        def get_call_kwargs(self, case):
            return {"session": session, "base_url": f"http://{service}.sock"}

        def validate_response(self, response, case, **kwargs):
            case.validate_response(response, checks=CONFORMING)

    run_state_machine_as_test(
        Followed,
        settings=settings(
            **BASE,
            max_examples=RUNS,
            stateful_step_count=STEPS,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_documents_speak_of_the_versions_that_are_served():
    """The api-versions of the documents are those of the code, and nothing else is."""
    from adapters.driving import certd_api, identityd_api, keyd_api, workload_api

    def versions(service: str) -> list[str]:
        text = (DOCUMENTS / f"{service}.yaml").read_text()
        found = re.search(r"name: api-version.*?enum:(.*?)(?:\n    \w|\n  \w)", text, re.DOTALL)
        assert found is not None
        return re.findall(r'"(\d{4}-\d\d-\d\d)"', found[1])

    served = {
        "certd": certd_api.API_VERSIONS,
        "keyd": keyd_api.API_VERSIONS,
        "identityd": identityd_api.API_VERSIONS,
        "workload": workload_api.API_VERSIONS,
    }
    assert {service: tuple(versions(service)) for service in SERVICES} == served
