"""Events as the operations write them, for tests of what reads them."""

import json
from typing import Any

from tests.unit.samples import NOW, sample_policy
from vault_service.audit.event import canonical, new_event_id
from vault_service.governance.history import PolicyHistory, PolicyInForce
from vault_service.governance.uses import Use
from vault_service.storage.event_queries import Event
from vault_service.storage.events import DisclosureRow

TOKEN = "k12_22222222222222222222222222Z"


def event(kind: str, at: int = NOW, **facts: Any) -> Event:
    """An event of this kind; `facts` may override what every event has."""
    event_id = new_event_id()
    body = canonical({"at": at, "disclosures": 0, "form": 2, "id": event_id, "kind": kind, "outcome": "ok", **facts})
    return Event(event_id, body, json.loads(body))


def detokenized(view: str = "LAST4", outcome: str = "found", *, lost: bool = False, **facts: Any) -> Use:
    """A use of a token by sis."""
    known = {"client": "sis", "domain": "k12", "purpose": "transcript-verification", "view": view, "items": 1}
    call = event("detokenize", **{**known, **facts})
    return Use(call, DisclosureRow(call.id, 0, "k12", TOKEN, outcome, ""), lost)


def matched(**facts: Any) -> Use:
    """A use of a token by a match from the other side."""
    known = {"client": "linkage-job", "domain": "highered", "agreement": "college-outcomes", "items": 1}
    call = event("linkagematch", **{**known, **facts})
    return Use(call, DisclosureRow(call.id, 0, "k12", TOKEN, "matched", ""))


def sample_history() -> PolicyHistory:
    """The sample policy, in force from epoch 1 on."""
    return PolicyHistory([PolicyInForce(1, NOW - 1000, sample_policy())])
