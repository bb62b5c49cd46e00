"""What commands write is their owner's alone, whole or not there, and never somewhere that a link points to."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vault_service
from vault_service.errors import ConfigurationError
from vault_service.files import new_file, own_file, read_own_file, replace_file

TREE = Path(vault_service.__file__).parent
# Rooms that write files of their own: what a running server appends to, the database, a key that must not be replaced.
ROOMS = {"files.py", "audit/checkpoint_file.py", "audit/destinations.py", "audit/witness.py", "storage/engine.py"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's file, which a link at `link` leads to."""
    file = tmp_path / "elsewhere"
    file.write_text("theirs")
    file.chmod(0o666)
    (tmp_path / "link").symlink_to(file)
    return file


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with new_file(path, "--output") as out:
        assert mode(path) == 0o600
        out.write("ours")
    assert (path.read_text(), mode(path)) == ("ours", 0o600)


def test_a_new_file_takes_no_place_that_is_taken(tmp_path: Path, elsewhere: Path) -> None:
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    for path in (elsewhere, tmp_path / "link", dangling, tmp_path):
        with pytest.raises(ConfigurationError, match="--output names a file that exists"), new_file(path, "--output"):
            pass
    with pytest.raises(ConfigurationError, match="cannot be made"), new_file(tmp_path / "no" / "file", "--output"):
        pass
    assert elsewhere.read_text() == "theirs"
    assert not (tmp_path / "nothing").exists()


def test_of_a_new_file_that_fails_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with pytest.raises(UnicodeEncodeError), new_file(path, "--output") as out:
        out.write("half \ud800")
    assert not path.exists()


@pytest.mark.parametrize("name", ["link", "fresh"])
def test_a_replaced_file_is_its_owners_alone_and_a_link_is_replaced_not_followed(
    tmp_path: Path, elsewhere: Path, name: str
) -> None:
    (tmp_path / f"{name}.partial").symlink_to(elsewhere)
    replace_file(tmp_path / name, b"ours")
    assert not (tmp_path / name).is_symlink()
    assert ((tmp_path / name).read_text(), mode(tmp_path / name)) == ("ours", 0o600)
    assert elsewhere.read_text() == "theirs"


def test_a_file_that_is_there_keeps_its_mode_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    path.touch(0o640)
    replace_file(path, b"key")
    assert mode(path) == 0o640


def test_a_log_is_appended_to_and_made_private_but_not_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    path = tmp_path / "server.log"
    path.touch(0o666)
    for text in ("one", "two"):
        with own_file(path, "a") as log:
            log.write(text)
    assert (path.read_text(), mode(path)) == ("onetwo", 0o600)
    with own_file(path, "w") as log:
        log.write("three")
    assert path.read_text() == "three"
    os.mkfifo(tmp_path / "fifo")
    for wrong in (tmp_path / "link", tmp_path / "fifo", tmp_path):
        with pytest.raises(OSError, match=r".+"):
            own_file(wrong, "w")
    assert elsewhere.read_text() == "theirs"


def test_a_file_that_a_command_goes_on_with_is_this_users(tmp_path: Path, elsewhere: Path) -> None:
    assert read_own_file(tmp_path / "nothing") is None
    assert read_own_file(elsewhere) == "theirs"
    os.mkfifo(tmp_path / "fifo")
    for wrong in (tmp_path / "link", tmp_path / "fifo", tmp_path):
        with pytest.raises(OSError, match=r".+"):
            read_own_file(wrong)


_WRITING = re.compile(r"(?=.*[wax+])[rwaxbt+]{1,3}")


def writes(tree: ast.AST) -> Iterator[int]:
    """Lines that write to a file by its path."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of_os = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "os"
        texts = [one.value for one in (*node.args, *(k.value for k in node.keywords)) if isinstance(one, ast.Constant)]
        opens = name == "open" and any(_WRITING.fullmatch(str(one)) for one in texts)
        if name in ("write_text", "write_bytes", "touch") or opens or (of_os and name == "open"):
            yield node.lineno


def test_nothing_else_writes_files() -> None:
    found = {
        path.relative_to(TREE).as_posix(): list(writes(ast.parse(path.read_text()))) for path in TREE.rglob("*.py")
    }
    assert {path for path, lines in found.items() if lines} == ROOMS
    assert (
        list(writes(ast.parse('Path("a").open("ab"); open("b", mode="w"); p.write_text(""); os.open(p, 1)'))) == [1] * 4
    )
    writing = 'Path("a").open("ab"); open("b", mode="w"); p.write_text(""); os.open(p, 1); open(p, "r+")'
    assert list(writes(ast.parse(writing))) == [1] * 5
    assert list(writes(ast.parse('p.open("rb"); open(p); p.open(encoding="ascii"); p.read_text()'))) == []
