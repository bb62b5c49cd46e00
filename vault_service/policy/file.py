"""The policy file: YAML text in, a checked `Policy` out, or every mistake with its line and field.

Knows YAML and the model; not who signed what.
"""

import re
from collections.abc import Collection
from typing import Any

import yaml
from pydantic import ValidationError

from vault_service.errors import PolicyInvalidError
from vault_service.policy.model import PAST, Policy
from vault_service.policy.rules import Path, mistakes
from vault_service.ssn import contains_ssn_shape


class _Loader(yaml.SafeLoader):
    """Leaves dates as text: the model reads them, and says on which line one does not exist."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_policy(text: str, *, past: bool = False) -> Policy:
    """The policy in `text`. PolicyInvalidError lists all mistakes: `line 12, clients.sis.tokenize: ...`.

    A `past` one was put in force by people and servers that judged it by the rules of their day: rules and bounds that
    were made since are not held against it, or no server would start any more.
    """
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                # A reviewer reads each entry where it stands; and nested aliases make a file without end.
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise PolicyInvalidError(f"line {line}: aliases are not taken")
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyInvalidError(f"line {line}: {_shown(error.problem or 'is not YAML')}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise PolicyInvalidError("line 1: is not YAML") from None
    if repeated := _repeated_key(root):
        raise PolicyInvalidError(repeated)
    if not isinstance(data, dict):
        raise PolicyInvalidError("line 1: a policy is a mapping with version, domains, clients and so on")
    try:
        policy = Policy.model_validate(data, context={PAST: past})
    except ValidationError as error:
        found = [(tuple(e["loc"]), e["msg"]) for e in error.errors(include_input=False, include_url=False)]
        raise _invalid(root, found) from None
    if past:
        return policy
    if wrong := list(mistakes(policy)):
        raise _invalid(root, wrong)
    allowed = {n for domain in policy.domains.values() for n in domain.refuse_numbers} | policy.denied_certificates
    if found_at := _line_with_number(text, root, allowed):
        raise PolicyInvalidError(f"line {found_at}: holds what looks like a Social Security number")
    return policy


def _line_with_number(text: str, root: Any, allowed: Collection[str]) -> int | None:
    """The first line, comments included, or the value that begins there, with a number that is not `allowed`.

    What a policy says stands in the database, in the record and on screens.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if contains_ssn_shape(_without(line, allowed)):
            return number
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.ScalarNode):
            if contains_ssn_shape(_without(node.value, allowed)):
                return int(node.start_mark.line) + 1
        else:
            pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
            nodes += [part for pair in pairs for part in pair]
    return None


def _without(text: str, allowed: Collection[str]) -> str:
    """`text` without the nine-digit numbers and the serial numbers, sixteen hex digits or more, that are allowed."""
    return re.sub(r"[0-9a-f]{16,}|[0-9]{9}", lambda found: "" if found.group() in allowed else found.group(), text)


def _invalid(root: Any, found: list[tuple[Path, str]]) -> PolicyInvalidError:
    lines = (
        f"line {_line(root, path)}, {'.'.join(_shown(str(part)) for part in path) or 'policy'}: {text}"
        for path, text in found
    )
    return PolicyInvalidError("\n".join(lines))


def _shown(text: str) -> str:
    """`text`, unless it holds what looks like a number: a mistake is shown and logged."""
    return "***" if contains_ssn_shape(text) else text


def _line(node: Any, path: Path) -> int:
    """The line, from 1, of the deepest part of `path` that is there."""
    line: int = node.start_mark.line + 1
    for part in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            child = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = (node.value[part], node.value[part])
        if child is None:
            break
        line, node = child[0].start_mark.line + 1, child[1]
    return line


def _repeated_key(node: Any) -> str | None:
    """YAML lets a later key silently replace an earlier one; a reviewer would read the wrong one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return f"line {key.start_mark.line + 1}: a name stands twice in one mapping"
            seen.add(key.value)
            if found := _repeated_key(value):
                return found
    elif isinstance(node, yaml.SequenceNode):
        return next((found for value in node.value if (found := _repeated_key(value))), None)
    return None
