"""The policy as values: domains, purposes, agreements, clients, people. What a reviewed file becomes.

Mappings with names as keys come in (from the file room); frozen objects go out. Every field is documented
here and shown in the sample policy. Rules that hold between entries stand in `rules`.
"""

from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from vault_service.ssn import REFUSED_BY_DEFAULT
from vault_service.tokens import TokenFormat

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

DomainName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]  # of a client, purpose, agreement or person
Text = Annotated[str, Field(min_length=3, max_length=500)]
LARGEST_COUNT: Final = 2**53 - 1  # what JSON holds exactly (RFC 8785), far below what sums of a day in the database can
LONGEST_RETENTION: Final = 36_500  # days: 100 years, longer than a record is of use; calendars end with year 9999
PAST: Final = "past"  # in the context of a validation: the policy was in force already


def _at_most(most: int) -> AfterValidator:
    """An upper bound. A policy that was in force before the bound was made counts as if it said the bound."""

    def check(value: int, info: ValidationInfo) -> int:
        if value > most and not (info.context and info.context.get(PAST)):
            raise PydanticCustomError("too_large", "must be at most {most}", {"most": most})
        return min(value, most)

    return AfterValidator(check)


def _positive(most: int) -> Any:
    return Field(gt=0, json_schema_extra={"maximum": most})


Count = Annotated[int, _positive(LARGEST_COUNT), _at_most(LARGEST_COUNT)]
Days = Annotated[int, _positive(LONGEST_RETENTION), _at_most(LONGEST_RETENTION)]


class View(StrEnum):
    """How much of a number is given."""

    LAST4 = "LAST4"
    FULL = "FULL"


class Role(StrEnum):
    """What a person may sign or read."""

    KEY_ADMIN = "key-admin"  # signs key orders and freezes
    APPROVER = "approver"  # gives the second signature to a bulk detokenization
    DISCLOSURE_READER = "disclosure-reader"  # may read who saw which number
    AUDITOR = "auditor"  # may read the whole record


class Domain(BaseModel):
    """A group of records with tokens of its own."""

    model_config = _STRICT

    authority: Text  # the law or decision that allows the number to be kept
    purpose: Text  # what for
    retention_days: Days  # from the day the number first came to its destruction
    keep_traits: bool = False  # whether encoded names and birth dates are kept, for linkage
    accept_fictitious: bool = False  # areas 900-999 with groups 00-49, for demonstrations and tests
    token_format: TokenFormat = TokenFormat.STANDARD
    refuse_numbers: frozenset[Annotated[str, Field(pattern=r"^[0-9]{9}$")]] = REFUSED_BY_DEFAULT


class Purpose(BaseModel):
    """A reason for which numbers may be given out, with its bounds."""

    model_config = _STRICT

    interest: Text  # the legitimate interest, as it stands in the record of disclosures (34 CFR 99.32)
    view: View = View.LAST4  # the most that is given
    per_call: Count  # tokens
    per_day: Count  # tokens in a rolling day, of each client and of each person
    person_required: bool = False
    approval_above: Count | None = None  # tokens in a rolling day, beyond which a second person must approve one's call


class Agreement(BaseModel):
    """A written agreement to link two domains (34 CFR 99.31(a)(6), 99.35)."""

    model_config = _STRICT

    parties: dict[DomainName, tuple[Name, ...]]  # domain -> the clients on its side; exactly two domains
    purpose: Text
    authority: Text
    start: date  # first day, UTC
    end: date  # last day, UTC
    items_per_day: Count  # of each side, in a rolling day
    ssn: Literal["exact", "one_edit"] = "exact"  # how far two numbers may be apart
    min_items: Count = 10  # different tokens that exist, of one request: nobody asks about one person

    def side_of(self, client: str) -> str | None:
        """The domain on whose side `client` stands, or None."""
        return next((domain for domain, clients in self.parties.items() if client in clients), None)

    def other_side(self, domain: str) -> str:
        """The domain across from `domain`."""
        return next(name for name in self.parties if name != domain)

    @property
    def first_domain(self) -> str:
        """The first-named domain: linkage ids are keyed on the number held there."""
        return next(iter(self.parties))


# A certificate's serial number (RFC 5280, section 4.1.2.2: at most 20 octets), lower-case hex. Shorter ones than 8
# octets, which no public or Vault authority makes, could be taken for people's numbers.
SerialNumber = Annotated[str, Field(pattern=r"^[1-9a-f][0-9a-f]{15,39}$")]


class Client(BaseModel):
    """One workload, named by its certificate."""

    model_config = _STRICT

    tokenize: tuple[DomainName, ...] = ()
    detokenize: dict[DomainName, tuple[Name, ...]] = {}  # domain -> purposes


class Person(BaseModel):
    """One human being, with a login and a signing key of their own in Vault."""

    model_config = _STRICT

    roles: frozenset[Role] = frozenset()
    through: tuple[Name, ...] = ()  # clients that this person may act through


class Policy(BaseModel):
    """The whole policy. A name that does not stand here is not permitted anything."""

    model_config = _STRICT

    version: Literal[1]  # of this file format
    domains: dict[DomainName, Domain]
    purposes: dict[Name, Purpose] = {}
    agreements: dict[Name, Agreement] = {}
    clients: dict[Name, Client] = {}
    people: dict[Name, Person] = {}
    denied_certificates: frozenset[SerialNumber] = frozenset()  # of clients, whoever they name
