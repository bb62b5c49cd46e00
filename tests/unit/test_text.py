"""One line that a person can read is a text; what hides, breaks or turns it around is not."""

import pytest

from vault_service.text import text_problem

ARABIC = "\u0633\u0628\u0628 \u0627\u0644\u0637\u0644\u0628 \u0647\u0646\u0627"
BLANKS = ["", " ", "\u200b", "\u00a0", "\u3164", "\u2800", "\ufe0f", "\u0301"]
MARKS = "\x00\x07\x1b\n\r\t\x7f\x85\u2028\u2029\u202e\u2066\u200f\u061c\ud800"


@pytest.mark.parametrize("text", ["year's end", "x" * 500, "Stra\u00dfe 125", ARABIC, "\u7406\u7531" * 5])
def test_one_line_in_any_script_passes(text: str) -> None:
    assert text_problem(text, 10, 500) is None


@pytest.mark.parametrize("text", [*(blank * 40 for blank in BLANKS), "ninechars", "ninechars \u200b\u2060 ", "x" * 501])
def test_too_few_characters_that_can_be_seen_or_too_many(text: str) -> None:
    assert text_problem(text, 10, 500) == "must have 10 to 500 characters"


@pytest.mark.parametrize("mark", list(MARKS), ids=lambda mark: f"U+{ord(mark):04X}")
def test_what_breaks_a_line_or_turns_it_around_is_refused(mark: str) -> None:
    problem = text_problem(f"a good reason{mark}for this", 10, 500)
    assert problem is not None
    assert problem.startswith("must be one line")
