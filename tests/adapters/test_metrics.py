"""The metrics as data and as text: conventions hold, and the official client reads what is written."""

import math
import re
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.driving.control import METRICS_TYPE, control_handler
from adapters.metrics import (
    ATTEMPTS,
    BUILD_INFO,
    CLOUD_REQUESTS,
    CLOUD_SECONDS,
    JOURNAL_BYTES,
    JOURNAL_SYNC_SECONDS,
    MAX_SERIES,
    METRICS,
    NOT_AFTER,
    Metric,
    Readings,
    exposition,
)
from adapters.wire.http_server import Peer, Request
from tests.adapters.unix_peer import Machine, over_a_socket

PROMTOOL = shutil.which("promtool")


def families(text: bytes) -> dict:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def samples(text: bytes, name: str) -> dict:
    return {
        tuple(sample.labels.values()): sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name
    }


def everything() -> Readings:
    """A reading in which no metric is without a series."""
    readings = Readings()
    for metric in METRICS:
        labels = [f"some {name}" for name in metric.labels]
        if metric.kind == "histogram":
            readings.distribution(metric, *labels).add(0.3)
        else:
            readings.set(metric, 7, *labels)
    return readings


# --- as data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"identityd_[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|minutes|kib|percent)\b", metric.name), "base units"
    if "timestamp" in metric.name or metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
    assert not metric.name.endswith(("_count", "_sum", "_bucket")), "histograms have these"
    assert metric.meaning.endswith(".")
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) and about for name, about in metric.labels.items())
    assert not set(metric.labels) & {"job", "instance", "le", "quantile"}
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_names_are_given_once() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
def test_promtool_has_nothing_to_say() -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=exposition(everything()), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


# --- as text -----------------------------------------------------------------------------------------


def test_the_official_client_reads_everything() -> None:
    text = exposition(everything())
    read = families(text)
    assert len(read) == len(METRICS)
    for metric in METRICS:
        family = read[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        for sample in family.samples:
            labels = {name: f"some {name}" for name in metric.labels}
            assert labels.items() <= sample.labels.items()


def test_nothing_is_nothing() -> None:
    assert exposition(Readings()) == b""


@pytest.mark.parametrize(
    "value", ['quote " it', "back\\slash", "line\nend", "\\n is not a line end", "ünï", "}", ""]
)
def test_a_label_comes_back_as_it_was(value: str) -> None:
    readings = Readings()
    readings.set(BUILD_INFO, 1, value)
    assert samples(exposition(readings), BUILD_INFO.name) == {(value,): 1}


@pytest.mark.parametrize(
    "value", [0, 1, -3, 0.25, 1e-7, 1.5e300, 1_796_103_251.25, 2**40, math.inf, -math.inf]
)
def test_a_value_comes_back_as_it_was(value: float) -> None:
    readings = Readings()
    readings.set(JOURNAL_BYTES, value)
    assert samples(exposition(readings), JOURNAL_BYTES.name) == {(): value}


def test_whole_numbers_are_written_whole() -> None:
    readings = Readings()
    readings.set(JOURNAL_BYTES, 3.0)
    assert exposition(readings).splitlines()[-1] == b"identityd_journal_bytes 3"


def test_a_series_can_go() -> None:
    readings = Readings()
    readings.set(NOT_AFTER, 5)
    readings.set(NOT_AFTER, None)
    readings.set(NOT_AFTER, None)
    assert exposition(readings) == b""


def test_counters_add_up_and_are_known_from_the_start() -> None:
    readings = Readings()
    readings.add(ATTEMPTS, "failed", "retry", by=0)
    readings.add(ATTEMPTS, "succeeded", "")
    readings.add(ATTEMPTS, "succeeded", "")
    assert samples(exposition(readings), ATTEMPTS.name) == {("failed", "retry"): 0, ("succeeded", ""): 2}


def test_a_histogram_is_cumulative() -> None:
    readings = Readings()
    for seconds in (0.0005, 0.0006, 0.003, 60):
        readings.distribution(JOURNAL_SYNC_SECONDS).add(seconds)
    text = exposition(readings)
    name = JOURNAL_SYNC_SECONDS.name
    counts = {bound: count for (bound,), count in samples(text, f"{name}_bucket").items()}
    assert (counts["0.0005"], counts["0.001"], counts["0.005"], counts["5"], counts["+Inf"]) == (
        1,
        2,
        3,
        3,
        4,
    )
    assert samples(text, f"{name}_count") == {(): 4}
    assert samples(text, f"{name}_sum")[()] == pytest.approx(60.0041)


def test_series_of_one_metric_are_bounded() -> None:
    """A hub that answers with every number there is fills no memory."""
    readings = Readings()
    for status in range(1000):
        readings.add(CLOUD_REQUESTS, "hub", str(status))
        readings.distribution(CLOUD_SECONDS, str(status)).add(1)
    found = samples(exposition(readings), CLOUD_REQUESTS.name)
    assert len(found) == MAX_SERIES + 1
    assert found["other", "other"] == 1000 - MAX_SERIES
    assert sum(found.values()) == 1000
    assert len(samples(exposition(readings), f"{CLOUD_SECONDS.name}_count")) == MAX_SERIES + 1


# --- on the socket -----------------------------------------------------------------------------------


def test_the_control_socket_serves_them() -> None:
    text = exposition(everything())
    handler = control_handler(Machine(), own_uid=990, machine=lambda: b"{}", metrics=lambda: text)
    response = over_a_socket(handler, Request("GET", "/metrics", peer=Peer(uid=4242)))
    assert (response.status, response.content_type, response.body) == (200, METRICS_TYPE, text)
