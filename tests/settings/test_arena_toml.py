"""arena.toml is server.toml but for the differences that are meant."""

import tomllib

from app.settings import config
from app.settings.files import NamedFile
from tests.support.processes import ROOT


def test_it_differs_from_server_toml_in_what_it_serves_alone() -> None:
    ours, theirs = (tomllib.loads((ROOT / name).read_text()) for name in ("arena.toml", "server.toml"))
    assert theirs["application"] == {"import": "app:app"}
    assert ours["application"] == {"import": "app.service.arena:app", "runs": "inline", "preload": True}
    del ours["application"], theirs["application"]
    (h2c,) = [each for each in theirs["listener"] if not each.get("enabled", True)]
    h2c["enabled"] = True
    assert ours == theirs


def test_without_any_variable_it_serves_the_arenas_ports() -> None:
    configuration = config.read(NamedFile("test", ROOT / "arena.toml"), {"SELF_SIGNED": "1"})
    assert {each.name: each.port for each in configuration.listeners} == {
        "json-tls": 8081,
        "json-h2c": 8082,
        "json": 8080,
    }
    assert [each.name for each in configuration.listeners][-1] == "json"  # the arena probes it first
