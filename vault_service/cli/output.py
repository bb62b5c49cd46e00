"""Where answers go, and in which form: a table for people, CSV, JSON, as they come from the database."""

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console

from vault_service.cli.common import errors, lay_out
from vault_service.errors import ConfigurationError
from vault_service.files import new_file
from vault_service.governance.spreadsheet import BYTE_ORDER_MARK, write_csv

TABLE, CSV, JSON, HTML = "table", "csv", "json", "html"
_ROWS: Final = 500  # of a table that is laid out in one piece


def chosen_format(format_: str | None, default: str, *, json: bool) -> str:
    """What --format and --json say together. ConfigurationError when they disagree."""
    if json and format_ not in (None, JSON):
        raise ConfigurationError("--json and --format name different formats")
    return JSON if json else format_ or default


@contextmanager
def destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a new file that only its owner may read; on failure nothing of it stays.

    ConfigurationError when the file is there already or cannot be made.
    """
    if output is None:
        yield sys.stdout
        return
    with new_file(output, "--output") as out:
        yield out
    errors.print("written", markup=False)


def write_rows(
    out: TextIO, format_: str, title: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Rows as a table or CSV, of these columns; or as one JSON array, whole."""
    if format_ == JSON:
        _write_json(out, rows)
    elif format_ == CSV:
        if _begins_file(out):
            out.write(BYTE_ORDER_MARK)
        write_csv(out, columns, ([_cell(row.get(column)) for column in columns] for row in rows))
    else:
        write_table(out, title, columns, ([row.get(column) for column in columns] for row in rows))


def write_table(out: TextIO, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Tables of some hundred rows each; at least one."""
    console = Console(file=out, highlight=False)
    out.write(f"{title}\n")
    left = iter(rows)
    first = True
    while (part := list(islice(left, _ROWS))) or first:
        first = False
        lay_out(console, columns, [[_cell(cell) for cell in row] for row in part])


def _begins_file(out: TextIO) -> bool:
    """Whether `out` is a file that has nothing in it yet; a pipe or a terminal is none."""
    try:
        found = os.fstat(out.fileno())
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def _write_json(out: TextIO, rows: Iterable[Mapping[str, Any]]) -> None:
    between = "[\n"
    for row in rows:
        out.write(between + json.dumps(row, ensure_ascii=False, sort_keys=True))
        between = ",\n"
    out.write("[]\n" if between == "[\n" else "\n]\n")
