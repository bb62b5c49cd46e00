"""The keys in force under one control state, ready to use.

A state and the keyring come in; `Key` objects go out, or KEYS_UNAVAILABLE for what is not loaded. Which
version is for what is decided here and nowhere else: new rows use the active one, look-ups ask under all
live ones, an old row opens under its own.
"""

from dataclasses import dataclass, field

from vault_service.errors import CallError, Reason
from vault_service.keys.keyring import Key, Keyring
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.key_state import LIVE
from vault_service.orders.state import ControlState


@dataclass(slots=True)
class Keys:
    """One transaction's view of the keys."""

    state: ControlState
    keyring: Keyring
    _live: dict[tuple[str, KeyKind], list[Key]] = field(default_factory=dict)

    def active(self, scope: str, kind: KeyKind) -> Key:
        """The key that new rows use."""
        return self.live(scope, kind)[0]

    def live(self, scope: str, kind: KeyKind) -> list[Key]:
        """Every version that rows can be under, the active one first; never empty."""
        keys = self._live.get((scope, kind))
        if keys is None:
            keys = [self.keyring.get(version.name) for version in reversed(self.state.live(scope, kind))]
            if not keys:
                raise CallError(Reason.KEYS_UNAVAILABLE)
            self._live[scope, kind] = keys
        return keys

    def of(self, name: KeyName) -> Key | None:
        """The key of a stored row; None when no row can rightly be under that version."""
        version = self.state.version(name)
        return self.keyring.get(name) if version is not None and version.stage in LIVE else None
