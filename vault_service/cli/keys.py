"""`ssn-vault keys`: the key hierarchy."""

import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import sqlalchemy as sa
import typer

from vault_service.cli.admin import Admin, Where, admin
from vault_service.cli.arguments import member_of
from vault_service.cli.common import (
    As,
    Config,
    Exit,
    Home,
    Json,
    Second,
    TokenFileOption,
    Yes,
    command,
    confirm,
    console,
    print_json,
    print_table,
    stop,
)
from vault_service.cli.compromised import respond
from vault_service.cli.key_work import KeyWork
from vault_service.cli.ordering import carry_out
from vault_service.keys.names import KeyKind, KeyName
from vault_service.keys.wrapping import still_opens, wrapping_key_exists
from vault_service.orders.key_report import KeyLine, Periods, confirmation, key_lines, scope_option
from vault_service.orders.key_state import IN_USE, Stage
from vault_service.orders.order import Action
from vault_service.orders.state import MOST_ROWS_PER_SECOND, MOST_SET_ASIDE, ControlState
from vault_service.storage.rotation import counted_encryptions, damaged_rows

app = typer.Typer(help="The key hierarchy.", no_args_is_help=True)
ROWS_PER_SECOND: Final = 5000  # of a re-encryption that nobody gave a rate


class Rotated(StrEnum):
    """What can be rotated."""

    WRAPPING = "wrapping"
    DATA = "data"
    INDEX = "index"


_LARGEST_VERSION: Final = 2**31 - 1  # what the database's columns hold
Domain = Annotated[str | None, typer.Option("--domain", help="A domain's keys.")]
Agreement = Annotated[str | None, typer.Option("--agreement", help="An agreement's key.")]
Everything = Annotated[bool, typer.Option("--all", help="Every domain and agreement.")]
Version = Annotated[int, typer.Option("--version", help="Which version.", min=1, max=_LARGEST_VERSION)]
Kind = Annotated[
    KeyKind, typer.Option("--kind", parser=member_of(KeyKind), metavar="KIND", help="Which key: data or index.")
]
Rate = Annotated[int, typer.Option("--rate", help="Rows a second at most.", min=1, max=MOST_ROWS_PER_SECOND)]


@app.command()
@command
def status(
    home: Home = None, config: Config = None, as_: As = None, token_file: TokenFileOption = None, json: Json = False
) -> None:
    """Every key version: where it stands, its age, the rows that use it; exit status 3 when something is wrong."""
    with admin(Where(home, config, as_, token_file)) as one:
        lines, unchecked = _lines(one)
        state = one.state()
        missing = state.missing_keys()
        with one.store.reading() as connection:
            damaged = Counter(row.scope for row in damaged_rows(connection) if row.set_aside is None)
    if json:
        names = {"missing": [name.transit for name in missing], "unchecked": [name.transit for name in unchecked]}
        print_json({"keys": [line._asdict() for line in lines], "damaged": damaged, **names})
    else:
        columns = ["key", "state", "days", "rows", "encryptions", "wrapped"]
        print_table("Keys", columns, [_cells(line) for line in lines])
        for line in lines:
            for problem in line.problems:
                console.print(f"! {line.scope} {line.kind} {line.version}: {problem}", markup=False, soft_wrap=True)
        for name in missing:
            console.print(f"! {name.transit} is missing: ssn-vault policy apply makes it", markup=False)
        for scope, count in sorted(damaged.items()):
            console.print(
                f"! {scope}: {count} rows do not open, and keep old versions in use: restore them, or "
                f"ssn-vault keys set-aside {scope_option(state, scope)}",
                markup=False,
                soft_wrap=True,
            )
        if unchecked:
            text = f"whether Vault still opens {len(unchecked)} keys was not looked at: that takes a key admin's login"
            console.print(text, markup=False, soft_wrap=True)
    if missing or damaged or any(line.problems for line in lines):
        raise typer.Exit(Exit.OVERDUE)


@app.command()
@command
def rotate(
    kind: Annotated[
        Rotated,
        typer.Option("--kind", parser=member_of(Rotated), metavar="KIND", help="What: wrapping, data or index."),
    ],
    domain: Domain = None,
    agreement: Agreement = None,
    everything: Everything = False,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Make new versions the active ones, or wrap the present ones anew. Nothing stops meanwhile."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        scopes = _scopes(one.state(), domain, agreement, everything=everything, data=kind is Rotated.DATA)
        confirm(f"Rotate the {kind} keys of {', '.join(scopes)}?", yes=yes)
        work = KeyWork(one, where)
        for scope in scopes:
            if kind is Rotated.WRAPPING:
                work.rotate_wrapping(scope)
            else:
                work.rotate(scope, KeyKind(kind.value))
        if kind is not Rotated.WRAPPING:
            console.print("old rows stay under the old version until: ssn-vault keys reencrypt", markup=False)


@app.command()
@command
def reencrypt(
    domain: Domain = None,
    agreement: Agreement = None,
    everything: Everything = False,
    rate: Rate = ROWS_PER_SECOND,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Move all rows to the active key versions, while calls go on. Interrupt it freely: the servers do the work."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        scopes = _scopes(one.state(), domain, agreement, everything=everything, data=False)
        confirm(f"Re-encrypt the rows of {', '.join(scopes)}?", yes=yes)
        for scope in scopes:
            KeyWork(one, where).reencrypt(scope, rate)


@app.command("set-aside")
@command
def set_aside(
    rows: Annotated[list[str] | None, typer.Argument(help="Tokens, or events of an agreement; else all.")] = None,
    domain: Domain = None,
    agreement: Agreement = None,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """Let rows that do not open keep no key version in use any more; two people sign. Their bytes stay.

    Linkage ids of their persons under an older version of an agreement's key are lost with the next re-encryption.
    """
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        (scope,) = _scopes(one.state(), domain, agreement, everything=False, data=False)
        with one.store.reading() as connection:
            found = {row.name for row in damaged_rows(connection) if row.scope == scope and row.set_aside is None}
        if rows and not set(rows) <= found:
            stop(Exit.USAGE, "a row is not among those that a re-encryption could not open: ssn-vault keys reencrypt")
        chosen = sorted(set(rows or found))[:MOST_SET_ASIDE]
        if not chosen:
            console.print(f"{scope} has no row that does not open", markup=False)
            return
        for name in chosen:
            console.print(name, markup=False, soft_wrap=True)
        confirm(f"Set {len(chosen)} rows of {scope} aside, which cannot be opened?", yes=yes)
        carry_out(one, where, Action.SET_ASIDE, {"scope": scope, "rows": chosen}, second)


@app.command()
@command
def retire(
    kind: Kind,
    version: Version,
    domain: Domain = None,
    agreement: Agreement = None,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Let the servers drop an old version; refused while a row uses it."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        name = _name(one.state(), domain, agreement, kind, version)
        confirm(f"Retire {confirmation(name)}?", yes=yes)
        KeyWork(one, where).retire(name)


@app.command()
@command
def destroy(
    kind: Kind,
    version: Version,
    confirmed: Annotated[str, typer.Option("--confirm", help="DOMAIN/KIND/VERSION once more, so that it is meant.")],
    domain: Domain = None,
    agreement: Agreement = None,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """Delete a retired version's wrapping key: what it protected can never be opened again, in no backup either.

    Two people type this; each signs, and does the half at Vault that their login allows.
    """
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        name = _name(one.state(), domain, agreement, kind, version)
        if confirmed != confirmation(name):
            stop(Exit.USAGE, f"--confirm must be {confirmation(name)}")
        confirm(f"Destroy {confirmation(name)} for ever?", yes=yes)
        KeyWork(one, where, second).destroy(name)


@app.command()
@command
def compromised(
    domain: Annotated[str, typer.Option("--domain", help="Whose keys somebody else may have.")],
    report: Annotated[Path, typer.Option("--report", help="Where the written report goes.")] = Path("compromised.md"),
    rate: Rate = ROWS_PER_SECOND * 10,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """The worst day: new keys, every row moved to them, the old keys destroyed, and a report of what was exposed."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:
        _scopes(one.state(), domain, None, everything=False, data=True)
        confirm(f"Replace and destroy every key of {domain}?", yes=yes)
        respond(KeyWork(one, where, second), domain, rate, report)


def _lines(one: Admin) -> tuple[list[KeyLine], list[KeyName]]:
    """What there is to say of every version, and the versions of which this login may not see whether they open."""
    state, keys = one.state(), one.settings.keys
    with one.store.reading() as connection:
        usage = connection.execute(sa.text("SELECT scope, kind, version, records FROM key_usage"))
        records = {KeyName(scope, KeyKind(kind), version): count for scope, kind, version, count in usage}
        encryptions = counted_encryptions(connection)
    versions = [version for several in state.keys.values() for version in several]
    undeleted = [v.name for v in versions if v.stage is Stage.DESTROYED and wrapping_key_exists(one.vault, v.name)]
    opens = {v.name: still_opens(one.vault, v.name, v.wrapped) for v in versions if v.stage in IN_USE}
    unopened = [name for name, answer in opens.items() if answer is False]
    periods = Periods(keys.data_days, keys.index_days, keys.wrapping_days)
    lines = key_lines(state, records, encryptions, undeleted, unopened, periods, time.time_ns() // 1_000_000)
    return lines, [name for name, answer in opens.items() if answer is None]


def _cells(line: KeyLine) -> list[object]:
    """Age and cryptoperiod in days; encryptions at most so many; days since the wrapping key was rotated."""
    key = f"{line.scope}/{line.kind}/{line.version}"
    encryptions = "" if line.encryptions is None else f"<= {line.encryptions:,}"
    age = f"{line.age_days} of {line.cryptoperiod_days:g}"
    return [key, line.state, age, f"{line.records:,}", encryptions, f"{line.wrapped_days} days ago"]


def _scopes(
    state: ControlState, domain: str | None, agreement: str | None, *, everything: bool, data: bool
) -> list[str]:
    """The domains and agreements that are meant, which have keys. `data`: agreements have no data keys."""
    if sum((domain is not None, agreement is not None, everything)) != 1:
        stop(Exit.USAGE, "name one of --domain, --agreement, --all")
    if data and agreement is not None:
        stop(Exit.USAGE, "an agreement has no data key, only an index key")
    with_keys = sorted({scope for scope, _ in state.keys})
    if everything:
        return [scope for scope in with_keys if not (data and scope in state.first_domains)]
    scope = domain or agreement or ""
    if scope not in with_keys or (scope in state.first_domains) != (agreement is not None):
        stop(Exit.USAGE, f"there is no such {'domain' if domain is not None else 'agreement'}, or it has no keys")
    return [scope]


def _name(state: ControlState, domain: str | None, agreement: str | None, kind: KeyKind, version: int) -> KeyName:
    (scope,) = _scopes(state, domain, agreement, everything=False, data=kind is KeyKind.DATA)
    name = KeyName(scope, kind, version)
    if state.version(name) is None:
        stop(Exit.USAGE, "there is no such key version")
    return name
