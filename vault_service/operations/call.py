"""One call as the operations see it: who, what, and in the end a result or a reason.

The api room makes these from messages; nothing here knows a message. A call's fields are what the client
sent, unchecked: the operations check them in the contract's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from vault_service.errors import ItemError
from vault_service.identity.caller import Caller
from vault_service.keys.keyring import Key
from vault_service.policy.decide import DetokenizeGrant
from vault_service.policy.model import View
from vault_service.storage.records import StoredPayload
from vault_service.tokens import Token


@dataclass(slots=True, kw_only=True)
class Call:
    """What every call has. `failure` is set by the runner."""

    method: ClassVar[str]
    caller: Caller
    request_id: str = ""
    failure: BaseException | None = None
    event_id: str = ""

    @property
    def weight(self) -> int:
        """Items, at least 1."""
        return 1

    def forget(self) -> None:
        """Begin anew, before another attempt."""
        self.failure = None
        self.event_id = ""
        self.clear()

    def clear(self) -> None:
        """Drop what an earlier attempt found."""


@dataclass(frozen=True, slots=True)
class TraitsText:
    """Traits as sent."""

    given_name: str
    family_name: str
    date_of_birth: str

    def __repr__(self) -> str:
        return "TraitsText(***)"


@dataclass(slots=True, kw_only=True)
class TokenizeCall(Call):
    """Numbers to be tokenized, with their traits where any were sent; a result an item."""

    method: ClassVar[str] = "Tokenize"
    domain: str
    numbers: Sequence[str] = field(repr=False)
    traits: dict[int, TraitsText] = field(repr=False, default_factory=dict)  # by position
    longest_reference: int = 0  # bytes; its position:
    longest_reference_at: int = 0
    results: list[Token | ItemError] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """Items, at least 1."""
        return len(self.numbers) or 1

    def clear(self) -> None:
        """Drop what an earlier attempt found."""
        self.results = []


@dataclass(slots=True, kw_only=True)
class DetokenizeCall(Call):
    """Tokens whose numbers are asked for. `fetched` is what the transaction found, to be opened after it."""

    method: ClassVar[str] = "Detokenize"
    domain: str
    tokens: Sequence[str]
    purpose: str
    justification: str = field(repr=False)
    view: View | None  # None: a value that the contract does not know
    grant: DetokenizeGrant | None = None
    fetched: list[tuple[Token, StoredPayload] | ItemError] = field(default_factory=list, repr=False)
    ciphers: dict[int, Key] = field(default_factory=dict, repr=False)  # by data key version
    results: list[str | ItemError] = field(default_factory=list, repr=False)

    @property
    def weight(self) -> int:
        """Items, at least 1."""
        return len(self.tokens) or 1

    def clear(self) -> None:
        """Drop what an earlier attempt found."""
        self.grant = None
        self.fetched = []
        self.ciphers = {}
        self.results = []


@dataclass(slots=True, kw_only=True)
class LinkageCall(Call):
    """Tokens of the caller's side of an agreement; a result an item."""

    method: ClassVar[str] = "LinkageMatch"
    agreement: str
    tokens: Sequence[str]
    stream_agreement: str = ""  # what the stream's first message named; empty for a unary call
    longest_reference: int = 0
    longest_reference_at: int = 0
    may_be_last: bool = False  # an earlier message of its stream had enough tokens, and this may be the last one
    is_last: bool = False  # the client has ended the stream behind it: it may have fewer tokens
    is_undecided: bool = False  # refused for too few tokens, unless it turns out to be the last; not recorded
    results: "list[str | ItemError | None]" = field(default_factory=list)  # a linkage id, or None: no match

    @property
    def weight(self) -> int:
        """Items, at least 1."""
        return len(self.tokens) or 1

    def clear(self) -> None:
        """Drop what an earlier attempt found."""
        self.results = []
        self.is_undecided = False
