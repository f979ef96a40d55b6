"""The listeners of server.toml, on free ports: each that is added there is started with the others."""

import msgspec

from app.settings.config import DEFAULT_PATH
from app.settings.tables import ServerFile
from bench.ports import free_ports

TABLES = msgspec.toml.decode(DEFAULT_PATH.read_bytes(), type=ServerFile).listener
BY_NAME = {each.name: each for each in TABLES}
ENABLED = [each for each in TABLES if each.enabled]


def free_variables(*without: str) -> dict[str, str]:
    """Return variables that give each enabled listener a free port, but for those with these names."""
    names = [each.port_variable for each in ENABLED if each.port_variable and each.name not in without]
    return {name: str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
