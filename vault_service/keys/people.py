"""People in Vault: each an entity with policies, one login and a signing key; and those who are no longer named.

A wanted person and a Vault come in, changes go out. How people prove to Vault who they are is the business of
the organisation's own way to log in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from vault_service.keys.resources import OURS, Change, listed, table
from vault_service.keys.transit import Vault, VaultBadAnswer, person_key_name
from vault_service.keys.values import joined

_PERSON_KEY: Final = person_key_name("x").removesuffix("x")


@dataclass(frozen=True)
class Person:
    """One person: an entity with policies, and the one login that is theirs. Other systems' policies stay."""

    name: str
    policies: frozenset[str]
    login: str  # where the login is mounted, below auth/
    alias: str  # the person's name there

    def changes(self, vault: Vault) -> list[Change]:
        """Make the entity, set our policies, bind the login, remove any other login of the same entity."""
        path = f"identity/entity/name/{self.name}"
        found = vault.read(path)
        steps: list[Change] = []
        if found is None:
            steps.append(Change(path, f"enter {self.name} with {joined(self.policies)}", self._set_policies))
        else:
            present = {policy for policy in found.get("policies") or () if policy.startswith(OURS)}
            if present != self.policies:
                given, taken = self.policies - present, present - self.policies
                parts = [f"give {joined(given)}"] * bool(given) + [f"take {joined(taken)}"] * bool(taken)
                steps.append(Change(path, f"{self.name}: {', '.join(parts)}", self._set_policies))
        return [*steps, *self._login_changes(vault, found)]

    def _login_changes(self, vault: Vault, entity: Mapping[str, Any] | None) -> list[Change]:
        accessor = (table(vault, "sys/auth").get(f"{self.login}/") or {}).get("accessor")
        steps: list[Change] = []
        bound = False
        for alias in (entity or {}).get("aliases") or ():
            if (alias.get("mount_accessor"), alias.get("name")) == (accessor, self.alias):
                bound = True
                continue
            path = f"identity/entity-alias/id/{alias['id']}"
            words = f"{self.name}: remove the login {alias.get('name')} at {alias.get('mount_path')}"
            steps.append(Change(path, words, partial(_delete, path)))
        if not bound:
            owner = self._owner(vault, accessor) if accessor else None
            before = f", until now the login of entity {owner}" if owner else ""
            words = f"{self.name}: log in as {self.alias} at auth/{self.login}/{before}"
            steps.append(Change("identity/entity-alias", words, self._bind))
        return steps

    def _owner(self, vault: Vault, accessor: str) -> str | None:
        """The entity that the login belongs to now, if any. This POST only looks up."""
        found = vault.write("identity/lookup/entity", alias_name=self.alias, alias_mount_accessor=accessor)
        return str(found["name"]) if found.get("name") else None

    def _set_policies(self, vault: Vault) -> None:
        path = f"identity/entity/name/{self.name}"
        others = {p for p in (vault.read(path) or {}).get("policies") or () if not p.startswith(OURS)}
        vault.write(path, policies=sorted(self.policies | others))

    def _bind(self, vault: Vault) -> None:
        entity = vault.read(f"identity/entity/name/{self.name}")
        login = table(vault, "sys/auth").get(f"{self.login}/")
        if entity is None or login is None:
            raise VaultBadAnswer(f"the entity {self.name} or auth/{self.login} is not there")
        vault.write(
            "identity/entity-alias", name=self.alias, canonical_id=entity["id"], mount_accessor=login["accessor"]
        )


@dataclass(frozen=True)
class FormerPeople:
    """Whoever once had a signing key and is no longer named keeps the key, which proves old orders, and no right."""

    present: frozenset[str]

    def changes(self, vault: Vault) -> list[Change]:
        """Take every policy of ours from people who are not named."""
        steps = []
        for key in listed(vault, "transit/keys"):
            name = key.removeprefix(_PERSON_KEY)
            if name == key or name in self.present:
                continue
            path = f"identity/entity/name/{name}"
            policies = (vault.read(path) or {}).get("policies") or []
            if ours := [policy for policy in policies if policy.startswith(OURS)]:
                others = [policy for policy in policies if not policy.startswith(OURS)]
                words = f"{name} is not named any more: take {joined(ours)}"
                steps.append(Change(path, words, partial(_set_policies, path, others)))
        return steps


def _delete(path: str, vault: Vault) -> None:
    vault.delete(path)


def _set_policies(path: str, policies: list[str], vault: Vault) -> None:
    vault.write(path, policies=policies)
