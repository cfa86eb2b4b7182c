"""A cloud that goes wrong in every way it knows: what is said of it, and that nothing in use is touched."""

import pytest
from cryptography import x509

from tests.service.device import Device, effects_of, event_is, short_root

BUNDLE = "aziot-dps-trust-bundle"
TRACKED = {"tracking_id": "7b2c-tracked"}


def register(status, **more):
    return {"on": "register", "kind": "status", "status": status} | more


def operation(kind, **more):
    return {"on": "operation", "kind": kind} | more


def hub(kind, **more):
    return {"on": "hub", "kind": kind} | more


ENDING = {
    # What ends an attempt: fault, class, code.
    "401": (register(401, **TRACKED), "operator", "dps-401"),
    "403": (register(403), "operator", "dps-403"),
    "404": (register(404), "operator", "dps-404"),
    "429": (register(429, retry_after=7), "retry", "dps-429"),
    "429 until a date": (register(429, retry_after_date=30), "retry", "dps-429"),
    "500": (register(500, **TRACKED), "retry", "dps-500"),
    "503": (register(503, retry_after="soon"), "retry", "dps-503"),
    "register: garbage": ({"on": "register", "kind": "garbage"}, "retry", "answer-malformed"),
    "register: huge": (
        {"on": "register", "kind": "huge_body", "bytes": 20_000_000},
        "retry",
        "answer-too-large",
    ),
    "register: reset": ({"on": "register", "kind": "reset"}, "retry", "connection-broken"),
    "csr refused": ({"on": "register", "kind": "csr_refused"}, "operator", "csr-not-configured"),
    "csr refused at the end": (operation("csr_refused"), "operator", "csr-not-configured"),
    "failed": (
        operation("failed", error_code=401002, message="no", **TRACKED),
        "operator",
        "dps-401002",
    ),
    "disabled": (operation("disabled"), "operator", "dps-disabled"),
    "no certificate": (operation("no_certificate"), "operator", "not-issued"),
    "wrong key": (operation("wrong_key"), "new_key", "chain-wrong-key"),
    "wrong subject": (operation("wrong_subject"), "retry", "chain-wrong-subject"),
    "expired": (operation("expired"), "retry", "chain-expired"),
    "not yet valid": (operation("not_yet_valid"), "retry", "chain-not-yet-valid"),
    "ca leaf": (operation("ca_leaf"), "retry", "chain-is-ca"),
    "truncated pem": (operation("truncated_pem"), "reregister", "chain-unparsable"),
    # The hub cannot follow the chain to an anchor, and says so in a TLS alert.
    "missing intermediate": (operation("missing_intermediate"), "retry", "tls-certificate-alert"),
    "hub refuses": (hub("hub_refuses", code=401), "retry", "hub-401"),
    "hub does not know it": (hub("hub_refuses", code=404001), "retry", "hub-404001"),
}

PASSING = {
    # What an attempt lives through: fault, class, code.
    "poll: 500": (operation("status", status=500, **TRACKED), "retry", "dps-500"),
    "poll: 503": (operation("status", status=503, body="not JSON"), "retry", "dps-503"),
    "poll: reset in the body": (operation("reset"), "retry", "connection-broken"),
    "operation vanishes": (operation("operation_vanishes"), "reregister", "operation-unknown"),
    "hub breaks off": (hub("reset", bytes=0), "retry", "connection-broken"),
}


@pytest.fixture(scope="module")
def device(cloud):
    """Provisioned once, with a bundle, a certificate that has an hour to live, and no transport retries."""
    with short_root() as place:
        cloud.bundle(cloud.ca_file.read_bytes())
        made = Device(place, cloud).configure(top="cloud_retries = 0").start()
        try:
            made.until_provisioned()
            yield made
        finally:
            made.kill()


@pytest.fixture(autouse=True)
def healed(cloud):
    yield
    cloud.faults()


def held(device):
    """What no failure may touch."""
    status = device.status()
    parts = {name: status[name] for name in ("credential", "assignment", "trust_bundle")}
    return parts, device.pair(), device.certificate(BUNDLE).json["pem"]


def failure_of(records):
    """The first event that says no, or the judgement behind an assignment that was not accepted."""
    return next((record["event"] for record in records if record["event"].get("class")), None)


@pytest.mark.parametrize("name", ENDING)
def test_a_failed_renewal_says_why_and_touches_nothing(device, cloud, name):
    fault, failure_class, code = ENDING[name]
    before = held(device)
    cloud.faults(fault)
    records = device.attempt("renew")
    assert records[-1]["state"] == "Provisioned"
    assert not effects_of(records, "commit-credential")
    assert held(device) == before

    error = device.status()["attempt"]["last_error"]
    assert (error["class"], error["code"]) == (failure_class, code)
    assert error["message"]
    event = failure_of(records)
    if event is not None:
        # The chain of an assignment is judged by the machine: that leaves no event of its own.
        assert (event["class"], event["code"]) == (failure_class, code)
        assert event.get("tracking_id") == error["tracking_id"]
    if "tracking_id" in fault:
        assert error["tracking_id"] == fault["tracking_id"]
    if name == "401":
        assert all(word in device.run("explain")[1] for word in (code, failure_class, error["tracking_id"]))
    assert device.status()["stuck"] == (failure_class == "operator")


@pytest.mark.parametrize("name", PASSING)
def test_a_renewal_lives_through_it(device, cloud, name):
    fault, failure_class, code = PASSING[name]
    generation = device.pair().generation
    cloud.faults(fault | {"times": 1})
    records = device.attempt("renew")
    event = failure_of(records)
    assert (event["class"], event["code"]) == (failure_class, code)
    assert event.get("tracking_id") == fault.get("tracking_id", event.get("tracking_id"))
    assert records[-1]["state"] == "Provisioned"
    assert device.pair().generation > generation
    status = device.status()
    assert status["attempt"]["last_error"] is None
    assert not status["stuck"]


def test_a_hub_out_of_order_is_no_refusal(device, cloud):
    for status in (403, 429, 503):
        generation = device.pair().generation
        cloud.faults(hub("status", status=status))
        assert device.attempt("renew")[-1]["state"] == "Provisioned"
        assert device.pair().generation > generation, status


def test_a_chain_out_of_order_is_put_in_order(device, cloud):
    generation = device.pair().generation
    cloud.faults(operation("reordered"))
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.pair().generation > generation
    leaf, issuing = x509.load_pem_x509_certificates(device.pair().chain_pem)
    assert leaf.issuer == issuing.subject


# --- before there is a credential --------------------------------------------------------------------


def test_retry_after_is_kept_from_the_first_registration_on(make, cloud):
    cloud.faults(register(429, retry_after=45))
    device = make().configure(top="cloud_retries = 0").start()
    failed = device.until_record(event_is("registration-failed"))
    assert failed["event"]["retry_after_ms"] == 45_000
    assert failed["state"] == "Unprovisioned"
    (armed,) = [one for one in effects_of([failed], "arm-delay") if one["name"] == "attempt"]
    assert armed["delay_ms"] >= 45_000
    # A restart is no way around it.
    device.kill()
    cloud.faults()
    device.start()
    started = device.until_record(event_is("started"), failed["sequence"] + 1)
    assert started["state"] == "Unprovisioned"
    (again,) = [one for one in effects_of([started], "arm-delay") if one["name"] == "attempt"]
    assert 0 < again["delay_ms"] <= armed["delay_ms"]
    # A person's word is.
    device.command("reprovision")
    device.until_provisioned()


def test_a_certificateless_enrolment(make, cloud):
    """Without a certificate in Registering; not by a renewal later."""
    cloud.options(identity_certs=False)
    device = make().start()
    status = device.until_provisioned()
    assert status["credential"]["source"] == "configured"
    assert device.pair() is None
    assert device.certificate("aziot-dps-identity-cert").status == 400
    submits = effects_of(device.records(), "submit-registration")
    assert [submit["generation"] is not None for submit in submits] == [True, False]

    cloud.options(identity_certs=True)
    device.attempt("reprovision")
    assert device.status()["credential"]["source"] == "issued"
    pair = device.pair()

    cloud.options(identity_certs=False)
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.status()["credential"]["source"] == "issued"
    assert device.status()["attempt"]["last_error"]["code"] == "csr-not-configured"
    assert device.pair() == pair

    device.attempt("reprovision")
    assert device.status()["credential"]["source"] == "configured", "the operator's word"
    assert device.pair() is None


def test_an_expired_certificate_is_replaced_when_the_cloud_is_back(make, cloud):
    cloud.options(cert_lifetime_s=1)
    device = make().start()
    device.until_record(event_is("credential-committed"))
    cloud.faults(register(503))
    status = device.until(
        lambda status: status["state"] == "Reprovisioning" and status["phase"] == "Idle" and status["attempt"]
    )
    old = device.pair()
    assert old is not None, "kept beyond its end"
    assert device.certificate("aziot-dps-identity-cert").json["pem"].encode() == old.chain_pem
    assert "expired" in status["reason"]
    cloud.faults()
    cloud.options(cert_lifetime_s=3600)
    device.until_provisioned()
    assert device.pair().generation > old.generation


def test_nobody_answers_at_all(make, cloud):
    device = make()
    device.config.write_text(device.config.read_text().replace(cloud.endpoint, "https://localhost:1"))
    device.start()
    failed = device.until_record(event_is("registration-failed"))
    assert (failed["event"]["class"], failed["event"]["code"]) == ("retry", "unreachable")
    assert device.status()["next"]["at"]


def test_a_cloud_that_is_not_trusted(make):
    device = make()
    device.configure(ca_file=False).start()
    failed = device.until_record(event_is("registration-failed"))
    assert (failed["event"]["class"], failed["event"]["code"]) == ("operator", "tls-untrusted")
    assert device.status()["stuck"]
