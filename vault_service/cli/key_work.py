"""The steps of key work, each from what is there to what is wanted: run again, it goes on where it stopped."""

import time
from dataclasses import dataclass
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vault_service.cli.admin import Admin, Where, admin
from vault_service.cli.common import Exit, console, errors, stop
from vault_service.cli.ordering import carry_out
from vault_service.keys.names import KeyKind, KeyName
from vault_service.keys.transit import Vault
from vault_service.keys.wrapping import (
    allow_deletion,
    delete_wrapping_key,
    rotate_wrapping_key,
    wrapping_key_exists,
)
from vault_service.orders.key_report import arguments, confirmation, scope_option
from vault_service.orders.key_state import IN_USE, Stage
from vault_service.orders.order import Action, parse_order
from vault_service.storage.jobs import JobRow, read_job, unfinished
from vault_service.storage.orders import read_orders, undecided

_POLL_SECONDS: Final = 0.25
_SILENT_SECONDS: Final = 60.0  # without progress, after which somebody should look


@dataclass(frozen=True, slots=True)
class KeyWork:
    """One admin at work on keys; in development `second` signs where two must."""

    one: Admin
    where: Where
    second: str | None = None

    def create_missing(self) -> None:
        """The first version of every key that the policy needs."""
        for name in self.one.state().missing_keys():
            self._create(name)

    def rotate(self, scope: str, kind: KeyKind) -> KeyName:
        """A new active version of a data or index key. One that is loading already is gone on with."""
        last = self.one.state().versions(scope, kind)[-1]
        if last.stage is Stage.LOADING:
            name = last.name
        else:
            name = KeyName(scope, kind, last.name.version + 1)
            self._create(name)
        carry_out(self.one, self.where, Action.ACTIVATE_KEY, _named(name), None)
        return name

    def rotate_wrapping(self, scope: str) -> None:
        """Every version in use under a new version of its wrapping key."""
        state = self.one.state()
        for kind in KeyKind:
            for version in state.versions(scope, kind):
                if version.stage in IN_USE:
                    newer = rotate_wrapping_key(self.one.vault, version.name, version.wrapped)
                    wanted = {**_named(version.name), "wrapped": newer}
                    carry_out(self.one, self.where, Action.REWRAP_KEY, wanted, None)

    def reencrypt(self, scope: str, rows_per_second: int) -> JobRow:
        """Move all rows to the active versions, and follow that; one that goes on already is followed instead."""
        with self.one.store.reading() as connection:
            going_on = [job for job in unfinished(connection) if job.scope == scope]
        if going_on:
            order_id = going_on[0].order_id
            console.print(f"{scope} is being re-encrypted already, by order {order_id}")
        else:
            wanted = {"scope": scope, "rows_per_second": rows_per_second}
            order_id = carry_out(self.one, self.where, Action.REENCRYPT, wanted, None).id
        return self._follow(order_id)

    def retire(self, name: KeyName) -> None:
        """Servers drop an old version; refused while a row uses it."""
        carry_out(self.one, self.where, Action.RETIRE_KEY, _named(name), None)

    def destroy(self, name: KeyName) -> None:
        """Two people sign, and delete the wrapping key in two halves. The second types what the first typed."""
        version = self.one.state().version(name)
        if version is None:
            stop(Exit.USAGE, "there is no such key version")
        if version.stage is not Stage.DESTROYED:
            waiting = self._order_to_sign(name)
            if waiting is None:
                carry_out(self.one, self.where, Action.DESTROY_KEY, _named(name), self.second)
            else:
                order = self.one.sign(waiting)
                outcome = self.one.wait(order)
                if outcome is None or outcome.outcome != "done":
                    stop(Exit.REFUSED, f"refused: {outcome.detail}" if outcome else "it waits for one more person")
                console.print(f"done: {order.action.value}, order {order.id}")
        self._delete_wrapping_key(name)

    def _create(self, name: KeyName) -> None:
        """A wrapping key in Vault, a new key wrapped under it that nobody has seen, and the order that uses it."""
        self.one.vault.create_wrapping_key(name.transit)
        wanted = {**_named(name), "wrapped": self.one.vault.new_wrapped_key(name.transit)}
        carry_out(self.one, self.where, Action.CREATE_KEY, wanted, None)

    def _follow(self, order_id: str) -> JobRow:
        """Show a job's progress until it ends. Interrupted, it goes on without us."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} rows/s"),
            TimeRemainingColumn(),
        )
        began = moved_at = time.monotonic()
        first: int | None = None
        with Progress(*columns, console=errors, transient=True) as progress:
            task = progress.add_task("re-encrypting", total=None, rate=0.0)
            last: JobRow | None = None
            while True:
                with self.one.store.reading() as connection:
                    row = read_job(connection, order_id)
                if row is None:
                    stop(Exit.CHECK_FAILED, "the job is not in the database: ask for it again")
                if row.finished_at is not None:
                    break
                now = time.monotonic()
                if last is None or row.stands_at != last.stands_at:
                    last, moved_at = row, now
                elif now - moved_at > _SILENT_SECONDS:
                    stop(Exit.AWAY, "no server has moved a row for a minute: is one running, and are its keys there?")
                done = row.moved + row.failed
                first = done if first is None else first
                rate = (done - first) / max(now - began, 0.1)
                progress.update(task, total=row.total if row.counted else None, completed=done, rate=rate)
                time.sleep(_POLL_SECONDS)
        seconds = max(1, row.finished_at - row.started_at) / 1000
        console.print(f"{row.scope}: {row.moved:,} rows moved in {seconds:.1f} s ({row.moved / seconds:,.0f} rows/s)")
        if row.failed:
            stop(
                Exit.CHECK_FAILED,
                f"{row.failed:,} rows did not open and stay as they are. Restore them from a backup, or set them aside "
                f"(two people): ssn-vault keys set-aside {scope_option(self.one.state(), row.scope)}",
            )
        return row

    def _order_to_sign(self, name: KeyName) -> str | None:
        """Another person's waiting order to destroy this version."""
        with self.one.store.reading() as connection:
            waiting = read_orders(connection, undecided(connection))
        for row in waiting:
            order = parse_order(row.body)
            signed_by = {signature.person for signature in row.signatures}
            same = order.action is Action.DESTROY_KEY and order.arguments == _named(name)
            if same and self.one.person not in signed_by and order.expires > time.time_ns() // 1_000_000:
                return row.id
        return None

    def _delete_wrapping_key(self, name: KeyName) -> None:
        """Each person does the half that their Vault login allows."""
        vaults = [self.one.vault]
        if self.second is None:
            self._halves(name, vaults)
        else:
            with admin(self.where, self.second) as other:
                self._halves(name, [*vaults, other.vault])
        if wrapping_key_exists(self.one.vault, name):
            stop(
                Exit.REFUSED,
                f"no server uses {confirmation(name)} any more, but its wrapping key is still in Vault. "
                f"Another person, who may do the other half, types:\n"
                f"  ssn-vault keys destroy {arguments(self.one.state(), name)} "
                f"--confirm {confirmation(name)}",
            )
        console.print(f"destroyed: {confirmation(name)}; nothing can open what it protected, in no backup either")

    @staticmethod
    def _halves(name: KeyName, vaults: list[Vault]) -> None:
        for half in (allow_deletion, delete_wrapping_key):
            any(half(vault, name) for vault in vaults)  # up to the first that may


def _named(name: KeyName) -> dict[str, object]:
    return {"scope": name.scope, "kind": name.kind.value, "version": name.version}
