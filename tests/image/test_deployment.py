"""deploy/, the workflow and meta.json, as far as they can be checked without an engine, a cluster or GitHub."""

import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from tests.support.processes import ROOT

PROFILES = {
    *("baseline", "limited-conn", "async", "latency-10k", "latency-1m", "json-tls", "8gbit"),
    *("baseline-h2c", "pipelined", "json-comp", "json-h2c"),
}
"""Those of the arena that need no database, as of September 2026."""
DOCUMENTS = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document["kind"] for document in DOCUMENTS])
def test_kubernetes_accepts_it(document: dict[str, object]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_kubernetes_secret_is_empty() -> None:
    (secret,) = [document for document in DOCUMENTS if document["kind"] == "Secret"]
    assert set(secret["data"].values()) == {""}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit() -> None:
    unit = ROOT / "deploy" / "granian-json.service"
    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (result.returncode, [line for line in result.stderr.splitlines() if unit.name in line]) == (0, [])


def test_the_workflow_runs_ci_on_each_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    job = workflow["jobs"]["run"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_meta_json_is_what_the_arena_asks_for() -> None:
    meta = json.loads((ROOT / "meta.json").read_text())
    fields = {"display_name", "language", "engine", "type", "description", "repo", "enabled", "tests", "maintainers"}
    assert set(meta) == fields
    assert meta["type"] == "engine"
    assert set(meta["tests"]) <= PROFILES  # one that the arena does not know aborts its run
    assert len(meta["tests"]) == len(set(meta["tests"]))


def test_compose_and_kubernetes_have_the_service_and_the_arena_gets_the_last_stage() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert compose["services"]["server"]["build"]["target"] == "service"
    assert compose["services"]["server"]["environment"]["SELF_SIGNED"] == "1"
    assert "SELF_SIGNED" not in (ROOT / "deploy" / "kubernetes.yaml").read_text()
    service, arena = (ROOT / "Dockerfile").read_text().split(" AS arena\n")
    assert ("SELF_SIGNED=1" in service, "SELF_SIGNED=1" in arena) == (False, True)
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [name for _, name in stages] == ["service", "arena"]
    assert stages[-1][0] == "service"
