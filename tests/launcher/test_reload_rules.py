"""What app/reload.py takes up, leaves for a restart, or rejects; and a trial that somebody ends."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app import run
from app.launcher.server_process import Endpoint
from app.reload import reload
from app.settings import config
from app.settings.config import Configuration
from app.settings.errors import ConfigurationError
from tests.support.certificates import write_self_signed
from tests.support.configuration import SERVER_TOML, configured
from tests.support.ports import free_port
from tests.support.processes import children, is_running, wait_until
from tests.support.service import Launch


def read(**environment: str) -> Configuration:
    return config.read(config.path_of(None, {}), {"SELF_SIGNED": "1"} | environment)


def served(configuration: Configuration, *, has_filters: bool = True) -> list[Endpoint]:
    """Return the endpoints of a configuration as if they were served, with pairs that nobody looks at."""
    group: Any = SimpleNamespace(has_filters=has_filters)
    application: Any = object()
    return [
        Endpoint(configuration.server, each, None, application, group, (), run.dataset_of(each.application))
        for each in configuration.listeners
    ]


def left(configuration: Configuration, before: Sequence[Endpoint]) -> list[str]:
    """Reload a configuration; return the lines about what needs a restart."""
    return [each for each in reload(lambda: configuration, before, True).left if "restart" in each]  # noqa: FBT003


def test_another_host_needs_a_restart() -> None:
    before = served(read())
    reloaded = reload(lambda: read(HOST="::1"), before, True)  # noqa: FBT003
    assert "HOST=::1 needs a restart" in reloaded.left
    assert {each.server.host for each in reloaded.endpoints} == {"127.0.0.1"}
    assert left(read(), before) == []


def test_metrics_that_another_setting_puts_at_the_same_address_need_no_restart(tmp_path: Path) -> None:
    """METRICS_PORT and METRICS_HOST go first, so that a table that is added changes nothing."""
    port = free_port()
    (tmp_path / "server.toml").write_text(f'{SERVER_TOML}\n[metrics]\nport = {port + 9}\nhost = "127.0.0.1"\n')

    def with_table(**environment: str) -> Configuration:
        path = config.path_of(str(tmp_path / "server.toml"), {})
        return config.read(path, {"SELF_SIGNED": "1", "METRICS_PORT": str(port)} | environment)

    before = served(read(METRICS_PORT=str(port)))
    assert left(with_table(), before) == []
    assert "on port" in left(with_table(METRICS_PORT=str(port + 1)), before)[0]
    assert "of ::1 needs a restart" in left(with_table(METRICS_HOST="::1"), before)[0]


def test_without_filters_all_that_has_changed_needs_a_restart() -> None:
    before = served(read(), has_filters=False)
    assert left(read(), before) == []
    reloaded = reload(lambda: read(WORKERS="7"), before, True)  # noqa: FBT003
    lines = [each for each in reloaded.left if each.endswith("this system has no BPF filters for SO_REUSEPORT")]
    assert len(lines) == len(before)
    assert list(reloaded.endpoints) == before


def test_a_pair_that_has_been_removed_is_not_replaced_by_a_self_signed_one() -> None:
    before = served(read(TLS_CERT="a", TLS_KEY="b"))
    with pytest.raises(
        ConfigurationError, match="listener json-tls: there is no pair, and one is made at a start alone"
    ):
        left(read(), before)


def test_other_files_have_to_hold_a_pair_that_is_valid_now(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files = write_self_signed(tmp_path, key, days=-1)
    with pytest.raises(ConfigurationError, match="is not valid now; have it issued anew"):
        left(read(**files), served(read()))
    assert left(read(**write_self_signed(tmp_path, key)), served(read())) == []


IMPORTED_SLOWLY = """
import os, time

open(os.environ["STARTED"], "w").close()
while True:
    time.sleep(0.1)
"""


def test_a_trial_that_is_killed_changes_nothing(launch: Launch, pair: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(IMPORTED_SLOWLY)
    started = tmp_path / "started"
    service = launch(configured(tmp_path), PYTHONPATH=str(tmp_path), STARTED=str(started), WORKERS="1", **pair).ready()
    processes = service.server_processes
    configured(tmp_path, SERVER_TOML.replace('import = "app:app"', 'import = "slow:app"\npreload = true\n#'))
    service.signal(signal.SIGHUP)
    wait_until(started.exists, "the import in the trial")
    (trial,) = set(children(service.process.pid)) - set(processes)
    os.kill(trial, signal.SIGKILL)
    line = "reload: the process that tries the settings has ended (killed by SIGKILL); nothing has changed"
    wait_until(lambda: line in service.errors.read_text(), line)
    assert not is_running(trial)
    configured(tmp_path)
    service.signal(signal.SIGHUP)
    wait_until(
        lambda: "reload: nothing that can be reloaded has changed" in service.errors.path.read_text(), "another reload"
    )
    assert service.server_processes == processes
    service.stop()


def test_a_file_without_any_listener_that_is_served_is_rejected() -> None:
    before = served(read())
    configuration = read()
    others = tuple(replace(each, name=f"other-{each.name}") for each in configuration.listeners)
    with pytest.raises(ConfigurationError, match=r"has none of the listeners that are served \(json-tls, json\)"):
        reload(lambda: replace(configuration, listeners=others), before, True)  # noqa: FBT003
