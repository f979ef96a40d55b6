"""Which application a listener serves, and how it runs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from app.settings.errors import ConfigurationError, cut, shown
from app.settings.tables import ApplicationTable, Runs
from app.settings.variables import text, truth

BUNDLED, ARENA = "app:app", "app.service.arena:app"
VARIABLE = "APPLICATION"
TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class ApplicationSettings:
    """An application to import: what the launcher's modules need to know of it."""

    setting: str
    """The setting that names it, for errors."""
    target: str
    """`module:attribute`; both may have dots."""
    factory: bool
    """Whether the attribute is a callable that returns the application."""
    runs: Runs
    preload: bool
    """Whether it is imported once, before workers are forked, instead of by each of them."""

    @property
    def is_bundled(self) -> bool:
        """Whether it is the JSON service of this project."""
        return self.target == BUNDLED

    @property
    def is_ours(self) -> bool:
        """Whether it is of this project, and serves the dataset."""
        return self.target in {BUNDLED, ARENA}

    def __str__(self) -> str:
        """Return setting and value as an error shows them."""
        return f"{self.setting}={cut(self.target)}"


def of_table(setting: str, table: ApplicationTable) -> ApplicationSettings:
    """Return what a table asks for. Unless it says so, only the bundled application runs inline and is preloaded.

    Another one may wait, or start threads when it is imported. Raises ConfigurationError.
    """
    _check_target(setting, table.import_)
    bundled = table.import_ == BUNDLED
    return ApplicationSettings(
        setting=setting,
        target=table.import_,
        factory=table.factory,
        runs=table.runs or ("inline" if bundled else "loop"),
        preload=bundled if table.preload is None else table.preload,
    )


def main_application(table: ApplicationTable | None, environment: Mapping[str, str]) -> ApplicationSettings:
    """Return the application of the listeners that name none: of APPLICATION, else of `[application]`, else bundled.

    APPLICATION takes the place of the whole table. APPLICATION_RUNS, APPLICATION_PRELOAD and APPLICATION_FACTORY
    override. Raises ConfigurationError.
    """
    if (named := text(environment, VARIABLE)) is not None:
        chosen = of_table(VARIABLE, ApplicationTable(import_=named))
    else:
        chosen = of_table("application.import", table or ApplicationTable(import_=BUNDLED))
    runs: Runs = chosen.runs
    if (value := text(environment, f"{VARIABLE}_RUNS")) is not None:
        known = {str(each): each for each in get_args(Runs)}
        if value not in known:
            raise ConfigurationError(
                f"{VARIABLE}_RUNS={shown(repr(value))} is neither inline nor loop; correct or unset it"
            )
        runs = known[value]
    return ApplicationSettings(
        setting=chosen.setting,
        target=chosen.target,
        factory=truth(environment, f"{VARIABLE}_FACTORY", otherwise=chosen.factory),
        runs=runs,
        preload=truth(environment, f"{VARIABLE}_PRELOAD", otherwise=chosen.preload),
    )


def check_preloaded(applications: Iterable[ApplicationSettings], way_out: str) -> None:
    """Raise ConfigurationError, with a `way_out`, if another application than ours is served beside one that is preloaded.

    The launcher imports that one, and the workers of all listeners are forked from it: they would have its modules, its
    variables and its patches before they import theirs. Ours may be beside any.
    """
    others = [each for each in applications if not each.is_ours]
    preloaded = next((each for each in others if each.preload), None)
    for each in others:
        if preloaded and (each.target, each.factory, each.preload) != (preloaded.target, preloaded.factory, True):
            raise ConfigurationError(
                f"{preloaded} is preloaded, so that workers of {each}{'' if each.preload else ' (preload = false)'} would"
                f" have what its import leaves; {way_out}"
            )


def _check_target(setting: str, target: str) -> None:
    if not TARGET.fullmatch(target):
        raise ConfigurationError(f"{setting}={shown(repr(target))} is not module:attribute; write it like main:app")
