"""A reload as an operator does it: real processes, real clients at work meanwhile, none of which fails."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.curl import as_another_user, curl
from tests.service.device import WITHIN_S, ask, event_is, hang_up

RELOADS = 8
"At least."
ROUND, ROUNDS = 20, 10
"Requests of one run of curl, on one connection; and how often each client runs it at least."


@contextmanager
def clients(device) -> Iterator[tuple[list[str], dict[str, int]]]:
    """``curl`` in a loop at every API socket; yields what each said that failed, and how often each ran."""
    run = device.root / "run/aziot"
    asked = {
        run / "certd.sock": "/certificates/aziot-dps-identity-cert?api-version=2020-09-01",
        run / "keyd.sock": "/keypair/aziot-dps-identity-cert-key?api-version=2021-05-01",
        run / "identityd.sock": "/identities/provisioning?api-version=2021-12-01",
        run / "workload.sock": "/trust-bundle?api-version=2022-08-03",
        run / "control.sock": "/v1/status",
    }
    failures: list[str] = []
    rounds = {socket.name: 0 for socket in asked}
    over = threading.Event()

    def loop(socket: Path, target: str) -> None:
        while not over.is_set():
            words = ["curl", "-sS", "--fail", "--fail-early", "--unix-socket", str(socket)]
            words += [f"http://localhost{target}"] * ROUND
            done = subprocess.run(words, capture_output=True, timeout=WITHIN_S)
            rounds[socket.name] += 1
            if done.returncode != 0:
                failures.append(f"{socket.name}: {done.returncode} {done.stderr.decode()}")

    threads = [threading.Thread(target=loop, args=one) for one in asked.items()]
    for thread in threads:
        thread.start()
    try:
        yield failures, rounds
    finally:
        over.set()
        for thread in threads:
            thread.join(WITHIN_S)


def reload(device, expected: int = 200):
    answer = ask(device.control, "/v1/reload", "POST")
    assert answer.status == expected, answer.body
    return answer.json


def effects(answer) -> dict[str, str]:
    return {key["key"]: key["effect"] for key in answer["keys"]}


@pytest.fixture
def running(make):
    device = make("device").start()
    device.until_provisioned()
    return device


def test_no_request_is_lost_while_the_configuration_is_read_again_and_again(running):
    number = 0
    with clients(running) as (failures, rounds):
        while number < RELOADS or (min(rounds.values()) < ROUNDS and not failures):
            running.configure(top=f"cloud_retries = {number % 5 + 2}")
            if number % 2:
                assert effects(reload(running)) == {"cloud_retries": "now"}
            else:
                start = running.status()["sequence"] + 1
                hang_up(running.process)
                running.until_record(event_is("configuration-changed"), start)
            if number == RELOADS // 2:
                running.config.write_text("[provisioning\n")
                assert reload(running, 409)["findings"]
            number += 1
    assert failures == []
    assert running.status()["state"] == "Provisioned"


def test_many_at_once_are_read_one_after_the_other(running):
    running.configure(top="cloud_retries = 3")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(reload(running))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert len(answers) == 6
    assert [effects(one) for one in answers].count({"cloud_retries": "now"}) == 1
    assert [effects(one) for one in answers].count({}) == 5
    assert len({one["sequence"] for one in answers}) == 6


def test_an_invalid_file_leaves_what_is_in_force_and_says_so_until_it_is_mended(running):
    before = running.status()
    running.configure(top="cloud_retries = -3\ncloud_timeout_sec = 0")
    status, output = running.run("config", "reload")
    assert status == 1
    assert "cloud_retries" in output
    assert "cloud_timeout_sec" in output, "every mistake at once"
    now = running.status()
    assert "not usable, the one before stays" in str(now["degraded"])
    assert (now["state"], now["credential"]) == (before["state"], before["credential"])

    status, output = running.run("config", "reload", "--json")
    assert status == 1
    refused = json.loads(output)
    assert refused["outcome"] == "refused"
    assert len(refused["findings"]) == 2

    running.configure(top="cloud_retries = 3")
    status, output = running.run("config", "reload")
    assert status == 0
    assert "in force" in output
    assert "cloud_retries" in output
    assert running.status()["degraded"] == []
    status, output = running.run("config", "reload")
    assert (status, output) == (0, "configuration reloaded; nothing has changed")


def test_what_waits_for_a_restart_is_said_until_it_has_come(running):
    running.configure(more="[identityd.limits]\nconnections = 9\n[aziot_max_requests]\nkeyd = 3")
    waiting = {"identityd.limits.connections": "restart", "aziot_max_requests.keyd": "restart"}
    assert effects(reload(running)) == waiting
    assert effects(reload(running)) == waiting, "it is as true as before"
    (note,) = running.status()["degraded"]
    assert "restart" in note
    assert "identityd.limits.connections" in note
    status, output = running.run("config", "reload")
    assert status == 0
    assert "after a restart of the service:\n    aziot_max_requests.keyd" in output
    running.stop()
    running.start()
    assert running.status()["degraded"] == []
    assert effects(reload(running)) == {}


def test_another_registration_id_leads_to_a_reprovision_and_is_told(running):
    before = running.pair()
    running.name = "device-renamed"
    answer = reload(running.configure())
    assert effects(answer) == {"provisioning.attestation.registration_id": "reprovision"}
    record = running.until_record(event_is("configuration-changed"), answer["sequence"])
    assert record["state"] == "Reprovisioning"
    running.until(
        lambda status: (
            status["state"] == "Provisioned" and status["assignment"]["device_id"] == "device-renamed"
        )
    )
    assert running.pair().generation > before.generation


def test_a_reload_without_a_service_says_that_there_is_none(make):
    status, output = make("device").run("config", "reload")
    assert status == 3
    assert "no service answers" in output


@pytest.mark.skipif(not as_another_user(), reason="needs root to become another user")
def test_principals_of_the_control_socket_come_and_go_with_the_configuration(running):
    operator, nobody = 12345, 12346
    for directory in (running.root.parent, running.root):
        os.chmod(directory, 0o711)

    def status_of(uid: int, command: str = "reload") -> int:
        return curl(running.control, f"http://localhost/v1/{command}", method="POST", uid=uid).status

    os.chmod(running.control, 0o666)
    assert status_of(operator) == 403
    running.configure(more=f"[identityd.control]\nprincipals = [{operator}]")
    assert effects(reload(running)) == {"identityd.control.principals": "now"}
    assert status_of(operator) == 200
    assert status_of(operator, "renew") == 202
    assert status_of(nobody) == 403
    running.configure()
    assert status_of(operator) == 200, "the one that takes his right from him"
    assert status_of(operator) == 403
