"""`ssn-vault audit verify`, `export`, `prove`, `check-proof` and `key`: what a third party needs to trust nobody."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vault_service.app import open_vault
from vault_service.audit import export, verify
from vault_service.audit.proof import disclosure_proof
from vault_service.cli.admin import Where, role_store
from vault_service.cli.arguments import canonical_token
from vault_service.cli.common import (
    As,
    Config,
    Exit,
    Home,
    Json,
    TokenFileOption,
    command,
    console,
    errors,
    print_json,
    stop,
)
from vault_service.cli.output import destination
from vault_service.config import Settings
from vault_service.errors import ConfigurationError, NotSealedError
from vault_service.keys.log_signer import pem_bundle
from vault_service.storage.engine import Store

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEAL_SECONDS: Final = 10.0  # that `prove` waits for a checkpoint
_OUTPUT_EVERY: Final = 500  # records between two movements of the progress bar

PublicKey = Annotated[
    Path | None,
    typer.Option("--public-key", help="The log's public keys (PEM), kept since installation; else the home's."),
]
WitnessKey = Annotated[Path | None, typer.Option("--witness-key", help="Demand this witness's cosignature (its vkey).")]


@command
def verify_record(
    exported: Annotated[Path | None, typer.Option("--export", help="An export, instead of the database.")] = None,
    stream: Annotated[list[Path] | None, typer.Option("--stream", help="A server's log; may be repeated.")] = None,
    public_key: PublicKey = None,
    witness_key: WitnessKey = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoints", help="The log's checkpoint file; without --export else the configured one."),
    ] = None,
    witness_file: Annotated[
        list[Path] | None, typer.Option("--witness-file", help="A witness's checkpoint file; may be repeated.")
    ] = None,
    known_losses: Annotated[
        list[str] | None,
        typer.Option("--known-loss", help="A loss that you know of from those who signed it: accept-loss's line."),
    ] = None,
    older: Annotated[bool, typer.Option("--older", help="The export is older than what was kept elsewhere.")] = False,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Recompute the whole record and hold it against signatures and what was kept elsewhere; status 1 if it differs."""
    keys = read_keys(home, public_key, witness_key)
    files = list(checkpoints or [])
    if exported is not None:
        records = verify.read_bundle(exported)
    else:
        settings = Where(home, config).settings()
        kept = settings.audit.checkpoint_file
        if not files and kept is not None:
            if kept.exists():
                files = [kept]
            elif home is not None:
                stop(
                    Exit.CHECK_FAILED, "WRONG  the checkpoint file of this home is gone: name a copy with --checkpoints"
                )
            else:
                errors.print("the configured checkpoint file is not here: nothing is held against it", markup=False)
        records = _from_database(settings)
    try:
        kept_elsewhere = (files, witness_file or [], stream or [])
        shown, losses = _shown("verifying", records), known_losses or []
        report = verify.verify_all(shown, keys, *kept_elsewhere, older=older, known_losses=losses)
    except OSError as error:
        raise ConfigurationError(f"a file cannot be read: {type(error).__name__}") from None
    _tell(report, json=json)
    if report.count:
        raise typer.Exit(Exit.CHECK_FAILED)


@command
def export_record(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; it must not exist.")],
    home: Home = None,
    config: Config = None,
) -> None:
    """Write the whole record into one file that a third party verifies offline. It names tokens: keep it as such."""
    settings = Where(home, config).settings()
    with (
        destination(output) as file,
        role_store(settings, settings.auditor_database) as store,
        store.snapshot() as connection,
    ):
        written = export.write(file, export.records(connection, settings.origin, live=False))
        count = sum("entry" in record for record in _shown("exporting", written))
    console.print(f"{count} entries written; verify with deploy/tools/ssn_vault_verify.py", soft_wrap=True)


@command
def prove(
    disclosure_id: Annotated[
        str, typer.Argument(help="The event's id, as `disclosures` and the answer of a call give it.")
    ],
    token: Annotated[str, typer.Option("--token", help="The token of the person whose disclosure it is.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write, else standard output.")
    ] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """A proof, for this person alone, that the disclosure stands in the log: `check-proof` checks it offline."""
    settings = Where(home, config).settings()
    canonical = canonical_token(token)
    if not _UUID.fullmatch(disclosure_id):
        raise ConfigurationError("the disclosure's id is not one")
    with role_store(settings, settings.auditor_database) as store:
        proof = _sealed_proof(store, disclosure_id, canonical)
    with destination(output) as file:
        file.write(proof)


@command
def check_proof(
    file: Annotated[Path, typer.Argument(help="What `audit prove` wrote.")],
    public_key: PublicKey = None,
    witness_key: WitnessKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Check a proof offline, against the log's public key alone; status 1 when it does not hold."""
    if config is not None and public_key is None:
        stop(Exit.USAGE, "--public-key FILE says which key to trust; a configuration does not")
    keys = read_keys(home, public_key, witness_key)
    try:
        event, row, head = verify.check_proof(file.read_text("utf-8"), keys)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the proof cannot be read: {type(error).__name__}") from None
    except verify.InvalidError as error:
        stop(Exit.CHECK_FAILED, f"the proof does not hold: {error}")
    if json:
        print_json({"event": event, "disclosure": row, "origin": head.origin, "size": head.size, "sealed": head.at_ms})
        return
    for line in verify.proof_words(event, row, head):
        console.print(line, markup=False, soft_wrap=True)


@command
def key(home: Home = None, config: Config = None, as_: As = None, token_file: TokenFileOption = None) -> None:
    """The log's public keys from Vault, as PEM: fetched at installation and after a rotation, and kept elsewhere."""
    where = Where(home, config, as_ or ("auditor" if home else None), token_file)
    vault = open_vault(where.settings().vault, where.login())
    try:
        typer.echo(pem_bundle(vault), nl=False)
    finally:
        vault.close()


def read_keys(home: Path | None, public_key: Path | None, witness_key: Path | None = None) -> verify.Keys:
    """The log's public keys (a home's own where none is named), and a witness's. ConfigurationError for other files."""
    if public_key is None and home is None:
        stop(Exit.USAGE, "--public-key FILE says which key to trust: fetched from Vault once, and kept elsewhere")
    try:
        return verify.read_keys(public_key or (home or Path()) / "audit.pub.pem", witness_key)
    except verify.InvalidError as error:
        raise ConfigurationError(str(error)) from None
    except OSError as error:
        raise ConfigurationError(f"the key file cannot be read: {type(error).__name__}") from None


def _from_database(settings: Settings) -> Iterator[Mapping[str, Any]]:
    """The records of one snapshot, which is taken when the first of them is asked for."""
    with role_store(settings, settings.auditor_database) as store, store.snapshot() as connection:
        yield from export.records(connection, settings.origin, live=True)


def _sealed_proof(store: Store, disclosure_id: str, token: str) -> str:
    deadline = time.monotonic() + _SEAL_SECONDS
    while True:
        with store.snapshot() as connection:
            try:
                return disclosure_proof(connection, disclosure_id, token)
            except NotSealedError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.2)


def _shown(what: str, records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The records, with a progress bar on standard error where that is a terminal."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        for number, record in enumerate(records):
            if "bundle" in record and isinstance(record.get("size"), int):
                progress.update(task, total=record["size"])
            elif number % _OUTPUT_EVERY == 0:
                progress.update(task, completed=number)
            yield record


def _tell(report: verify.Report, *, json: bool) -> None:
    if not json:
        for line in verify.words(report):
            console.print(line, markup=False, soft_wrap=True)
        return
    print_json(
        {
            "ok": report.count == 0,
            "entries": report.entries,
            "disclosures": report.disclosures,
            "checkpoints": report.checkpoints,
            "covered": report.covered,
            "cosigned": report.cosigned,
            "texts_gone": report.gone,
            "unsealed": report.unsealed,
            "newest_checkpoint": report.newest_ms,
            "wrong": report.count,
            "losses": [{**loss._asdict(), "line": loss.line} for loss in report.losses],
            "findings": [finding._asdict() for finding in report.findings],
            "notes": report.notes,
        }
    )
