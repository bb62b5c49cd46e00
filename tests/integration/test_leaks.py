"""Canary numbers go through every path and every field, also of calls that fail; then everything that the service
wrote, stored or said is searched for them. Only an answer to Detokenize may hold one."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf.message import Message

from ssn_vault_client import Ssn, SsnVaultError, TokenizeItem, Traits, View
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.support.canaries import SPELLINGS, WRITTEN, Canaries, dashed
from tests.support.commands import bulk, ssn_vault
from tests.support.fields import with_texts
from tests.support.postgres import data_directory, postgres_server
from tests.support.servers import http, run_as_owner
from tests.support.stack import JUSTIFICATION, Stack
from tests.support.wire import SECONDS, Failure, channel_of, failure_of, person, refused, stub_of

CANARIES = Canaries(20261124, 12)
PLANTED = Canaries(7, 1)
METHODS = ("Tokenize", "TokenizeStream", "Detokenize", "LinkageMatch", "LinkageMatchStream")
HOLDERS = {"Tokenize": "sis", "Detokenize": "sis", "LinkageMatch": "k12-research"}


@dataclass
class Told:
    """What the service said and kept while canaries went through it."""

    stack: Stack
    postgres: Path | None  # the database server's directory, with its log
    said: dict[str, bytes] = field(default_factory=dict)  # where it was heard -> what
    full: str = ""  # the one number that was given in full

    def hear(self, where: str, *texts: object) -> None:
        heard = b"\n".join(text if isinstance(text, bytes) else str(text).encode() for text in texts)
        self.said[where] = self.said.get(where, b"") + heard + b"\n"

    def hear_failure(self, where: str, failure: Failure) -> None:
        self.hear(where, repr(failure), *(value for _, value in failure.trailers))

    def places(self) -> list[Path]:
        """Where files may hold what the service wrote."""
        home = self.stack.home.directory
        return [home, self.postgres] if self.postgres else [home]


@pytest.fixture(scope="module")
def told(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    directory = tmp_path_factory.mktemp(f"leaks-{database}")
    with own_database(database) as (url, files), Stack(directory / "home", database_url=url) as stack:
        told = Told(stack, files)
        send_well_formed(told)
        send_in_every_field(told)
        send_beside_the_messages(told)
        send_while_things_break(told)
        type_at_commands(told)
        told.hear("metrics", http(stack.server, "/metrics")[1])
        assert stack.server.stop() == 0  # writes its last counts
        if url:
            stack.tamper("SELECT pg_switch_wal()")
        yield told


@contextmanager
def own_database(database: str) -> Iterator[tuple[str | None, Path | None]]:
    """A database on a server whose files nobody else fills: its URL and the files; none of either for SQLite."""
    if database == "sqlite":
        yield None, None
        return
    with data_directory() as directory, postgres_server(directory / "data") as server:
        yield server.new_database(), directory / "data"


# The searches


def test_nothing_that_was_said_holds_a_canary(told: Told) -> None:
    assert {"failures", "client", "metrics", "command policy plan"} <= told.said.keys()
    assert {where: found for where, said in told.said.items() if (found := CANARIES.find(said))} == {}


def test_nothing_that_was_kept_holds_a_canary(told: Told) -> None:
    assert told.full == CANARIES.numbers[0]
    found = {place: held for place in told.places() if (held := CANARIES.find_in_files(place))}
    assert found == {}


def test_the_questions_of_commands_do_not_repeat_a_canary(told: Told) -> None:
    """Whoever looks at the screen is not always who typed."""
    number = dashed(CANARIES.numbers[0])
    for arguments in (
        ["incident", "freeze", "--client", number, "--reason", "a test"],
        ["approvals", "request", "--client", "sis", "--purpose", number, "--tokens", "5", "--justification", "a test"],
    ):
        home = ["--home", str(told.stack.home.directory)]
        assert CANARIES.find(run([*arguments, *home], answer="n\n")) == set(), arguments[:2]


def test_a_policy_file_with_a_number_in_its_words_is_refused(told: Told) -> None:
    """What a policy says in words stands in the database and in records of disclosures."""
    stack = told.stack
    number = dashed(PLANTED.numbers[0])
    file = stack.home.directory.parent / "policy-with-a-number.yaml"
    text = stack.home.policy_file.read_text()
    for wrong in (
        text.replace("interest: Registrars confirm", f"interest: Registrars ({number}) confirm"),
        text.replace("authority: State education", f"authority: {number} State education"),
        f"# For {number}\n{text}",
    ):
        file.write_text(wrong)
        result = ssn_vault(stack, "policy", "plan", file)
        assert result.exit_code == 2
        assert PLANTED.find(result.output.encode()) == set()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_search_finds_every_spelling(spelling: str) -> None:
    for number in CANARIES.numbers:
        hay = b"\0junk 93741 " + SPELLINGS[spelling](number) + b"/\xff junk"
        assert any(found.startswith(spelling) for found in CANARIES.find(hay))
    assert CANARIES.find(SPELLINGS[spelling](PLANTED.numbers[0])) == set()


def test_the_search_finds_a_planted_number_in_each_kind_of_place(told: Told, tmp_path: Path) -> None:
    """In a copy of the home and in the live database, so that nothing stays for other tests."""
    number = PLANTED.numbers[0]
    stack = told.stack
    copy = tmp_path / "copy"
    shutil.copytree(stack.home.directory, copy)
    names = ("server.log", "openbao/openbao.log", "openbao/raft/vault.db", "config.toml")
    for name in names:
        with (copy / name).open("ab") as file:
            file.write(b'{"event": "' + dashed(number).encode() + b'"}\n')
    assert set(PLANTED.find_in_files(copy)) == set(names)
    root = stack.root()
    root.read(f"sys/policies/acl/{number}")
    root.close()
    assert PLANTED.find_in_files(stack.home.directory) == {"openbao/audit.log": {"bare of canary 0"}}
    plant_in_the_database(told, number, copy)
    assert PLANTED.find(run(["status", "--home", f"/nowhere/{number}"]))
    failure = Failure("UNKNOWN", "", trailers=(("x-bin", number.encode()),))
    told_too = Told(stack, None)
    told_too.hear_failure("failures", failure)
    assert PLANTED.find(told_too.said["failures"])
    assert PLANTED.find(f'ssn_vault_calls_total{{method="{dashed(number)}"}} 1.0'.encode())


def plant_in_the_database(told: Told, number: str, copy: Path) -> None:
    if told.postgres is None:
        database = sqlite3.connect(copy / "ssn-vault.db", isolation_level=None)
        database.execute("CREATE TABLE planted (number TEXT)")
        database.execute("INSERT INTO planted VALUES (?)", (number,))
        assert "ssn-vault.db-wal" in PLANTED.find_in_files(copy)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        assert "ssn-vault.db" in PLANTED.find_in_files(copy)
        return
    with told.stack.superuser() as engine, engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE planted (number text)")
        connection.execute(sa.text("INSERT INTO planted VALUES (:number)"), {"number": number})
        connection.commit()
        assert PLANTED.find_in_files(told.postgres / "pg_wal")
        with suppress(sa.exc.ProgrammingError):
            connection.exec_driver_sql(f"SELECT no_such_column AS a{number}")
        connection.rollback()
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("CHECKPOINT")
    assert PLANTED.find_in_files(told.postgres / "base")
    assert PLANTED.find((told.postgres / "log").read_bytes())


# The ways in


def spelled(at: int) -> list[str]:
    return [write(CANARIES.numbers[at]) for write in WRITTEN.values()]


def send_well_formed(told: Told) -> None:
    """What the service is for: numbers are kept, given out for a purpose, and matched."""
    stack = told.stack
    bare, with_dashes, with_spaces, _ = spelled(0)
    traits = Traits("Ada", "Lovelace", "2001-12-10")
    items = [TokenizeItem(Ssn(text), "r", traits) for text in (bare, with_dashes, with_spaces)]
    items += [TokenizeItem(Ssn(number)) for number in CANARIES.numbers[:7]]
    with stack.client("sis") as sis, stack.client("registrar") as registrar:
        tokenized = [*sis.tokenize("k12", items), *registrar.tokenize("highered", items)]
        streamed = list(sis.tokenize_stream("k12", [items, items]))
    told.hear("client", items, tokenized, streamed, items[0].ssn, f"{items[0].ssn:>20}", vars(Ssn).keys())
    token = tokenized[0].token or ""
    with stack.client("sis", "tax-clerk") as clerk:
        disclosure = clerk.detokenize(
            "k12", [token], purpose="tax-reporting", justification=JUSTIFICATION, view=View.FULL
        )
        (given,) = disclosure.results
        assert given.ssn is not None
        told.full = given.ssn.reveal()
        told.hear("client", disclosure, given, given.ssn)
    with stub_of(stack.profile("k12-research")) as research:
        links = [pb.LinkageItem(token=token)]
        answer = research.LinkageMatch(
            pb.LinkageMatchRequest(agreement="college-outcomes", items=links), timeout=SECONDS
        )
        assert answer.summary.exact == 1
        told.hear("linkage", answer)


def send_in_every_field(told: Told) -> None:
    """A canary in each string field of each request, in each spelling: as who may call, and as who may not."""
    token = told.stack.query("SELECT token FROM token_record WHERE domain = 'k12'")[0][0]
    well_formed: dict[str, Message] = {
        "Tokenize": pb.TokenizeRequest(
            domain="k12", items=[pb.TokenizeItem(ssn=CANARIES.numbers[1], traits=pb.Traits(given_name="Ada"))]
        ),
        "Detokenize": pb.DetokenizeRequest(
            domain="k12", tokens=[token], purpose="transcript-verification", justification=JUSTIFICATION
        ),
        "LinkageMatch": pb.LinkageMatchRequest(agreement="college-outcomes", items=[pb.LinkageItem(token=token)]),
    }
    canaries = [sent for text in spelled(2) for sent in (text, f"about {text}, please")]
    for method in METHODS:
        kind = method.removesuffix("Stream")
        for client in (HOLDERS[kind], "financial-aid"):
            with stub_of(told.stack.profile(client)) as stub:
                for request in with_texts(well_formed[kind], canaries):
                    send(told, getattr(stub, method), request, stream=method != kind)


def send(told: Told, call: Any, request: Message, *, stream: bool) -> None:
    """Call; an answer may echo what was sent (a reference, a token), a failure may not."""
    try:
        if stream:
            list(call(iter([request]), timeout=SECONDS))
        else:
            call(request, timeout=SECONDS)
    except grpc.RpcError as error:
        told.hear_failure("failures", failure_of(error))


def send_beside_the_messages(told: Told) -> None:
    """In metadata, as a person, as a method's name, without a certificate, in bytes that are no message."""
    stack = told.stack
    request = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=CANARIES.numbers[3])])
    profile = stack.profile("sis")
    for text in spelled(3):
        with channel_of(profile) as channel, stub_of(profile) as stub:
            for metadata in (person(text), person(f"a.{text}.b"), (("x-note", text), ("x-note-bin", text.encode()))):
                with suppress(grpc.RpcError):
                    stub.Tokenize(request, timeout=SECONDS, metadata=metadata)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.Detokenize(pb.DetokenizeRequest(), timeout=SECONDS, metadata=metadata)
                told.hear_failure("failures", failure_of(caught.value))
            told.hear_failure("failures", raw_call(channel, text.replace(" ", ""), text.encode()))
            for raw in (
                b"\x0a\xff" + text.encode(),
                bytes([0x0A, len(text) + 1, 0xFF]) + text.encode(),
                b"\x12\x10\x12" + text.encode() * 50,
            ):
                told.hear_failure("failures", raw_call(channel, "Tokenize", raw))
                told.hear_failure("failures", raw_call(channel, "TokenizeStream", raw))
    only_server = grpc.ssl_channel_credentials(profile.ca.read_bytes())
    with grpc.secure_channel(profile.address, only_server) as nobody:
        told.hear_failure("failures", raw_call(nobody, "Tokenize", request.SerializeToString()))
    with stack.client("sis", timeout=5) as sis:
        numbers = [TokenizeItem(Ssn(number)) for number in CANARIES.numbers[4:6]]
        not_an_item: Any = dashed(CANARIES.numbers[4])
        for call in (
            lambda: sis.tokenize(dashed(CANARIES.numbers[4]), numbers),
            lambda: sis.tokenize("k12", numbers, dashed(CANARIES.numbers[4])),
            lambda: sis.tokenize("k12", [*numbers, not_an_item]),
            lambda: list(sis.tokenize_stream("k12", interrupted(numbers))),
            lambda: sis.tokenize("k12", numbers * 501),
        ):
            with pytest.raises((SsnVaultError, TypeError, AttributeError, InterruptedError)) as raised:
                call()
            told.hear("client", repr(raised.value), raised.value, raised.value.args, raised.value.__context__)


def raw_call(channel: grpc.Channel, method: str, raw: bytes) -> Failure:
    """How a call with bytes of our own fails."""
    path = f"/ssnvault.v1.SsnVault/{method}"
    if method.endswith("Stream"):
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
        return refused(lambda: list(stream(iter([raw]), timeout=SECONDS)))
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return refused(lambda: unary(raw, timeout=SECONDS))


def interrupted(numbers: list[TokenizeItem]) -> Iterator[list[TokenizeItem]]:
    yield numbers
    raise InterruptedError


def send_while_things_break(told: Told) -> None:
    """A stream that is dropped, a database error in the middle of a transaction, Vault away."""
    stack = told.stack
    request = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=CANARIES.numbers[6])])
    with stub_of(stack.profile("sis")) as stub:
        stream = stub.TokenizeStream(iter([request] * 3), timeout=SECONDS)
        next(stream)
        stream.cancel()
        with suppress(grpc.RpcError):
            stub.Tokenize(request, timeout=0.001)
        for change, undo in schema_faults(stack):
            run_as_owner(stack, change)
            for number in CANARIES.numbers[7:9]:
                new = pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=dashed(number))])
                with pytest.raises(grpc.RpcError) as caught:
                    stub.Tokenize(new, timeout=SECONDS)
                failure = failure_of(caught.value)
                assert failure.reason == "STORE_UNAVAILABLE"
                told.hear_failure("failures", failure)
            run_as_owner(stack, undo)
        stack.openbao.stop()
        late = stack.add_server(wait=False)
        late.wait_listening()
        with stub_of(stack.profile("sis", late)) as without_keys:
            failure = refused(lambda: without_keys.Tokenize(request, timeout=SECONDS))
            assert failure.reason == "KEYS_UNAVAILABLE"
            told.hear_failure("failures", failure)
        stub.Tokenize(request, timeout=SECONDS)
        stack.openbao.start()
        late.wait_ready()
        told.hear("metrics", http(late, "/metrics")[1])
        assert late.stop() == 0
        stack.servers.remove(late)


def schema_faults(stack: Stack) -> list[tuple[str, str]]:
    """Statements that make a transaction fail late, with those that mend it."""
    broken = "CREATE TRIGGER broken BEFORE INSERT ON token_record BEGIN SELECT RAISE(ABORT, 'broken'); END"
    mended = "DROP TRIGGER broken"
    if stack.database_url:
        broken = "ALTER TABLE token_record ADD CONSTRAINT broken CHECK (destroy_by = '') NOT VALID"
        mended = "ALTER TABLE token_record DROP CONSTRAINT broken"
    return [("ALTER TABLE event RENAME TO away", "ALTER TABLE away RENAME TO event"), (broken, mended)]


def type_at_commands(told: Told) -> None:
    """In every argument that takes words, and in files that commands read."""
    stack = told.stack
    home = ["--home", str(stack.home.directory)]
    file = stack.home.directory.parent / "wrong.yaml"
    policy = stack.home.policy_file.read_text()
    for text in spelled(9)[:2]:  # each way of writing was sent to the server; here each argument counts
        for arguments in (
            ["incident", "freeze", "--client", text, "--reason", "a test", "--yes"],
            ["incident", "freeze", "--domain", text, "--reason", "a test", "--yes"],
            ["incident", "freeze", "--person", text, "--reason", "a test", "--yes"],
            ["incident", "freeze", "--client", "nobody", "--reason", f"about {text}", "--yes"],
            ["incident", "thaw", text, "--yes"],
            bulk(client=text),
            bulk(purpose=text),
            bulk(justification=f"about {text}, please"),
            ["approvals", "show", text],
            ["approvals", "grant", text, "--yes"],
            ["approvals", "deny", text, "--yes"],
            ["keys", "rotate", "--domain", text, "--kind", "data", "--yes"],
            ["audit", "disclosures", "--token", text],
            ["dev", "person-token", text],
            ["status", "--as", text],
        ):
            told.hear(f"command {' '.join(arguments[:3])}".replace(text, "..."), run([*arguments, *home]))
        for wrong in (
            policy.replace("view: LAST4", f"view: {text}"),
            policy.replace("per_call: 100 ", f"per_call: x{text} "),
            policy.replace("start: 2024-07-01", f"start: '{text}'"),
            policy.replace("k12: [k12-research]", f"k12: ['{text}']"),
            policy.replace("  sis:", f"  '{text}':"),
            policy.replace("version: 1", f"version: *a{text}"),
            policy.replace("version: 1", f"version: !{text.replace(' ', '')} 1"),
            policy.replace("version: 1", f"version: 1\nversion: '{text}'"),
            f"'{text}'",
            f"{policy}\n'{text}: [",
        ):
            file.write_text(wrong)
            assert wrong != policy
            told.hear("command policy plan", run(["policy", "plan", str(file), *home]))
        told.hear("command policy apply", run(["policy", "apply", str(file), "--yes", *home]))
        config = stack.home.directory.parent / "wrong.toml"
        written = stack.home.config_file.read_text()
        for setting in ('"ssn-vault.dev"', '"ssn-vault"'):
            config.write_text(written.replace(setting, f'["{text}"]'))
            told.hear("command status --config", run(["status", "--config", str(config)]))
    file.unlink()
    for command in (["status"], ["policy", "show"], ["keys", "status"], ["approvals", "list"], ["audit", "tail"]):
        for form in ([], ["--json"]):
            told.hear(f"command {' '.join(command)}", run([*command, *form, *home]))


def run(arguments: list[str], answer: str = "") -> bytes:
    """What a command printed, on both streams."""
    return ssn_vault(None, *arguments, answer=answer).output.encode()
