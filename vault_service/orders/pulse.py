"""What readiness knows of the database and the control state: once a second a small write, committed like a call's.

The write says that this server is there (`storage.replicas`). A database that hangs holds up this thread and not
whoever asks: the time that the write has taken so far is part of the answer.
"""

import threading
import time
from typing import Final

import sqlalchemy as sa

from vault_service.errors import CallError, StoreError, TamperedError
from vault_service.keys.keyring import Keyring
from vault_service.keys.names import KeyKind
from vault_service.orders.control import Control
from vault_service.storage import replicas
from vault_service.storage.engine import Store
from vault_service.storage.faults import explain

_PERIOD: Final = 1.0
_SLOW: Final = 5.0  # seconds after which a database that has not answered counts as one that does not


class Pulse:
    """One thread that writes, and brings the control state up to date: health must not wait for a call to do it."""

    def __init__(self, store: Store, control: Control, replica: str) -> None:
        self._store = store
        self._control = control
        self._replica = replica
        self._writing_since = 0.0  # monotonic seconds; 0: no write is under way
        self._store_trouble = "nothing was written yet"
        self._control_trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join()

    def store_trouble(self) -> str:
        """Why nothing can be committed; empty when it can."""
        since = self._writing_since
        if since and time.monotonic() - since > _SLOW:
            return "the database does not answer"
        return self._store_trouble

    def control_trouble(self) -> str:
        """Why no call is permitted at all; empty when some may be."""
        if self._control.tampered:
            return "the log of orders is not what people signed"
        if self._control_trouble:
            return self._control_trouble
        return "" if self._control.state.policy_version else "no policy is in force: run ssn-vault policy apply FILE"

    def _run(self) -> None:
        while True:
            known = self._control.state.epoch
            epoch = self._write()
            if epoch is not None:
                self._control_trouble = self._refresh(epoch, known)
            if self._stop.wait(_PERIOD):
                return

    def _write(self) -> int | None:
        """Commit; the control epoch that was read, None when it did not work."""
        self._writing_since = time.monotonic()
        try:
            with self._store.transaction() as tx:
                replicas.report(tx, self._replica, self._control.loaded_epoch)
                epoch = tx.epoch
        except StoreError as error:
            self._store_trouble = str(error)
        except sa.exc.SQLAlchemyError as error:
            self._store_trouble = explain(error)
        except Exception as error:  # noqa: BLE001 - the next attempt must still come
            self._store_trouble = type(error).__name__
        else:
            self._store_trouble = ""
            return epoch
        finally:
            self._writing_since = 0.0
        return None

    def _refresh(self, epoch: int, known: int) -> str:
        if epoch == self._control.state.epoch and not self._control.tampered:
            return ""
        try:
            self._control.refresh(epoch, known)
        except TamperedError:
            return ""  # `control.tampered` says so
        except CallError as error:
            return f"new orders cannot be verified ({error.reason})"
        except (StoreError, sa.exc.SQLAlchemyError) as error:
            return f"new orders cannot be read ({type(error).__name__})"
        return ""


def domains_without_keys(control: Control, keyring: Keyring, login_problem: str | None = None) -> dict[str, str]:
    """For each domain of the policy, why its records cannot be opened or made; empty where they can.

    `login_problem` is what Vault says of the server's login: the cause of keys that are not there.
    """
    state = control.state
    found: dict[str, str] = {}
    for domain in sorted(state.policy.domains) if state.policy_version else ():
        versions = {kind: state.live(domain, kind) for kind in KeyKind}
        absent = [v.name.transit for live in versions.values() for v in live if not keyring.holds(v.name)]
        if not all(versions.values()):
            found[domain] = "its keys are not made yet: a key admin runs ssn-vault policy apply FILE"
        else:
            cause = f" ({login_problem})" if login_problem else ""
            found[domain] = f"keys are not in memory: {', '.join(absent)}{cause}" if absent else ""
    return found
