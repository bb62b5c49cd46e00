"""The readable difference between two policies: what a reviewer signs. Pure."""

from collections.abc import Iterator
from typing import Any

from vault_service.policy.model import Policy


def differences(old: Policy | None, new: Policy) -> list[str]:
    """One line a change: `+ clients.x.tokenize: [k12]`, `- ...`, `~ field: before -> after`. Empty if equal."""
    before = _flat(old.model_dump(mode="json")) if old else {}
    after = _flat(new.model_dump(mode="json"))
    lines = []
    for path in sorted(before.keys() | after.keys()):
        if path not in before:
            lines.append(f"+ {path}: {after[path]}")
        elif path not in after:
            lines.append(f"- {path}: {before[path]}")
        elif before[path] != after[path]:
            lines.append(f"~ {path}: {before[path]} -> {after[path]}")
    return lines


def _flat(value: dict[str, Any], path: str = "") -> dict[str, Any]:
    return dict(_leaves(value, path))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and path.rsplit(".", 1)[-1] in ("refuse_numbers", "roles", "denied_certificates"):
        yield path, sorted(value)  # sets: their order says nothing
    else:
        yield path, value
