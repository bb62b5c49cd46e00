"""The control state that this server obeys: loaded from the log of orders, every signature verified.

The log only ever grows. A server that runs remembers how far it has read: a shorter log, or an entry that
people did not sign, is tampering; it then refuses every call and says so, until the log is whole again.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from vault_service.errors import CallError, LogDamagedError, OrderRefusedError, Reason, TamperedError
from vault_service.keys.keyring import Keyring
from vault_service.keys.names import KeyName
from vault_service.keys.transit import VaultError, VaultNotFound, person_key_name
from vault_service.orders.key_state import Stage
from vault_service.orders.keys import Keys
from vault_service.orders.losses import LossCheck
from vault_service.orders.order import Order, parse_order, signature_holds
from vault_service.orders.state import ControlState, Signers, apply
from vault_service.storage.engine import Store
from vault_service.storage.orders import OrderRow, SignatureRow, in_force_after, order_at

_log: Final = structlog.stdlib.get_logger("ssn_vault.control")

PublicKeys = Callable[[str], Mapping[int, bytes]]  # transit key name -> version -> 32 raw bytes


class Control:
    """Holds the state; any thread may ask for it or refresh it."""

    def __init__(
        self, store: Store, public_keys: PublicKeys, signers: Signers, keyring: Keyring, losses: LossCheck
    ) -> None:
        self.signers = signers
        self._store = store
        self._public_keys = public_keys
        self._keyring = keyring
        self.losses = losses
        self._state = ControlState()
        self._known_keys: dict[str, Mapping[int, bytes]] = {}
        self._lock = threading.Lock()
        self._spent: dict[str, int] = {}
        self._tampered = False

    @property
    def state(self) -> ControlState:
        """The state as of the last refresh."""
        return self._state

    @property
    def tampered(self) -> bool:
        """Whether the last look at the database showed something that people did not sign."""
        return self._tampered

    def refresh(self, epoch: int, known: int) -> ControlState:
        """Read on to `epoch`, verify, load new keys; the new state.

        `known` is `state.epoch` from before `epoch` was read: a log that is shorter than that was cut.
        TamperedError as above; CallError KEYS_UNAVAILABLE when Vault, which holds people's public keys, is away.
        """
        with self._lock:
            try:
                state = self._read_to(epoch, known)
            except TamperedError as error:
                accepted = self._after_a_loss()
                if accepted is None:
                    if not self._tampered:
                        _log.critical("the database was tampered with", detail=str(error))
                    self._tampered = True
                    raise
                state = accepted
            if self._tampered and epoch == state.epoch:
                _log.warning("the log of orders is whole again")
                self._tampered = False
            if state is not self._state:
                self._keyring.want(state.wrapped_keys())
                self._state = state
                _log.info("control state", epoch=state.epoch, policy_version=state.policy_version)
            return state

    def keys(self) -> Keys:
        """The keys in force under the state as of the last refresh."""
        return Keys(self._state, self._keyring)

    def was_rolled_back(self, approval_id: str, spent: int) -> bool:
        """Whether the database says less was taken from an approval than this server has seen taken."""
        rolled_back = spent < self._spent.get(approval_id, 0)
        if rolled_back:
            _log.critical("an approval's spending was rolled back: it is worth nothing", approval=approval_id)
        return rolled_back

    def check_key(self, name: KeyName, wrapped: str) -> None:
        """OrderRefusedError unless Vault opens `wrapped` and it is the key that is in force, if one is.

        CallError when Vault is away.
        """
        try:
            same = self._keyring.check(name, wrapped)
        except VaultError as error:
            if error.transient:
                raise CallError(Reason.KEYS_UNAVAILABLE) from None
            raise OrderRefusedError("Vault does not open the wrapped key") from None
        if not same:
            raise OrderRefusedError("that is another key under the same name: rows would no longer open")

    @property
    def loaded_epoch(self) -> int:
        """The epoch of which every key that waits to be activated is in memory, 0 when one is not.

        Other keys do not count: one that nothing can open any more must not keep all others from being rotated.
        """
        state = self._state
        loading = (v.name for versions in state.keys.values() for v in versions if v.stage is Stage.LOADING)
        return state.epoch if all(map(self._keyring.holds, loading)) else 0

    def saw_spent(self, approval_id: str, spent: int) -> None:
        """Remember what was committed as taken from an approval."""
        with self._lock:
            self._spent[approval_id] = max(spent, self._spent.get(approval_id, 0))

    def verified_signers(self, state: ControlState, order: Order, rows: Iterable[SignatureRow]) -> list[str]:
        """Who of the people that `state` knows has validly signed `order`.

        `state` is the one that the order changes: people come and go while a log is read. CallError
        KEYS_UNAVAILABLE when Vault is unavailable.
        """
        return [
            row.person
            for row in rows
            if (row.person in state.policy.people or row.person in self.signers.names)  # Vault is not asked of others
            and signature_holds(order, row, self._keys_of(row.person, row.key_version))
        ]

    def _read_to(self, epoch: int, known: int) -> ControlState:
        state = self._state
        if epoch < min(known, state.epoch):  # a state after a loss may be shorter than the one that `known` is of
            raise TamperedError(f"the log of orders ends at {epoch}, but has been at {known}")
        if epoch < state.epoch:
            return state  # another thread has read further meanwhile
        with self._store.reading() as connection:
            if state.epoch and order_at(connection, state.epoch) != state.last_order:
                raise TamperedError(f"entry {state.epoch} of the log of orders is not the one that it was")
            rows = in_force_after(connection, state.epoch) if epoch > state.epoch else []
        state = self._fold(state, rows)
        if state.epoch < epoch:
            raise TamperedError(f"the log of orders ends at {state.epoch}, but should reach {epoch}")
        return state

    def of_database(self) -> ControlState:
        """The fold of everything that the database has now, whatever this server has known; verified like any.

        For deciding about a loss alone: nothing else may be decided on a log that was cut. TamperedError when it is
        not valid in itself.
        """
        with self._store.reading() as connection:
            return self._fold(ControlState(), in_force_after(connection, 0))

    def _after_a_loss(self) -> ControlState | None:
        """The database's own state, where it holds a loss that is new to this server, and that is one; else None."""
        known = {loss.order for loss in self._state.losses}
        try:
            state = self.of_database()
            new = [loss for loss in state.losses if loss.order not in known]
            with self._store.reading() as connection:
                for loss in new:
                    self.losses.check(connection, loss)
        except (TamperedError, OrderRefusedError, LogDamagedError):
            return None
        if not new:
            return None
        _log.critical("a loss of the log was accepted: orders behind it are gone", epoch=self._state.epoch)
        for order_id, freeze in self._state.freezes_by_order.items():
            if order_id not in state.freezes_by_order:
                _log.critical("a freeze is gone with the loss", kind=freeze.kind, name=freeze.name, by=freeze.by)
        return state

    def _fold(self, state: ControlState, rows: Iterable[OrderRow]) -> ControlState:
        for row in rows:
            if row.position != state.epoch + 1 or row.applied_at is None:
                raise TamperedError(f"entry {state.epoch + 1} is missing from the log of orders")
            try:
                order = parse_order(row.body)
                if order.id != row.id:
                    raise OrderRefusedError("the order stands under another id")
                signed_by = self.verified_signers(state, order, row.signatures)
                state = apply(state, order, signed_by, self.signers, row.applied_at, past=True)
            except OrderRefusedError as error:
                raise TamperedError(f"entry {row.position} of the log of orders is not valid: {error}") from None
        return state

    def _keys_of(self, person: str, version: int) -> Mapping[int, bytes]:
        known = self._known_keys.get(person, {})
        if version not in known:
            try:
                known = self._public_keys(person_key_name(person))
            except (ValueError, VaultNotFound):
                known = {}  # nobody of that name: the signature holds for no one
            except VaultError:
                raise CallError(Reason.KEYS_UNAVAILABLE) from None
            self._known_keys[person] = known
        return known
