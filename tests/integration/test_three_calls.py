"""The three calls on real parts, over both databases."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from ssn_vault_client import LinkageItem, Ssn, TokenizeItem, View
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.policy.file import parse_policy


def test_a_number_becomes_a_token_and_comes_back_for_a_purpose(stack: Stack) -> None:
    with stack.client("sis") as sis:
        (first,) = sis.tokenize("k12", [TokenizeItem(Ssn("900-12-0001"))])
        (again,) = sis.tokenize("k12", [TokenizeItem(Ssn("900120001"))])
        assert first.token is not None
        assert first.token == again.token
        disclosure = sis.detokenize(
            "k12", [first.token], purpose="transcript-verification", justification=JUSTIFICATION
        )
    (result,) = disclosure.results
    assert result.ssn is not None
    assert result.ssn.reveal() == "0001"


def test_a_full_number_needs_its_person(stack: Stack) -> None:
    with stack.client("registrar") as registrar:
        (tokenized,) = registrar.tokenize("highered", [TokenizeItem(Ssn("900-12-0002"))])
    assert tokenized.token is not None
    with stack.client("financial-aid", "aid-counselor") as aid:
        disclosure = aid.detokenize(
            "highered",
            [tokenized.token],
            purpose="aid-verification",
            justification=JUSTIFICATION,
            view=View.FULL,
        )
    (result,) = disclosure.results
    assert result.ssn is not None
    assert result.ssn.reveal() == "900120002"


def test_the_server_that_answers_leaves_no_core(stack: Stack) -> None:
    limits = Path(f"/proc/{stack.server.pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


def test_a_record_is_to_be_destroyed_when_its_domains_retention_ends(stack: Stack) -> None:
    days = parse_policy(stack.home.policy_file.read_text()).domains["k12"].retention_days
    before = datetime.now(UTC).date()
    with stack.client("sis") as sis:
        (tokenized,) = sis.tokenize("k12", [TokenizeItem(Ssn("900-12-0003"))])
    ((destroy_by,),) = stack.query("SELECT destroy_by FROM token_record WHERE token = :token", token=tokenized.token)
    assert before <= date.fromisoformat(destroy_by) - timedelta(days=days) <= datetime.now(UTC).date()


def test_both_sides_get_the_same_linkage_id(stack: Stack) -> None:
    with stack.client("sis") as sis, stack.client("registrar") as registrar:
        k12 = sis.tokenize("k12", [TokenizeItem(Ssn(f"900-13-{n:04}")) for n in range(1, 4)])
        highered = registrar.tokenize("highered", [TokenizeItem(Ssn(f"900-13-{n:04}")) for n in range(2, 5)])
    with stack.client("linkage-job") as job, stack.client("k12-research") as research:
        theirs = job.linkage_match("college-outcomes", [LinkageItem(token=t.token or "") for t in highered])
        ours = research.linkage_match("college-outcomes", [LinkageItem(token=t.token or "") for t in k12])
    assert (theirs.summary.exact, theirs.summary.no_match) == (2, 1)
    assert {r.linkage_id for r in theirs.results if r.linkage_id} == {
        r.linkage_id for r in ours.results if r.linkage_id
    }
