"""A spreadsheet that opens a list runs nothing of it."""

import csv
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault_service.governance.spreadsheet import harmless, write_csv


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_what_begins_a_formula_gets_an_apostrophe(begin: str) -> None:
    assert harmless(f'{begin}HYPERLINK("x")') == f'\'{begin}HYPERLINK("x")'


@pytest.mark.parametrize("cell", ["", "k12_ABC", "a=b", "2026-11-24", "100", " =1"])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert harmless(cell) == cell


@given(st.lists(st.tuples(st.text(), st.text(), st.integers(0))))
def test_a_reader_finds_the_cells_again(rows: list[tuple[str, str, int]]) -> None:
    out = StringIO(newline="")
    write_csv(out, ["one", "two", "three"], rows)
    header, *found = csv.reader(StringIO(out.getvalue(), newline=""))
    assert header == ["one", "two", "three"]
    assert found == [[harmless(str(cell)) for cell in row] for row in rows]
