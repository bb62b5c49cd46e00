"""`ssn-vault`: the one program. Puts the commands together; each lives in a file of its own."""

import typer

from vault_service.cli import approvals, audit, certs, incident, keys, policy, server, vault_setup
from vault_service.dev import command as dev
from vault_service.dev import demo

app = typer.Typer(
    help="Keeps each Social Security number once, encrypted; everybody else keeps a token.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(server.serve)
app.command()(server.status)
app.add_typer(server.database_app, name="database")
app.add_typer(policy.app, name="policy")
app.add_typer(keys.app, name="keys")
app.add_typer(approvals.app, name="approvals")
app.add_typer(incident.app, name="incident")
app.add_typer(audit.app, name="audit")
app.add_typer(certs.app, name="certs")
app.command("vault-setup")(vault_setup.vault_setup)
app.add_typer(dev.app, name="dev")
app.command()(demo.demo)


def main() -> None:
    """Run the program."""
    app()


if __name__ == "__main__":
    main()
