"""The sample policy says what the design's table says: other programs are written against it."""

from datetime import date

from tests.unit.samples import sample_policy
from vault_service.policy.model import Role, View

POLICY = sample_policy()


def test_the_domains() -> None:
    assert set(POLICY.domains) == {"k12", "highered"}
    for domain in POLICY.domains.values():
        assert domain.authority
        assert domain.purpose
        assert domain.retention_days > 0
        assert domain.keep_traits
        assert domain.accept_fictitious


def test_the_clients() -> None:
    grants = {
        name: (set(c.tokenize), {d: set(p) for d, p in c.detokenize.items()}) for name, c in POLICY.clients.items()
    }
    assert grants == {
        "sis": ({"k12"}, {"k12": {"transcript-verification", "tax-reporting"}}),
        "registrar": ({"highered"}, {}),
        "financial-aid": (set(), {"highered": {"aid-verification"}}),
        "linkage-job": (set(), {}),
        "k12-research": (set(), {}),
    }


def test_the_purposes() -> None:
    bounds = {
        name: (p.view, p.per_call, p.per_day, p.person_required, p.approval_above)
        for name, p in POLICY.purposes.items()
    }
    assert bounds == {
        "transcript-verification": (View.LAST4, 100, 1_000_000, False, None),
        "aid-verification": (View.FULL, 10, 1_000, True, None),
        "tax-reporting": (View.FULL, 1_000, 100_000, True, 100),
    }


def test_the_agreement() -> None:
    assert set(POLICY.agreements) == {"college-outcomes"}
    agreement = POLICY.agreements["college-outcomes"]
    assert agreement.parties == {"k12": ("k12-research",), "highered": ("linkage-job",)}
    assert agreement.first_domain == "k12"
    assert agreement.side_of("linkage-job") == "highered"
    assert agreement.other_side("highered") == "k12"
    assert agreement.side_of("sis") is None
    assert agreement.purpose
    assert agreement.authority
    assert (agreement.start, agreement.end) == (date(2024, 7, 1), date(2034, 6, 30))
    assert (agreement.items_per_day, agreement.ssn, agreement.min_items) == (1_000_000, "one_edit", 1)


def test_the_people() -> None:
    people = {name: (set(p.roles), set(p.through)) for name, p in POLICY.people.items()}
    assert people == {
        "records-officer": ({Role.APPROVER, Role.DISCLOSURE_READER}, set()),
        "aid-counselor": (set(), {"financial-aid"}),
        "tax-clerk": (set(), {"sis"}),
        "key-admin-a": ({Role.KEY_ADMIN}, set()),
        "key-admin-b": ({Role.KEY_ADMIN}, set()),
        "director": (set(), set()),
        "privacy-officer": (set(), set()),
        "auditor": ({Role.AUDITOR, Role.DISCLOSURE_READER}, set()),
    }
