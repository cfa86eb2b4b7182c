"""Each fault of the stand-in cloud, over real TLS, and how faults are written down."""

import datetime
import json
import time

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.errors import AdapterError
from adapters.simulators.ca import ENCODED, FLAWS
from adapters.simulators.faults import KINDS, Faults, FaultsInvalid, parse_faults
from adapters.simulators.state import REGISTRATION_ID
from tests.adapters.cloud_device import SEED, SUCCESSORS, chain_of, faulty, run

CHAIN_MEMBER = {SEED: "issuedClientCertificate", SUCCESSORS[1]: "issuedCertificateChain"}


@pytest.fixture(autouse=True)
def quick_trust(tmp_path, monkeypatch):
    """The system's roots take long to load and are not needed here."""
    (tmp_path / "none.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


# --- faults ------------------------------------------------------------------------------------------


def test_a_status_fault_counts_and_says_what_it_is_told(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(
        """
        [[fault]]
        on = "register"
        kind = "status"
        after = 1
        times = 2
        status = 429
        error_code = 429001
        tracking_id = "t-1"
        message = "slow down"
        retry_after = 7
        """
    )

    async def test(device):
        answers = [await device.register() for _ in range(4)]
        report = await device.ask("GET", "/_cloud/faults")
        return answers, json.loads(report.body)["fault"], await device.log()

    answers, report, log = run(test, tmp_path, faults=str(path))
    assert [answer.status for answer in answers] == [202, 429, 429, 202]
    assert answers[1].headers["retry-after"] == "7"
    error = json.loads(answers[1].body)
    del error["timestampUtc"]
    assert error == {"errorCode": 429001, "trackingId": "t-1", "message": "slow down"}
    assert (report[0]["offered"], report[0]["taken"]) == (4, 2)
    assert [entry.get("fault") for entry in log] == [None, "status", "status", None]


@pytest.mark.parametrize("on", ["register", "operation", "hub"])
def test_a_status_fault_anywhere(tmp_path, on):
    async def test(device):
        await device.provision(with_csr=False)
        registered = json.loads((await device.register()).body)["operationId"]
        await device.faults(
            {"on": on, "kind": "status", "status": 503, "retry_after_date": 60, "error_code": 503001}
        )
        return await device.ask_for(on, registered)

    answer = run(test, tmp_path)
    assert answer.status == 503
    assert answer.retry_after_ms(0) == 60_000
    assert b"503001" in answer.body


@pytest.mark.parametrize("version", [SEED, SUCCESSORS[1]])
@pytest.mark.parametrize("flaw", FLAWS)
def test_flawed_chains(tmp_path, flaw, version):
    state, log, key = faulty(
        tmp_path, {"on": "operation", "kind": flaw}, version=version, cert_lifetime_s=600
    )
    assert log[-1]["fault"] == flaw
    assert log[-1]["assigned_unix_ms"] >= log[0]["time_unix_ms"]
    if flaw == "empty_chain":
        assert not state[CHAIN_MEMBER[version]]
        return
    if flaw in ENCODED:
        with pytest.raises(ValueError, match=r".+"):
            chain_of(state, version)
        return
    chain = chain_of(state, version)
    now = datetime.datetime.now(datetime.UTC)
    if flaw == "reordered":
        assert chain[-1].public_key() == key.public_key()
        return
    leaf, issuer = chain[0], next((one for one in chain[1:] if one.subject == chain[0].issuer), None)
    is_ca = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (leaf.public_key() == key.public_key()) == (flaw != "wrong_key")
    assert (leaf.subject.rfc4514_string() == f"CN={REGISTRATION_ID}") == (flaw != "wrong_subject")
    assert (leaf.not_valid_after_utc < now) == (flaw in ("expired", "inverted"))
    assert (leaf.not_valid_after_utc <= leaf.not_valid_before_utc) == (flaw == "inverted")
    assert (leaf.not_valid_before_utc > now) == (flaw == "not_yet_valid")
    assert is_ca == (flaw == "ca_leaf")
    assert (ExtendedKeyUsageOID.CLIENT_AUTH in usage) == (flaw != "wrong_usage")
    assert (issuer is None) == (flaw == "missing_intermediate")
    assert (issuer is not None and issuer.public_key().key_size == 1024) == (flaw == "weak_key")
    assert (len(set(chain)) < len(chain)) == (flaw == "duplicated")
    assert (len(chain) > 16) == (flaw == "too_many")
    names = [one.subject.rfc4514_string() for one in chain]
    assert any("bundle root" in name for name in names) == (flaw in ("extra_certificate", "too_many"))


def test_a_flaw_waits_for_a_chain_that_is_issued(tmp_path):
    async def test(device):
        await device.faults({"on": "operation", "kind": "wrong_key", "times": 1})
        await device.provision(with_csr=False)
        state = (await device.provision())["registrationState"]
        return chain_of(state)[0].public_key() == device.leaf_key.public_key()

    assert run(test, tmp_path, assigning=3) is False


def test_results_that_fail(tmp_path):
    failed = {"on": "operation", "kind": "failed", "error_code": 401002, "message": "no", "tracking_id": "t"}
    state, _, _ = faulty(tmp_path, failed)
    assert (state["status"], state["errorCode"], state["errorMessage"]) == ("failed", 401002, "no")
    assert state["trackingId"] == "t"
    state, _, _ = faulty(tmp_path, {"on": "operation", "kind": "disabled"})
    assert state["status"] == "disabled"
    state, _, _ = faulty(tmp_path, {"on": "operation", "kind": "no_certificate"})
    assert (state["status"], "issuedClientCertificate" in state) == ("assigned", False)
    state, _, _ = faulty(tmp_path, {"on": "operation", "kind": "csr_refused"})
    assert state["errorMessage"] == "Device sent CSR but it is not configured in the service."


def test_a_refused_csr_is_refused_at_once_and_without_it_all_is_well(tmp_path):
    async def test(device):
        await device.faults({"on": "register", "kind": "csr_refused"})
        refused = await device.register()
        return refused, await device.provision(with_csr=False)

    refused, result = run(test, tmp_path)
    assert refused.status == 400
    error = json.loads(refused.body)
    assert error["errorCode"] == 400000
    assert error["message"] == "Device sent CSR but it is not configured in the service."
    assert result["status"] == "assigned"


def test_an_operation_vanishes_for_good(tmp_path):
    async def test(device):
        await device.faults({"on": "operation", "kind": "operation_vanishes", "times": 1})
        operation = json.loads((await device.register()).body)["operationId"]
        return [(await device.poll(operation)).status for _ in range(2)]

    assert run(test, tmp_path) == [404, 404]


@pytest.mark.parametrize(("code", "status"), [(401, 401), (404001, 404)])
def test_the_hub_refuses(tmp_path, code, status):
    async def test(device):
        await device.provision(with_csr=False)
        await device.faults({"on": "hub", "kind": "hub_refuses", "code": code, "times": 1})
        return await device.modules(token=True), await device.modules(token=True)

    refused, accepted = run(test, tmp_path)
    assert (refused.status, accepted.status) == (status, 200)
    assert (b"404001" in refused.body) == (code == 404001)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "stall"}, "timeout"),
        ({"kind": "stall", "where": "body"}, "timeout"),
        ({"kind": "reset"}, "connection-broken"),
        ({"kind": "reset", "bytes": 0}, "connection-broken"),
        ({"kind": "huge_body"}, "answer-too-large"),
    ],
)
@pytest.mark.parametrize("on", ["register", "operation", "hub"])
def test_transport_faults(tmp_path, fault, code, on):
    async def test(device):
        await device.provision(with_csr=False)
        operation = json.loads((await device.register(with_csr=False)).body)["operationId"]
        await device.faults({"on": on, "times": 1, **fault})
        # Only a stall is waited out: the others answer at once.
        with pytest.raises(AdapterError) as caught:
            await device.ask_for(on, operation, timeout_s=0.2 if fault["kind"] == "stall" else 5.0)
        after = await device.ask_for(on, operation)
        return caught.value.code, after.status

    got, status = run(test, tmp_path, assigning=0)
    assert got == code
    assert status in (200, 202)


def test_a_short_stall_ends(tmp_path):
    async def test(device):
        await device.faults(
            {"on": "register", "kind": "stall", "seconds": 0.01, "times": 1},
            {"on": "register", "kind": "stall", "seconds": 0.01, "where": "body"},
        )
        return [json.loads((await device.register()).body)["status"] for _ in range(2)]

    assert run(test, tmp_path) == ["assigning", "assigning"]


def test_answers_that_lie_about_themselves(tmp_path):
    async def test(device):
        await device.faults(
            {"on": "register", "kind": "garbage", "times": 1},
            {"on": "register", "kind": "wrong_content_type", "times": 1},
            {"on": "register", "kind": "date", "seconds": -86_400 * 365, "times": 1},
            {"on": "register", "kind": "status", "status": 502, "body": "<html>"},
        )
        return [await device.register() for _ in range(4)]

    garbage, mislabelled, misdated, foreign = run(test, tmp_path)
    with pytest.raises(ValueError, match=r".+"):
        json.loads(garbage.body)
    assert mislabelled.headers["content-type"] == "text/html"
    assert json.loads(mislabelled.body)["status"] == "assigning"
    assert misdated.date_unix_ms < (time.time() - 86_400 * 364) * 1000
    assert (foreign.status, foreign.body) == (502, b"<html>")


# --- faults as data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[[fault", ["neither TOML nor JSON"]),
        ("[[faults]]\n", ["unknown key faults, valid: fault"]),
        ("fault = 1", ["[[fault]]"]),
        ('{"fault": [1]}', ["not a table"]),
        ('[[fault]]\non = "hub"\nkind = "x"', ["unknown kind x, valid: status, stall, reset"]),
        ('[[fault]]\non = "here"\nkind = "stall"', ["valid: accept, register, operation, hub"]),
        ('[[fault]]\non = "accept"\nkind = "garbage"', ["valid: register, operation, hub"]),
        ('[[fault]]\non = "accept"\nkind = "stall"\nwhere = "body"', ["on accept there is none"]),
        ('[[fault]]\non = "hub"\nkind = "reset"\nwhere = "body"\nbytes = 1', ["not both"]),
        ('[[fault]]\non = "hub"\nkind = "raw"', ["text is needed"]),
        ('[[fault]]\non = "hub"\nkind = "raw"\ntext = "\\u0100"', ["up to U+00FF"]),
        ('[[fault]]\non = "hub"\nkind = "nested_json"\ndepth = 0', ["depth is 1"]),
        ('[[fault]]\non = "hub"\nkind = "date"\nseconds = 1\ntext = "x"', ["seconds is needed, or text"]),
        ('[[fault]]\non = "handshake"\nkind = "server_certificate"\nflaw = "x"', ["valid: expired"]),
        ('[[fault]]\non = "handshake"\nkind = "tls_alert"\nalert = "x"', ["valid: close_notify"]),
        ('[[fault]]\non = "hub"\nkind = "wrong_key"', ["valid: operation"]),
        ('[[fault]]\non = "hub"\nkind = "reset"\nstatus = 1', ["unknown key status", "valid for reset"]),
        ('[[fault]]\non = "hub"\nkind = "status"\nstatus = "x"', ["Expected `int"]),
        ('[[fault]]\non = "hub"\nkind = "status"', ["status is needed"]),
        ('[[fault]]\non = "hub"\nkind = "garbage"\ntimes = 0', ["times at least 1"]),
        ('[[fault]]\non = "hub"\nkind = "date"', ["seconds is needed"]),
        ('[[fault]]\non = "hub"\nkind = "stall"\nseconds = -1', ["not negative"]),
        ('[[fault]]\non = "hub"\nkind = "reset"\nbytes = -1', ["bytes is 0"]),
        ('[[fault]]\non = "hub"\nkind = "hub_refuses"\ncode = 5', ["401 or 404001"]),
        ('[[fault]]\non = "operation"\nkind = "bundle"\nbundle = "x"', ["valid: present, absent"]),
        (
            '[[fault]]\nkind = "x"\n[[fault]]\non = "hub"\nkind = "status"',
            ["fault 1: unknown kind x", "fault 2: status is needed"],
        ),
    ],
)
def test_faults_that_are_wrong_name_what_is_valid(text, problems):
    with pytest.raises(FaultsInvalid) as caught:
        parse_faults(text.encode())
    for problem in problems:
        assert problem in str(caught.value)


def test_the_first_fault_that_applies_wins():
    faults = Faults(
        parse_faults(
            b"""
            [[fault]]
            on = "hub"
            kind = "garbage"
            after = 1
            times = 1
            [[fault]]
            on = "hub"
            kind = "reset"
            """
        )
    )
    assert [faults.take("hub").kind for _ in range(3)] == ["reset", "garbage", "reset"]
    assert faults.take("register") is None


def test_every_kind_is_explained():
    assert all(kind.meaning.endswith(".") or "=" in kind.meaning for kind in KINDS.values())
