"""The application under Granian without the launcher."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench import oracle
from tests.support.http1 import WEBSOCKET_UPGRADE
from tests.support.ports import free_port
from tests.support.processes import ROOT, children, clean_environment, is_running, wait_until


@pytest.mark.server
@pytest.mark.parametrize("interface", ["asgi", "asginl"])
def test_granian_alone_serves_the_application(tmp_path: Path, interface: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", interface, "--port", str(port), "app:app"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=log)
    try:

        def responds() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/json/4?m=2", trust_env=False).content == oracle.body(4, 2)
            except httpx.TransportError:
                return False

        wait_until(responds, "a response", 20)
        assert (
            httpx.get(f"http://127.0.0.1:{port}/json/4", headers=WEBSOCKET_UPGRADE, trust_env=False).status_code == 403
        )
        workers = children(process.pid)
        process.terminate()
        assert process.wait(10) == 0
        wait_until(lambda: not any(is_running(worker) for worker in workers), "the workers' end")
    finally:
        process.kill()
        process.wait()
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text
    assert "ERROR" not in log_text
    assert "WARN" not in log_text
