"""The kinds of things that setup makes in Vault: each knows what it should be, looks, and says what would change.

A wanted thing and a Vault come in; changes, in words and ready to be carried out, go out. Looking changes
nothing. What the service needs, and who its people are, is not known here (`setup` says it).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vault_service.errors import SsnVaultError
from vault_service.keys.transit import Vault, VaultBadAnswer, VaultRefused
from vault_service.keys.values import same, shown

OURS: Final = "ssn-vault-"  # what our policies and keys begin with
_NEVER: Final = {"exportable": False, "allow_plaintext_backup": False, "deletion_allowed": False, "derived": False}


class SetupRefusedError(SsnVaultError):
    """Setup will not go on: what stands in Vault, or what was asked for, would make the service unsafe."""


class AuditDeviceRefusedError(SetupRefusedError):
    """Vault makes no audit device over its API; the text says what belongs in its configuration file."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step: its path in Vault, what it does in words, and what carries it out. Holds no secret to show."""

    path: str
    words: str
    do: Callable[[Vault], object] = field(repr=False, compare=False)


class Resource(Protocol):
    """Something that should stand in Vault."""

    def changes(self, vault: Vault) -> list[Change]:
        """What would have to be done; empty when it stands as it should. SetupRefusedError, VaultError."""


@dataclass(frozen=True)
class Mount:
    """An engine (`table` sys/mounts) or a way to log in (sys/auth). `longest` bounds its leases, in seconds."""

    table: str
    path: str
    kind: str
    longest: int | None = None

    def changes(self, vault: Vault) -> list[Change]:
        """Mount it, or lengthen its leases; another kind in its place is refused."""
        found = table(vault, self.table).get(f"{self.path}/")
        where = f"{self.table}/{self.path}"
        if found is None:
            config = {} if self.longest is None else {"config": {"max_lease_ttl": f"{self.longest}s"}}
            return [Change(where, f"mount {self.kind}", lambda v: v.write(where, type=self.kind, **config))]
        if found.get("type") != self.kind:
            raise SetupRefusedError(f"{where} is of another kind than {self.kind}")
        present = (found.get("config") or {}).get("max_lease_ttl")
        if self.longest is None or same(self.longest, present):
            return []
        words = f"longest lease {shown('ttl', present)} -> {shown('ttl', self.longest)}"
        return [Change(f"{where}/tune", words, lambda v: v.write(f"{where}/tune", max_lease_ttl=f"{self.longest}s"))]


@dataclass(frozen=True)
class PresentLogin:
    """A way to log in that the organisation has made itself, for people."""

    path: str

    def changes(self, vault: Vault) -> list[Change]:
        """Nothing: setup does not make it. SetupRefusedError where it is missing."""
        if f"{self.path}/" not in table(vault, "sys/auth"):
            raise SetupRefusedError(f"people log in at auth/{self.path}, which is not there: enable it first")
        return []


@dataclass(frozen=True)
class PolicyText:
    """A policy, word for word."""

    name: str
    hcl: str = field(repr=False)

    def changes(self, vault: Vault) -> list[Change]:
        """Make it or replace it."""
        path = f"sys/policies/acl/{self.name}"
        found = vault.read(path)
        if found is not None and found.get("policy") == self.hcl:
            return []
        words = f"{'create' if found is None else 'replace'} policy {self.name}"
        return [Change(path, words, lambda v: v.put_policy(self.name, self.hcl))]


@dataclass(frozen=True)
class Settings:
    """Fields at one path, written together. Durations are whole seconds; `secret` is written, never shown.

    `inside` names the part of the answer where Vault shows some of the fields. `secret` gives what is only
    sent when the thing is made, and is asked for only then.
    """

    path: str
    what: str
    values: Mapping[str, object]
    inside: str | None = None
    secret: Callable[[], Mapping[str, object]] = field(default=dict, repr=False)
    where_known: Mapping[str, object] = field(default_factory=dict)  # passed over by a Vault that does not show them

    def changes(self, vault: Vault) -> list[Change]:
        """Make it, or correct the fields that differ."""
        found = vault.read(self.path)
        if found is None:
            values = {**self.values, **self.where_known}
            return [Change(self.path, f"create {self.what}", lambda v: v.write(self.path, **values, **self.secret()))]
        if self.inside is not None:
            found = {**found, **(found.get(self.inside) or {})}
        wanted = {**self.values, **{name: value for name, value in self.where_known.items() if name in found}}
        different = [name for name, value in wanted.items() if not same(value, found.get(name))]
        if not different:
            return []
        parts = (f"{name} {shown(name, found.get(name))} -> {shown(name, wanted[name])}" for name in different)
        words = f"change {self.what}: {'; '.join(parts)}"
        return [Change(self.path, words, lambda v: v.write(self.path, **wanted))]


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 transit key that never leaves Vault."""

    name: str

    def changes(self, vault: Vault) -> list[Change]:
        """Make it. One that is there stays as it is; one that could leave Vault, or be deleted, is refused."""
        path = f"transit/keys/{self.name}"
        found = vault.read(path)
        if found is None:
            return [Change(path, f"create signing key {self.name}", self._make)]
        wrong = [option for option, value in _NEVER.items() if found.get(option) not in (value, None)]
        if found.get("type") != "ed25519" or wrong:
            raise SetupRefusedError(f"{path} is no ed25519 key that stays in Vault ({', '.join(wrong) or 'type'})")
        return []

    def _make(self, vault: Vault) -> None:
        vault.write(
            f"transit/keys/{self.name}", type="ed25519", exportable=False, allow_plaintext_backup=False, derived=False
        )
        vault.public_keys(self.name)  # raises where a key of another kind has got the name meanwhile


@dataclass(frozen=True)
class OwnTransit:
    """The transit engine holds our keys only: rights over keys are rights over every key of the engine."""

    def changes(self, vault: Vault) -> list[Change]:
        """Nothing. SetupRefusedError where others keep keys in it."""
        others = [name for name in listed(vault, "transit/keys") if not name.startswith(OURS)]
        if others:
            raise SetupRefusedError(
                f"transit/ holds {len(others)} keys of others, which our key administrators could reach: "
                "give ssn-vault a namespace of its own"
            )
        return []


@dataclass(frozen=True)
class Authority:
    """A certificate authority whose root key is made inside Vault, where the engine has none yet."""

    common_name: str
    organization: str
    life: int  # seconds

    def changes(self, vault: Vault) -> list[Change]:
        """Make the root; one that is there stays."""
        if has_authority(vault):
            return []
        words = f"create the certificate authority {self.common_name!r} for {shown('ttl', self.life)}"
        return [Change("pki/root/generate/internal", words, self._make)]

    def _make(self, vault: Vault) -> None:
        vault.write(
            "pki/root/generate/internal",
            common_name=self.common_name,
            organization=self.organization,
            key_type="ec",
            key_bits=256,
            ttl=f"{self.life}s",
        )


@dataclass(frozen=True)
class AuditDevice:
    """A file audit device that hashes values. `file` is a path on Vault's own machine."""

    name: str
    file: str

    def changes(self, vault: Vault) -> list[Change]:
        """Make it where no device writes that file. SetupRefusedError for a device that writes values in the clear."""
        found = table(vault, "sys/audit")
        for path, device in found.items():
            if same(True, (device.get("options") or {}).get("log_raw")):
                raise SetupRefusedError(
                    f"the audit device {path} has log_raw: every key that the server unwraps stands in its log. "
                    "Remove the device and its log, rotate all data and index keys, and run setup again"
                )
        if any(
            device.get("type") == "file" and (device.get("options") or {}).get("file_path") == self.file
            for device in found.values()
        ):
            return []
        if f"{self.name}/" in found:
            raise SetupRefusedError(f"the audit device {self.name}/ writes elsewhere than {self.file}")
        words = (
            f"enable audit device {self.name}, file {self.file}, values hashed. A server that makes no audit device "
            f"over its API (OpenBao) needs this in its configuration file, and SIGHUP:\n{self.stanza}"
        )
        return [Change(f"sys/audit/{self.name}", words, self._make)]

    @property
    def stanza(self) -> str:
        """What OpenBao's configuration file needs instead."""
        options = f'  options = {{\n    file_path = "{self.file}"\n    mode      = "0600"\n  }}'
        return f'audit "file" "{self.name}" {{\n{options}\n}}'

    def _make(self, vault: Vault) -> None:
        try:
            vault.write(f"sys/audit/{self.name}", type="file", options={"file_path": self.file, "mode": "0600"})
        except VaultRefused:
            refused = True
        else:
            refused = False
        if refused:
            raise AuditDeviceRefusedError(
                f"this server makes no audit device over its API. Put this in its configuration file, send it SIGHUP, "
                f"and run setup again:\n{self.stanza}"
            )


def plan(vault: Vault, wanted: Iterable[Resource]) -> list[Change]:
    """Every change that `wanted` asks for, in order. Nothing is changed. SetupRefusedError, VaultError."""
    return [change for resource in wanted for change in resource.changes(vault)]


def carry_out(vault: Vault, changes: Sequence[Change]) -> None:
    """Do them all. An audit device that Vault refuses does not stop the rest, and is raised at the end.

    VaultError stops at once: what is done is done, and running again goes on from there.
    """
    refused: AuditDeviceRefusedError | None = None
    for change in changes:
        try:
            change.do(vault)
        except AuditDeviceRefusedError as error:
            refused = error
    if refused is not None:
        raise refused


def has_authority(vault: Vault) -> bool:
    """Whether the pki engine can sign."""
    try:
        found = vault.read("pki/cert/ca")
    except VaultRefused:  # how OpenBao says that there is no authority yet
        return False
    return bool(found and found.get("certificate"))


def table(vault: Vault, path: str) -> dict[str, Any]:
    """What stands at a path that every Vault has, sys/auth say."""
    found = vault.read(path)
    if found is None:
        raise VaultBadAnswer(f"{path} gave nothing")
    return found


def listed(vault: Vault, path: str) -> list[str]:
    """The names below `path`; empty where nothing stands."""
    return list((vault.read(path, list="true") or {}).get("keys") or [])
