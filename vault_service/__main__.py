"""`ssn-vault`: the one program. Puts the commands together; each lives in a file of its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer._click.exceptions import NoSuchOption, UsageError
from typer.core import TyperGroup

from vault_service.cli import (
    approvals,
    audit,
    audit_loss,
    audit_proofs,
    audit_questions,
    audit_witness,
    certs,
    incident,
    incident_report,
    keys,
    policy,
    server,
    vault_setup,
)
from vault_service.dev import command as dev
from vault_service.dev import demo, drill


@contextmanager
def _without_what_was_typed() -> Iterator[None]:
    """A number that stands where a command or an option belongs is not repeated on the terminal."""
    try:
        yield
    except NoSuchOption as error:
        error.message = "No such option"
        raise
    except UsageError as error:
        if type(error) is UsageError:  # the others name an option of ours, and what it takes
            error.message = re.split(r"[('\"]", error.message)[0].strip()
        raise


class _Program(TyperGroup):
    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _without_what_was_typed():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _without_what_was_typed():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Program,
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
incident.app.command()(incident_report.report)
incident.app.command()(drill.drill)
app.add_typer(incident.app, name="incident")
audit.app.command()(audit_questions.disclosures)
audit.app.command()(audit_questions.search)
audit.app.command()(audit_questions.report)
audit.app.command("verify")(audit_proofs.verify_record)
audit.app.command("export")(audit_proofs.export_record)
audit.app.command()(audit_proofs.prove)
audit.app.command("check-proof")(audit_proofs.check_proof)
audit.app.command()(audit_proofs.key)
audit.app.command("accept-loss")(audit_loss.accept_loss)
audit.app.command()(audit_witness.witness)
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
