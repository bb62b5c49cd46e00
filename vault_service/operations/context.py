"""What one transaction gives the operations: the verified state, the keys, the clock, and the record to write.

Also the refusal: every call that is refused passes here, so that it stands in the record like any other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

from vault_service.audit.event import INVALID, Disclosed, Facts, Recorded, new_event_id, record
from vault_service.audit.refusals import RefusalKey, RefusalMeter
from vault_service.audit.seal import Seal
from vault_service.errors import CallError, FieldProblem, Reason, field_invalid
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.operations.call import Call
from vault_service.orders.keys import Keys
from vault_service.orders.state import ControlState
from vault_service.ssn import contains_ssn_shape
from vault_service.storage.engine import Transaction
from vault_service.storage.linkages import LinkageRecordRow

REFERENCE_BYTES: Final = 128
_NO_TEXTS: Final[Mapping[str, str]] = {}
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class Context:
    """One transaction of many calls."""

    tx: Transaction
    keys: Keys
    meter: RefusalMeter
    encryptions: EncryptionMeter
    seal: Seal
    recorded: list[Recorded] = field(default_factory=list)
    linkage_records: list[LinkageRecordRow] = field(default_factory=list)
    approvals_spent: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> ControlState:
        """The state in force, which the transaction has made sure of."""
        return self.keys.state

    @property
    def today(self) -> date:
        """The database's day, UTC."""
        return datetime.fromtimestamp(self.tx.now_ms / 1000, UTC).date()

    def record(self, call: Call, facts: Facts, disclosed: list[Disclosed], texts: Mapping[str, str] = _NO_TEXTS) -> str:
        """Put the event of a call into the record, to be committed with it; the event's id."""
        call.event_id = call.event_id or new_event_id()
        caller = {
            "client": call.caller.client,
            "certificate": call.caller.certificate,
            "request_id": call.request_id or None,
            "epoch": self.state.epoch,
        }
        facts = {**caller, **facts}
        self.recorded.append(record(call.event_id, call.method.lower(), self.tx.now_ms, facts, disclosed, texts))
        return call.event_id

    def refuse(self, call: Call, error: CallError, *, domain: str = "", purpose: str = "", agreement: str = "") -> None:
        """The call fails with `error`, and its refusal stands in the record; what it named, if that exists."""
        call.failure = error
        policy = self.state.policy
        client = call.caller.client if call.caller.client in policy.clients else INVALID
        if not self.meter.admit(RefusalKey(client or INVALID, call.method, error.reason), self.tx.now_ms):
            return
        person = call.caller.person
        facts = {
            "client": client,
            "certificate": call.caller.certificate,
            "person": None if person is None else person.name if person.name in policy.people else INVALID,
            "domain": (domain and (domain if domain in policy.domains else INVALID)) or None,
            "purpose": (purpose and (purpose if purpose in policy.purposes else INVALID)) or None,
            "agreement": (agreement and (agreement if agreement in policy.agreements else INVALID)) or None,
            "request_id": call.request_id if request_id_fits(call.request_id) and call.request_id else None,
            "items": call.weight,
            "outcome": error.reason.value,
            "epoch": self.state.epoch,
        }
        self.recorded.append(record(new_event_id(), call.method.lower(), self.tx.now_ms, facts))


def request_id_fits(request_id: str) -> bool:
    """Whether a request id has the contract's form and hides no number; none at all fits."""
    return not request_id or (_REQUEST_ID.fullmatch(request_id) is not None and not contains_ssn_shape(request_id))


def check_request_id(request_id: str) -> None:
    """CallError FIELD_INVALID for a request id that does not fit."""
    if not request_id_fits(request_id):
        raise field_invalid("request_id", "must be at most 64 of A-Z a-z 0-9 . _ - and hold no number like an SSN")


def check_reference(longest: int, position: int) -> None:
    """CallError FIELD_INVALID when the longest reference, that of item `position`, is too long."""
    if longest > REFERENCE_BYTES:
        raise field_invalid(f"items[{position}].reference", f"must have at most {REFERENCE_BYTES} bytes")


def require(**present: object) -> None:
    """CallError FIELD_INVALID that names every field that is missing."""
    missing = [FieldProblem(name, "is required") for name, value in present.items() if not value]
    if missing:
        raise CallError(Reason.FIELD_INVALID, *missing)
