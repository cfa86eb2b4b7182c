"""Alert rules and dashboard: every name in them is a metric of this service, and promtool agrees.

promtool comes with Debian's package ``prometheus``; without it the project's own checks remain.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from adapters.metrics import METRICS, Metric
from statemachine.states import State

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "config" / "prometheus-alerts.yml"
DASHBOARD = ROOT / "config" / "grafana-dashboard.json"
ALERT_TESTS = Path(__file__).with_name("prometheus-alerts-test.yml")
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")

BY_NAME = {metric.name: metric for metric in METRICS}
ADDED_BY_PROMETHEUS = {"job", "instance", "le"}
_NAME = re.compile(r"\bidentityd_\w+")
_SELECTOR = re.compile(r"\b(identityd_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_BY = re.compile(r"\bby \(([^)]*)\)")


def metric_of(name: str) -> Metric:
    """Raises KeyError for a name that no series has."""
    if name in BY_NAME and BY_NAME[name].kind != "histogram":
        return BY_NAME[name]
    stem, _, suffix = name.rpartition("_")
    metric = BY_NAME[stem]
    assert metric.kind == "histogram", name
    assert suffix in ("bucket", "sum", "count"), name
    return metric


def rules() -> list[dict]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text())["panels"]


def targets() -> Iterator[tuple[str, dict]]:
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target


EXPRESSIONS = [
    *((f"alert {rule['alert']}", rule["expr"]) for rule in rules()),
    *((f"panel {title} {target['refId']}", target["expr"]) for title, target in targets()),
]


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_speaks_of_what_there_is(where: str, expression: str) -> None:
    names = _NAME.findall(expression)
    assert names, where
    labels = ADDED_BY_PROMETHEUS | {label for name in names for label in metric_of(name).labels}
    for name, inside in _SELECTOR.findall(expression):
        for label, _, _ in _MATCHER.findall(inside):
            assert label in {*metric_of(name).labels, *ADDED_BY_PROMETHEUS}, f"{where}: {name} has no {label}"
    for listed in _BY.findall(expression):
        assert {one.strip() for one in listed.split(",")} <= labels, where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_states_are_spelt_as_they_are(where: str, expression: str) -> None:
    for name, inside in _SELECTOR.findall(expression):
        for label, _, value in _MATCHER.findall(inside):
            if (name, label) == ("identityd_state", "state"):
                assert set(value.split("|")) <= {state.value for state in State}, where


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {metric_of(name).name for _, target in targets() for name in _NAME.findall(target["expr"])}
    assert shown == set(BY_NAME)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_says_what_a_person_needs(rule: dict) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    expression = rule["expr"]
    of = {label for name in _NAME.findall(expression) for label in metric_of(name).labels}
    for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
        assert label in of | {"instance", "job"}, rule["alert"]


def test_every_rule_is_tried() -> None:
    tried = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tried
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_the_series_of_those_tests_are_ours() -> None:
    for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]:
        for series in test["input_series"]:
            name, _, inside = series["series"].partition("{")
            metric = metric_of(name)
            labels = {label for label, _, _ in _MATCHER.findall(inside)}
            expected = set(metric.labels) | ({"le"} if metric.kind == "histogram" else set())
            assert labels - {"job", "instance"} == expected, series["series"]


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_promtool_sees_them_come_and_stay_away() -> None:
    promtool("test", "rules", str(ALERT_TESTS))


@needs_promtool
def test_promtool_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """Each as a recording rule, with Grafana's own variables filled in."""
    recorded = [
        {
            "record": f"panel:{number}",
            "expr": target["expr"].replace("$__rate_interval", "5m").replace("$job", ".+"),
        }
        for number, (_, target) in enumerate(targets())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", str(path))


def promtool(*words: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the dashboard as Grafana reads it ---------------------------------------------------------------


def test_panels_have_their_own_ids_and_places() -> None:
    places = [panel["gridPos"] for panel in panels()]
    assert len({panel["id"] for panel in panels()}) == len(places)
    taken: set[tuple[int, int]] = set()
    for place in places:
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, place
        taken |= cells
    assert len({y for _, y in taken}) == max(y for _, y in taken) + 1, "no empty lines"


def test_panels_say_what_they_show() -> None:
    for panel in panels():
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            ids = [target["refId"] for target in panel["targets"]]
            assert len(set(ids)) == len(ids) > 0


def test_variables_that_are_used_are_defined() -> None:
    text = DASHBOARD.read_text()
    defined = {one["name"] for one in json.loads(text)["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == defined
