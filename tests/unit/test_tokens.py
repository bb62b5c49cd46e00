"""Tokens are random, canonical in either case, and a mistyped one is seen without a look-up."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault_service.tokens import ALPHABET, TokenFormat, draw_body, draw_token, is_token_shaped, parse_token

FORMATS = list(TokenFormat)


def _split(token: str, token_format: TokenFormat) -> tuple[str, str]:
    """The prefix with its underscore (none for a column token), and the body."""
    if token_format is TokenFormat.SSN_COLUMN:
        return "", token
    prefix, _, body = token.partition("_")
    return f"{prefix}_", body


def _as_int(body: str) -> int:
    value = 0
    for character in body:
        value = value * 32 + ALPHABET.index(character)
    return value


def test_the_alphabet_is_the_contracts() -> None:
    assert ALPHABET == "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    assert len(set(ALPHABET)) == 32
    assert set("01IO").isdisjoint(ALPHABET)


def test_a_standard_token_is_its_domain_26_characters_and_a_check_character() -> None:
    token = draw_token("k12", TokenFormat.STANDARD)
    prefix, _, body = token.partition("_")
    assert prefix == "k12"
    assert len(body) == 27
    assert set(body) <= set(ALPHABET)


@given(st.binary(min_size=16, max_size=16))
def test_a_body_carries_exactly_the_128_random_bits(drawn: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vault_service.tokens.random_bytes", lambda size: drawn[:size])
        body = draw_body()
    assert _as_int(body[:26]) == int.from_bytes(drawn)
    assert parse_token(f"k12_{body}", "k12", TokenFormat.STANDARD) == f"k12_{body}"


def test_every_one_of_the_128_bits_varies_and_the_top_two_are_zero() -> None:
    values = [_as_int(draw_body()[:26]) for _ in range(2000)]
    ever, always = 0, (1 << 130) - 1
    for value in values:
        ever |= value
        always &= value
    assert ever == (1 << 128) - 1
    assert always == 0
    assert len(set(values)) == len(values)


def test_a_body_whose_top_bits_are_set_is_no_token() -> None:
    """It could never have been drawn, so two spellings of one value cannot exist."""
    for first in ALPHABET[8:]:
        rest = "2" * 25
        found = [c for c in ALPHABET if parse_token(f"k12_{first}{rest}{c}", "k12", TokenFormat.STANDARD)]
        assert not found


def test_a_column_token_has_nine_characters_and_a_letter_first() -> None:
    tokens = {draw_token("k12", TokenFormat.SSN_COLUMN) for _ in range(3000)}
    assert all(len(token) == 9 and set(token) <= set(ALPHABET) for token in tokens)
    assert {token[0] for token in tokens} == set(ALPHABET[8:])  # every letter, no digit
    assert len(tokens) == 3000


@pytest.mark.parametrize("token_format", FORMATS)
def test_every_single_wrong_character_is_found(token_format: TokenFormat) -> None:
    for _ in range(20):
        token = draw_token("k12", token_format)
        prefix, body = _split(token, token_format)
        for position, right in enumerate(body):
            for wrong in set(ALPHABET) - {right}:
                mistyped = body[:position] + wrong + body[position + 1 :]
                assert parse_token(prefix + mistyped, "k12", token_format) is None


@pytest.mark.parametrize("token_format", FORMATS)
def test_every_swap_of_two_different_characters_is_found(token_format: TokenFormat) -> None:
    for _ in range(50):
        token = draw_token("k12", token_format)
        prefix, body = _split(token, token_format)
        for one, other in combinations(range(len(body)), 2):
            if body[one] != body[other]:
                swapped = list(body)
                swapped[one], swapped[other] = body[other], body[one]
                assert parse_token(prefix + "".join(swapped), "k12", token_format) is None


@pytest.mark.parametrize("token_format", FORMATS)
def test_a_lost_or_doubled_character_is_found(token_format: TokenFormat) -> None:
    prefix, body = _split(draw_token("k12", token_format), token_format)
    for position in range(len(body)):
        assert parse_token(prefix + body[:position] + body[position + 1 :], "k12", token_format) is None
        assert parse_token(prefix + body[:position] + body[position] + body[position:], "k12", token_format) is None


@given(st.sampled_from(FORMATS), st.from_regex(r"[a-z][a-z0-9]{1,15}", fullmatch=True))
def test_what_was_drawn_parses_to_itself(token_format: TokenFormat, domain: str) -> None:
    token = draw_token(domain, token_format)
    assert parse_token(token, domain, token_format) == token
    assert is_token_shaped(token)


@given(st.sampled_from(FORMATS), st.lists(st.booleans(), min_size=64, max_size=64))
def test_either_case_is_taken_and_the_canonical_one_given(token_format: TokenFormat, upper: list[bool]) -> None:
    token = draw_token("highered", token_format)
    sent = "".join(c.upper() if up else c.lower() for c, up in zip(token, upper, strict=False))
    assert parse_token(sent, "highered", token_format) == token


def test_another_domains_token_is_well_formed_here() -> None:
    """NOT_FOUND, not INVALID_TOKEN: the look-up says that it is not ours."""
    token = draw_token("highered", TokenFormat.STANDARD)
    assert parse_token(token, "k12", TokenFormat.STANDARD) == token


def test_one_formats_token_is_none_of_the_other() -> None:
    standard, column = (draw_token("k12", token_format) for token_format in FORMATS)
    assert parse_token(standard, "k12", TokenFormat.SSN_COLUMN) is None
    assert parse_token(column, "k12", TokenFormat.STANDARD) is None


@pytest.mark.parametrize(
    "junk",
    ["", "_", "k12_", "k12", "k12__", "2" * 9, "A" * 8, "A" * 10, "\0", " ", "k12_" + "I" * 27, "x" * 65, "_" * 40],
)
@pytest.mark.parametrize("token_format", FORMATS)
def test_junk_is_no_token(junk: str, token_format: TokenFormat) -> None:
    assert parse_token(junk, "k12", token_format) is None


@pytest.mark.parametrize("around", [" {}", "{} ", "{}\n", "\t{}", "{}\0", "'{}'", "{}_", "_{}", "{}\u200b"])
@pytest.mark.parametrize("token_format", FORMATS)
def test_a_token_with_anything_around_it_is_none(around: str, token_format: TokenFormat) -> None:
    assert parse_token(around.format(draw_token("k12", token_format)), "k12", token_format) is None


@pytest.mark.parametrize("prefix", ["1k", "k", "k-12", "k 12", "", "a" * 17])
def test_what_cannot_be_a_domain_is_no_prefix(prefix: str) -> None:
    assert parse_token(f"{prefix}_{draw_body()}", "k12", TokenFormat.STANDARD) is None


def test_letters_that_only_change_case_into_ours_are_not_ours() -> None:
    """U+017F becomes S, U+212A becomes k, and a sharp s becomes two letters."""
    with_s = next(body for body in iter(draw_body, "") if "S" in body)
    assert parse_token(f"k12_{with_s}", "k12", TokenFormat.STANDARD)
    assert parse_token(f"k12_{with_s.replace('S', chr(0x17F))}", "k12", TokenFormat.STANDARD) is None
    assert parse_token(f"{chr(0x212A)}12_{with_s}", "k12", TokenFormat.STANDARD) is None
    assert not is_token_shaped(f"k12_{with_s.replace('S', chr(0x17F))}")


@given(st.text(max_size=70), st.sampled_from(FORMATS))
def test_arbitrary_text_never_raises(text: str, token_format: TokenFormat) -> None:
    found = parse_token(text, "k12", token_format)
    if found is not None:
        assert parse_token(found, "k12", token_format) == found


@given(
    st.sampled_from(FORMATS),
    st.integers(0, 40),
    st.sampled_from(["", "_", "\u017f", "\u00df", "\u0131", "\ud7ff", "I", "0"]),
)
def test_a_damaged_token_never_raises(token_format: TokenFormat, position: int, damage: str) -> None:
    token = draw_token("k12", token_format)
    found = parse_token(token[:position] + damage + token[position + 1 :], "k12", token_format)
    assert found is None or found[-9:] == token[-9:]  # only the domain's name is not under the check
