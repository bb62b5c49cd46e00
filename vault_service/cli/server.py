"""`ssn-vault serve`, `database migrate` and `status`."""

import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from vault_service.app import run_server
from vault_service.audit.rebuild import rebuild_tree
from vault_service.cli import health
from vault_service.cli.admin import Where, admin, role_store
from vault_service.cli.common import (
    As,
    Config,
    Home,
    Json,
    TokenFileOption,
    command,
    console,
    print_json,
    print_table,
)
from vault_service.config import load_settings
from vault_service.orders.order import REMOVED, parse_order, text_of
from vault_service.orders.state import Drill
from vault_service.storage import log
from vault_service.storage.engine import database_now, open_store
from vault_service.storage.jobs import unfinished
from vault_service.storage.orders import read_orders
from vault_service.storage.replicas import remembered, running
from vault_service.storage.schema import migrate as migrate_schema

database_app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@command
def serve(
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file (else SSN_VAULT_CONFIG).")] = None,
) -> None:
    """Run the server until SIGTERM. Every setting can also be a variable: SSN_VAULT_SERVER__PORT=50051.

    SIGHUP is ignored: certificate files are read again by themselves when they change.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # else a habit of other servers' operators would end this one
    run_server(load_settings(config))


@database_app.command()
@command
def migrate(home: Home = None, config: Config = None) -> None:
    """Bring the schema to this release's, with the schema owner's role (migrator_database)."""
    settings = Where(home, config).settings()
    store = open_store((settings.migrator_database or settings.database).full_url())
    migrate_schema(store)
    store.close()
    console.print("the schema is this release's")


@database_app.command("rebuild-tree")
@command
def rebuild(home: Home = None, config: Config = None) -> None:
    """Rebuild stored nodes of the log's tree from its entries, with the schema owner's role (migrator_database)."""
    settings = Where(home, config).settings()
    with role_store(settings, settings.migrator_database) as store:
        mended = rebuild_tree(store)
    for line in mended or ["every node was the root of its entries: nothing was changed"]:
        console.print(line, markup=False, soft_wrap=True)


@command
def status(
    home: Home = None, config: Config = None, as_: As = None, token_file: TokenFileOption = None, json: Json = False
) -> None:
    """What works and what is in force: servers, log, policy, keys, freezes, approvals, long work.

    Ends with 5 when nothing can be served (no server runs, no policy, the log is not sealed), with 3 when something is
    overdue.
    """
    with admin(Where(home, config, as_, token_file)) as one:
        state = one.state()
        audit = one.settings.audit
        with one.store.reading() as connection:
            now = database_now(connection)
            newest = log.newest_checkpoint(connection)
            missing = [name.transit for name in state.missing_keys()]
            findings = [
                health.of_servers(remembered(connection), state.epoch, now),
                health.of_policy(state.policy_version, missing),
                health.of_log(newest, log.holder(connection, now), audit.max_unsealed, now),
                *health.of_sinks(audit.sinks, log.sinks(connection), audit.max_unsealed, now),
            ]
            servers = running(connection, now)
            frozen = read_orders(connection, list(state.freezes_by_order))
            reasons = {row.id: text_of(parse_order(row.body), "reason", row.texts) or REMOVED for row in frozen}
            jobs = [f"{job.scope}: {job.moved:,} of {max(job.total, 0):,} rows moved" for job in unfinished(connection)]
    freezes: list[dict[str, Any]] = [
        {"id": order_id, "kind": f.kind, "name": f.name, "reason": reasons[order_id], "by": f.by}
        for order_id, f in state.freezes_by_order.items()
    ]
    summary = {
        "works": {finding.part: finding.text for finding in findings},
        "epoch": state.epoch,
        "policy_version": state.policy_version,
        "domains": sorted(state.policy.domains),
        "clients": sorted(state.policy.clients),
        "key_versions": sum(map(len, state.keys.values())),
        "missing_keys": missing,
        "freezes": freezes,
        "approvals": len(state.approvals),
        "last_breach_drill": _drill(state.last_drill),
        "servers": len(servers),
        "jobs": jobs,
    }
    if json:
        print_json(summary)
    else:
        print_table("What works", ["part", "state"], [[finding.part, finding.text] for finding in findings])
        in_force = [[k, v] for k, v in summary.items() if k not in ("works", "freezes", "servers", "policy_version")]
        print_table("What is in force", ["what", "value"], in_force)
        print_table("Freezes", ["id", "kind", "name", "reason", "by"], [list(freeze.values()) for freeze in freezes])
    if status_ := health.worst(findings):
        raise typer.Exit(status_)


def _drill(drill: Drill | None) -> str:
    if drill is None:
        return "never: ssn-vault incident drill"
    day = datetime.fromtimestamp(drill.at / 1000, UTC).date().isoformat()
    return f"{day} by {drill.by}, {'passed' if drill.passed else 'FAILED'}"
