"""The command: `python -m app [--config FILE] [--check]`."""

from app.launcher import signals

signals.block()  # before the imports below, which take a while: a signal that comes meanwhile is found by the launcher

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from app import run
from app.launcher import console, supervisor
from app.service import application, catalogue
from app.settings import config
from app.settings.errors import ConfigurationError

MISCONFIGURED = 2
EXAMPLE = f"{application.PREFIX}5?m=3"


def main() -> int:
    """Check everything, then serve; the exit status is 0 if asked to stop, 1 after a failure, 2 for a bad setting."""
    console.open_standard_streams()
    parser = argparse.ArgumentParser(prog="python -m app", description="Serve GET /json/{count}?m={m}.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="server.toml (SERVER_CONFIG)")
    parser.add_argument("--check", action="store_true", help="check everything, say what would be served, and exit")
    arguments = parser.parse_args()
    try:
        with ExitStack() as stack:
            configuration = config.read(config.path_of(arguments.config, os.environ), os.environ)
            items = catalogue.load(os.environ)
            configuration, endpoints = run.preflight(configuration, stack)
            if arguments.check:
                for each in endpoints:
                    console.say(console.describe(configuration, each.listener, each.pair))
                console.say(f"dataset: {len(items)} items")
                return supervisor.STOPPED
            return run.serve(configuration, endpoints, application.build(items), EXAMPLE)
    except ConfigurationError as error:
        console.warn(f"configuration: {error}")
        return MISCONFIGURED
    except MemoryError:  # while something was read: a limit (ulimit -v), or a machine that is full
        console.warn("configuration: not enough memory for the dataset and the pairs; raise the limit, or shorten them")
        return MISCONFIGURED


if __name__ == "__main__":
    sys.exit(main())
