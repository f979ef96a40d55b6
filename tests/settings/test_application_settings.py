"""Which application is served, and how it runs: `[application]`, a listener's own, and the environment."""

from pathlib import Path

import pytest

from app.settings import config
from app.settings.application import ARENA, BUNDLED, ApplicationSettings
from tests.support.configuration import SERVER_TOML, configured, rejected

TABLE = SERVER_TOML[SERVER_TOML.index("[application]") : SERVER_TOML.index("[server]")]


def with_table(lines: str) -> str:
    return SERVER_TOML.replace(TABLE, f"[application]\n{lines}\n\n" if lines else "")


def with_applications(*tables: str) -> str:
    """Return the text of a server.toml whose listeners json-tls and json have applications of their own."""
    text = SERVER_TOML
    for variable, table in zip(("TLS_PORT", "PORT"), tables, strict=True):
        line = f'\nport_variable = "{variable}"\n'
        assert line in text
        text = text.replace(line, f"{line}application = {{ {table} }}\n")
    return text


def read(folder: Path, text: str, **environment: str) -> list[ApplicationSettings]:
    path = Path(configured(folder, text).removeprefix("--config="))
    return [
        each.application
        for each in config.read(config.path_of(str(path), {}), environment | {"SELF_SIGNED": "1"}).listeners
    ]


def test_the_bundled_application_is_the_default(tmp_path: Path) -> None:
    for text in (SERVER_TOML, with_table("")):
        for each in read(tmp_path, text):
            assert (each.target, each.runs, each.preload, each.factory) == (BUNDLED, "inline", True, False)


def test_another_one_runs_on_the_loop_and_is_not_preloaded_unless_the_table_says_so(tmp_path: Path) -> None:
    for each in read(tmp_path, with_table('import = "main:app"')):
        assert (each.target, each.runs, each.preload, each.factory) == ("main:app", "loop", False, False)
    for each in read(tmp_path, with_table('import = "a.b:c.d"\nruns = "inline"\npreload = true\nfactory = true')):
        assert (each.target, each.runs, each.preload, each.factory) == ("a.b:c.d", "inline", True, True)


def test_the_environment_overrides_and_is_safe(tmp_path: Path) -> None:
    text = with_table('import = "a:b"\nruns = "inline"\npreload = true\nfactory = true')
    for each in read(tmp_path, text, APPLICATION="main:app"):
        assert (each.target, each.runs, each.preload, each.factory) == ("main:app", "loop", False, False)
    for each in read(
        tmp_path,
        text,
        APPLICATION="main:app",
        APPLICATION_RUNS="inline",
        APPLICATION_PRELOAD="true",
        APPLICATION_FACTORY="1",
    ):
        assert (each.target, each.runs, each.preload, each.factory) == ("main:app", "inline", True, True)
    for each in read(tmp_path, text, APPLICATION_RUNS="loop", APPLICATION_PRELOAD="FALSE"):
        assert (each.target, each.runs, each.preload, each.factory) == ("a:b", "loop", False, True)


def test_the_bundled_application_runs_alike_whoever_names_it(tmp_path: Path) -> None:
    for text, variables in ((with_table(f'import = "{BUNDLED}"'), {}), (SERVER_TOML, {"APPLICATION": BUNDLED})):
        for each in read(tmp_path, text, **variables):
            assert (each.target, each.runs, each.preload, each.factory) == (BUNDLED, "inline", True, False)


def test_a_listeners_own_application_is_its_own(tmp_path: Path) -> None:
    own = '\nport_variable = "PORT"\napplication = { import = "other:app" }\n'
    tls, plain = read(tmp_path, SERVER_TOML.replace('\nport_variable = "PORT"\n', own), APPLICATION="main:app")
    assert (tls.target, plain.target) == ("main:app", "other:app")
    assert (plain.runs, plain.preload) == ("loop", False)


PRELOADED = "preload = true"
"""With it an import is in all processes, so that nobody else's may be there."""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f'import = "a:app", {PRELOADED}', 'import = "b:app"'),
        ('import = "a:app"', f'import = "b:app", {PRELOADED}'),
        (f'import = "a:app", {PRELOADED}', f'import = "b:app", {PRELOADED}'),
        (f'import = "a:app", {PRELOADED}', 'import = "a:app"'),
        (f'import = "a:app", {PRELOADED}', f'import = "a:app", factory = true, {PRELOADED}'),
    ],
)
def test_nobody_elses_application_is_served_beside_one_that_is_preloaded(
    tmp_path: Path, first: str, second: str
) -> None:
    line = rejected(configured(tmp_path, with_applications(first, second)))
    assert " is preloaded, so that workers of listener json" in line
    assert line.endswith(" would have what its import leaves; preload none of them, or run a service for each\n")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f'import = "a:app", {PRELOADED}', f'import = "{BUNDLED}"'),
        (f'import = "{ARENA}", {PRELOADED}', 'import = "b:app"'),
        (f'import = "a:app", {PRELOADED}', f'import = "a:app", runs = "inline", {PRELOADED}'),
        ('import = "a:app"', 'import = "b:app"'),
    ],
)
def test_ours_and_the_same_are_served_beside_one_that_is_preloaded(tmp_path: Path, first: str, second: str) -> None:
    assert len(read(tmp_path, with_applications(first, second))) == 2


@pytest.mark.parametrize("value", ["app", ":app", "app:", "a b:c", "a:b:c", "../a:b", "a..b:c", "1a:b", "a:b\n"])
def test_what_is_no_module_and_attribute_is_rejected(value: str) -> None:
    line = rejected(APPLICATION=value)
    assert line == f"configuration: APPLICATION={value!r} is not module:attribute; write it like main:app\n".replace(
        "\\", "\\"
    )


def test_an_error_names_the_setting(tmp_path: Path) -> None:
    line = rejected(configured(tmp_path, with_table('import = "main"')))
    assert line.startswith("configuration: application.import='main' is not module:attribute")
    own = '\nport_variable = "PORT"\napplication = { import = "main" }\n'
    line = rejected(configured(tmp_path, SERVER_TOML.replace('\nport_variable = "PORT"\n', own)))
    assert line.startswith("configuration: listener json: application.import='main' is not module:attribute")
    assert "neither inline nor loop" in rejected(APPLICATION="main:app", APPLICATION_RUNS="thread")
    assert "neither true nor false" in rejected(APPLICATION="main:app", APPLICATION_PRELOAD="maybe")
    assert "neither true nor false" in rejected(APPLICATION="main:app", APPLICATION_FACTORY="yes")


@pytest.mark.parametrize("key", ['runs = "thread"', "preload = 1", "workers = 2"])
def test_a_table_with_other_keys_or_values_is_rejected(tmp_path: Path, key: str) -> None:
    assert "server.toml: " in rejected(configured(tmp_path, with_table(f'import = "main:app"\n{key}')))


@pytest.mark.parametrize(
    ("listener", "error"),
    [
        ('protocol = "auto"', "is decided by ALPN; add a tls table"),
        ('protocol = "h2c"\nwebsockets = true', "websockets = true needs HTTP/1.1"),
        (
            'trusted_proxies = ["10.0.0.1/8"]',
            "trusted_proxies='10.0.0.1/8' is no network (10.0.0.1/8 has host bits set)",
        ),
        ('trusted_proxies = ["proxy"]', "trusted_proxies='proxy' is no network"),
    ],
)
def test_options_of_a_listener_that_contradict_are_rejected(tmp_path: Path, listener: str, error: str) -> None:
    text = SERVER_TOML.replace('\nport_variable = "PORT"\n', f'\nport_variable = "PORT"\n{listener}\n')
    line = rejected(configured(tmp_path, text))
    assert line.startswith("configuration: listener json: ")
    assert error in line
