"""The probe asks the listeners of the server.toml that it is given."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest

from app.launcher import probe
from tests.support.configuration import SERVER_TOML, configured
from tests.support.ports import free_port
from tests.support.processes import clean_environment
from tests.support.service import Service

HEAD = SERVER_TOML.partition("[[listener]]")[0]


def probed(*arguments: str, **variables: str) -> int:
    with (
        mock.patch.dict(os.environ, clean_environment() | variables, clear=True),
        mock.patch.object(sys, "argv", ["probe", *arguments]),
    ):
        return probe.main()


@pytest.mark.parametrize("way", ["--config", "SERVER_CONFIG"])
def test_it_asks_the_listeners_of_the_configuration_that_is_named(
    service: Service, tmp_path: Path, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for port, status in ((service.port, 0), (free_port(), 1)):
        argument = configured(
            tmp_path, f'{HEAD}[[listener]]\nname = "alone"\nport = {port}\nport_variable = "ALONE_PORT"\n'
        )
        path = argument.partition("=")[2]
        assert (probed(argument) if way == "--config" else probed(SERVER_CONFIG=path)) == status
    assert capfd.readouterr().err == "listener alone does not respond\n"


def test_an_argument_counts_more_than_the_variable(service: Service, tmp_path: Path) -> None:
    argument = configured(
        tmp_path, f'{HEAD}[[listener]]\nname = "alone"\nport = {service.port}\nport_variable = "ALONE_PORT"\n'
    )
    assert probed(argument, SERVER_CONFIG=str(tmp_path / "absent.toml")) == 0
    assert probed(SERVER_CONFIG=str(tmp_path / "absent.toml")) == 2
