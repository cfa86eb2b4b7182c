"""Metrics and log of a real service: curl, the official parser, a file for collectors, and no secrets."""

import base64
import json
import os
import select
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.metrics import METRICS
from tests.service.curl import curl
from tests.service.device import REPOSITORY, WITHIN_S, Device, Process, ask, hang_up

NONE = '[provisioning]\nsource = "none"\n'


class Scrape:
    """What curl brought from /metrics."""

    def __init__(self, control: Path) -> None:
        said = curl(control, "http://localhost/metrics")
        assert said.status == 200
        self.families = list(text_string_to_metric_families(said.body.decode()))
        self.text = said.body

    def __getitem__(self, name: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(sample.labels.values()): sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name
        }


def unix_s(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


# --- figures -----------------------------------------------------------------------------------------


def test_a_life_in_figures(make, cloud):
    """Every figure against what the status, the disk and the cloud say of the same life."""
    device = make().configure(top="cloud_retries = 0").start()
    device.until_provisioned()
    status, scrape = device.status(), Scrape(device.control)
    assert {family.name for family in scrape.families} == {
        metric.name.removesuffix("_total")
        for metric in METRICS
        # A symmetric key has no dates.
        if metric.name != "identityd_onboarding_certificate_not_after_timestamp_seconds"
    }
    assert scrape["identityd_state"]["Provisioned",] == 1
    assert sum(scrape["identityd_state"].values()) == 1
    assert scrape["identityd_build_info"] == {(status["version"],): 1}
    assert scrape["identityd_provisioning_info"] == {("dps", "symmetric_key"): 1}
    credential = status["credential"]
    for name, member in (("not_before", "not_before"), ("not_after", "not_after")):
        assert scrape[f"identityd_certificate_{name}_timestamp_seconds"][()] == unix_s(credential[member])
    assert scrape["identityd_renewal_due_timestamp_seconds"][()] == pytest.approx(
        unix_s(status["next"]["at"])
    )
    assert scrape["identityd_attempts_total"]["succeeded", ""] == 1
    assert scrape["identityd_cloud_requests_total"] == {
        ("dps", "202"): 1,
        ("dps", "200"): 1,
        ("hub", "200"): 1,
    }
    assert scrape["identityd_cloud_request_duration_seconds_count"] == {("dps",): 2, ("hub",): 1}
    assert scrape["identityd_journal_bytes"][()] == device.journal.stat().st_size
    assert scrape["identityd_journal_sync_duration_seconds_count"][()] == status["sequence"]
    assert scrape["identityd_requests_in_flight"]["control",] == 1, "the scrape itself"

    cloud.faults({"on": "register", "kind": "status", "status": 401})
    device.attempt("renew")
    said = curl(device.certd, "http://localhost/certificates/none?api-version=2020-09-01")
    again = Scrape(device.control)
    assert again["identityd_attempts_total"]["failed", "operator"] == 1
    assert again["identityd_attempts_failed_in_a_row"][()] == 1
    assert again["identityd_stuck"][()] == 1
    assert again["identityd_cloud_requests_total"]["dps", "401"] == 1
    assert again["identityd_requests_total"]["certd", str(said.status)] == 1
    status_sum = sum(again["identityd_requests_total"].values())
    assert status_sum > sum(scrape["identityd_requests_total"].values())

    cloud.faults()
    device.kill()
    device.start()
    device.attempt("renew")
    after = Scrape(device.control)
    assert after["identityd_attempts_total"]["failed", "operator"] == 0, "counters are the process's"
    assert after["identityd_stuck"][()] == 0


def test_a_cloud_that_cannot_be_reached(make):
    device = make().configure(top="cloud_retries = 1")
    text = device.config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    device.config.write_text(text.replace(device.cloud.endpoint, f"https://localhost:{port}"))
    device.start()
    device.until_record(lambda record: record["event"]["type"] == "registration-failed")
    scrape = Scrape(device.control)
    assert scrape["identityd_cloud_requests_total"]["dps", "unreachable"] >= 2
    assert scrape["identityd_state"]["Registering",] + scrape["identityd_state"]["Unprovisioned",] == 1


def test_the_command_prints_what_the_socket_says(provisioned):
    provisioned.start()
    Scrape(provisioned.control)  # or that of the command would be the first request to be counted
    status, told = provisioned.run("metrics")
    assert status == 0
    names = {family.name for family in text_string_to_metric_families(told)}
    assert names == {family.name for family in Scrape(provisioned.control).families}
    assert all(family.samples for family in text_string_to_metric_families(told))


def test_without_a_service_it_says_so(place):
    process = Process("metrics", "--root", str(place))
    assert process.wait() == 3
    assert "no service answers" in process.log


# --- the file ----------------------------------------------------------------------------------------


def until(condition, what):
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.02)


def test_a_file_for_the_node_exporter(provisioned, place):
    path = place / "identityd.prom"
    device = provisioned
    device.process = Process("run", "--root", str(device.root), "--metrics-file", str(path))
    device.process.until_line("READY")
    until(path.exists, "no file")
    text = path.read_text()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert all(name.startswith("identityd_") for name in names), "names of the exporter's own are taken"
    assert 'identityd_state{state="Provisioned"} 1' in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [one.name for one in place.glob("*.prom*")] == [path.name]
    assert device.stop() == 0
    assert not path.exists()


def test_a_file_that_cannot_be_written_costs_nothing(provisioned, place):
    device = provisioned
    device.process = Process("run", "--root", str(device.root), "--metrics-file", str(place / "no/such.prom"))
    line = device.process.until_line("metrics file")
    assert "level=warn" in line
    assert "No such file or directory" in line
    assert device.status()["state"] == "Provisioned"


# --- the log -----------------------------------------------------------------------------------------


def alone(place: Path, more: str = "") -> Device:
    """Without a cloud."""
    device = Device(place / "alone", None)
    device.config.parent.mkdir(parents=True)
    device.config.write_text(NONE + more)
    return device


@pytest.fixture
def lone(place):
    made = []

    def make(more=""):
        made.append(alone(place, more))
        return made[-1]

    yield make
    for device in made:
        device.kill()


def test_json_and_level_take_effect_with_a_reload(lone):
    device = lone().start()
    assert device.process.lines[0].startswith("time=")
    device.config.write_text(NONE + '[identityd.log]\nformat = "json"\n')
    hang_up(device.process)
    told = json.loads(device.process.until_line('"msg":"configuration reloaded'))
    assert (told["level"], sorted(told)) == ("info", ["level", "msg", "time"])
    device.config.write_text(NONE + '[identityd.log]\nformat = "json"\nlevel = "error"\n')
    hang_up(device.process)
    device.until_record(
        lambda record: record["event"]["type"] == "configuration-changed" and record["sequence"] >= 3
    )
    ask(device.control, "/v1/status")
    assert device.stop() == 0
    assert "STOPPED" not in device.log


def test_json_from_the_first_record_on(lone):
    device = lone('[identityd.log]\nformat = "json"\n').start()
    assert device.stop() == 0
    lines = [json.loads(line) for line in device.log.splitlines() if line]
    assert [line["msg"] for line in lines if "sequence" not in line] == ["READY Unprovisioned", "STOPPED"]
    started = next(line for line in lines if line.get("event") == "started")
    assert (started["sequence"], started["state"]) == (1, "Unprovisioned")


def test_aziot_log_outdoes_the_file(lone):
    device = lone('[identityd.log]\nlevel = "debug"\n')
    device.start(ready=False, AZIOT_LOG="ERROR")

    def has_started():
        try:
            return device.status()["sequence"] > 0
        except OSError:
            return False

    until(has_started, "no answer")
    assert device.stop() == 0
    assert device.log.strip() == ""


def test_in_the_journal_every_line_has_its_priority(lone):
    """As systemd does it: standard error is a stream whose device and inode JOURNAL_STREAM names."""
    device = lone()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            status = os.fstat(theirs.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "adapters", "run", "--root", str(device.root)],
                cwd=REPOSITORY,
                stderr=theirs,
                env=os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            )
        try:
            ours.settimeout(WITHIN_S)
            told = b""
            while b"READY" not in told:
                told += ours.recv(65536)
            process.terminate()
            while piece := ours.recv(65536):
                told += piece
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()
            process.wait()
    lines = told.decode().splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("<6>time=") for line in lines), lines


# --- no secret by any way ----------------------------------------------------------------------------

KEY = bytes(range(7, 39))
IMPORTED = bytes(range(40, 104))
PASSWORD, PIN = "pr0xy-p4ssw0rd", "4711-pin"


def forms_of(secret: bytes) -> set[bytes]:
    text = base64.b64encode(secret).decode()
    return {
        secret,
        secret.hex().encode(),
        text.encode(),
        text.rstrip("=").encode(),
        base64.urlsafe_b64encode(secret),
        quote(text, safe="").encode(),
        repr(secret)[2:-1].encode(),
    }


def signing(handle: str) -> dict[str, object]:
    return {"keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": {"message": "aGVsbG8="}}


def test_no_secret_leaves_by_any_sink(lone, place):
    """A device that has one of each, people who put each in the wrong place, and every way out."""
    key_text = base64.b64encode(KEY).decode()
    device = lone()
    connection = f"HostName=hub.example;DeviceId=device;SharedAccessKey={key_text}"
    good = (
        f'cloud_retries = 0\ncloud_timeout_sec = 2\n[provisioning]\nsource = "manual"\n'
        f'connection_string = "{connection}"\n'
        '[localid]\ndomain = "plant.example"\n'
        '[cert_issuance.local_ca]\ncert = { method = "self_signed", common_name = "plant CA" }\n'
    )
    device.config.write_text(good)
    drop_in = device.config.parent / "certd/config.d/web.toml"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text('[cert_issuance]\nweb = { method = "local_ca" }\n')
    device.process = Process(
        "run",
        "--root",
        str(device.root),
        "--metrics-file",
        str(place / "m.prom"),
        AZIOT_LOG="trace",
        HTTPS_PROXY=f"http://operator:{PASSWORD}@127.0.0.1:9",
    )
    device.process.until_line("READY")
    secrets = forms_of(KEY) | forms_of(IMPORTED) | {PASSWORD.encode(), PIN.encode()}
    keyd, identityd = device.root / "run/aziot/keyd.sock", device.root / "run/aziot/identityd.sock"
    v = "api-version=2021-05-01"

    # What is asked for is given: handles and a private key, to the one who asked.
    body = json.dumps({"keyId": "k", "keyBytes": base64.b64encode(IMPORTED).decode(), "usage": "sign,derive"})
    handle = curl(keyd, f"http://localhost/key?{v}", data=body).json["keyHandle"]
    secrets.add(handle.partition("sig=")[2].encode())
    wanted = '{"type":"local","moduleId":"web","localIdOpts":{"type":"x509","attributes":"client"}}'
    modules = "http://localhost/identities/modules?api-version=2020-09-01"
    local = curl(identityd, modules, data=wanted)
    assert local.status == 200, local
    private_key = local.json["spec"]["auth"]["privateKey"]
    secrets |= {line.encode() for line in private_key.splitlines() if "-----" not in line}

    # And put where it does not belong.
    answers = [
        curl(keyd, f"http://localhost/sign?{v}", data=json.dumps(signing(handle + "x"))),
        curl(keyd, f"http://localhost/sign?{v}", data=json.dumps(signing(private_key))),
        curl(keyd, f"http://localhost/keypair?{v}", data=json.dumps({"keyId": private_key})),
        curl(identityd, modules, data=wanted.replace('"web"', json.dumps(private_key))),
        curl(keyd, f"http://localhost/key/{quote(handle, safe='')}?{v}"),
        curl(keyd, f"http://localhost/{quote(handle, safe='')}?{v}"),
        curl(keyd, f"http://localhost/key?{v}&{quote(handle, safe='')}=1"),
        curl(
            device.certd, f"http://localhost/certificates/{quote(key_text, safe='')}?api-version=2020-09-01"
        ),
        curl(device.control, f"http://localhost/{quote(handle, safe='')}"),
        curl(device.control, f"http://localhost/v1/events?from={quote(handle, safe='')}"),
        curl(device.control, "http://localhost/v1/status", options=["-H", f"Authorization: {handle}"]),
    ]
    for mistake in (
        good.replace("connection_string =", "connection_strin ="),
        good.replace('"manual"', f'"{key_text}"'),
        good.replace(connection, connection + "="),
        good + f'[preloaded_keys]\nk = "pkcs11:token=t;object=o?pin-value={PIN}"\n',
        good + f'[identityd.log]\nformat = "{connection}"\n',
        good + f"{connection}\n",
    ):
        before = len(device.process.lines)
        device.config.write_text(mistake)
        answers.append(curl(device.control, "http://localhost/v1/reload", method="POST"))
        answers.append(curl(device.control, "http://localhost/v1/status"))
        assert len(device.process.lines) >= before
    device.config.write_text(good)
    curl(device.control, "http://localhost/v1/reload", method="POST")
    device.command("reprovision")
    device.until_record(lambda record: record["event"]["type"] == "credential-proof-failed")

    until((place / "m.prom").exists, "no metrics file")
    told = [answer.body for answer in answers]
    for target in ("/v1/status", "/v1/machine", "/metrics"):
        told.append(curl(device.control, f"http://localhost{target}").body)
    for words in (("status",), ("status", "--json"), ("explain",), ("metrics",), ("journal", "show")):
        told.append(device.run(*words)[1].encode())
    told += [
        (place / "m.prom").read_bytes(),
        b"\n".join(path.read_bytes() for path in device.state.glob("journal*")),
    ]
    assert device.stop() == 0
    told.append(device.log.encode())

    log = device.log
    assert "credential proof failed" in log, "the proxy was tried"
    assert "not reloaded" in log
    assert "pkcs11" in log or "preloaded_keys" in log
    for secret in secrets:
        for number, text in enumerate(told):
            assert secret not in text, (number, secret, text[max(0, text.find(secret) - 300) :][:600])
    assert any(form in device.config.read_bytes() for form in forms_of(KEY)), (
        "what is looked for can be found"
    )
