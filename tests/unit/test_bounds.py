"""Every number that comes in from outside has an upper bound: in policies, settings files and on the command line.

The models and the commands are walked, so that a number that is added without a bound is found here.
"""

import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from tests.unit.policy.test_file import GOOD
from vault_service.__main__ import app
from vault_service.cli.audit_witness import _WitnessSettings
from vault_service.config import Settings, load_settings
from vault_service.errors import ConfigurationError, PolicyInvalidError
from vault_service.keys.setup_file import _File
from vault_service.policy.file import parse_policy
from vault_service.policy.model import LARGEST_COUNT, LONGEST_RETENTION, Policy

_NUMBERS = ("integer", "number")
_HUGE = "9" * 30


def numbers(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number in a JSON schema, with the path to it."""
    if isinstance(schema, dict):
        if schema.get("type") in _NUMBERS and "const" not in schema:
            yield ".".join(path), schema
        for name, part in schema.items():
            if name != "default":
                yield from numbers(part, (*path, name))
    elif isinstance(schema, list):
        for at, part in enumerate(schema):
            yield from numbers(part, (*path, str(at)))


@pytest.mark.parametrize(("model", "least"), [(Policy, 6), (Settings, 20), (_WitnessSettings, 1), (_File, 0)])
def test_every_number_of_a_file_has_an_upper_bound(model: type[BaseModel], least: int) -> None:
    found = dict(numbers(model.model_json_schema()))
    assert len(found) >= least
    assert [path for path, schema in found.items() if not {"maximum", "exclusiveMaximum"} & schema.keys()] == []


def test_a_number_without_a_bound_is_found() -> None:
    class Careless(BaseModel):
        inner: dict[str, list[int | None]]

    assert [schema for _, schema in numbers(Careless.model_json_schema())] == [{"type": "integer"}]


# Policies

_COUNTS = [("per_call: 1", "per_call"), ("per_day: 2", "per_day"), ("items_per_day: 100", "items_per_day")]


@pytest.mark.parametrize(("line", "name"), _COUNTS)
def test_a_count_of_a_policy_is_what_json_and_the_database_hold(line: str, name: str) -> None:
    parse_policy(GOOD.replace(line, f"{name}: {LARGEST_COUNT}"))
    for number in (str(LARGEST_COUNT + 1), _HUGE, "9" * 5000):
        with pytest.raises(PolicyInvalidError, match=r"^line "):
            parse_policy(GOOD.replace(line, f"{name}: {number}"))


def test_a_retention_is_at_most_a_hundred_years() -> None:
    parse_policy(GOOD.replace("retention_days: 10", f"retention_days: {LONGEST_RETENTION}"))
    for number in (LONGEST_RETENTION + 1, 99_999_999, 10**400):
        with pytest.raises(PolicyInvalidError, match=r"domains\.k12\.retention_days: must be at most 36500"):
            parse_policy(GOOD.replace("retention_days: 10", f"retention_days: {number}", 1))
    assert date(2900, 1, 1) + timedelta(LONGEST_RETENTION) < date.max


# Settings


def settings_numbers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and schema of every number that a variable can set."""
    schema = Settings.model_json_schema()
    for section, model in schema["$defs"].items():
        names = [name for name, field in Settings.model_fields.items() if section in str(field.annotation)]
        for path, number in numbers(model["properties"]):
            if names and names != ["issuers"]:
                yield f"{names[0]}.{path.split('.')[0]}", number


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.upper().startswith("SSN_VAULT_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    path.write_text(
        '[server]\ncert = "a"\nkey = "b"\nclient_ca = "c"\ntrust_domain = "vault.example"\n[database]\nurl = "sqlite:///d"\n'
        '[vault]\naddress = "http://127.0.0.1:1"\ntoken_file = "e"\n[policy]\nsigners = ["a", "b"]\n'
    )
    return path


def test_the_walk_finds_settings() -> None:
    assert {"server.port", "limits.message_bytes", "keys.data_days", "audit.max_unsealed"} <= dict(
        settings_numbers()
    ).keys()


@pytest.mark.parametrize(("name", "schema"), list(settings_numbers()))
def test_a_setting_is_taken_at_its_bound_and_refused_above_it(
    name: str, schema: dict[str, Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"SSN_VAULT_{name.replace('.', '__').upper()}"
    monkeypatch.setenv(variable, json.dumps(schema["maximum"]))
    load_settings(file)
    for above in (str(schema["maximum"] + 1), _HUGE, "inf", "nan"):
        monkeypatch.setenv(variable, above)
        with pytest.raises(ConfigurationError, match=name.replace(".", r"\.")):
            load_settings(file)


def test_a_life_in_the_setup_file_is_at_most_ten_years() -> None:
    section = {"longest": "3650d"}
    good = _File.model_fields["certificates"].annotation
    assert good is not None
    good(**section)
    for life in ("3651d", f"{_HUGE}s", "9" * 5000 + "d"):
        with pytest.raises(ValueError, match="longest"):
            good(longest=life)


# The command line


def number_options() -> Iterator[tuple[list[str], Any]]:
    """Every option and argument of every command, and of every group of commands, that takes a number."""

    def walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
        for parameter in command.params:
            described = getattr(parameter, "type_descriptor", None)
            if described is not None and any(kind in str(described.annotation) for kind in ("int", "float")):
                yield path, parameter
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*path, name])

    yield from walk(typer.main.get_command(app), [])


OPTIONS = [pytest.param(path, one, id=" ".join([*path, one.opts[0]])) for path, one in number_options()]


def said(path: list[str], *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*path, *arguments], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_the_walk_finds_options() -> None:
    found = {" ".join([*path, one.opts[0]]) for path, one in number_options()}
    assert {"keys reencrypt --rate", "approvals request --tokens", "audit tail --lines", "dev --port"} <= found


@pytest.mark.parametrize(("path", "option"), OPTIONS)
def test_a_number_on_the_command_line_is_taken_at_its_bound_and_refused_above_it(path: list[str], option: Any) -> None:
    bounded = option.type_descriptor.parameter_info.parser is not None  # it refuses by itself, with words of its own
    assert bounded or option.max is not None, "has no upper bound"
    for above in [_HUGE, "9" * 5000] + ([str(option.max + 1)] if option.max is not None else []):
        status, output = said(path, option.opts[0], above)
        assert status == 2
        assert option.opts[0] in output
        assert "Traceback" not in output
    if option.max is not None:
        _, output = said(path, option.opts[0], str(option.max), "--no-such-option")
        assert "range" not in output
