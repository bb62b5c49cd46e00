"""A Vault as an organisation has it before ssn-vault comes: people log in at `staff`, nothing of ours is there.

OpenBao itself, with one addition to its configuration where a test asks for it; a server's configuration file that
names it; and the reviewed file of `vault-setup`.
"""

from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner, Result

from vault_service.__main__ import app
from vault_service.dev.openbao import OpenBao
from vault_service.keys.transit import TokenValue, Vault

TRUST_DOMAIN = "vault.example.org"
STAFF: Mapping[str, str] = {  # name in the policy -> alias at the organisation's login
    "records-officer": "officer.example.org",
    "key-admin-a": "a.example.org",
    "key-admin-b": "b.example.org",
    "auditor": "audit.example.org",
}

SETUP = """
trust_domain = "vault.example.org"
people_login = "staff"
token_issuer = "https://vault.example.org:8200"

[audit]
file = "{audit}"

[server]
names = ["ssn-vault.example.org", "localhost"]
addresses = true

[[people]]
name = "records-officer"
alias = "officer.example.org"
rights = ["approver", "key-destroy-delete"]

[[people]]
name = "key-admin-a"
alias = "a.example.org"
rights = ["key-admin", "key-destroy-allow"]

[[people]]
name = "key-admin-b"
alias = "b.example.org"
rights = ["key-admin", "certificates"]

[[people]]
name = "auditor"
alias = "audit.example.org"
rights = ["auditor"]
"""


class ConfiguredOpenBao(OpenBao):
    """OpenBao with `added` at the end of its configuration, and where `audit` is off without its audit device."""

    def __init__(self, home: Path, *, audit: bool = True, added: str = "") -> None:
        super().__init__(home)
        self._audit = audit
        self._added = added

    def _configuration(self, cluster_port: int) -> str:
        text = super()._configuration(cluster_port)
        return f"{text if self._audit else text[: text.index('audit ')]}\n{self._added}\n"


class Organisation:
    """One OpenBao, its root login, and the files that commands take."""

    def __init__(self, directory: Path, bao: OpenBao) -> None:
        self.directory = directory
        self.bao = bao
        self.audit_log = directory / "openbao" / "audit.log"
        self.root = Vault(bao.address, TokenValue(bao.root_token))
        self.setup = directory / "setup.toml"
        self.config = directory / "vault.toml"
        self.write_setup()
        self.config.write_text(
            f'[server]\ncert = "c"\nkey = "k"\nclient_ca = "ca"\ntrust_domain = "{TRUST_DOMAIN}"\n'
            f'[database]\nurl = "sqlite:///{directory}/x.db"\n'
            f'[vault]\naddress = "{bao.address}"\ntoken_file = "t"\n[policy]\nsigners = ["a", "b"]\n'
        )
        (directory / "admin.token").write_text(bao.root_token)

    def has_staff(self) -> None:
        """Give people their login at `staff`; each password is the alias."""
        self.root.write("sys/auth/staff", type="userpass")
        for alias in STAFF.values():
            self.root.write(f"auth/staff/users/{alias}", password=alias)

    def write_setup(self, text: str = SETUP, audit: Path | None = None) -> None:
        self.setup.write_text(text.replace("{audit}", str(audit or self.audit_log)))

    def run(self, *arguments: object, answer: str = "") -> Result:
        """`ssn-vault ARGUMENTS` as the admin of this Vault."""
        options = ["--config", str(self.config), "--token-file", str(self.directory / "admin.token")]
        environment = {"VAULT_TOKEN": None, "SSN_VAULT_CONFIG": None}
        result = CliRunner().invoke(app, [*map(str, arguments), *options], input=answer, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        return result

    def prepare(self, *options: str, answer: str = "") -> Result:
        return self.run("vault-setup", self.setup, *options, answer=answer)

    def person(self, name: str) -> Vault:
        """The login of a person, at the organisation's own method."""
        alias = STAFF[name]
        return Vault(self.bao.address, TokenValue(self.root.login_at(f"auth/staff/login/{alias}", password=alias)))
