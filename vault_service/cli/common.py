"""What every command shares: options, exit status, tables and JSON, questions before a change.

Exit status: 0 done, 1 a check failed, 2 usage, 3 something overdue, 4 refused or a second person needed,
5 Vault or database away, 130 interrupted.
"""

import errno
import json
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from vault_service.errors import (
    CallError,
    ConfigurationError,
    OrderRefusedError,
    PolicyInvalidError,
    SsnVaultError,
    StoreError,
)
from vault_service.keys.transit import VaultError
from vault_service.ssn import contains_ssn_shape
from vault_service.storage.faults import explain, lacks_right

console: Final = Console(highlight=False)
errors: Final = Console(stderr=True, highlight=False)
_UNLIMITED: Final = 100_000  # columns

P = ParamSpec("P")
R = TypeVar("R")


class Exit(IntEnum):
    """Exit status of every command."""

    DONE = 0
    CHECK_FAILED = 1
    USAGE = 2
    OVERDUE = 3
    REFUSED = 4
    AWAY = 5
    INTERRUPTED = 130


Home = Annotated[Path | None, typer.Option("--home", help="Home directory of a development stack.")]
Config = Annotated[Path | None, typer.Option("--config", help="Configuration file (else SSN_VAULT_CONFIG).")]
As = Annotated[str | None, typer.Option("--as", help="Act as this person of the development home.")]
Second = Annotated[str | None, typer.Option("--second", help="In development: this person signs too.")]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with your Vault token (else VAULT_TOKEN, ~/.vault-token).")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def stop(status: Exit, message: str) -> NoReturn:
    """Say why on standard error and end with `status`."""
    errors.print(message, markup=False, soft_wrap=True)
    raise typer.Exit(status)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn every known failure into words and an exit status."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ConfigurationError, PolicyInvalidError) as error:
            stop(Exit.USAGE, str(error))
        except OrderRefusedError as error:
            stop(Exit.REFUSED, f"refused: {error}")
        except VaultError as error:
            stop(Exit.AWAY if error.transient else Exit.REFUSED, f"Vault: {error}")
        except StoreError as error:
            stop(Exit.AWAY, str(error))
        except sa.exc.SQLAlchemyError as error:
            stop(Exit.REFUSED if lacks_right(error) else Exit.AWAY, explain(error))
        except CallError as error:
            stop(Exit.AWAY, error.reason.value)
        except SsnVaultError as error:
            stop(Exit.CHECK_FAILED, str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            stop(Exit.AWAY, f"{error.filename or 'the disk'}: there is no space left")
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None

    return run


def print_json(value: Any) -> None:
    """Machine-readable output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people."""
    if title:
        console.print(title, style="italic", markup=False)
    lay_out(console, columns, [[str(cell) for cell in row] for row in rows])


def lay_out(out: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that breaks no word: as wide as it needs where it goes to a pipe or a file, and line by line where a
    terminal is too narrow for it.
    """
    table = Table()
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position == 0)  # the first is what one copies
    texts = [[Text(visible(cell)) for cell in row] for row in rows]
    for row in texts:
        table.add_row(*row)
    if not out.is_terminal:
        Console(file=out.file, width=_UNLIMITED, highlight=False).print(table)
    elif Measurement.get(out, out.options.update(width=_UNLIMITED), table).minimum <= out.width:
        out.print(table)
    else:
        widest = max(map(len, columns))
        for row in texts:
            for column, cell in zip(columns, row, strict=True):
                out.print(Text(f"{column:<{widest}}  "), cell, sep="", soft_wrap=True)
            out.print()


def visible(text: str) -> str:
    """The text with everything that does not print written out: what a client sent must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before a change; ends with REFUSED unless the answer is yes."""
    if contains_ssn_shape(question):
        stop(Exit.USAGE, "an argument looks like a Social Security number")
    if not yes and not typer.confirm(question):
        stop(Exit.REFUSED, "nothing was changed")
