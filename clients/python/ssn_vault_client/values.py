"""Owns what callers hand in and get back: frozen values, without a message of the wire in them. Their reprs
hide numbers, traits, and whatever text the caller sent; tokens and ids that the vault made are shown."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from ssn_vault_client.ssn import Ssn
from ssn_vault_client.text import text


class _WireEnum(Enum):
    """Members carry the contract's numbers; a number newer than this client is UNKNOWN (-1)."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        return cls["UNKNOWN"]


class View(Enum):
    """How much of each number is asked for."""

    LAST4 = 1
    FULL = 2


class ItemErrorCode(_WireEnum):
    """Why one item has no result. Sending it again gives the same answer."""

    UNKNOWN = -1
    INVALID_SSN = 1
    NOT_FOUND = 2
    INVALID_TOKEN = 3
    DATA_LOSS = 4
    INVALID_TRAITS = 5


class MatchStatus(_WireEnum):
    """How sure it is that the other domain knows the token's person."""

    UNKNOWN = -1
    EXACT = 1
    PROBABLE = 2
    REVIEW = 3
    AMBIGUOUS = 4
    NO_MATCH = 5


class SsnRelation(_WireEnum):
    """How the two numbers differ."""

    UNKNOWN = -1
    SAME = 1
    ONE_DIGIT = 2
    TRANSPOSED = 3


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of the person beside the number; any may be empty. `date_of_birth` is `YYYY-MM-DD`."""

    given_name: str = field(default="", repr=False)
    family_name: str = field(default="", repr=False)
    date_of_birth: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        text("given_name", self.given_name)
        text("family_name", self.family_name)
        text("date_of_birth", self.date_of_birth)


@dataclass(frozen=True, slots=True)
class TokenizeItem:
    """A number to be tokenized. `reference` is the caller's own, at most 128 bytes, and comes back as it
    is.
    """

    ssn: Ssn = field(repr=False)
    reference: str = field(default="", repr=False)
    traits: Traits | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ssn, Ssn):
            raise TypeError(f"ssn must be Ssn, not {type(self.ssn).__name__}")
        text("reference", self.reference)


@dataclass(frozen=True, slots=True)
class LinkageItem:
    """One of the caller's own tokens. `reference` is the caller's own, at most 128 bytes, and comes back as
    it is.
    """

    token: str = field(repr=False)
    reference: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        text("token", self.token)
        text("reference", self.reference)


@dataclass(frozen=True, slots=True)
class ItemError:
    """What is wrong with one item; `message` is a fixed text of the code."""

    code: ItemErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Tokenized:
    """What became of one number: `token` or `error`, the other one is None."""

    reference: str = field(repr=False)
    token: str | None
    error: ItemError | None


@dataclass(frozen=True, slots=True)
class Detokenized:
    """What became of one token, which stands here as it was sent: `ssn` or `error`, the other one is None."""

    token: str = field(repr=False)
    ssn: Ssn | None
    error: ItemError | None


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One answer to `detokenize`, in the order asked. `disclosure_id` names its entry in the record."""

    disclosure_id: str
    results: tuple[Detokenized, ...]


@dataclass(frozen=True, slots=True)
class Linked:
    """What became of one token of a linkage: `status` or `error`, the other one is None.

    `linkage_id` is set for EXACT and PROBABLE; `ssn_relation` where numbers are related; `score` says how
    well the traits agree, larger is better.
    """

    reference: str = field(repr=False)
    status: MatchStatus | None
    linkage_id: str | None
    ssn_relation: SsnRelation | None
    score: float
    error: ItemError | None


@dataclass(frozen=True, slots=True)
class LinkageSummary:
    """Counts over one answer's results."""

    exact: int
    probable: int
    review: int
    ambiguous: int
    no_match: int
    errors: int


@dataclass(frozen=True, slots=True)
class Linkage:
    """One answer to `linkage_match`, in the order asked. `event_id` names its entry in the record."""

    event_id: str
    results: tuple[Linked, ...]
    summary: LinkageSummary
