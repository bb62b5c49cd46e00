"""What a reviewer sees before signing: every difference, one line each, and nothing when there is none."""

from typing import Any

from tests.unit.samples import changed_policy, sample_policy
from vault_service.policy.model import Policy
from vault_service.policy.plan import differences


def _without(section: str, name: str) -> Policy:
    data: dict[str, Any] = sample_policy().model_dump()
    del data[section][name]
    return Policy.model_validate(data)


def test_a_policy_does_not_differ_from_itself() -> None:
    assert differences(sample_policy(), Policy.model_validate(sample_policy().model_dump())) == []


def test_everything_is_new_against_nothing() -> None:
    lines = differences(None, sample_policy())
    assert lines == sorted(lines)
    assert all(line.startswith("+ ") for line in lines)
    assert "+ purposes.aid-verification.person_required: True" in lines
    assert "+ clients.sis.tokenize: ['k12']" in lines


def test_an_added_client_is_shown_with_what_it_may_do() -> None:
    new = changed_policy(clients={"thief": {"tokenize": ["k12"], "detokenize": {"k12": ["tax-reporting"]}}})
    assert differences(sample_policy(), new) == [
        "+ clients.thief.detokenize.k12: ['tax-reporting']",
        "+ clients.thief.tokenize: ['k12']",
    ]


def test_a_client_that_may_do_nothing_is_shown_too() -> None:
    lines = differences(sample_policy(), changed_policy(clients={"newcomer": {}}))
    assert lines
    assert all(line.startswith("+ clients.newcomer.") for line in lines)


def test_a_removed_person_is_shown() -> None:
    lines = differences(sample_policy(), _without("people", "auditor"))
    assert "- people.auditor.roles: ['auditor', 'disclosure-reader']" in lines
    assert all(line.startswith("- people.auditor.") for line in lines)


def test_a_changed_bound_is_shown_before_and_after() -> None:
    purpose = sample_policy().purposes["tax-reporting"].model_dump() | {"approval_above": None, "per_day": 5}
    assert differences(sample_policy(), changed_policy(purposes={"tax-reporting": purpose})) == [
        "~ purposes.tax-reporting.approval_above: 100 -> None",
        "~ purposes.tax-reporting.per_day: 100000 -> 5",
    ]


def test_the_order_of_what_is_a_set_is_no_difference() -> None:
    person = {"roles": ["disclosure-reader", "auditor"]}
    assert differences(sample_policy(), changed_policy(people={"auditor": person})) == []


def test_a_number_that_a_domain_comes_to_refuse_is_a_difference() -> None:
    domain = sample_policy().domains["k12"].model_dump() | {"refuse_numbers": {"900123456"}}
    (line,) = differences(sample_policy(), changed_policy(domains={"k12": domain}))
    assert line.startswith("~ domains.k12.refuse_numbers: ")
