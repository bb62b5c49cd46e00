"""What is tried again and again says once that it fails, once that the cause is another, once that it works again."""

import structlog
from structlog.testing import capture_logs

from vault_service.telling import TellOnce


def test_a_trouble_is_told_when_it_begins_changes_and_ends() -> None:
    with capture_logs() as lines:
        told = TellOnce(structlog.stdlib.get_logger("test"))
        told.right("orders are decided again")
        for cause in ("one", "one", "two", "two", "one"):
            told.wrong("orders wait", error=cause)
        for _ in range(3):
            told.right("orders are decided again")
        told.wrong("orders wait", error="one")
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("orders wait", "one"),
        ("orders wait", "two"),
        ("orders wait", "one"),
        ("orders are decided again", None),
        ("orders wait", "one"),
    ]


def test_troubles_about_several_things_are_told_apart_and_forgotten() -> None:
    with capture_logs() as lines:
        told = TellOnce(structlog.stdlib.get_logger("test"))
        for about in ("a", "b", "a", "b"):
            told.wrong("an order waits", "error", about=about, order=about)
        told.forget(but=["b"])
        for about in ("a", "b"):
            told.wrong("an order waits", "error", about=about, order=about)
    assert [(line["order"], line["log_level"]) for line in lines] == [("a", "error"), ("b", "error"), ("a", "error")]
