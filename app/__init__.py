"""A JSON service on Granian: `app:app` is the ASGI application, `python -m app` the launcher."""

VERSION = "0.1.0"

TYPE_CHECKING = False  # typing is not imported: until app.__main__ has blocked signals, one of them ends the process
if TYPE_CHECKING:
    from typing import Any

    from app.service.application import Application

    app: Application


def __getattr__(name: str) -> "Any":  # noqa: ANN401 - a module's attributes have no common type
    """Build `app` when a server asks for it, not when the launcher imports the package.

    The launcher has to be able to say what is wrong with the dataset in its own words.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from app.service.application import build
    from app.service.catalogue import load
    from app.settings import start

    globals()["app"] = build(load(start.taken().environment))
    return globals()["app"]
