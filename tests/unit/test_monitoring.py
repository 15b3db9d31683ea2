"""The dashboard and the alert rules name metrics and labels that annexd has, and Prometheus takes them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from daemon import metrics
from tests.unit.daemon.test_metrics import statistics

FOLDER = Path(__file__).resolve().parents[2] / "monitoring"
RULES = FOLDER / "annex.rules.yml"
DASHBOARD = FOLDER / "annex-dashboard.json"

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="Debian's package prometheus has promtool")

SAMPLES = [
    sample
    for family in text_string_to_metric_families(metrics.text(statistics()).decode())
    for sample in family.samples
]
NAMES = {sample.name for sample in SAMPLES}
LABELS = {label for sample in SAMPLES for label in sample.labels} | {"instance", "job"}

_NAME = re.compile(r"\bannex_[a-z0-9_]+")
_BY = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")
_MATCHER = re.compile(r"[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)")
_SHOWN = re.compile(r"\$labels\.([a-z_]+)")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row")


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_there_are(expression: str) -> None:
    names = set(_NAME.findall(expression)) | ({"up"} & set(re.findall(r"\bup\b", expression)))
    labels = {word.strip() for words in _BY.findall(expression) for word in words.split(",")}
    labels |= set(_MATCHER.findall(expression))
    assert names
    assert names <= NAMES | {"up"}
    assert labels <= LABELS


def test_what_a_rule_shows_of_its_labels_is_there_and_it_says_what_to_do() -> None:
    for rule in rules():
        words = rule["annotations"]
        assert set(_SHOWN.findall(words["summary"] + words["description"])) <= LABELS, rule["alert"]
        assert words["description"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_every_state_and_sense_that_a_rule_asks_for_can_be() -> None:
    states = {sample.labels["state"] for sample in SAMPLES if sample.name == "annex_pair_state"}
    asked = {state for expression in expressions() for state in re.findall(r'state="([A-Z]+)"', expression)}
    assert asked
    assert asked <= states


def test_the_dashboard_shows_every_metric_that_is_no_mere_detail() -> None:
    shown = {name for expression in expressions() for name in _NAME.findall(expression)}
    families = {family.name for family in metrics.FAMILIES}
    missing = {name for name in families if not any(used.startswith(name) for used in shown)}
    assert missing <= {
        "annex_build_info", "annex_discovery_sessions", "annex_acquisitions", "annex_array_lus",
        "annex_array_lus_ready", "annex_external_lu_ready", "annex_external_lu_operations", "annex_external_lu_bytes",
        "annex_external_lu_busy_seconds", "annex_external_lu_queue", "annex_path_logins", "annex_path_queue",
        "annex_pair_bytes", "annex_pair_busy_seconds", "annex_pair_queue", "annex_array_latency_seconds",
        "annex_array_errors", "annex_array_fences_wanted", "annex_array_fences_held", "annex_path_operations",
        "annex_path_bytes", "annex_path_busy_seconds", "annex_path_latency_seconds", "annex_path_errors",
        "annex_pair_rate_bytes", "annex_pair_stands_back",
    }  # fmt: skip


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    found = list(panels())
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_finds_nothing_to_say_about_the_metrics() -> None:
    exposition = metrics.text(statistics())
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=exposition, capture_output=True)
    assert (done.returncode, done.stderr.decode()) == (0, "")


@needs_promtool
def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "5m", "$instance": ".*"}
    checked = []
    for number, panel in enumerate(panels()):
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            checked.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": checked}]}))
    done = subprocess.run([str(PROMTOOL), "check", "rules", "--lint=none", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
