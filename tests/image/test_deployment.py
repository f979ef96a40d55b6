"""deploy/, the workflow and meta.json, as far as they can be checked without an engine, a cluster or GitHub."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from bench import oracle
from tests.support.processes import ROOT

PROFILES = {
    *("baseline", "limited-conn", "async", "latency-10k", "latency-1m", "json-tls", "8gbit"),
    *("baseline-h2c", "pipelined", "json-comp", "json-h2c"),
}
"""Those of the arena that need no database, as of September 2026."""
KUBERNETES = ROOT / "deploy" / "kubernetes"
RESOURCES = [path for path in sorted((KUBERNETES / "base").glob("*.yaml")) if path.name != "kustomization.yaml"]


@pytest.mark.parametrize("path", RESOURCES, ids=[path.stem for path in RESOURCES])
def test_kubernetes_accepts_it(path: Path) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), kubernetes_validate.latest_version(), strict=True)


def test_what_is_applied_is_all_but_the_example_of_a_secret() -> None:
    resources = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["resources"]
    assert set(resources) == {path.name for path in RESOURCES} - {"secret.example.yaml"}


def test_the_kubernetes_dataset_is_the_bundled_one() -> None:
    assert (KUBERNETES / "base" / "dataset.json").read_bytes() == oracle.BUNDLED.read_bytes()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("folder", ["base", "example"])
def test_kustomize_builds_what_kubernetes_accepts(folder: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES / folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = {document["kind"]: document for document in yaml.safe_load_all(built)}
    for document in documents.values():
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    assert "Secret" not in documents
    deployment = documents["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        documents["Service"]["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][1]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    assert not pod["containers"][0]["image"].endswith(("latest", "granian-json"))


def test_liveness_is_the_health_check_of_the_image() -> None:
    deployment = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())
    command = deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"]
    assert f"CMD {json.dumps(command)}\n" in (ROOT / "Dockerfile").read_text()


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
    deployments = list((ROOT / "deploy" / "kubernetes").rglob("*.yaml"))
    assert deployments
    assert not any("SELF_SIGNED" in each.read_text() for each in deployments)
    service, arena = (ROOT / "Dockerfile").read_text().split(" AS arena\n")
    assert ("SELF_SIGNED=1" in service, "SELF_SIGNED=1" in arena) == (False, True)
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [name for _, name in stages] == ["service", "arena"]
    assert stages[-1][0] == "service"
