"""Every metric of this service as data, and the text in which Prometheus reads them.

Names follow Prometheus' conventions: base units, ``_total`` for what only counts up. All begin with
``identityd_``, the start of the process too: the node exporter puts a text file's metrics beside its own,
and refuses all of them when ``process_start_time_seconds`` is there twice. No label holds a name of a device,
a hub or a person: which device it is, the scraper knows.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from msgspec import Struct

MAX_SERIES = 64
"Of one metric. A peer may answer with whatever status it likes; further ones are counted together."
OTHER = "other"
"The label value of those."

_NETWORK_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DISK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metric(Struct, frozen=True, kw_only=True):
    """One metric: all its series share name, kind and labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    "One sentence: the HELP line, and the reference page."
    labels: Mapping[str, str] = {}
    "Name, and what its values are."
    buckets: tuple[float, ...] = ()
    "Of a histogram: upper bounds, ascending; one without a bound is added."
    absent: str = ""
    "When there is no such series, for gauges that a device may not have."


BUILD_INFO = Metric(
    name="identityd_build_info",
    kind="gauge",
    meaning="Always 1; the label says which release runs.",
    labels={"version": "of this software"},
)
PROVISIONING_INFO = Metric(
    name="identityd_provisioning_info",
    kind="gauge",
    meaning="Always 1; the labels say where the identity comes from.",
    labels={"source": "`dps`, `manual` or `none`", "method": "`symmetric_key`, `x509` or `none`"},
)
START_TIME = Metric(
    name="identityd_process_start_time_seconds",
    kind="gauge",
    meaning="When the process started, by the present clock.",
)
STATE = Metric(
    name="identityd_state",
    kind="gauge",
    meaning="1 for the state the device is in, 0 for the others.",
    labels={"state": "Unprovisioned, Registering, Provisioned, CertExpiring, Renewing or Reprovisioning"},
)
STUCK = Metric(
    name="identityd_stuck",
    kind="gauge",
    meaning="1 while somebody has to act; `identityd status` says what to do.",
)
DEGRADED = Metric(
    name="identityd_degraded",
    kind="gauge",
    meaning="How many things the service works around; `identityd status` names them.",
)
HOLD = Metric(
    name="identityd_hold",
    kind="gauge",
    meaning="1 while attempts are on hold.",
)
NOT_BEFORE = Metric(
    name="identityd_certificate_not_before_timestamp_seconds",
    kind="gauge",
    meaning="When the identity certificate in use begins.",
    absent="no certificate was issued",
)
NOT_AFTER = Metric(
    name="identityd_certificate_not_after_timestamp_seconds",
    kind="gauge",
    meaning="When the identity certificate in use ends.",
    absent="no certificate was issued",
)
RENEWAL_DUE = Metric(
    name="identityd_renewal_due_timestamp_seconds",
    kind="gauge",
    meaning="The instant drawn for the renewal of that certificate.",
    absent="no certificate was issued",
)
ONBOARDING_NOT_AFTER = Metric(
    name="identityd_onboarding_certificate_not_after_timestamp_seconds",
    kind="gauge",
    meaning="When the configured certificate ends, the only way back to DPS.",
    absent="the configured credential is a symmetric key, or cannot be read",
)
CLOCK_TRUSTED = Metric(
    name="identityd_clock_trusted",
    kind="gauge",
    meaning="1 while the device's clock is believed; otherwise nothing is declared expired.",
)
ATTEMPTS = Metric(
    name="identityd_attempts_total",
    kind="counter",
    meaning="Attempts to obtain a credential that ended since the process started.",
    labels={
        "outcome": "`succeeded` or `failed`",
        "class": "of the failure: what is done about it; empty for a success",
    },
)
FAILED_IN_A_ROW = Metric(
    name="identityd_attempts_failed_in_a_row",
    kind="gauge",
    meaning="Attempts that failed since the last one that succeeded, restarts included.",
)
CLOUD_REQUESTS = Metric(
    name="identityd_cloud_requests_total",
    kind="counter",
    meaning="HTTP exchanges with DPS and IoT Hub, repeats included.",
    labels={
        "peer": "`dps` or `hub`",
        "result": "the HTTP status, or the failure code when there was no answer",
    },
)
CLOUD_SECONDS = Metric(
    name="identityd_cloud_request_duration_seconds",
    kind="histogram",
    meaning="How long they took, from name resolution to the last byte, or to the failure.",
    labels={"peer": "`dps` or `hub`"},
    buckets=_NETWORK_S,
)
JOURNAL_BYTES = Metric(
    name="identityd_journal_bytes",
    kind="gauge",
    meaning="Size of the journal's files together, those set aside left out.",
    absent="the journal could not be opened yet",
)
JOURNAL_AVAILABLE = Metric(
    name="identityd_journal_available",
    kind="gauge",
    meaning="0 while the journal cannot be written: nothing is decided meanwhile.",
)
JOURNAL_SYNC_SECONDS = Metric(
    name="identityd_journal_sync_duration_seconds",
    kind="histogram",
    meaning="How long a record took to be on the disk.",
    buckets=_DISK_S,
)
REQUESTS = Metric(
    name="identityd_requests_total",
    kind="counter",
    meaning="Requests on the local sockets that were answered; a stream counts when it ends.",
    labels={"socket": "`certd`, `keyd`, `identityd`, `workload` or `control`", "status": "the HTTP status"},
)
REQUESTS_IN_FLIGHT = Metric(
    name="identityd_requests_in_flight",
    kind="gauge",
    meaning="Requests on the local sockets that are being worked on; a scrape sees itself.",
    labels={"socket": "as above"},
)
TURNED_AWAY = Metric(
    name="identityd_requests_turned_away_total",
    kind="counter",
    meaning="Requests and connections over a limit of `[identityd.limits]` or `[aziot_max_requests]`.",
    labels={"socket": "as above"},
)

METRICS: tuple[Metric, ...] = (
    BUILD_INFO,
    PROVISIONING_INFO,
    START_TIME,
    STATE,
    STUCK,
    DEGRADED,
    HOLD,
    NOT_BEFORE,
    NOT_AFTER,
    RENEWAL_DUE,
    ONBOARDING_NOT_AFTER,
    CLOCK_TRUSTED,
    ATTEMPTS,
    FAILED_IN_A_ROW,
    CLOUD_REQUESTS,
    CLOUD_SECONDS,
    JOURNAL_BYTES,
    JOURNAL_AVAILABLE,
    JOURNAL_SYNC_SECONDS,
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    TURNED_AWAY,
)
"In the order in which they are written."

Labels = tuple[str, ...]
"Values, in the order of the metric's labels."


class Distribution:
    """One series of a histogram. One thread writes it; whoever reads sees whole observations."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        "Of each bucket by itself."
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Readings:
    """Values by metric and labels. What is not set is not written."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, float]] = {}
        self._distributions: dict[str, dict[Labels, Distribution]] = {}

    def set(self, metric: Metric, value: float | None, *labels: str) -> None:
        """None takes the series away."""
        series = self._values.setdefault(metric.name, {})
        if value is None:
            series.pop(labels, None)
        else:
            series[_within(series, labels)] = value

    def add(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """0 makes a series known: a counter that appears at 1 was never seen to grow."""
        series = self._values.setdefault(metric.name, {})
        place = _within(series, labels)
        series[place] = series.get(place, 0) + by

    def distribution(self, metric: Metric, *labels: str) -> Distribution:
        series = self._distributions.setdefault(metric.name, {})
        return series.setdefault(_within(series, labels), Distribution(metric.buckets))

    def samples(self, metric: Metric) -> Iterator[tuple[str, float]]:
        """Each line's left side and its value."""
        names = tuple(metric.labels)
        for labels, value in self._values.get(metric.name, {}).items():
            yield metric.name + _braces(zip(names, labels, strict=True)), value
        for labels, one in self._distributions.get(metric.name, {}).items():
            pairs, sofar = list(zip(names, labels, strict=True)), 0
            for bound, count in zip((*metric.buckets, math.inf), tuple(one.counts), strict=True):
                sofar += count
                yield f"{metric.name}_bucket{_braces([*pairs, ('le', _number(bound))])}", sofar
            yield f"{metric.name}_sum{_braces(pairs)}", one.total
            yield f"{metric.name}_count{_braces(pairs)}", sofar


def exposition(readings: Readings) -> bytes:
    """Prometheus text, version 0.0.4. A metric without a series is left out whole."""
    lines = []
    for metric in METRICS:
        samples = [f"{left} {_number(value)}" for left, value in readings.samples(metric)]
        if samples:
            lines += [
                f"# HELP {metric.name} {_escaped(metric.meaning)}",
                f"# TYPE {metric.name} {metric.kind}",
                *samples,
            ]
    return "".join(f"{line}\n" for line in lines).encode()


def _within(series: Mapping[Labels, object], labels: Labels) -> Labels:
    known = labels in series or len(series) < MAX_SERIES
    return labels if known else tuple(OTHER for _ in labels)


def _braces(pairs: Iterable[tuple[str, str]]) -> str:
    inside = ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in pairs)
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
