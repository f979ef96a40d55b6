"""Serve an ASGI application, by default the JSON service, on the listeners of server.toml."""

import os
import sys

try:
    from app.launcher import signals

    signals.block()  # before the imports below, which take a while: a signal that comes meanwhile is found by the launcher

    from contextlib import ExitStack

    from app import reload, run
    from app.launcher import child, console, log, output, trial
    from app.service import application, catalogue
    from app.settings import config, start
    from app.settings.errors import ConfigurationError
except (ImportError, MemoryError) as lacking:  # a library that cannot be mapped is an ImportError
    if isinstance(lacking, ImportError) and "failed to map" not in str(lacking):
        raise
    os.write(2, b"configuration: not enough memory to start; raise the limit (ulimit -v, -d)\n")
    sys.exit(2)


def main() -> int:
    """Check everything, then serve; the exit status is 0 if asked to stop, 1 after a failure, 2 for a bad setting."""
    output.open_standard_streams()
    started_with = start.take().environment
    if not any(each.startswith("--ch") for each in sys.argv):  # --check, which argparse takes shortened, too
        log.set_up("json" if started_with.get("LOG_FORMAT") == "json" else "text")
    parser = console.Parser(prog="python -m app", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="server.toml (CONFIG)")
    parser.add_argument(
        "--self-signed",
        action="store_true",
        help="without a pair, make one that lasts as long as the run (SELF_SIGNED=1)",
    )
    parser.add_argument("--check", action="store_true", help="check everything, say what would be served, and exit")
    parser.add_argument("--version", action="version", version=f"granian-json {run.versions()}")
    arguments = parser.parse_args()
    environment = {**started_with, **({config.SELF_SIGNED_VARIABLE: "1"} if arguments.self_signed else {})}
    try:
        with ExitStack() as stack:
            try:
                named = config.path_of(arguments.config, environment)
                configuration = config.read(named, environment)
                if not arguments.check:
                    log.set_up(configuration.server.log_format)
                configuration, endpoints = run.preflight(configuration, stack, is_check=arguments.check)
            except MemoryError as error:  # a limit (ulimit -v), or a machine that is full
                raise ConfigurationError(
                    "not enough memory for the dataset (DATASET_PATH) and the pairs; raise the limit (ulimit -v, -d), or shorten them"
                ) from error
            if arguments.check:
                for each in endpoints:
                    console.say(console.describe(each.server, each.listener, each.pair))
                if any(each.application.is_bundled for each in configuration.listeners):
                    console.say(f"dataset: {len(catalogue.load(started_with))} items")
                return child.STOPPED
            return run.serve(
                configuration,
                endpoints,
                _example,
                lambda served, is_tried: reload.reload(lambda: config.read(named, environment), served, is_tried),
            )
    except trial.Stopped:
        return child.FAILED if arguments.check else child.STOPPED  # nothing is known of what was not checked
    except ConfigurationError as error:
        log.error(f"configuration: {error}", details=error.details)
        return child.MISCONFIGURED


def _example(listener: config.Listener) -> str:
    return f"{application.PREFIX}5?m=3" if listener.application.is_ours else "/"


def _to_the_end() -> int:
    try:
        return main()
    finally:
        child.kill_started()


if __name__ == "__main__":
    child.end_with(_to_the_end)  # Python would wait for threads that a preloaded application has started
