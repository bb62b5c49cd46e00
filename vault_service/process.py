"""The process itself: not dumpable, and with logs that hold no value of a row or a request."""

import contextlib
import ctypes
import json
import logging
import os
import platform
import resource
import time
from typing import Any, Final

import structlog

from vault_service.errors import ConfigurationError
from vault_service.log_writer import LogWriter

_PR_GET_DUMPABLE: Final = 3  # <linux/prctl.h>
_PR_SET_DUMPABLE: Final = 4


def refuse_dumps() -> None:
    """Make this process leave no core and be unreadable to others of the same user; checked.

    RLIMIT_CORE alone is ignored where cores are piped to a program; PR_SET_DUMPABLE is not. Linux only:
    elsewhere just the limit is set.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if platform.system() != "Linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if library.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigurationError("the kernel did not make this process undumpable")


def run_without_preemption() -> None:
    """Let threads of this process that wake up wait for the one that runs (SCHED_BATCH, sched(7)). Linux only.

    gRPC's own thread wakes for every message: it interrupted the event loop thousands of times a second, and
    each call cost a sixth more. Threads started later inherit this.
    """
    if platform.system() == "Linux":
        with contextlib.suppress(OSError):  # some containers forbid it: slower, nothing else
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def log_as_json(log: LogWriter) -> None:
    """Log to `log` as JSON lines; other libraries' records without their arguments."""
    lines = _Lines(log)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_TemplateHandler(log)]


class _Lines:
    """The log, as structlog wants it: a method a level, each of which takes a finished line."""

    def __init__(self, log: LogWriter) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = log.say


class _TemplateHandler(logging.Handler):
    """Other libraries' records: which logger and where. Their messages, arguments and traces may hold values."""

    def __init__(self, log: LogWriter) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, Any] = {
            "logger": record.name,
            "level": record.levelname.lower(),
            "event": "library message",
            "at": f"{record.module}:{record.lineno}",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
        }
        self._log.say(json.dumps(line))
