"""From a confirmed wish to its outcome: ask, let the second person sign in development, wait, say what became."""

from collections.abc import Mapping
from typing import Any

from vault_service.cli.admin import Admin, Where, admin
from vault_service.cli.common import Exit, console, stop
from vault_service.orders.order import Action, Order


def carry_out(one: Admin, where: Where, action: Action, arguments: Mapping[str, Any], second: str | None) -> Order:
    """Ask for it and see it done. Ends with REFUSED when it is refused, or waits for another person."""
    order = one.ask(action, arguments)
    outcome = one.wait(order)
    if outcome is None and second is not None:
        with admin(where, second) as other:
            other.sign(order.id)
        outcome = one.wait(order)
    if outcome is None:
        stop(
            Exit.REFUSED,
            f"order {order.id} waits for another person: ssn-vault approvals grant {order.id}",
        )
    if outcome.outcome != "done":
        stop(Exit.REFUSED, f"refused: {outcome.detail}")
    console.print(f"done: {action.value}, order {order.id}")
    return order
