"""The command: `python -m app [--config FILE] [--check]`."""

import signal

# Before the imports below, which take a while: a signal that comes meanwhile is for the launcher to find.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})

import argparse
import os
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from app.launcher import probe
from app.launcher import supervisor as launcher
from app.service import application as asgi
from app.service import catalogue
from app.settings import certificate, config
from app.settings.errors import ConfigurationError

MISCONFIGURED = 2
PROJECT = Path(__file__).parent.parent


def main() -> int:
    """Check everything, then serve; the exit status is 0 when asked to stop, 1 on a failure, 2 on a bad setting."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Serve GET /json/{count}?m={m}.")
    parser.add_argument("--config", type=Path, default=PROJECT / "server.toml", metavar="FILE", help="server.toml")
    parser.add_argument("--check", action="store_true", help="check everything, say what would be served, and exit")
    arguments = parser.parse_args()
    try:
        configuration = config.read(arguments.config, os.environ)
        items = catalogue.load(os.environ)
        with ExitStack() as stack:
            pairs = [pair_of(listener, configuration.host, stack) for listener in configuration.listeners]
            connections = launcher.raise_descriptor_limit(configuration.backpressure)
            configuration = replace(configuration, backpressure=connections)
            if arguments.check:
                for listener, pair in zip(configuration.listeners, pairs, strict=True):
                    launcher.close(launcher.bind(configuration, listener, 1, beside=False))
                    launcher.say(launcher.describe(configuration, listener, pair))
                launcher.say(f"dataset: {len(items)} items")
                return launcher.STOPPED
            for listener, pair in zip(configuration.listeners, pairs, strict=True):
                if pair is not None and listener.pair_files is None:
                    launcher.warn(
                        f"listener {listener.name}: no TLS_CERT and TLS_KEY, so a self-signed pair was made for this"
                        f" run; its authority's certificate is {pair.authority}"
                    )
            closing: list[bool] = []
            application = asgi.application(items, closing=closing)
            return launcher.run(configuration, pairs, application, lambda: closing.append(True), f"{asgi.PREFIX}5?m=3")
    except ConfigurationError as error:
        launcher.warn(f"configuration: {error}")
        return MISCONFIGURED


def _folder_for_authority(stack: ExitStack) -> Path:
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="granian-json-")))
    except OSError as error:
        raise ConfigurationError(
            f"TMPDIR={os.environ.get('TMPDIR', '(unset)')}: the self-signed pair's authority has nowhere to go"
            f" ({error.strerror}); name a writable folder (in a container: --tmpfs /tmp), or set TLS_CERT and TLS_KEY"
        ) from error


def pair_of(listener: config.Listener, host: str, stack: ExitStack) -> certificate.Pair | None:
    """Load a listener's pair, or make one for this run; None where there is no TLS."""
    if not listener.tls:
        return None
    if listener.pair_files is None:
        names = dict.fromkeys(["localhost", socket.gethostname(), "127.0.0.1", "::1", probe.reachable(host)])
        return certificate.self_signed(list(names), _folder_for_authority(stack))
    pair = certificate.load(listener.pair_files.certificate, listener.pair_files.key)
    if pair.expired:
        launcher.warn(
            f"listener {listener.name}: {pair.origin} is valid from {pair.leaf.not_valid_before_utc:%Y-%m-%d}"
            f" to {pair.leaf.not_valid_after_utc:%Y-%m-%d}, not today; clients that verify will refuse it"
        )
    return pair


if __name__ == "__main__":
    sys.exit(main())
