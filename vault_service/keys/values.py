"""Values as Vault takes and gives them: durations, lists, switches; whether two mean the same, and how people read one.

Plain values come in and go out; Vault itself is not known here.
"""

import re
from collections.abc import Iterable
from typing import Final

_DURATION: Final = re.compile(r"(?:[0-9]+[smhd])+")
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds_in(duration: str) -> int:
    """Whole seconds of "24h", "90m", "1h30m", "3d" or "600s". ValueError for anything else."""
    if not _DURATION.fullmatch(duration):
        raise ValueError("a duration is whole numbers with s, m, h or d: 24h, 90m, 3d")
    return sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[0-9]+[smhd]", duration))


def same(wanted: object, found: object) -> bool:
    """Whether Vault's `found` is our `wanted`: it gives durations as text or number, lists in any order or as text."""
    if isinstance(wanted, bool):
        return found is wanted or str(found).lower() == str(wanted).lower() or (found is None and not wanted)
    if isinstance(wanted, int):
        if isinstance(found, str):
            return (found.isdecimal() and int(found) == wanted) or (
                _DURATION.fullmatch(found) is not None and seconds_in(found) == wanted
            )
        return (found or 0) == wanted
    if isinstance(wanted, list | tuple):
        items = found.split(",") if isinstance(found, str) else (found or [])
        return isinstance(items, list | tuple) and sorted(map(str, wanted)) == sorted(str(i) for i in items if i != "")
    return (found or "") == (wanted or "")


def shown(name: str, value: object) -> str:
    """A value for people: durations in their largest whole unit, an empty one as such."""
    if name.endswith(("ttl", "period")) and isinstance(value, int) and not isinstance(value, bool):
        unit = next((unit for unit, length in _UNITS.items() if value and value % length == 0), "s")
        return f"{value // _UNITS[unit]}{unit}"
    if isinstance(value, list | tuple):
        return joined(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value not in (None, "") else "none"


def joined(names: Iterable[str]) -> str:
    """Names in order, with commas."""
    return ", ".join(sorted(names))
