"""`ssn-vault incident drill`: the breach procedure, rehearsed on the sample data and recorded where it counts.

A whole stack in a scratch home plays the agency: a client's certificate is in the wrong hands. Each step of
deploy/runbooks/breach.md is done with the commands that it names, and checked. That it was rehearsed, and how
it went, goes into the record of the installation named, as a signed order.
"""

import csv
import io
import signal
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Final

import ssn_vault_client as vault
from vault_service.cli.admin import Where, admin
from vault_service.cli.common import (
    As,
    Config,
    Exit,
    Home,
    TokenFileOption,
    Yes,
    command,
    confirm,
    console,
    stop,
)
from vault_service.cli.ordering import carry_out
from vault_service.dev.rosters import read_roster
from vault_service.dev.scratch import Commands, StoryError, on_signals, scratch_stack
from vault_service.orders.order import Action

_CLIENT: Final = "sis"  # whose certificate is in the wrong hands
_ROWS: Final = 60  # of the sample roster that are loaded
_TAKEN: Final = 25  # tokens that the intruder asks for
_REASON: Final = "drill: the certificate was seen on another host"


@command
def drill(
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
) -> None:
    """Rehearse the breach procedure on a scratch stack, and record in this installation that it was rehearsed."""
    where = Where(home, config, as_, token_file)
    with admin(where) as one:  # who cannot record it finds out before the rehearsal, not after
        confirm(f"Rehearse the breach procedure, and record it as {one.person}?", yes=yes)
    began = time.monotonic()
    with on_signals(signal.default_int_handler), scratch_stack() as scratch:
        rehearsal = Rehearsal(scratch)
        failure = rehearsal.run()
    arguments = {"steps": rehearsal.done, "seconds": round(time.monotonic() - began), "passed": not failure}
    with admin(where) as one:
        carry_out(one, where, Action.DRILL, arguments, None)
    if failure:
        stop(Exit.CHECK_FAILED, f"the drill failed, and that is recorded: {failure}")


class Rehearsal:
    """The steps of the procedure, in its order."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._commands = Commands(home)
        self._tokens: list[str] = []
        self._freeze = ""
        self.done = 0

    def run(self) -> str:
        """Do every step; what went wrong, or nothing."""
        steps: list[tuple[str, Callable[[], str]]] = [
            ("an intruder uses the certificate", self._intrude),
            ("1 contain: freeze the client", self._contain),
            ("2 look: what has the client done?", self._look),
            ("3 keep: verify and export the record", self._keep),
            ("4 scope: whose numbers were disclosed?", self._scope),
            ("5 mend: one person alone cannot end the freeze, two can", self._mend),
            ("6 the client works again", self._works),
        ]
        for title, step in steps:
            began = time.monotonic()
            try:
                said = step()
            except (StoryError, vault.SsnVaultError) as error:
                console.print(f"FAILED  {title}: {error}", markup=False, soft_wrap=True)
                return f"{title}: {error}"
            self.done += 1
            console.print(f"{title}: {said} ({time.monotonic() - began:.1f} s)", markup=False, soft_wrap=True)
        return ""

    def _intrude(self) -> str:
        samples = resources.files("vault_service.dev").joinpath("samples", "k12_roster.csv")
        with resources.as_file(samples) as path:
            rows = read_roster(path)[:_ROWS]
        with self._client() as client:
            results = client.tokenize("k12", [vault.TokenizeItem(vault.Ssn(row.ssn)) for row in rows])
            self._tokens = list(dict.fromkeys(result.token for result in results if result.token))[:_TAKEN]
            for at in range(0, len(self._tokens), 5):
                self._detokenize(client, self._tokens[at : at + 5])
        return f"{len(self._tokens)} tokens detokenized"

    def _contain(self) -> str:
        self._commands.run("incident", "freeze", "--client", _CLIENT, "--reason", _REASON, "--yes")
        with self._client() as client:
            try:
                self._detokenize(client, self._tokens[:1])
            except vault.FrozenError:
                return "refused from the moment the command returned"
        raise StoryError("the client got a number after it was frozen")

    def _look(self) -> str:
        found = self._commands.run("audit", "search", "--client", _CLIENT, "--json").splitlines()
        if len(found) < 2 + len(self._tokens) // 5:
            raise StoryError("the search does not show the intruder's calls")
        refused = self._commands.run("audit", "search", "--client", _CLIENT, "--refused", "--json").splitlines()
        if len(refused) != 1:
            raise StoryError("the search does not show the refused call")
        return f"{len(found)} calls, {len(refused)} of them refused"

    def _keep(self) -> str:
        key, bundle = str(self._home / "audit.pub.pem"), self._home / "evidence.jsonl"
        self._commands.run("audit", "verify", "--public-key", key)
        self._commands.run("audit", "export", "--output", str(bundle))
        self._commands.run("audit", "verify", "--export", str(bundle), "--public-key", key)
        return "the record is as it was signed; the export verifies offline"

    def _scope(self) -> str:
        listed = list(csv.DictReader(io.StringIO(self._commands.run("incident", "report", "--client", _CLIENT))))
        if {row["token"] for row in listed} != set(self._tokens):
            raise StoryError("the report does not name exactly the tokens that were disclosed")
        return f"{len(listed)} persons to notify, by token and domain"

    def _mend(self) -> str:
        freezes = self._commands.run_json("status")["freezes"]
        self._freeze = freezes[0]["id"]
        status, said = self._commands.attempt("incident", "thaw", self._freeze, "--yes")
        if status != Exit.REFUSED:
            raise StoryError("one person alone ended the freeze")
        words = said.split()
        order = words[words.index("grant") + 1]
        self._commands.run("approvals", "grant", order, "--as", "key-admin-b", "--yes")
        return "ended by two people"

    def _works(self) -> str:
        with self._client() as client:
            self._detokenize(client, self._tokens[:1])
        return "a number is given again"

    def _client(self) -> vault.Client:
        return vault.Client(vault.Profile.from_home(self._home, _CLIENT))

    @staticmethod
    def _detokenize(client: vault.Client, tokens: list[str]) -> None:
        client.detokenize(
            "k12", tokens, purpose="transcript-verification", justification="drill of the breach procedure"
        )
