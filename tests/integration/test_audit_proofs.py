"""`ssn-vault audit verify`, `export`, `prove`, `check-proof`, `key`: as an auditor types them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssn_vault_client import LinkageItem, Ssn, TokenizeItem
from tests.support.auditlog import LogKey
from tests.support.commands import DONE, USAGE, parsed, ssn_vault, succeeds
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.audit.checkpoint import parse_unverified
from vault_service.audit.checkpoint_file import split_notes
from vault_service.audit.witness import WitnessState

CHECK_FAILED = 1


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose events are shipped, too."""
    directory = tmp_path_factory.mktemp("proofs") / "home"
    settings = {"SSN_VAULT_AUDIT__CHECKPOINT_SECONDS": "0.2", "SSN_VAULT_AUDIT__SHIP": f"file:{directory}/ocsf.jsonl"}
    with Stack(directory, settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def disclosed(own: Stack) -> tuple[str, list[str]]:
    """An event that disclosed three tokens, and the tokens."""
    with own.client("sis") as sis, own.client("k12-research") as research:
        rows = sis.tokenize("k12", [TokenizeItem(Ssn(f"954-38-{number:04}")) for number in range(3)])
        tokens = [row.token or "" for row in rows]
        answer = sis.detokenize("k12", tokens, purpose="transcript-verification", justification=JUSTIFICATION)
        research.linkage_match("college-outcomes", [LinkageItem(tokens[0])])
    return answer.disclosure_id, tokens


def key(own: Stack) -> list[object]:
    return ["--public-key", own.home.directory / "audit.pub.pem"]


def test_one_persons_proof_shows_no_other_and_does_not_hold_when_changed(
    own: Stack, disclosed: tuple[str, list[str]], tmp_path: Path
) -> None:
    event, tokens = disclosed
    file = tmp_path / "proof.json"
    succeeds(own, "audit", "prove", event, "--token", tokens[1].lower(), "--output", file)
    text = file.read_text()
    assert tokens[1] in text
    assert not [token for token in (tokens[0], tokens[2]) if token in text]
    assert succeeds(own, "audit", "prove", event, "--token", tokens[1])[:1] == "{"
    said = ssn_vault(None, "audit", "check-proof", file, *key(own))
    assert said.exit_code == DONE
    assert f"proven: token {tokens[1]} of domain k12, found" in said.output
    checked = json.loads(ssn_vault(None, "audit", "check-proof", file, *key(own), "--json").output)
    assert checked["disclosure"]["token"] == tokens[1]
    file.write_text(text.replace("transcript-verification", "transcript-verificatioN"))
    assert ssn_vault(None, "audit", "check-proof", file, *key(own)).exit_code == CHECK_FAILED


@pytest.mark.parametrize("what", ["token", "event", "no event", "no token"])
def test_what_is_not_in_the_record_is_not_proven(own: Stack, disclosed: tuple[str, list[str]], what: str) -> None:
    event, tokens = disclosed
    other = {"token": tokens[0][:-2] + "XX", "no token": "954-38-0000"}.get(what, tokens[0])
    named = {"event": f"{event[:-4]}0000", "no event": "954380000"}.get(what, event)
    result = ssn_vault(own, "audit", "prove", named, "--token", other)
    assert result.exit_code in (CHECK_FAILED, USAGE)
    assert "954" not in result.output


def newest_size(file: Path) -> int:
    """Entries under the last checkpoint of a file."""
    return parse_unverified(split_notes(file.read_text())[-1])[0].size


def test_an_export_verifies_offline_and_says_when_it_is_older(own: Stack, tmp_path: Path) -> None:
    bundle, kept, later = tmp_path / "record.jsonl", tmp_path / "checkpoints", tmp_path / "later"
    until(lambda: parsed(own, "audit", "verify")["covered"] == parsed(own, "audit", "verify")["entries"])
    kept.write_bytes(own.home.checkpoint_file.read_bytes())
    succeeds(own, "audit", "export", "--output", bundle)
    assert ssn_vault(own, "audit", "export", "--output", bundle).exit_code == USAGE  # never over another
    assert bundle.stat().st_mode & 0o777 == 0o600
    line = ["audit", "verify", "--export", bundle, *key(own)]
    assert ssn_vault(None, *line, "--checkpoints", kept, "--stream", own.log).exit_code == DONE
    with own.client("sis") as sis:
        sis.tokenize("k12", [TokenizeItem(Ssn("954-39-0001"))])
    covered = newest_size(kept)
    until(lambda: newest_size(own.home.checkpoint_file) > covered)  # silence is signed too, over no more entries
    later.write_bytes(own.home.checkpoint_file.read_bytes())
    result = ssn_vault(None, *line, "--checkpoints", later)
    assert result.exit_code == CHECK_FAILED
    assert "or the export is older (--older)" in result.output
    result = ssn_vault(None, *line, "--checkpoints", later, "--older")
    assert result.exit_code == DONE
    assert "are newer than the export, and were not asked for" in result.output


def test_evidence_that_is_missing_or_empty_is_no_agreement(own: Stack, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for option in ("--checkpoints", "--witness-file", "--stream"):
        assert ssn_vault(own, "audit", "verify", option, empty).exit_code == CHECK_FAILED
        assert ssn_vault(own, "audit", "verify", option, tmp_path / "none").exit_code == USAGE
    aside = own.home.directory / "aside"
    own.home.checkpoint_file.rename(aside)
    try:
        assert ssn_vault(own, "audit", "verify").exit_code == CHECK_FAILED
        assert ssn_vault(own, "audit", "verify", "--checkpoints", aside).exit_code == DONE
    finally:
        aside.rename(own.home.checkpoint_file)


def test_a_key_is_named_and_comes_from_vault(own: Stack, tmp_path: Path) -> None:
    assert succeeds(own, "audit", "key") == (own.home.directory / "audit.pub.pem").read_text()
    config = ["--config", own.home.config_file]
    assert ssn_vault(None, "audit", "verify", *config).exit_code == USAGE
    other = tmp_path / "other.pem"
    other.write_text(LogKey().pem)
    assert ssn_vault(None, "audit", "verify", *config, "--public-key", other).exit_code == CHECK_FAILED
    other.write_text("no key")
    assert ssn_vault(None, "audit", "verify", *config, "--public-key", other).exit_code == USAGE
    assert ssn_vault(None, "audit", "verify", *config, *key(own)).exit_code == DONE


def test_a_witness_that_is_demanded_and_absent_is_missed(own: Stack, tmp_path: Path) -> None:
    vkey = tmp_path / "witness.vkey"
    vkey.write_text("witness.example.org+00000000+AAAA\n")
    assert ssn_vault(own, "audit", "verify", "--witness-key", vkey).exit_code == USAGE
    state = WitnessState(tmp_path / "state", "witness.example.org", {})
    result = ssn_vault(own, "audit", "verify", "--witness-key", state.key_file)
    assert result.exit_code == CHECK_FAILED
    assert "the witness has cosigned 0 entries" in result.output


def test_every_entry_is_shipped_once_and_no_line_holds_a_number(own: Stack, disclosed: tuple[str, list[str]]) -> None:
    shipped = own.home.directory / "ocsf.jsonl"
    event, tokens = disclosed

    def lines() -> list[str]:
        return shipped.read_text().splitlines() if shipped.exists() else []

    until(lambda: len(lines()) == own.query("SELECT count(*) FROM log_leaf")[0][0])
    events = [json.loads(line) for line in lines()]
    assert [one["metadata"]["sequence"] for one in events] == list(range(len(events)))
    assert event in {one["metadata"]["uid"] for one in events}
    text = shipped.read_text()
    assert not [secret for secret in (*tokens, JUSTIFICATION, "954-38", "95438") if secret in text]
