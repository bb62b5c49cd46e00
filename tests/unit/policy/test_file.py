"""The policy file: every mistake is named with its line and field, and none repeats what looks like a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import sample_text
from vault_service.errors import PolicyInvalidError
from vault_service.policy.file import parse_policy

GOOD = """\
version: 1
domains:
  k12:
    authority: State code
    purpose: Linking records
    retention_days: 10
  highered:
    authority: State code
    purpose: Linking records
    retention_days: 10
purposes:
  checking:
    interest: Somebody checks
    per_call: 1
    per_day: 2
agreements:
  study:
    parties:
      k12: [one]
      highered: [two]
    purpose: A study
    authority: An agreement
    start: 2024-07-01
    end: 2034-06-30
    items_per_day: 100
clients:
  one: {}
  two: {}
  sis:
    tokenize: [k12]
    detokenize:
      k12: [checking]
people:
  clerk:
    through: [sis]
"""


def _mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyInvalidError) as caught:
        parse_policy(text)
    return str(caught.value).splitlines()


def _line_of(text: str, piece: str) -> int:
    """The line, from 1, on which `piece` stands."""
    return text[: text.index(piece)].count("\n") + 1


def _changed(before: str, after: str) -> str:
    assert GOOD.count(before) >= 1
    return GOOD.replace(before, after, 1)


def test_a_good_file_becomes_a_policy() -> None:
    policy = parse_policy(GOOD)
    assert set(policy.domains) == {"k12", "highered"}
    assert policy.agreements["study"].first_domain == "k12"
    assert policy.agreements["study"].min_items == 10
    assert policy.clients["sis"].detokenize == {"k12": ("checking",)}


@pytest.mark.parametrize(
    ("before", "after", "at", "field"),
    [
        ("retention_days: 10", "retention_days: 0", "retention_days: 0", "domains.k12.retention_days"),
        ("retention_days: 10", "retention_days: ten", "retention_days: ten", "domains.k12.retention_days"),
        ("    authority: State code\n", "", "k12:", "domains.k12.authority"),
        ("    purpose: Linking records\n", "", "k12:", "domains.k12.purpose"),
        ("    retention_days: 10\n", "", "k12:", "domains.k12.retention_days"),
        ("authority: State code", "authority: S", "authority: S\n", "domains.k12.authority"),
        ("per_call: 1", "per_call: -1", "per_call: -1", "purposes.checking.per_call"),
        ("per_day: 2", "per_day: 2\n    view: ALL", "view: ALL", "purposes.checking.view"),
        ("per_day: 2", "per_day: 2\n    per_week: 9", "per_week: 9", "purposes.checking.per_week"),
        ("version: 1", "version: 2", "version: 2", "version"),
        ("people:", "robots: {}\npeople:", "robots: {}", "robots"),
        ("items_per_day: 100", "items_per_day: 100\n    ssn: fuzzy", "ssn: fuzzy", "agreements.study.ssn"),
        ("through: [sis]", "roles: [king]", "roles: [king]", "people.clerk.roles"),
        ("tokenize: [k12]", "tokenize: [k12, K12]", "tokenize: [k12, K12]", "clients.sis.tokenize.1"),
        ("  k12:\n    authority", "  K12:\n    authority", "K12:", "domains.K12"),
        (
            "retention_days: 10",
            "retention_days: 10\n    token_format: short",
            "token_format",
            "domains.k12.token_format",
        ),
        ("start: 2024-07-01", "start: soon", "start: soon", "agreements.study.start"),
        ("start: 2024-07-01", "start: 2024-13-01", "start: 2024-13-01", "agreements.study.start"),
        ("parties:", "party:", "study:", "agreements.study.parties"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_field(before: str, after: str, at: str, field: str) -> None:
    text = _changed(before, after)
    assert any(line.startswith(f"line {_line_of(text, at)}, {field}") for line in _mistakes(text)), _mistakes(text)


def test_all_mistakes_are_named_at_once() -> None:
    text = GOOD.replace("per_call: 1", "per_call: 0").replace("per_day: 2", "per_day: 0")
    found = _mistakes(text.replace("tokenize: [k12]", "tokenize: 5"))
    assert len(found) == 3
    assert [line.split(",")[0] for line in found] == ["line 14", "line 15", "line 30"]


@pytest.mark.parametrize(
    ("before", "after", "field", "wrong"),
    [
        ("tokenize: [k12]", "tokenize: [k13]", "clients.sis.tokenize.0", "is not a domain"),
        ("      k12: [checking]", "      k13: [checking]", "clients.sis.detokenize.k13", "is not a domain"),
        ("      k12: [checking]", "      k12: [chess]", "clients.sis.detokenize.k12.0", "is not a purpose"),
        (
            "per_day: 2",
            "per_day: 2\n    approval_above: 1",
            "purposes.checking.approval_above",
            "needs person_required",
        ),
        ("through: [sis]", "through: [sir]", "people.clerk.through.0", "is not a client"),
        ("      k12: [one]", "      k14: [one]", "agreements.study.parties.k14", "is not a domain"),
        ("k12: [one]", "k12: [nobody]", "agreements.study.parties.k12.0", "is not a client"),
        ("      highered: [two]\n", "", "agreements.study.parties", "names other than two domains"),
        ("end: 2034-06-30", "end: 2024-06-30", "agreements.study.end", "is before start"),
    ],
)
def test_a_name_must_stand_in_its_section(before: str, after: str, field: str, wrong: str) -> None:
    text = _changed(before, after)
    assert any(f", {field}: {wrong}" in line for line in _mistakes(text)), _mistakes(text)


def test_an_agreement_of_three_domains_is_refused() -> None:
    third = "  third:\n    authority: Code\n    purpose: None\n    retention_days: 1\npurposes:\n"
    text = _changed("purposes:\n", third).replace("      highered: [two]\n", "      highered: [two]\n      third: []\n")
    assert any("names other than two domains" in line for line in _mistakes(text))


def test_a_client_cannot_tokenize_where_it_stands_on_an_agreements_side() -> None:
    (found,) = _mistakes(_changed("  one: {}", "  one: {tokenize: [k12]}"))
    assert found.startswith("line 19, agreements.study.parties.k12.0: also tokenizes")


def test_a_client_may_tokenize_in_the_domain_across() -> None:
    """It asks about its own side's tokens only, so the numbers of the other side tell it nothing new."""
    assert parse_policy(_changed("  one: {}", "  one: {tokenize: [highered]}")).clients["one"].tokenize == ("highered",)


def test_a_client_stands_on_one_side_only() -> None:
    (found,) = _mistakes(_changed("highered: [two]", "highered: [one]"))
    assert found.startswith("line 20, agreements.study.parties.highered.0: stands on a side already")


def test_a_client_stands_in_one_agreement_only() -> None:
    start, end = GOOD.index("  study:"), GOOD.index("clients:")
    second = GOOD[start:end].replace("study", "other")
    found = _mistakes(GOOD[:end] + second + GOOD[end:])
    assert len(found) == 2
    assert all("agreements.other.parties" in line and "stands on a side already" in line for line in found)


@pytest.mark.parametrize("name", ["person", "audit"])
def test_a_domain_cannot_take_a_name_that_keys_of_others_start_with(name: str) -> None:
    assert any(f"domains.{name}: is a reserved name" in line for line in _mistakes(GOOD.replace("highered", name)))


@pytest.mark.parametrize("name", ["person-records", "audit-log", "person", "audit"])
def test_an_agreement_cannot_take_a_name_that_keys_of_others_start_with(name: str) -> None:
    found = _mistakes(GOOD.replace("study:", f"{name}:"))
    assert any(f"agreements.{name}: is a reserved name" in line for line in found)


def test_an_agreement_cannot_have_a_domains_name() -> None:
    assert any("agreements.k12: is the name of a domain" in line for line in _mistakes(GOOD.replace("study:", "k12:")))


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("people:", "version: 1\npeople:", 33),
        ("    retention_days: 10\n", "    retention_days: 10\n    retention_days: 99\n", 7),
        ("  two: {}", "  one: {}", 28),
        ("through: [sis]", "through: [sis]\n  clerk: {}", 36),
        ("  one: {}", "  one: {tokenize: [], tokenize: [k12]}", 27),
    ],
)
def test_a_name_that_stands_twice_is_refused(before: str, after: str, line: int) -> None:
    text = _changed(before, after)
    assert _mistakes(text) == [f"line {line}: a name stands twice in one mapping"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("version: 1\ndomains: [\n", 3),
        ("version: 1\n  domains: {}\n", 2),
        ("version: 1\n\tdomains: {}\n", 2),
        ("version: 1\ndomains: *nothing\n", 2),
        ("version: 1\ndomains: !!python/object:os.system {}\n", 2),
        ("version: 1\n---\nversion: 1\n", 2),
    ],
)
def test_what_is_not_yaml_is_named_with_its_line(text: str, line: int) -> None:
    (found,) = _mistakes(text)
    assert found.startswith(f"line {line}: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "version", "1", "null", "\x00", "\x07bell: 1"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert len(_mistakes(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("through: [sis]", "through: &c [sis]\n  second:\n    through: *c"),
        "version: 1\ndomains: &a\n  k12: *a\n",
        "version: 1\na0: &a0 {x: 1}\na1: {l: *a0, r: *a0}\n",
    ],
)
def test_aliases_are_refused(text: str) -> None:
    """A reviewer reads each entry where it stands; and a few of them make a file that never ends."""
    (found,) = _mistakes(text)
    assert found.startswith(f"line {_line_of(text, '*')}: ")


def test_a_file_without_bottom_is_refused() -> None:
    assert _mistakes("version: 1\ndomains: " + "[" * 1000 + "]" * 1000)


_NUMBERS = ["900-12-3456", "900123456", "900 12 3456"]


@pytest.mark.parametrize("number", _NUMBERS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("authority: State code", 'authority: ["{}"]'),
        ("retention_days: 10", 'retention_days: "{}x"'),
        ("retention_days: 10", 'retention_days: 10\n    refuse_numbers: ["{}x"]'),
        ("retention_days: 10", 'retention_days: 10\n    "{}": 1'),
        ("  k12:\n    authority", '  "{}":\n    authority'),
        ("tokenize: [k12]", 'tokenize: ["{}"]'),
        ("through: [sis]", 'through: ["{}"]'),
        ("per_day: 2", 'per_day: 2\n    view: "{}"'),
        ("version: 1", 'version: "{}"'),
        ("people:", '"{}": 1\npeople:'),
        ("people:", '"{0}": 1\n"{0}": 1\npeople:'),
        ("start: 2024-07-01", 'start: "{}"'),
    ],
)
def test_what_looks_like_a_number_is_not_repeated(before: str, after: str, number: str) -> None:
    for line in _mistakes(_changed(before, after.format(number))):
        assert number not in line


@pytest.mark.parametrize("text", ["a: *{}", "a: &{0} 1\nb: &{0} 2", "a: !{} 1", "a: !{}!x 1", "%{} 1\n---\na: 1"])
def test_what_looks_like_a_number_is_not_repeated_from_bad_yaml_either(text: str) -> None:
    for line in _mistakes(text.format("900-12-3456")):
        assert "900-12-3456" not in line


def test_the_sample_has_no_mistakes() -> None:
    assert parse_policy(sample_text()).version == 1


@given(st.text(max_size=60) | st.text(alphabet="ab:{}[]-&*!'\"#\n 1", max_size=40))
def test_arbitrary_text_is_a_policy_or_a_mistake(text: str) -> None:
    with pytest.raises(PolicyInvalidError):
        parse_policy(text)


def test_certificates_are_denied_by_serial_number() -> None:
    serial = "7" * 16 + "1234567890ab"
    policy = parse_policy(sample_text() + f'denied_certificates: ["{serial}"]\n')
    assert policy.denied_certificates == {serial}


@pytest.mark.parametrize("serial", ["900123456", "7F" * 10, "0" * 20, "7" * 41, "7f:" * 10, "7" * 15])
def test_what_is_no_serial_number_is_refused_without_being_repeated(serial: str) -> None:
    (mistake,) = _mistakes(sample_text() + f'denied_certificates: ["{serial}"]\n')
    assert "denied_certificates" in mistake
    assert serial not in mistake
