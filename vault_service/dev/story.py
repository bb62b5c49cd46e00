"""What the demo tells: the steps on the sample rosters, each checked against what the rosters say.

A home on which a stack runs comes in; a story goes out, and a StoryError at the first step that is not as told.
No number is printed in full. Knows the service only as its clients, admins and auditors do, until its end: there
it changes one row behind the service's back.
"""

import json
import re
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table

import ssn_vault_client as vault
from vault_service.audit import verify
from vault_service.cli.common import Exit, console
from vault_service.dev.rosters import Row, read_roster
from vault_service.dev.scratch import Commands, StoryError

KEPT: Final = ("record.jsonl", "disclosure.json", "audit.pub.pem", "checkpoints")  # what `--keep` keeps
_BATCH: Final = 100  # rows a call
_EVENTS: Final = 7  # how many of the last events are shown
_JUSTIFICATION: Final = "FAFSA correction: the applicant asked to confirm the number on file"
_SHAPE: Final = re.compile(rb"(?<!\d)(\d{3})([- ]?)(\d{2})\2(\d{4})(?!\d)")


@dataclass
class _Roster:
    """One roster and, by student id, what the vault made of each row."""

    title: str
    file: str
    client: str
    domain: str
    rows: Sequence[Row] = ()
    tokens: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # the vault's code

    @property
    def digits(self) -> dict[str, str]:
        """The nine digits of each row that has a token."""
        return {row.student_id: _digits(row.ssn) for row in self.rows if row.student_id in self.tokens}

    @property
    def repeated(self) -> dict[str, str]:
        """Rows whose token an earlier row has, and that row."""
        first: dict[str, str] = {}
        found = {}
        for student, token in self.tokens.items():
            if first.setdefault(token, student) != student:
                found[student] = first[token]
        return found


class Story:
    """The steps, in the order told."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._commands = Commands(home)
        self._key = home / "audit.pub.pem"
        self._k12 = _Roster("K-12", "k12_roster.csv", "sis", "k12")
        self._college = _Roster("higher ed", "higher_education_roster.csv", "registrar", "highered")
        self._counselor = self._commands.run("dev", "person-token", "aid-counselor").strip()

    def tell(self) -> None:
        """All of it; StoryError at the first step that is not as told."""
        self._tokenize()
        student = self._detokenize()
        self._link()
        self._show_record(student)
        self._rotate(student)
        self._prove(student)
        self._search_files()
        self._falsify(student)

    def _tokenize(self) -> None:
        _headline("1. Two rosters go in, tokens come out", "batches of 100, with names and birth dates; gRPC over mTLS")
        samples = resources.files("vault_service.dev").joinpath("samples")
        for roster in (self._k12, self._college):
            with resources.as_file(samples.joinpath(roster.file)) as path:
                roster.rows = read_roster(path)
            with self._client(roster.client) as client:
                _tokenize_all(client, roster)
                tokens, refused = dict(roster.tokens), dict(roster.refused)
                _tokenize_all(client, roster)
                _expect((roster.tokens, roster.refused) == (tokens, refused), "asking again gives the same tokens")
            expected = {row.student_id for row in roster.rows if _fault(row)}
            _expect(roster.refused.keys() == expected, "exactly the rows that have a fault are refused")
            numbers, pairs = roster.digits.values(), set(zip(roster.digits.values(), tokens.values(), strict=True))
            _expect(len(pairs) == len(set(numbers)) == len(set(tokens.values())), "one token a number, and back")
        rosters = (self._k12, self._college)
        _table(
            "Tokenize, each roster twice: the second time gave the same tokens",
            ["roster", "client", "rows", "tokens", "same person twice", "refused"],
            [
                [r.title, r.client, len(r.rows), len(set(r.tokens.values())), _some(r.repeated), len(r.refused)]
                for r in rosters
            ],
        )
        kinds: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for roster in rosters:
            faults = {row.student_id: _fault(row) for row in roster.rows}
            for student, code in roster.refused.items():
                kinds[code, faults[student]][roster.title].append(student)
        _table(
            "Refused rows (the rest of their batches went on)",
            ["the vault says", "the row has", *(roster.title for roster in rosters)],
            [[*kind, *(_some(found.get(r.title, [])) for r in rosters)] for kind, found in sorted(kinds.items())],
        )

    def _detokenize(self) -> str:
        """Ends with the student that is asked about: the first of the colleges' who is on both rosters."""
        _headline("2. One number comes back, for a stated purpose and a named person", f'"{_JUSTIFICATION}"')
        common = set(self._k12.digits.values())
        student, digits = next(pair for pair in self._college.digits.items() if pair[1] in common)
        token = self._college.tokens[student]
        with self._client("financial-aid", self._counselor) as client:
            answer = _ask_for(client, token)
        ssn = answer.results[0].ssn
        _expect(ssn is not None and ssn.reveal() == digits, "the counselor gets the number on the roster")
        outcomes = [["financial-aid", "aid-counselor", f"***-**-{digits[5:]} (nine digits; not shown)"]]
        for name, reason in (("financial-aid", "PERSON_REQUIRED"), ("registrar", "NOT_PERMITTED")):
            outcomes.append([name, "nobody", f"refused: {self._refusal(name, token)}"])
            _expect(outcomes[-1][2] == f"refused: {reason}", f"{name} without a person is refused: {reason}")
        _table(f"Detokenize {token}, the full number", ["client", "person", "answer"], outcomes)
        return student

    def _link(self) -> None:
        _headline("3. Who went on to college?", "both sides ask by token, under the agreement; no number travels")
        sides = ((self._college, "linkage-job"), (self._k12, "k12-research"))
        common = set(self._college.digits.values()) & set(self._k12.digits.values())
        found: list[dict[str, str]] = []  # of each side: nine digits to linkage id
        table = []
        for roster, name in sides:
            token_of = {digits: roster.tokens[student] for student, digits in roster.digits.items()}
            with self._client(name) as client:
                items = [vault.LinkageItem(token, digits) for digits, token in token_of.items()]
                answer = client.linkage_match("college-outcomes", items)
            found.append({item.reference: item.linkage_id for item in answer.results if item.linkage_id})
            summary = answer.summary
            counts = [len(items), summary.exact, summary.no_match, summary.errors]
            _expect(counts[1:] == [len(common), len(items) - len(common), 0], "exactly equal numbers match")
            table.append([roster.domain, name, *counts, len(set(found[-1].values()))])
            _expect(table[-1][-1] == len(common), "each person has a linkage id of their own")
        _expect(found[0] == found[1], "both sides get the same linkage id for the same person")
        columns = ["tokens of", "client", "asked", "EXACT", "NO_MATCH", "errors", "linkage ids"]
        _table("LinkageMatch, agreement college-outcomes", columns, table)
        console.print(f"Both sides hold the same {len(common)} linkage ids, such as {min(found[0].values())}")

    def _show_record(self, student: str) -> None:
        token = self._college.tokens[student]
        _headline(f"4. Who saw the number of {student}?", f"ssn-vault audit disclosures --token {token}")
        rows = self._commands.run_json("audit", "disclosures", "--token", token)
        told = [
            ("full number", "financial-aid", "aid-counselor", "aid-verification"),
            ("is known to the other side of agreement college-outcomes", "k12-research", "", "college-outcomes"),
        ]
        found = [(row["how"], row["client"], row["person"], row["purpose"]) for row in rows]
        _expect(found == told, "the record shows the disclosure and the linkage, and nothing else")
        for row in rows:
            who = row["client"] + (f", {row['person']}" if row["person"] else "")
            console.print(f"{row['at']}  {row['how']}  {who}  for {row['purpose']}", soft_wrap=True)
            if row["justification"]:
                console.print(f'  because    "{row["justification"]}"', soft_wrap=True)
            console.print(f"  interest   {row['legitimate_interest']}", soft_wrap=True)
        lines = self._commands.run("audit", "tail", "--lines", str(_EVENTS), "--json").splitlines()
        events = [json.loads(line) for line in lines]
        refusals = [event["outcome"] for event in events if event["outcome"] != "ok"]
        _expect(refusals == ["PERSON_REQUIRED", "NOT_PERMITTED"], "the refusals stand in the record, too")
        _table(
            "The last events (ssn-vault audit tail)",
            ["kind", "client", "person", "items", "outcome", "disclosed"],
            [[e["kind"], e["client"], e.get("person", ""), e["items"], e["outcome"], e["disclosures"]] for e in events],
        )

    def _rotate(self, student: str) -> None:
        _headline("5. The data key is rotated", "ssn-vault keys rotate --domain highered --kind data")
        token, digits = self._college.tokens[student], self._college.digits[student]
        order = self._commands.run("keys", "rotate", "--domain", "highered", "--kind", "data", "--yes")
        _expect(order.startswith("done: keys.create"), "the rotation is done")
        taken = set(self._college.digits.values())
        new = next(number for serial in range(10_000) if (number := f"98749{serial:04}") not in taken)
        with self._client("registrar") as registrar:
            (made,) = registrar.tokenize("highered", [vault.TokenizeItem(vault.Ssn(new))])
        _expect(made.token is not None, "a new number gets a token under the new key")
        with self._client("financial-aid", self._counselor) as client:
            ssn = _ask_for(client, token).results[0].ssn
        _expect(ssn is not None and ssn.reveal() == digits, "the old token opens to the same number")
        keys = [
            k
            for k in self._commands.run_json("keys", "status")["keys"]
            if (k["scope"], k["kind"]) == ("highered", "data")
        ]
        _expect([key["records"] for key in keys] == [len(taken), 1], "old records stay under the old version")
        columns = ["wrapping_key", "state", "records"]
        _table("Data keys of highered", columns, [[key[column] for column in columns] for key in keys])
        console.print(f"The old token still opens: ***-**-{digits[5:]}")

    def _prove(self, student: str) -> None:
        """The record is exported, and verified by a program that knows nothing of the service."""
        token = self._college.tokens[student]
        _headline("6. Can the record be trusted?", "ssn-vault audit verify, export, prove: checked without the service")
        console.print(self._commands.run("audit", "verify", "--public-key", str(self._key)).strip(), soft_wrap=True)
        bundle, proof = self._home / "record.jsonl", self._home / "disclosure.json"
        self._commands.run("audit", "export", "--output", str(bundle))
        event = self._commands.run_json("audit", "disclosures", "--token", token)[0]["event"]
        self._commands.run("audit", "prove", event, "--token", token, "--output", str(proof))
        for file in (bundle, proof):
            line = [sys.executable, "-I", str(verify.__file__), str(file), "--public-key", str(self._key)]
            done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            _expect(done.returncode == 0, f"the one-file verifier finds {file.name} in order")
            console.print(
                f"{file.name}, by the one-file verifier: {done.stdout.splitlines()[-1].strip()}", soft_wrap=True
            )

    def _falsify(self, student: str) -> None:
        """One row is changed as somebody with the database's file could; the verifier is asked again."""
        token = self._college.tokens[student]
        _headline("8. Somebody changes one row behind the service's back", "UPDATE disclosure SET token = .. in SQLite")
        with sqlite3.connect(self._home / "ssn-vault.db", isolation_level=None, timeout=10) as database:
            triggers = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
            for name in triggers:
                database.execute(f"DROP TRIGGER {name}")
            other = next(one for one in self._college.tokens.values() if one != token)
            changed = database.execute(
                "UPDATE disclosure SET token = ? WHERE token = ? AND outcome = 'found'", (other, token)
            )
            _expect(changed.rowcount > 0, "the row is changed")
        database.close()
        rows = self._commands.run_json("audit", "disclosures", "--token", token)
        console.print(f"The accounting of {student} is now: {'; '.join(row['how'] for row in rows)}", soft_wrap=True)
        status, screen = self._commands.attempt("audit", "verify", "--public-key", str(self._key))
        console.print(screen.strip(), soft_wrap=True, markup=False)
        _expect(status == Exit.CHECK_FAILED and "WRONG  entry " in screen, "the verifier names the entry")

    def _search_files(self) -> None:
        _headline("7. Is a number anywhere on disk?", "database, write-ahead log, Vault's storage, every log")
        numbers = {number.encode() for roster in (self._k12, self._college) for number in roster.digits.values()}
        token = next(iter(self._college.tokens.values())).encode()
        files, size, with_number, with_token = 0, 0, 0, 0
        for path in self._home.rglob("*"):
            try:
                content = path.read_bytes()
            except (IsADirectoryError, FileNotFoundError):  # a directory, or gone meanwhile: the stack runs
                continue
            shapes = (area + group + serial for area, _, group, serial in _SHAPE.findall(content))
            files, size = files + 1, size + len(content)
            with_number += any(shape in numbers for shape in shapes)
            with_token += token in content
        _expect(with_number == 0, "no file holds a number of the rosters")
        _expect(with_token > 0, "the search finds a token, so it would find a number, too")
        console.print(
            f"{files} files, {size / 1e6:.1f} MB: none holds any of the {len(numbers)} numbers. "
            f"(A token stands in {with_token}.)",
            soft_wrap=True,
        )

    def _client(self, name: str, person_token: str | None = None) -> vault.Client:
        return vault.Client(vault.Profile.from_home(self._home, name), person_token)

    def _refusal(self, client_name: str, token: str) -> str:
        """The reason why `client_name`, without a person, does not get the number."""
        try:
            with self._client(client_name) as client:
                _ask_for(client, token)
        except vault.SsnVaultError as error:
            return error.reason
        raise StoryError(f"{client_name} got a number without a person")


def _tokenize_all(client: vault.Client, roster: _Roster) -> None:
    for start in range(0, len(roster.rows), _BATCH):
        batch = [
            vault.TokenizeItem(
                vault.Ssn(row.ssn),
                reference=row.student_id,
                traits=vault.Traits(row.given_name, row.family_name, row.date_of_birth),
            )
            for row in roster.rows[start : start + _BATCH]
        ]
        for result in client.tokenize(roster.domain, batch):
            if result.token is not None:
                roster.tokens[result.reference] = result.token
            elif result.error is not None:
                roster.refused[result.reference] = result.error.code.name


def _ask_for(client: vault.Client, token: str) -> vault.Disclosure:
    return client.detokenize(
        "highered", [token], purpose="aid-verification", justification=_JUSTIFICATION, view=vault.View.FULL
    )


def _fault(row: Row) -> str:
    """What is wrong with a row, as a person sees it who looks at the roster; empty when nothing is."""
    digits = _digits(row.ssn)
    if not row.ssn.strip():
        return "no number"
    if not digits:
        return "a word for a number"
    if not row.ssn.isascii():
        return "full-width digits"
    if len(digits) != 9:
        return f"{len(digits)} digits"
    if digits == "123456789":
        return "the keyboard's row"
    if digits < "900":
        return "a number from advertising"
    if "/" in row.date_of_birth:
        return "birth date month/day/year"
    return ""


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _some(students: Iterable[str] | Mapping[str, str]) -> str:
    """How many rows, and one of them by its student id; of repeated rows also the earlier one."""
    listed = list(students)
    if not listed:
        return "0"
    example = f"{listed[0]} = {students[listed[0]]}" if isinstance(students, Mapping) else listed[0]
    return f"{len(listed)}: {example}" + (", .." if len(listed) > 1 else "")


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*columns, title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.padding = (0, 1, 0, 0)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def _headline(title: str, detail: str) -> None:
    console.print(f"\n[bold]{title}[/bold]\n[dim]{detail}[/dim]", soft_wrap=True)


def _expect(holds: bool, told: str) -> None:
    if not holds:
        raise StoryError(f"not as told: {told}")
