"""Tables break no word, and files of comma-separated values open in Excel as they are."""

import io
from pathlib import Path

from rich.console import Console

from vault_service.cli.common import lay_out
from vault_service.cli.output import CSV, destination, write_rows

COLUMNS = ["id", "action", "asked by", "what"]
ROW = ["01a213d1-f39c-790e-856f-c3db8d3da2f0", "policy.apply", "registrar-signer", "ends the freeze [red]of sis[/red]"]


def shown(*, terminal: bool, width: int) -> list[str]:
    out = io.StringIO()
    lay_out(Console(file=out, force_terminal=terminal, width=width, color_system=None), COLUMNS, [ROW])
    return out.getvalue().splitlines()


def test_a_table_for_a_pipe_has_a_row_a_line_and_whole_words() -> None:
    lines = shown(terminal=False, width=80)
    assert len(lines) == 5  # three rules, the header, the row
    assert all(cell in lines[3] for cell in ROW)  # markup is text like any other


def test_a_terminal_that_is_too_narrow_gets_a_line_a_cell() -> None:
    assert shown(terminal=True, width=60) == [
        "id        01a213d1-f39c-790e-856f-c3db8d3da2f0",
        "action    policy.apply",
        "asked by  registrar-signer",
        "what      ends the freeze [red]of sis[/red]",
        "",
    ]


def test_a_terminal_that_is_wide_enough_gets_the_table() -> None:
    lines = shown(terminal=True, width=100)
    assert len(lines) > 4
    assert all(cell in lines[3] for cell in ROW[:3])


def test_a_file_of_comma_separated_values_begins_with_the_mark_that_excel_needs(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    with destination(file) as out:
        write_rows(out, CSV, "", ["token", "reason"], [{"token": "k12_A", "reason": "José"}])
    assert file.read_bytes() == "\ufefftoken,reason\r\nk12_A,José\r\n".encode()
    redirected = tmp_path / "redirected.csv"
    with redirected.open("w", encoding="utf-8") as out:
        for _ in range(2):
            write_rows(out, CSV, "", ["token"], [{"token": "k12_A"}])
            out.flush()
    assert redirected.read_text().count("\ufeff") == 1
    pipe = io.StringIO()
    write_rows(pipe, CSV, "", ["token"], [])
    assert pipe.getvalue() == "token\r\n"
