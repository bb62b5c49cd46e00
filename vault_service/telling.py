"""Says once that something is wrong, once more when its cause changes, and once that it is over.

For whatever is tried again every second or so: a line an attempt would bury everything else in the log.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import structlog

Level = Literal["info", "warning", "error", "critical"]
_ABOUT_ALL: Final = ""
_NOTHING: Final[Mapping[str, object]] = {}


class TellOnce:
    """One a loop. `about` tells several things of one loop apart, such as orders by their ids."""

    def __init__(self, logger: structlog.stdlib.BoundLogger) -> None:
        self._log = logger
        self._told: dict[str, tuple[str, dict[str, Any]]] = {}

    def wrong(
        self,
        event: str,
        level: Level = "warning",
        *,
        about: str = _ABOUT_ALL,
        also: Mapping[str, object] = _NOTHING,
        **cause: object,
    ) -> None:
        """Log `event` and its cause, unless that is what was told last. `also` is told and may change unnoticed."""
        if self._told.get(about) != (event, cause):
            self._told[about] = event, cause
            getattr(self._log, level)(event, **cause, **also)

    def right(self, event: str, level: Level = "warning", *, about: str = _ABOUT_ALL, **facts: object) -> None:
        """Log `event` if something was wrong."""
        if self._told.pop(about, None) is not None:
            getattr(self._log, level)(event, **facts)

    def forget(self, but: Collection[str]) -> None:
        """What was told about others than these is of no interest any more."""
        for about in self._told.keys() - set(but):
            del self._told[about]
