"""A line says who, when, for what, on what authority, with what interest, and what was disclosed (34 CFR 99.32)."""

from html.parser import HTMLParser

import pytest

from tests.unit.governance.events import TOKEN, detokenized, event, matched, sample_history
from tests.unit.samples import changed_policy, sample_policy
from vault_service.governance.accounting import Line, line
from vault_service.governance.accounting_page import page
from vault_service.governance.uses import Use

K12_AUTHORITY = "State education code, student identification (sample)"


def line_of(use: Use) -> Line:
    return line(use, sample_history().of(use.event.facts))


@pytest.mark.parametrize(
    ("use", "how"),
    [
        (detokenized(), "last four digits"),
        (detokenized("FULL"), "full number"),
        (detokenized("FULL", lost=True), "nothing (the record did not open)"),
        (detokenized(outcome="missing"), "nothing (no such token)"),
        (matched(), "is known to the other side of agreement college-outcomes"),
        (Use(event("detokenize", outcome="NOT_PERMITTED"), None), "nothing (refused: NOT_PERMITTED)"),
    ],
)
def test_how_says_what_was_disclosed(use: Use, how: str) -> None:
    assert line_of(use).how == how


def test_a_detokenization_has_the_domains_authority_and_the_purposes_interest() -> None:
    found = line_of(detokenized(person="tax-clerk", justification="a reason in words"))
    assert (found.domain, found.token, found.call, found.view) == ("k12", TOKEN, "detokenize", "LAST4")
    assert (found.client, found.person, found.purpose) == ("sis", "tax-clerk", "transcript-verification")
    assert (found.authority, found.justification) == (K12_AUTHORITY, "a reason in words")
    assert found.legitimate_interest == sample_policy().purposes["transcript-verification"].interest
    assert found.at == "2030-03-17T17:46:40.000Z"


def test_a_match_has_the_agreements_authority_and_purpose() -> None:
    agreement = sample_policy().agreements["college-outcomes"]
    found = line_of(matched())
    assert (found.domain, found.client, found.purpose) == ("k12", "linkage-job", "college-outcomes")
    assert (found.authority, found.legitimate_interest) == (agreement.authority, agreement.purpose)


def test_what_the_policy_no_longer_has_is_left_empty() -> None:
    found = line(detokenized(purpose="gone"), changed_policy())
    assert (found.purpose, found.legitimate_interest) == ("gone", "")


# The page


class _Reader(HTMLParser):
    """What a browser would make of it: the tags, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*lines: Line, subject: str = TOKEN, with_token: bool = False) -> _Reader:
    return _Reader("".join(page(lines, subject=subject, period="always", made="today", with_token=with_token)))


def test_the_page_shows_every_line_and_how_to_prove_it() -> None:
    lines = [line_of(detokenized()), line_of(matched())]
    found = page_of(*lines)
    for one in lines:
        for text in (one.at, one.how, one.client, one.purpose, one.legitimate_interest, one.authority, one.event):
            assert text in found.text
    for text in (TOKEN, "34 CFR 99.32", "ssn-vault audit prove", "always", "today"):
        assert text in found.text
    assert [tag for tag, _ in found.tags].count("td") == 2 * 7


def test_the_page_of_a_domain_has_a_column_of_tokens() -> None:
    assert TOKEN in page_of(line_of(detokenized()), subject="k12", with_token=True).text


def test_a_page_without_lines_says_so() -> None:
    assert "Nobody asked for" in page_of().text


def test_the_page_runs_nothing_and_asks_for_nothing_outside() -> None:
    attack = "<script src=//x>&\"'</td>"
    found = page_of(line_of(detokenized())._replace(legitimate_interest=attack, purpose=attack), subject=attack)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img", "link", "iframe", "object", "a"})
    assert found.text.count(attack) == 4  # title, heading, two cells
    assert not [name for _, attrs in found.tags for name, _ in attrs if name in ("src", "href") or name[:2] == "on"]


def test_a_justification_may_speak_of_others_and_is_not_on_the_page() -> None:
    assert "another student" not in page_of(line_of(detokenized(justification="it is about another student"))).text
