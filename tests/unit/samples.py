"""What several rooms' unit tests start from: the sample policy, orders of its people, and states made of them."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import vault_service.dev
from vault_service.orders.order import Action, Order, new_order
from vault_service.orders.state import ControlState, Signers, apply
from vault_service.policy.file import parse_policy
from vault_service.policy.model import Policy

NOW = 1_900_000_000_000  # milliseconds
SIGNERS = Signers(frozenset({"signer-a", "signer-b", "signer-c"}), 2)
WRAPPED = "vault:v1:" + "A" * 60
TWO_SIGNERS: Final = ["signer-a", "signer-b"]


@cache
def sample_text() -> str:
    """The sample policy's text."""
    return (Path(vault_service.dev.__file__).parent / "policy.yaml").read_text("utf-8")


@cache
def sample_policy() -> Policy:
    """The sample policy."""
    return parse_policy(sample_text())


def changed_policy(**sections: Mapping[str, Any]) -> Policy:
    """The sample policy with entries replaced or added, by section."""
    data = sample_policy().model_dump()
    for section, entries in sections.items():
        data[section] = {**data[section], **entries}
    return Policy.model_validate(data)


def ordered(
    state: ControlState,
    action: Action,
    arguments: Mapping[str, Any],
    signed_by: Iterable[str],
    *,
    actor: str | None = None,
    issued: int = NOW,
    now: int = NOW,
) -> tuple[ControlState, Order]:
    """The state after an order of the first who signed (or `actor`), and the order."""
    names = list(signed_by)
    order = new_order(action, actor or names[0], arguments, issued)
    return apply(state, order, names, SIGNERS, now), order


@cache
def sample_state() -> ControlState:
    """The state under the sample policy, signed by two of its signers; no keys yet."""
    arguments = {"base": 0, "policy": sample_text()}
    state, _ = ordered(ControlState(), Action.APPLY_POLICY, arguments, ["signer-a", "signer-b"])
    return state


def with_policy(state: ControlState, text: str, signed_by: list[str] | None = None) -> ControlState:
    """The state under another policy."""
    arguments = {"base": state.policy_version, "policy": text}
    return ordered(state, Action.APPLY_POLICY, arguments, signed_by or TWO_SIGNERS)[0]


def with_key(
    state: ControlState, scope: str, kind: str = "data", version: int = 1, by: str = "key-admin-a"
) -> ControlState:
    """The state with one key version more, put in force by a key admin."""
    arguments = {"scope": scope, "kind": kind, "version": version, "wrapped": WRAPPED}
    return ordered(state, Action.CREATE_KEY, arguments, [by])[0]


def frozen(state: ControlState, kind: str = "all", name: str = "", by: str = "key-admin-a") -> tuple[ControlState, str]:
    """The state with one freeze more, and the id of its order."""
    arguments = {"kind": kind, "name": name, "reason": "suspicion"}
    after, order = ordered(state, Action.FREEZE, arguments, [by])
    return after, order.id


BULK: dict[str, Any] = {"client": "sis", "purpose": "tax-reporting", "tokens": 150, "justification": "the year's end"}


def with_bulk(state: ControlState, signed_by: list[str], **changes: Any) -> ControlState:
    """The state with a bulk detokenization approved."""
    return ordered(state, Action.APPROVE_BULK, {**BULK, **changes}, signed_by)[0]
