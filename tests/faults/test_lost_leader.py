"""A leader that dies before its standby had everything: what was signed is lost, and two people let the service go on.

Until they do, nothing is given out. What is lost is then said in the record, for ever, and whoever kept checkpoints
sees that it was declared and by whom.
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ssn_vault_client import Ssn, SsnVaultError, TokenizeItem
from tests.support.commands import CHECK_FAILED, DONE, REFUSED, parsed, ssn_vault, succeeds, waiting_order
from tests.support.failover import Pair, pair, until
from tests.support.servers import another_server
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from tests.support.witnessing import StackWitness
from vault_service.audit.checkpoint import parse_unverified
from vault_service.audit.checkpoint_file import split_notes
from vault_service.dev.home import SIGNERS
from vault_service.orders.order import Action

SOON = {"SSN_VAULT_AUDIT__MAX_UNSEALED": "6", "SSN_VAULT_AUDIT__CHECKPOINT_SECONDS": "0.2"}
REASON = "the leader's host was lost before the standby had replayed"


@pytest.fixture
def servers() -> Iterator[Pair]:
    with pair() as both:
        both.first.execute("CREATE DATABASE vault")
        both.follow()
        yield both


def fall_behind(servers: Pair) -> None:
    """The standby has everything up to now, and gets nothing from now on."""
    servers.follow()
    servers.second.stop()


def lose_the_leader(servers: Pair) -> None:
    servers.first.stop()
    servers.second.start()
    servers.second.promote()


def disclose(stack: Stack, token: str, server: ServerProcess | None = None) -> str:
    """The last four digits, or why not."""
    with stack.client("sis", server=server) as sis:
        try:
            answer = sis.detokenize(
                "k12", [token], purpose="transcript-verification", justification=JUSTIFICATION
            ).results[0]
        except SsnVaultError as error:
            return error.reason or error.status
    return answer.ssn.last4 if answer.ssn else "not found"


def refuses(stack: Stack, token: str, server: ServerProcess | None = None) -> bool:
    return disclose(stack, token, server) in ("STORE_UNAVAILABLE", "AUDIT_UNAVAILABLE")


def gives_out(stack: Stack, token: str, server: ServerProcess | None = None) -> bool:
    return disclose(stack, token, server) == "0001"


def tokenize(stack: Stack, number: str) -> str:
    with stack.client("sis") as sis:
        return sis.tokenize("k12", [TokenizeItem(Ssn(number))])[0].token or ""


def sealed(stack: Stack) -> None:
    """Wait until the checkpoint file covers everything that is there now."""
    entries = stack.query("SELECT (SELECT count(*) FROM log_leaf) + (SELECT count(*) FROM log_pending)")[0][0]
    until(lambda: sizes(stack)[-1] >= entries)


def sizes(stack: Stack) -> list[int]:
    """The sizes of the checkpoints in the file, as they were appended."""
    file = stack.home.checkpoint_file
    return [0, *(parse_unverified(note)[0].size for note in split_notes(file.read_text() if file.exists() else ""))]


def accept(stack: Stack, *more: object) -> str:
    """What the first signer's command prints; the second signs with `approvals grant`."""
    asked = ssn_vault(stack, "audit", "accept-loss", "--reason", REASON, "--yes", *more)
    order = waiting_order(asked)
    shown = succeeds(stack, "approvals", "show", order)
    assert REASON in shown
    succeeds(stack, "approvals", "grant", order, "--as", SIGNERS[1], "--yes")
    return asked.output


def test_a_lost_leader_stops_what_gives_out_until_two_people_accept_the_loss(servers: Pair, tmp_path: Path) -> None:
    with Stack(tmp_path / "home", database_url=servers.url("vault"), settings=SOON) as own:
        kept = tokenize(own, "937-11-0001")
        sealed(own)
        with another_server(own) as other:
            fall_behind(servers)
            lost = tokenize(own, "937-11-0002")
            assert disclose(own, lost) == "0002"
            frozen = own.order(
                Action.FREEZE, {"kind": "client", "name": "registrar", "reason": "in the lost span"}, "key-admin-a"
            )
            sealed(own)
            lose_the_leader(servers)
            # Both servers know of an order that the database does not have any more.
            for server in (own.server, other):
                until(partial(refuses, own, kept, server))
            assert ssn_vault(own, "audit", "verify").exit_code == CHECK_FAILED
            said = accept(own)
            assert "Freeze again what was frozen" in said
            for server in (own.server, other):
                until(partial(gives_out, own, kept, server))
        # A server that starts now finds everything in order, too.
        own.server.stop()
        own.server.start()
        until(partial(gives_out, own, kept))
        assert disclose(own, lost) == "not found"
        assert frozen.id not in {one["id"] for one in parsed(own, "status")["freezes"]}
        until(lambda: "a freeze is gone with the loss" in own.log.read_text())
        sealed(own)
        (unknown,) = json.loads(ssn_vault(own, "audit", "verify", "--json").output)["losses"]
        assert ssn_vault(own, "audit", "verify").exit_code == CHECK_FAILED  # its word alone excuses nothing
        known = ["--known-loss", said.partition("accepted_losses): ")[2].splitlines()[0]]
        assert known[1] == unknown["line"]
        report = parsed(own, "audit", "verify", *known)
        assert (report["ok"], report["findings"]) == (True, [])
        (loss,) = report["losses"]
        assert sorted(loss["signers"]) == sorted(SIGNERS)
        assert any("DECLARED LOSS" in note for note in report["notes"])
        with_stream = json.loads(ssn_vault(own, "audit", "verify", "--stream", own.log, "--json", *known).output)
        assert with_stream["findings"] == []
        assert any("declared as lost" in note for note in with_stream["notes"])
        again = ssn_vault(own, "audit", "accept-loss", "--reason", REASON, "--yes")
        assert (again.exit_code, "nothing is lost" in again.output) == (CHECK_FAILED, True)
        bundle = tmp_path / "record.jsonl"
        succeeds(own, "audit", "export", "--output", bundle)
        line = ["audit", "verify", "--export", bundle, "--public-key", own.home.directory / "audit.pub.pem"]
        assert ssn_vault(None, *line, "--checkpoints", own.home.checkpoint_file, "--older", *known).exit_code == DONE


def test_nobody_else_and_no_other_numbers_make_a_loss_accepted(servers: Pair, tmp_path: Path) -> None:
    with Stack(tmp_path / "home", database_url=servers.url("vault"), settings=SOON) as own:
        kept = tokenize(own, "937-11-0001")
        sealed(own)
        nothing = ssn_vault(own, "audit", "accept-loss", "--reason", REASON, "--yes")
        assert (nothing.exit_code, "nothing is lost" in nothing.output) == (CHECK_FAILED, True)
        fall_behind(servers)
        tokenize(own, "937-11-0002")
        sealed(own)
        earlier = own.home.directory / "earlier"
        earlier.write_bytes(own.home.checkpoint_file.read_bytes())
        own.order(Action.DRILL, {"steps": 1, "seconds": 1, "passed": True}, "key-admin-a")
        tokenize(own, "937-11-0003")
        sealed(own)
        lose_the_leader(servers)
        until(partial(refuses, own, kept))
        # Prepared from a copy that is older than what the server itself has kept.
        asked = ssn_vault(own, "audit", "accept-loss", "--reason", REASON, "--yes", "--checkpoints", earlier)
        assert asked.exit_code == REFUSED
        other = ssn_vault(own, "approvals", "grant", waiting_order(asked), "--as", "key-admin-a", "--yes")
        assert other.exit_code == REFUSED  # nobody whose signature counts for this
        granted = ssn_vault(own, "approvals", "grant", waiting_order(asked), "--as", SIGNERS[1], "--yes")
        assert (granted.exit_code, "another last checkpoint" in " ".join(granted.output.split())) == (REFUSED, True), (
            granted.output
        )
        assert refuses(own, kept)
        # Nothing else is decided meanwhile: a freeze would be decided on a log that was cut.
        with own.admin("key-admin-a") as one:
            freeze = one.ask(Action.FREEZE, {"kind": "all", "name": "", "reason": "meanwhile"})
            time.sleep(1)
            assert one.find(freeze.id).outcome is None
        accept(own)
        until(lambda: disclose(own, kept) in ("0001", "FROZEN"))
        until(lambda: disclose(own, kept) == "FROZEN")  # and now it is


def test_a_witness_goes_on_once_its_own_operator_accepts_the_loss(servers: Pair, tmp_path: Path) -> None:
    witness = StackWitness(tmp_path / "witness", tmp_path / "home" / "audit.pub.pem")
    settings = {**SOON, **witness.settings}
    try:
        url, starts = servers.url("vault"), witness.start
        with Stack(tmp_path / "home", database_url=url, settings=settings, before_ready=starts) as own:
            kept = tokenize(own, "937-11-0001")
            until(partial(gives_out, own, kept))
            sealed(own)
            fall_behind(servers)
            tokenize(own, "937-11-0002")
            sealed(own)
            lose_the_leader(servers)
            until(partial(refuses, own, kept))
            files = ["--checkpoints", own.home.checkpoint_file, "--checkpoints", witness.checkpoints]
            said = accept(own, *files)
            line = said.partition("accepted_losses): ")[2].splitlines()[0]
            until(lambda: "has not accepted the declared loss" in own.log.read_text())
            until(partial(refuses, own, kept))
            witness.kill()
            witness.accept_loss(line)
            witness.start()
            until(partial(gives_out, own, kept))
            sealed(own)
            report = json.loads(
                ssn_vault(
                    own, "audit", "verify", "--witness-file", witness.checkpoints, "--known-loss", line, "--json"
                ).output
            )
            assert (report["findings"], len(report["losses"])) == ([], 1)
    finally:
        witness.kill()
