"""deploy/prometheus.yml, alerts.yml and grafana-dashboard.json, beside the metrics of a service that runs."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import config
from app.settings.files import NamedFile
from tests.support.metrics import metrics_url, reported
from tests.support.ports import free_row
from tests.support.processes import ROOT
from tests.support.service import Launch

DEPLOY = ROOT / "deploy"
PROMETHEUS, ALERTS, DASHBOARD = DEPLOY / "prometheus.yml", DEPLOY / "alerts.yml", DEPLOY / "grafana-dashboard.json"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian's prometheus)")


def scraped() -> dict[str, int]:
    """Return the port that is scraped for each listener."""
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    assert job["job_name"] == "granian-json"
    return {
        each["labels"]["listener"]: int(target.rpartition(":")[2])
        for each in job["static_configs"]
        for target in each["targets"]
    }


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[str]:
    """Return every PromQL expression of deploy/."""
    return [each["expr"] for each in rules()] + [each["expr"] for panel in panels() for each in panel["targets"]]


def metrics_for(environment: dict[str, str]) -> dict[str, int]:
    """Return the port of the metrics of each listener of server.toml."""
    listeners = config.read(NamedFile("test", ROOT / "server.toml"), {"SELF_SIGNED": "1", **environment}).listeners
    return {each.name: each.metrics.port for each in listeners if each.metrics}


def test_what_is_scraped_is_what_a_service_with_metrics_port_9100_has() -> None:
    assert "METRICS_PORT=9100" in PROMETHEUS.read_text()
    assert scraped() == metrics_for({"METRICS_PORT": "9100"})


def test_kubernetes_scrapes_and_lets_through_the_ports_that_it_sets() -> None:
    base = DEPLOY / "kubernetes" / "base"
    pod = yaml.safe_load((base / "deployment.yaml").read_text())["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    ports = list(metrics_for({"METRICS_PORT": environment["METRICS_PORT"]}).values())
    assert environment["METRICS_HOST"] == "0.0.0.0"  # noqa: S104 - in a pod; the network policy says who may come
    assert int(pod["metadata"]["annotations"]["prometheus.io/port"]) == ports[0]
    named = {each["name"]: each["containerPort"] for each in container["ports"]}
    rules = yaml.safe_load((base / "network.yaml").read_text())["spec"]["ingress"]
    (of_monitoring,) = [each for each in rules if "from" in each]
    assert [named.get(each["port"], each["port"]) for each in of_monitoring["ports"]] == ports


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_a_service_has(launch: Launch) -> None:
    service = launch(METRICS_PORT=str(free_row(2))).ready()
    found = reported(metrics_url(service, "json"), "granian_requests_handled", 2)  # the launcher has asked each worker
    asked = {name for each in expressions() for name in re.findall(r"\bgranian_\w+", each)}
    assert len(asked) >= 8
    assert asked <= found.keys()
    service.stop()


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    """Each panel has a place of its own, a data source and targets with names; variables that are used exist."""
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(panels())))
    assert used == variables
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in panels()]
    assert len(set(places)) == len(places) == len({each["id"] for each in panels()})
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        references = [each["refId"] for each in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert all('job="granian-json"' in each["expr"] for each in panel["targets"])


@needs_promtool
def test_promtool_accepts_the_scrape_configuration_and_the_alerts() -> None:
    result = subprocess.run(["promtool", "check", "config", PROMETHEUS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result
    assert f"{len(rules())} rules found" in result.stdout


@needs_promtool
def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    asked = [each["expr"] for panel in panels() for each in panel["targets"]]
    recorded = [{"record": f"x{i}", "expr": each.replace("$__rate_interval", "1m")} for i, each in enumerate(asked)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": recorded}]}))
    result = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert f"{len(asked)} rules found" in result.stdout, result


SERIES = 'job="granian-json", instance="a:1", listener="json"'
WORKER = f'{SERIES}, worker="1"'
FIRING = {
    "GranianJsonDown": {f"up{{{SERIES}}}": "0x60"},
    "GranianJsonWorkersDie": {f"granian_workers_respawns_for_err{{{SERIES}}}": "0x45 1 2 3 4x20"},
    "GranianJsonWorkersGrow": {f"granian_workers_respawns_for_rss{{{SERIES}}}": "0x45 1 2 3 4x20"},
    "GranianJsonWorkerStopped": {f"granian_worker_lifetime{{{WORKER}}}": "0+60x50 3000x20"},
    "GranianJsonWorkerHangs": {
        f"granian_blocking_queue{{{WORKER}}}": "0x50 1x20",
        f"granian_blocking_busy_cumulative{{{WORKER}}}": "0+1000x50 50000x20",
    },
    "GranianJsonSaturated": {
        f"granian_blocking_busy_cumulative{{{WORKER}}}": "0+57000000x60",  # of 60 million microseconds in each minute
        f"granian_blocking_queue{{{WORKER}}}": "1x60",
        f"granian_worker_lifetime{{{WORKER}}}": "0+60x60",
    },
}
"""For each alert series in which it fires after 55 minutes, and no other does."""


@needs_promtool
@pytest.mark.parametrize("alert", FIRING)
def test_an_alert_fires_when_it_should_and_no_other_does(tmp_path: Path, alert: str) -> None:
    labels = {"job": "granian-json", "instance": "a:1", "listener": "json"}
    if any("worker=" in each for each in FIRING[alert]):
        labels["worker"] = "1"
    (rule,) = [each for each in rules() if each["alert"] == alert]
    summary = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], rule["annotations"]["summary"])
    expected = [{"exp_labels": labels | rule["labels"], "exp_annotations": {"summary": summary}}]
    tests = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": each, "values": values} for each, values in FIRING[alert].items()],
                "alert_rule_test": [
                    {"eval_time": "55m", "alertname": name, "exp_alerts": expected if name == alert else []}
                    for name in FIRING
                ],
            }
        ],
    }
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump(tests))
    result = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result


def test_every_alert_is_tried() -> None:
    assert [each["alert"] for each in rules()] == list(FIRING)
