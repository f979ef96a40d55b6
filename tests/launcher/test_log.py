"""The log: a format for every process, what it says of each event, and what no client can do to it."""

import datetime as dt
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
import trustme

from app import VERSION
from app.launcher import log
from app.launcher.pair_watch import Expiry
from app.settings import certificate
from app.settings.config import PairFiles
from app.settings.files import NamedFile
from tests.support.applications import dying_application
from tests.support.certificates import issue, leaf_of, served_leaf
from tests.support.configuration import SERVER_TOML, configured, rejected, with_certificate_interval
from tests.support.http1 import read_to_end
from tests.support.processes import ROOT, clean_environment, send, wait_until
from tests.support.service import Launch, Service

HOSTILE = b"/%22%0A%0D%1B%5B31m%5C%20200%20%25s?q=%22%0a%00\\"


def get(service: Service, target: bytes) -> None:
    """Send a request for `target`, whatever bytes it has, and read the response."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % target)
        assert read_to_end(connection).startswith(b"HTTP/1.1 ")


def soon(authority: trustme.CA, folder: Path, left: dt.timedelta) -> None:
    """Write a pair that expires soon."""
    folder.mkdir()
    leaf = authority.issue_cert("localhost", not_after=dt.datetime.now(dt.UTC) + left)
    leaf.private_key_pem.write_to_path(folder / "server.key")
    (folder / "server.crt").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))


def set_up_for_a_moment(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Set up the log in this process, without pytest's handlers, and put all back at the end of the test."""
    for owner, names in (
        (log.LogHandler, ["chosen"]),
        (logging, ["lastResort", "basicConfig"]),
        (sys, ["excepthook"]),
        (threading, ["excepthook"]),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(logging.root, "handlers", [])
    log.set_up(form)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_record_is_a_line_and_a_traceback_belongs_to_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """What an exception says, which may be a client's, cannot be taken for a record."""
    monkeypatch.setattr(log.LogHandler, "chosen", log.FORMATTERS[form])
    forged = "2026-01-01T00:00:00.000Z ERROR json 1 forged"
    log.exception("it failed \udcff", ValueError(f"a\n{forged}\x1b[0m"))
    lines = capfd.readouterr().err.splitlines()
    if form == "json":
        (record,) = map(json.loads, lines)
        assert (record["level"], record["listener"], record["pid"]) == ("ERROR", "-", os.getpid())
        assert (record["message"], record["traceback"]) == ("it failed \\udcff", f"ValueError: a\n{forged}\x1b[0m")
    else:
        first, *further = lines
        assert re.fullmatch(rf"20\S+T\S+Z ERROR - {os.getpid()} it failed \\udcff", first)
        assert further == ["  ValueError: a", rf"  {forged}\x1b[0m"]


def test_an_application_without_logging_of_its_own_logs_in_this_format(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_for_a_moment(monkeypatch, "text")
    logging.getLogger("shop").warning("sold %s", "out")
    logging.getLogger("shop").info("not shown")
    logging.warning("sold %s", "too")  # noqa: LOG015 - sets up the root logger
    logging.getLogger("shop").warning("sold %s", "again")
    lines = capfd.readouterr().err.splitlines()
    said = [re.fullmatch(r"20\S+Z WARNING - \d+ (.*)", line) for line in lines]
    assert [each and each[1] for each in said] == ["sold out", "sold too", "sold again"]


def test_an_application_may_set_up_logging_as_ever(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_for_a_moment(monkeypatch, "json")
    logging.basicConfig(format="mine: %(message)s", level=logging.INFO)
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    logging.warning("sold")  # noqa: LOG015 - as applications do
    assert capfd.readouterr().err == "mine: sold\n"


def test_what_cannot_be_formatted_is_a_record(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_for_a_moment(monkeypatch, "json")
    logging.getLogger("shop").warning("%d", "x")
    logging.getLogger("shop").warning("nan", extra={"price": float("nan")})
    logging.getLogger("shop").warning("odd", extra={"what": "\udcff\n", "which": object()})
    first, second, third = map(json.loads, capfd.readouterr().err.splitlines())
    for each in (first, second):
        assert re.fullmatch(r"\S+/test_log\.py:\d+ logs what cannot be formatted", each["message"])
    assert "TypeError: %d format" in first["traceback"]
    assert (third["message"], third["what"]) == ("odd", "\\udcff\n")


def test_a_record_that_an_application_makes_up_is_a_record(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_for_a_moment(monkeypatch, "text")
    for made_up in ({"name": log.ACCESS, "msg": "%(who)s", "args": {"who": "me"}}, {"name": "shop", "created": 1e30}):
        log.LogHandler().handle(logging.makeLogRecord(made_up))
    first, second, *_ = capfd.readouterr().err.splitlines()
    assert first.endswith(" me")
    assert second.endswith(" logs what cannot be formatted")


def test_lines_that_were_lost_are_counted_in_the_same_format(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log.LogHandler, "chosen", log.FORMATTERS["json"])
    monkeypatch.setattr(log._err, "dropped", 3)  # noqa: SLF001
    log.event("next")
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert first["message"] == "3 lines before this one could not be written"
    assert (second["level"], second["message"]) == ("INFO", "next")


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_a_client_sends_breaks_a_line_of_the_access_log(launch: Launch, form: str) -> None:
    service = launch(WORKERS="1", ACCESS_LOG="1", LOG_FORMAT=form).ready()
    get(service, HOSTILE)
    get(service, b"/json/2?m=3")
    wait_until(lambda: "/json/2?m=3" in service.errors.path.read_text(), "the second request")
    service.stop()
    lines = [line for line in service.errors.path.read_text().splitlines() if "127.0.0.1" in line and "/ " not in line]
    if form == "json":
        records = [each for each in map(json.loads, lines) if "path" in each]
        assert [(each["path"], each["query_string"], each["status"]) for each in records[-2:]] == [
            ('/"\n\r\x1b[31m\\ 200 %s', "q=%22%0a%00\\", 404),
            ("/json/2", "m=3", 200),
        ]
    else:
        hostile, good = [line for line in lines if " INFO json " in line and '"GET' in line][-2:]
        assert re.search(r' INFO json \d+ 127\.0\.0\.1 "GET /json/2\?m=3 HTTP/1\.1" 200 \d+\.\d{3} ms$', good)
        assert r'"GET /\"\n\r\u001b[31m\\ 200 %s?q=%22%0a%00\\ HTTP/1.1" 404 ' in hostile
        assert service.errors.read_text().count("\n") == 1  # the self-signed pair's


def test_there_is_no_access_log_unless_it_is_asked_for(service: Service) -> None:
    get(service, b"/unseen")
    assert "/unseen" not in service.errors.path.read_text()


def test_the_start_and_the_stop_say_what_and_why(launch: Launch, pair: dict[str, str], tmp_path: Path) -> None:
    (dataset := tmp_path / "dataset.json").write_bytes((ROOT / "app" / "service" / "dataset.json").read_bytes())
    argument = configured(tmp_path)
    service = launch(argument, DATASET_PATH=str(dataset), **pair).ready()
    service.stop()
    starting, started, stopping, stopped = service.errors.events()
    assert starting.startswith(f"starting granian-json {VERSION} (Granian ")
    assert f"configuration {tmp_path / 'server.toml'}; listeners json-tls (app:app), json (app:app)" in starting
    assert starting.endswith(f"dataset {dataset} with 50 items")
    assert re.fullmatch(r"started after \d+\.\d\d s: all listeners respond", started)
    assert stopping == "stopping: SIGTERM was received"
    assert re.fullmatch(r"stopped after [0-3]\.\d\d s: SIGTERM was received; exit status 0", stopped)
    assert {each.listener for each in service.errors.records()} == {"-"}
    assert {each.pid for each in service.errors.records()} == {service.process.pid}


def test_a_workers_death_is_logged_with_its_signal_and_what_follows(launch: Launch, pair: dict[str, str]) -> None:
    service = launch(**pair).ready()
    server_process = service.server_process_of("json")
    killed, other = service.workers(server_process)
    os.kill(killed, signal.SIGSEGV)
    wait_until(lambda: service.replaced(server_process, killed), "another worker")
    (new,) = set(service.workers(server_process)) - {other}
    wait_until(lambda: any("was started in place of" in each for each in service.errors.events()), "a line about it")
    service.stop()
    death, replacement = [each for each in service.errors.records() if each.listener == "json"]
    assert (death.level, death.pid) == ("WARNING", server_process)
    what = rf"worker-[12] \(pid {killed}\) ended \(killed by SIGSEGV\) after \d+\.\d s; another takes its place"
    assert re.fullmatch(what, death.message)
    assert re.fullmatch(rf"worker-[12] \(pid {new}\) was started in place of pid {killed}", replacement.message)


def test_the_last_death_of_a_crash_loop_says_that_the_listener_ends(
    launch: Launch, pair: dict[str, str], tmp_path: Path
) -> None:
    service = launch(WORKERS="1", **dying_application(tmp_path), **pair).ready()
    (tmp_path / "dies").touch()
    send(service.workers(service.server_process_of("json"))[0], signal.SIGKILL)
    assert service.wait(20) == 1
    said = service.errors.read_text()
    assert "; the listener ends, as it was the 5th in a row before its startup was over: a crash loop" in said
    assert re.search(
        r"stopped after \S+ s: listener json ended \(exit status 1\); exit status 1$",
        "\n".join(service.errors.events()),
    )


def test_a_renewal_and_a_rejected_one_are_a_line_each(
    launch: Launch, authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    folder = issue(authority, tmp_path / "certs")
    service = launch(configured(tmp_path, with_certificate_interval(0)), WORKERS="1").ready()
    kept = (folder / "server.key").read_bytes()
    (folder / "server.key").write_bytes(b"nothing")
    service.signal(signal.SIGHUP)
    wait_until(lambda: "served on" in service.errors.read_text(), "a line about it")
    (folder / "server.key").write_bytes(kept)
    issue(authority, folder)
    service.signal(signal.SIGHUP)
    wait_until(lambda: served_leaf(service, trust) == leaf_of(folder), "the new leaf")
    wait_until(lambda: any("renewed: " in each for each in service.errors.events()), "a line about it")
    service.stop()
    invalid, renewed, replaced, ended = [each for each in service.errors.records() if each.listener == "json-tls"]
    assert [each.level for each in (invalid, renewed, replaced, ended)] == ["WARNING", "INFO", "INFO", "INFO"]
    assert re.fullmatch(r"server process \d+ has replaced \d+, which finishes its requests", replaced.message)
    assert re.fullmatch(r"server process \d+, which was replaced, has ended", ended.message)
    assert "; the pair from before is served on" in invalid.message
    assert renewed.message.startswith("renewed: json-tls: https://")


def test_a_reload_is_logged_with_what_it_serves_and_from_where(
    launch: Launch, tmp_path: Path, pair: dict[str, str]
) -> None:
    service = launch(configured(tmp_path), WORKERS="1", **pair).ready()
    configured(tmp_path, SERVER_TOML.replace("drain_deadline = 30", "drain_deadline = 29"))
    service.signal(signal.SIGHUP)
    wait_until(lambda: sum(each.startswith("reloaded: ") for each in service.errors.events()) == 2, "both", 20)
    configured(tmp_path, SERVER_TOML.replace("drain_deadline = 30", "drain_deadline = 0"))
    service.signal(signal.SIGHUP)
    wait_until(lambda: "nothing has changed" in service.errors.read_text(), "the line about it", 20)
    service.stop()
    of_processes = re.compile(r"server process \d+")  # which replaces which, whenever that is
    all_records = [each for each in service.errors.records() if not of_processes.match(each.message)]
    records = [(each.level, each.listener, each.message) for each in all_records[2:-2]]
    received = ("INFO", "-", "reload: SIGHUP was received; the settings are tried")
    changed, *served = records[1:4]
    assert changed[2].startswith(
        f"reload: json-tls, json will be served anew; configuration {tmp_path / 'server.toml'}; listeners json-tls (app:app)"
    )
    assert re.search(r"; dataset \S+/dataset\.json with 50 items$", changed[2])
    assert sorted((level, listener, message[:14]) for level, listener, message in served) == [
        ("INFO", "json", "reloaded: json"),
        ("INFO", "json-tls", "reloaded: json"),
    ]
    invalid = ("WARNING", "-", f"reload: {tmp_path / 'server.toml'}: server.drain_deadline = 0: Expected `int` >= 1")
    assert [records[0], records[4]] == [received, received]
    assert (*records[5][:2], records[5][2].partition("; ")[0]) == invalid
    assert len(records) == 6


def test_the_format_is_reloaded(launch: Launch, tmp_path: Path, pair: dict[str, str]) -> None:
    service = launch(configured(tmp_path), WORKERS="1", **pair).ready()
    configured(tmp_path, SERVER_TOML.replace("[server]", '[server]\nlog_format = "json"\naccess_log = true'))
    service.signal(signal.SIGHUP)
    text = service.errors.path.read_text
    wait_until(lambda: text().count('"message": "reloaded: ') == 2, "both", 20)
    get(service, b"/json/2?m=3")
    wait_until(lambda: '"path": "/json/2"' in text(), "the request")
    service.stop()
    begun = next(number for number, line in enumerate(text().splitlines()) if line.startswith("{"))
    assert begun == 3  # started, started, SIGHUP
    for line in text().splitlines()[begun:]:
        json.loads(line)


def test_a_pair_that_has_been_reported_is_not_again_after_a_reload(
    launch: Launch, authority: trustme.CA, tmp_path: Path
) -> None:
    soon(authority, tmp_path / "certs", dt.timedelta(days=20))
    service = launch(configured(tmp_path), WORKERS="1").ready()
    configured(tmp_path, SERVER_TOML.replace("drain_deadline = 30", "drain_deadline = 29"))
    service.signal(signal.SIGHUP)
    wait_until(lambda: sum(each.startswith("reloaded: ") for each in service.errors.events()) == 2, "both", 20)
    service.stop()
    (line,) = service.errors.read_text().splitlines()
    assert " expires in 20.0 days (" in line


def test_a_pair_is_reported_once_at_30_14_7_1_and_0_days_before_its_end(pair: dict[str, str]) -> None:
    files = PairFiles(*(NamedFile(name, Path(path)) for name, path in pair.items()))
    expiry = Expiry(loaded := certificate.load(files))
    end = loaded.leaf.not_valid_after_utc
    lines: list[str] = []
    now = 0.0
    days = 33.0
    while days > -1:
        moment = end - dt.timedelta(days=days)
        line = expiry.look(now, lambda: moment)  # noqa: B023
        lines += [line] if line else []
        waited = expiry.next_look - now
        assert 0 < waited <= 3600
        now, days = expiry.next_look, days - waited / 86400
    assert [re.sub(r".* (expires in \S+ days|has expired).*", r"\1", each) for each in lines] == [
        *(f"expires in {each}.0 days" for each in (30, 14, 7, 1)),
        "has expired",
    ]


def test_a_pair_that_expires_soon_is_reported_at_the_start_and_when_the_next_day_comes(
    launch: Launch, authority: trustme.CA, tmp_path: Path
) -> None:
    soon(authority, tmp_path / "certs", dt.timedelta(days=1, seconds=6))
    service = launch(configured(tmp_path), WORKERS="1").ready()
    assert service.errors.read_text().count(" expires in 1.0 days (") == 1
    wait_until(lambda: service.errors.read_text().count(" expires in 1.0 days (") == 2, "the line for one day", 15)
    service.stop()
    assert service.errors.read_text().count("\n") == 2


def test_no_stop_claims_that_a_worker_refused_to_stop(launch: Launch, pair: dict[str, str]) -> None:
    for _ in range(5):
        service = launch(**pair).ready()
        service.stop()
        assert service.errors.read_text() == ""


@pytest.mark.parametrize(("variable", "value"), [("LOG_FORMAT", "xml"), ("ACCESS_LOG", "yes")])
def test_an_invalid_value_is_rejected(variable: str, value: str) -> None:
    assert f"{variable}='{value}' is neither " in rejected(**{variable: value})


@pytest.mark.parametrize("source", ["environment", "server.toml"])
def test_an_invalid_setting_is_reported_in_the_log_s_format(tmp_path: Path, source: str) -> None:
    """Also of a service that does not start: whatever reads its log expects the format."""
    text = SERVER_TOML.replace("[server]", '[server]\nlog_format = "json"') if source == "server.toml" else SERVER_TOML
    environment = clean_environment() | {"SELF_SIGNED": "1", "DATASET_PATH": "/nowhere"}
    if source == "environment":
        environment |= {"LOG_FORMAT": "json", "HOST": "nowhere"}
    command = [sys.executable, "-m", "app", configured(tmp_path, text)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    record = json.loads(result.stderr)
    assert (result.returncode, record["level"]) == (2, "ERROR")
    assert record["message"].startswith("configuration: ")


def test_version() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "app", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(rf"granian-json {VERSION} \(Granian \d+\.\d+\.\d+, Python \d+\.\d+\.\d+\)\n", result.stdout)
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


def test_process_titles_say_listener_and_role(service: Service) -> None:
    def title(pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")

    assert title(service.process.pid) == "granian-json: launcher"
    for each in service.listeners:
        server_process = service.server_process_of(each.name)
        assert title(server_process) == f"granian-json: {each.name} server process"
        titles = [title(worker) for worker in service.workers(server_process)]
        assert titles == [f"granian-json: {each.name} worker-{number}" for number in (1, 2)]


def test_a_traceback_that_cannot_be_formatted_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Such as of a source whose lines are in no encoding, or of a SyntaxError that is not Python's."""
    odd = SyntaxError("x", ("file", 1, 1, 5))  # type: ignore[arg-type]
    with pytest.raises((TypeError, AttributeError)):
        traceback.format_exception(odd)
    log.exception("an odd one", odd)
    error = capfd.readouterr().err
    assert re.search(r"logs what cannot be formatted", error)
    assert len(error) < 5000


def test_what_an_application_adds_to_a_record_is_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    log.LogHandler().handle(logging.makeLogRecord({"msg": "a note", "details": {"any": "thing"}}))
    assert "a note" in capfd.readouterr().err
