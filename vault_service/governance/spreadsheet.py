"""Comma-separated values that a spreadsheet opens without running anything in them."""

import csv
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

# What spreadsheets take for the beginning of a formula, or strip before they look for one (OWASP, "CSV Injection");
# the last four are the full-width forms, which some read as the plain ones.
_BEGINS_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
BYTE_ORDER_MARK: Final = "\ufeff"  # at the start of a file: without it Excel takes UTF-8 for an older encoding


class Writable(Protocol):
    """Where text can be written."""

    def write(self, text: str, /) -> object:
        """Take a text."""


def write_csv(out: Writable, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and the rows (RFC 4180)."""
    writer = csv.writer(out, lineterminator="\r\n")  # else a lone carriage return would not be quoted
    writer.writerow(columns)
    writer.writerows([harmless(str(cell)) for cell in row] for row in rows)


def harmless(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would run as a formula."""
    return f"'{cell}" if cell.startswith(_BEGINS_FORMULA) else cell
