"""Owns the reading of a roster: a CSV file of students, as a school's system exports it. A path comes in,
typed rows go out, in the file's order and as they stand there; what makes a number or a date good is the
vault's decision."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ("student_id", "given_name", "family_name", "date_of_birth", "ssn")

_LONGEST_ID = 128  # bytes: the student id is the reference of a call, and that is the contract's limit


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a roster. Only `student_id` is sure not to be empty; its repr shows nothing else."""

    student_id: str
    given_name: str = field(repr=False)
    family_name: str = field(repr=False)
    date_of_birth: str = field(repr=False)
    ssn: str = field(repr=False)


class RosterError(Exception):
    """A roster that cannot be read. `line` counts from 1, the header included; `column` is a name, or empty
    where the line as a whole is wrong. Never holds a value of the file.
    """

    def __init__(self, path: Path, line: int, column: str, problem: str) -> None:
        super().__init__(path, line, column, problem)
        self.path = path
        self.line = line
        self.column = column
        self.problem = problem

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        return f"{self.path.name}, line {self.line}{column}: {self.problem}"


def read_roster(path: Path) -> list[Row]:
    """Reads a UTF-8 CSV file whose header names the five COLUMNS, in any order.

    Raises RosterError for what is no such file, and for a student id that is empty, repeated or longer than
    128 bytes; OSError where the file cannot be opened.
    """
    rows: list[Row] = []
    first_seen: dict[str, int] = {}
    lines = _lines(path)
    line, header = next(lines, (1, []))
    _check_header(path, line, header)
    for line, cells in lines:
        if len(cells) < len(header):
            raise RosterError(path, line, header[len(cells)], "missing, as the line is too short")
        if len(cells) > len(header):
            raise RosterError(path, line, "", f"more than the {len(header)} columns of the header")
        values = dict(zip(header, cells, strict=True))
        for column, value in values.items():
            if any("\udc80" <= character <= "\udcff" for character in value):
                raise RosterError(path, line, column, "not UTF-8")
        student_id = values["student_id"]
        if not student_id.strip():
            raise RosterError(path, line, "student_id", "empty")
        if len(student_id.encode()) > _LONGEST_ID:
            raise RosterError(path, line, "student_id", f"longer than {_LONGEST_ID} bytes")
        if student_id in first_seen:
            raise RosterError(path, line, "student_id", f"already on line {first_seen[student_id]}")
        first_seen[student_id] = line
        rows.append(Row(**values))
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each record with the number of its first line. Bytes that are not UTF-8 become lone surrogates, so
    that the column they stand in can be named.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                raise RosterError(path, line, "", "not CSV; is a quotation mark left open?") from None
            if cells:
                yield line, cells


def _check_header(path: Path, line: int, header: list[str]) -> None:
    for column in COLUMNS:
        if header.count(column) != 1:
            problem = "not in the header" if column not in header else "twice in the header"
            raise RosterError(path, line, column, problem)
    if len(header) > len(COLUMNS):
        # Not named: a file without a header has a person's data here.
        raise RosterError(path, line, "", f"a roster has these columns only: {', '.join(COLUMNS)}")
