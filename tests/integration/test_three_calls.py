"""The three calls on real parts, over both databases."""

from ssn_vault_client import LinkageItem, Ssn, TokenizeItem, View
from tests.support.stack import JUSTIFICATION, Stack


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
