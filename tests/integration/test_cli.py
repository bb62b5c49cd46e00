"""Every command of `ssn-vault` on a running stack: what it prints, what it asks, how it ends, and what then holds."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785

from ssn_vault_client import FrozenError, Ssn, TokenizeItem
from tests.support.commands import (
    AWAY,
    DONE,
    INTERRUPTED,
    REFUSED,
    USAGE,
    bulk,
    parsed,
    policy_in_force,
    restored,
    ssn_vault,
    succeeds,
    thawed,
    waiting_order,
)
from tests.support.stack import JUSTIFICATION, Stack, free_port
from vault_service.tokens import TokenFormat, draw_token


def tokens_of(stack: Stack, *numbers: str) -> list[str]:
    with stack.client("sis") as sis:
        return [result.token or "" for result in sis.tokenize("k12", [TokenizeItem(Ssn(n)) for n in numbers])]


# Reading


def test_what_reads_only_prints_json_that_parses(stack: Stack) -> None:
    status = parsed(stack, "status")
    assert set(status["domains"]) == {"k12", "highered"}
    assert status["missing_keys"] == []
    policy = parsed(stack, "policy", "show")
    assert policy["policy"]["purposes"]["aid-verification"]["view"] == "FULL"
    assert policy["version"] == status["policy_version"]
    keys = parsed(stack, "keys", "status")["keys"]
    assert {(key["scope"], key["kind"]) for key in keys} == {
        ("k12", "data"),
        ("k12", "index"),
        ("highered", "data"),
        ("highered", "index"),
        ("college-outcomes", "index"),
    }
    assert set(parsed(stack, "approvals", "list")) == {"waiting", "approvals"}
    for command in (["status"], ["policy", "show"], ["keys", "status"], ["approvals", "list"], ["audit", "tail"]):
        assert succeeds(stack, *command)


def test_the_program_itself_ends_with_the_statuses_it_promises(stack: Stack) -> None:
    home = str(stack.home.directory)

    def status(*arguments: str) -> int:
        command = [sys.executable, "-m", "vault_service", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert status("status", "--home", home) == DONE
    assert status("status", "--home", f"{home}-not") == USAGE
    assert status("keys", "rotate", "--home", home) == USAGE


def test_the_tail_shows_the_last_events_as_canonical_json(stack: Stack) -> None:
    tokens_of(stack, "935-01-0001")
    lines: list[str] = []
    for count in (0, 1, 3):
        lines = succeeds(stack, "audit", "tail", "--lines", count, "--json").splitlines()
        assert len(lines) == count
        for line in lines:
            assert rfc8785.dumps(json.loads(line)).decode() == line
    assert '"kind":"tokenize"' in lines[-1]
    assert "tokenize" in succeeds(stack, "audit", "tail", "--lines", 1)


def test_the_tail_follows_until_it_is_interrupted(stack: Stack) -> None:
    command = [sys.executable, "-m", "vault_service", "audit", "tail", "-n", "1", "-f", "--json"]
    tokens_of(stack, "935-01-0002")
    with subprocess.Popen([*command, "--home", str(stack.home.directory)], stdout=subprocess.PIPE, text=True) as tail:
        try:
            assert tail.stdout is not None
            before = json.loads(tail.stdout.readline())
            tokens_of(stack, "935-01-0002")
            after = json.loads(tail.stdout.readline())
            assert (before["kind"], after["kind"]) == ("tokenize", "tokenize")
            assert before["id"] < after["id"]
            tail.send_signal(signal.SIGINT)
            assert tail.wait(30) == INTERRUPTED
        finally:
            tail.kill()  # else one that does not end would be waited for


def test_the_disclosures_of_a_token_say_who_when_and_why(stack: Stack) -> None:
    (token,) = tokens_of(stack, "935-01-0003")
    with stack.client("sis", "tax-clerk") as clerk:
        clerk.detokenize("k12", [token], purpose="tax-reporting", justification=JUSTIFICATION)
    (found,) = parsed(stack, "audit", "disclosures", "--token", token.lower())
    assert found.pop("at").endswith("Z")
    assert found.pop("event")
    assert found == {
        "domain": "k12",
        "token": token,
        "call": "detokenize",
        "how": "last four digits",
        "client": "sis",
        "person": "tax-clerk",
        "purpose": "tax-reporting",
        "view": "LAST4",
        "justification": JUSTIFICATION,
        "authority": "State education code, student identification (sample)",
        "legitimate_interest": "The tax office prepares tuition statements for the tax authority",
    }
    assert token in succeeds(stack, "audit", "disclosures", "--token", token)
    assert parsed(stack, "audit", "disclosures", "--token", draw_token("k12", TokenFormat.STANDARD)) == []


# Who acts


def test_a_person_logs_in_by_file_variable_or_the_usual_place(stack: Stack, tmp_path: Path) -> None:
    config = ["--config", stack.home.config_file]
    login = stack.home.directory / "people" / "auditor.token"
    (tmp_path / ".vault-token").write_text(login.read_text())
    elsewhere = {"HOME": str(tmp_path / "nobody")}
    for arguments, settings in (
        (["--token-file", login], elsewhere),
        ([], {**elsewhere, "VAULT_TOKEN": login.read_text()}),
        ([], {"HOME": str(tmp_path)}),
        ([], {"HOME": str(tmp_path), "SSN_VAULT_CONFIG": str(stack.home.config_file)}),
    ):
        where = [] if "SSN_VAULT_CONFIG" in settings else config
        result = ssn_vault(None, "status", *arguments, *where, settings=settings)
        assert result.exit_code == DONE, result.output
    without = ssn_vault(None, "status", *config, settings=elsewhere)
    assert without.exit_code == REFUSED
    assert ".vault-token" in without.output


def test_a_token_of_no_person_is_refused(stack: Stack, tmp_path: Path) -> None:
    config = ["--config", stack.home.config_file]
    root = stack.home.openbao_directory / "root.token"
    (tmp_path / ".vault-token").write_text(root.read_text())
    for arguments, settings in (
        (["--token-file", root], {"HOME": str(tmp_path / "nobody")}),
        ([], {"VAULT_TOKEN": root.read_text().strip(), "HOME": str(tmp_path / "nobody")}),
        ([], {"HOME": str(tmp_path)}),
    ):
        for command in (["status"], ["incident", "freeze", "--all", "--reason", "a test", "--yes"]):
            result = ssn_vault(None, *command, *arguments, *config, settings=settings)
            assert result.exit_code == REFUSED
            assert "no person" in result.output
    assert parsed(stack, "status")["freezes"] == []


def test_an_unknown_person_or_a_wrong_token_is_refused(stack: Stack, tmp_path: Path) -> None:
    assert ssn_vault(stack, "status", "--as", "nobody").exit_code in (USAGE, REFUSED)
    (tmp_path / "token").write_text("s.not-a-token")
    assert ssn_vault(stack, "status", "--token-file", tmp_path / "token").exit_code == REFUSED


# Usage


def test_mistakes_in_the_question_are_usage(stack: Stack, tmp_path: Path) -> None:
    config = ["--config", str(stack.home.config_file)]
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\ndomains:\n  k12: {authority: x}\n")
    missing = tmp_path / "missing"
    for arguments in (
        ["status", "--home", str(missing)],
        ["status", "--config", str(missing)],
        ["status", "--as", "auditor", *config],
        ["incident", "thaw", "x", "--second", "key-admin-b", "--as", "auditor", "--yes", *config],
        ["serve", "--config", str(missing)],
        ["dev"],
        ["dev", "person-token", "auditor"],
    ):
        result = ssn_vault(None, *arguments)
        assert result.exit_code == USAGE, (arguments, result.output)
        assert result.output.strip()
    for arguments in (
        ["policy", "plan", str(policy)],
        ["policy", "apply", str(policy), "--yes"],
        ["policy", "plan", str(missing)],
        ["keys", "rotate", "--domain", "nowhere", "--kind", "data", "--yes"],
        ["keys", "rotate", "--agreement", "college-outcomes", "--kind", "data", "--yes"],
        ["keys", "rotate", "--domain", "k12", "--all", "--kind", "index", "--yes"],
        ["keys", "rotate", "--domain", "k12", "--kind", "other", "--yes"],
        ["incident", "freeze", "--reason", "a test", "--yes"],
        ["incident", "freeze", "--reason", "a test", "--client", "sis", "--all", "--yes"],
        ["approvals", "request", "--client", "sis", "--purpose", "x", "--justification", "y", "--tokens", "0"],
        ["audit", "disclosures", "--token", "k12_ABC"],
        ["dev", "person-token", "nobody"],
        ["status", "--unknown"],
    ):
        result = ssn_vault(stack, *arguments)
        assert result.exit_code == USAGE, (arguments, result.output)
    assert "line 3, domains.k12.authority" in ssn_vault(stack, "policy", "plan", policy).output


def test_vault_or_database_away_has_a_status_of_its_own(stack: Stack) -> None:
    dead = f"127.0.0.1:{free_port()}"
    no_vault = {"SSN_VAULT_VAULT__ADDRESS": f"http://{dead}", "SSN_VAULT_VAULT__TIMEOUT": "1"}
    url = f"postgresql+psycopg://nobody@{dead}/nothing"
    roles = ("DATABASE", "ADMIN_DATABASE", "AUDITOR_DATABASE", "MIGRATOR_DATABASE")
    no_database = {f"SSN_VAULT_{role}__URL": url for role in roles}
    token = draw_token("k12", TokenFormat.STANDARD)
    for arguments in (["status"], ["keys", "status"], ["incident", "freeze", "--all", "--reason", "a test", "--yes"]):
        assert ssn_vault(stack, *arguments, settings=no_vault).exit_code == AWAY, arguments
        assert ssn_vault(stack, *arguments, settings=no_database).exit_code == AWAY, arguments
    for arguments in (["audit", "tail"], ["audit", "disclosures", "--token", token], ["database", "migrate"]):
        assert ssn_vault(stack, *arguments, settings=no_database).exit_code == AWAY, arguments
    assert parsed(stack, "status")["freezes"] == []


def test_migrating_again_changes_nothing(stack: Stack) -> None:
    assert "this release" in succeeds(stack, "database", "migrate")


# Changing


def test_a_change_is_asked_about_unless_told_not_to(stack: Stack, tmp_path: Path) -> None:
    before = parsed(stack, "status") | {"works": ""}  # which is sealed anew meanwhile
    text = succeeds(stack, "policy", "show")
    file = tmp_path / "policy.yaml"
    file.write_text(text.replace("retention_days: 2555", "retention_days: 2556"))
    for arguments in (
        ["policy", "apply", file],
        ["keys", "rotate", "--domain", "k12", "--kind", "data"],
        ["incident", "freeze", "--all", "--reason", "a test"],
        bulk()[:-1],
    ):
        for answer in ("n\n", "\n", ""):
            result = ssn_vault(stack, *arguments, answer=answer)
            assert result.exit_code != DONE
            assert "?" in result.output
    assert parsed(stack, "status") | {"works": ""} == before
    assert parsed(stack, "approvals", "list")["waiting"] == []


def test_a_policy_needs_two_people_and_shows_what_it_changes(stack: Stack, tmp_path: Path) -> None:
    version = parsed(stack, "status")["policy_version"]
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(policy_in_force(stack))
    after.write_text(policy_in_force(stack).replace("per_day: 1000\n", "per_day: 1001\n", 1))
    assert parsed(stack, "policy", "plan", before) == []
    assert "no change" in succeeds(stack, "policy", "plan", before)
    change = "~ purposes.aid-verification.per_day: 1000 -> 1001"
    assert parsed(stack, "policy", "plan", after) == [change]
    order = waiting_order(ssn_vault(stack, "policy", "apply", after, "--yes"))
    (waiting,) = parsed(stack, "approvals", "list")["waiting"]
    assert (waiting["id"], waiting["action"], waiting["actor"]) == (order, "policy.apply", "director")
    assert order in succeeds(stack, "approvals", "list")
    for person in ("director", "auditor"):
        refused = ssn_vault(stack, "approvals", "grant", order, "--yes", "--as", person)
        assert refused.exit_code == REFUSED
    assert parsed(stack, "status")["policy_version"] == version
    # The signature of one who is no signer of policies counts for nothing.
    succeeds(stack, "approvals", "deny", order, "--yes")
    again = ssn_vault(stack, "policy", "apply", after, "--yes", "--second", "key-admin-a")
    assert again.exit_code == REFUSED
    with restored(stack, before):
        output = succeeds(stack, "policy", "apply", after, "--yes", "--second", "privacy-officer")
        assert change in output
        assert parsed(stack, "policy", "show")["policy"]["purposes"]["aid-verification"]["per_day"] == 1001
        assert parsed(stack, "status")["policy_version"] == version + 1
        assert "no change" in succeeds(stack, "policy", "apply", after, "--yes")
    assert parsed(stack, "policy", "plan", before) == []


def test_a_second_person_grants_and_nobody_grants_twice(stack: Stack, tmp_path: Path) -> None:
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(policy_in_force(stack))
    after.write_text(policy_in_force(stack).replace("per_day: 1000\n", "per_day: 1002\n", 1))
    order = waiting_order(ssn_vault(stack, "policy", "apply", after, "--yes"))
    own = ssn_vault(stack, "approvals", "grant", order, "--yes", "--as", "director")
    assert own.exit_code == REFUSED
    assert "another person" in own.output
    with restored(stack, before):
        shown = parsed(stack, "approvals", "show", order[:30])
        assert (shown["id"], shown["signed by"], shown["outcome"]) == (order, ["director"], "waiting")
        unsure = ssn_vault(stack, "approvals", "grant", order, "--as", "privacy-officer", answer="n\n")
        assert unsure.exit_code == REFUSED
        granted = ssn_vault(stack, "approvals", "grant", order, "--as", "privacy-officer", answer="y\n")
        assert granted.exit_code == DONE
        shown = parsed(stack, "approvals", "show", order)
        assert (sorted(shown["signed by"]), shown["outcome"]) == (["director", "privacy-officer"], "done")
        assert "outcome: done" in succeeds(stack, "approvals", "show", order)
        again = ssn_vault(stack, "approvals", "grant", order, "--yes", "--as", "privacy-officer")
        assert (again.exit_code, "decided already" in again.output) == (REFUSED, True)
    for command in (["show"], ["grant", "--yes"], ["deny", "--yes"]):
        assert ssn_vault(stack, "approvals", *command, "no-such-order").exit_code == REFUSED


def test_a_denied_order_can_no_longer_take_effect(stack: Stack) -> None:
    order = waiting_order(ssn_vault(stack, *bulk()))
    assert ssn_vault(stack, "approvals", "deny", order, "--yes", "--as", "auditor").exit_code == REFUSED
    succeeds(stack, "approvals", "deny", order, "--yes", "--as", "records-officer")
    assert order not in [waiting["id"] for waiting in parsed(stack, "approvals", "list")["waiting"]]
    granted = ssn_vault(stack, "approvals", "grant", order, "--yes", "--as", "records-officer")
    assert granted.exit_code == REFUSED
    assert order not in [approval["id"] for approval in parsed(stack, "approvals", "list")["approvals"]]


def test_a_bulk_request_takes_effect_when_an_approver_grants_it(stack: Stack) -> None:
    order = waiting_order(ssn_vault(stack, *bulk()))
    succeeds(stack, "approvals", "grant", order, "--yes", "--as", "records-officer")
    (approval,) = [one for one in parsed(stack, "approvals", "list")["approvals"] if one["id"] == order]
    assert approval == {"id": order, "client": "sis", "purpose": "tax-reporting", "person": "tax-clerk", "tokens": 7}
    assert order in succeeds(stack, "approvals", "list")
    at_once = ssn_vault(stack, *bulk(), "--second", "records-officer")
    assert at_once.exit_code == DONE
    other = waiting_order(ssn_vault(stack, *bulk()))
    no_approver = ssn_vault(stack, "approvals", "grant", other, "--yes", "--as", "key-admin-b")
    assert (no_approver.exit_code, "one more person" in no_approver.output) == (REFUSED, True)
    succeeds(stack, "approvals", "grant", other, "--yes", "--as", "records-officer")


def test_a_freeze_holds_when_the_command_returns_and_a_thaw_needs_two(stack: Stack) -> None:
    arguments = ["incident", "freeze", "--client", "sis", "--reason", "a test of the freeze", "--yes"]
    assert ssn_vault(stack, *arguments, "--as", "auditor").exit_code == REFUSED
    tokens_of(stack, "935-01-0004")
    with stack.client("sis") as sis, thawed(stack):
        succeeds(stack, *arguments)
        with pytest.raises(FrozenError):
            sis.tokenize("k12", [TokenizeItem(Ssn("935-01-0004"))])
        (freeze,) = parsed(stack, "status")["freezes"]
        assert freeze.items() >= {"kind": "client", "name": "sis", "by": "key-admin-a"}.items()
        assert freeze["id"] in succeeds(stack, "status")
        thaw = ["incident", "thaw", freeze["id"], "--yes"]
        order = waiting_order(ssn_vault(stack, *thaw))
        assert ssn_vault(stack, *thaw, "--second", "key-admin-a").exit_code == REFUSED
        assert ssn_vault(stack, *thaw, "--second", "auditor").exit_code == REFUSED
        with pytest.raises(FrozenError):
            sis.tokenize("k12", [TokenizeItem(Ssn("935-01-0004"))])
        succeeds(stack, "approvals", "grant", order, "--yes", "--as", "records-officer")
        assert sis.tokenize("k12", [TokenizeItem(Ssn("935-01-0004"))])[0].token
    assert parsed(stack, "status")["freezes"] == []


def test_after_a_rotation_new_rows_use_the_new_key_and_old_ones_open(stack: Stack) -> None:
    (old,) = tokens_of(stack, "935-01-0005")

    def records() -> dict[int, tuple[str, int]]:
        keys = parsed(stack, "keys", "status")["keys"]
        return {
            key["version"]: (key["state"], key["records"])
            for key in keys
            if (key["scope"], key["kind"]) == ("k12", "data")
        }

    before = records()
    newest = max(before)
    assert before[newest][0] == "active"
    assert ssn_vault(stack, "keys", "rotate", "--domain", "k12", "--kind", "data", "--yes", "--as", "auditor").exit_code
    succeeds(stack, "keys", "rotate", "--domain", "k12", "--kind", "data", "--yes")
    (new,) = tokens_of(stack, "935-01-0006")
    after = records()
    assert after[newest + 1] == ("active", 1)
    assert after[newest] == ("old", before[newest][1])
    assert tokens_of(stack, "935-01-0005") == [old]
    with stack.client("sis") as sis:
        answer = sis.detokenize("k12", [old, new], purpose="transcript-verification", justification=JUSTIFICATION)
    assert [result.ssn.reveal() for result in answer.results if result.ssn] == ["0005", "0006"]
