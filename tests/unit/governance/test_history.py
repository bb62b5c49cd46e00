"""A disclosure is told under the policy that decided it, not under a later one."""

import pytest

from tests.unit.samples import changed_policy, sample_policy
from vault_service.governance.history import PolicyHistory, PolicyInForce

OLD = sample_policy()
NEW = changed_policy(clients={"newcomer": {}}, people={"newcomer-person": {}})
HISTORY = PolicyHistory([PolicyInForce(1, 1000, OLD), PolicyInForce(5, 2000, NEW)])


@pytest.mark.parametrize(("epoch", "policy"), [(1, OLD), (4, OLD), (5, NEW), (900, NEW)])
def test_an_epoch_has_the_policy_that_was_in_force_at_it(epoch: int, policy: object) -> None:
    assert HISTORY.at_epoch(epoch) is policy
    assert HISTORY.of({"epoch": epoch, "at": 1}) is policy


@pytest.mark.parametrize(("at", "policy"), [(1000, OLD), (1999, OLD), (2000, NEW), (9999, NEW)])
def test_an_event_without_an_epoch_is_told_by_its_time(at: int, policy: object) -> None:
    assert HISTORY.of({"at": at}) is policy


def test_before_the_first_policy_there_was_none() -> None:
    for policy in (HISTORY.at_epoch(0), HISTORY.at_time(999), HISTORY.at_time(-1), PolicyHistory([]).at_epoch(7)):
        assert not policy.domains


def test_names_are_known_that_any_policy_ever_had() -> None:
    earlier = PolicyHistory([PolicyInForce(1, 1000, NEW), PolicyInForce(5, 2000, OLD)])
    for history in (HISTORY, earlier):
        assert {"sis", "newcomer"} <= history.clients()
        assert {"auditor", "newcomer-person"} <= history.people()
        assert history.domains() == {"k12", "highered"}
