"""The file of checkpoints: what was appended is read back by log and verifier alike, however often it was cut off."""

import multiprocessing
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.auditlog import START, LogKey, StoredTree, WitnessKey, grown, leaves_of
from vault_service.audit import checkpoint_file
from vault_service.audit.checkpoint_file import CheckpointFile, split_notes
from vault_service.audit.verify import Keys, holds, notes_in

KEY, WITNESS = LogKey(), WitnessKey()
KEYS = Keys([KEY.public], (WITNESS.name, WITNESS.public))


def is_whole(note: str) -> bool:
    return holds(note, KEYS)


def _notes(count: int, *, cosigned: bool = True) -> list[str]:
    stored = StoredTree()
    found = []
    for number in range(count):
        stored.append(leaves_of(3, stored.size))
        head = stored.checkpoint(START + number)
        found.append(KEY.note(head, *([WITNESS.cosign(head)] if cosigned else [])))
    return found


NOTES = _notes(4)
MANY = _notes(150)


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoints", is_whole)


def readers(path: Path) -> tuple[list[str], list[str]]:
    """The notes of a file as the log reads it, and as the verifier does."""
    return split_notes(path.read_text("utf-8", errors="replace")), list(notes_in(path, KEYS))


def test_notes_are_read_back_in_their_order_by_both_readers(file: CheckpointFile) -> None:
    for count, note in enumerate(NOTES, 1):
        file.append(note)
        assert file.last() == note
        assert readers(file.path) == (NOTES[:count], NOTES[:count])


def test_a_file_is_signed_notes_each_ended_by_an_empty_line(file: CheckpointFile) -> None:
    for note in NOTES:
        file.append(note)
    assert file.path.read_text() == "".join(f"{note}\n" for note in NOTES)


def test_no_file_has_no_notes_and_is_not_made_by_looking(file: CheckpointFile) -> None:
    assert file.last() is None
    assert not file.path.exists()
    file.path.touch()
    assert file.last() is None
    assert readers(file.path) == ([], [])


def test_only_its_owner_reads_the_file(file: CheckpointFile) -> None:
    before = os.umask(0)
    try:
        file.append(NOTES[0])
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        CheckpointFile(tmp_path / "missing" / "file", is_whole).append(NOTES[0])


def test_the_last_note_of_a_long_file_is_found_and_cheaply(file: CheckpointFile) -> None:
    notes = _notes(400)
    file.path.write_text("".join(f"{note}\n" for note in notes))
    assert file.path.stat().st_size > 4 * checkpoint_file._TAIL_BYTES
    assert file.last() == notes[-1]
    assert list(notes_in(file.path, KEYS)) == notes


def test_a_note_longer_than_any_is_not_passed_over_for_an_older_one(file: CheckpointFile) -> None:
    stranger, head = WitnessKey("stranger.example.net"), grown(20).checkpoint(START + 20)
    long = KEY.note(head, *[stranger.cosign(head)] * 400)
    assert len(long) > 2 * checkpoint_file._TAIL_BYTES
    file.append(NOTES[0])
    file.append(long)
    with pytest.raises(OSError, match="no whole note"):
        file.last()
    assert list(notes_in(file.path, KEYS)) == [NOTES[0], long]


@pytest.mark.parametrize("name", ["a\0b", "\x01", "a\x85b", "\u2028", "a\x0bb", "—"])
def test_a_note_with_a_strange_name_in_it_is_read_back(tmp_path: Path, name: str) -> None:
    file = CheckpointFile(tmp_path / "checkpoints", lambda _: True)
    head = grown(20).checkpoint(START + 20)
    strange = KEY.note(head, WitnessKey(name).cosign(head))
    file.append(NOTES[0])
    file.append(strange)
    assert file.last() == strange
    assert readers(file.path) == ([NOTES[0], strange], [NOTES[0], strange])


def test_a_note_that_is_not_newer_than_the_last_is_not_added(file: CheckpointFile) -> None:
    """Processes share the file, and one was slower: what stands there is newer."""
    for note in (NOTES[1], NOTES[0], NOTES[1], NOTES[2], NOTES[0]):
        file.append(note)
    assert readers(file.path) == (NOTES[1:3], NOTES[1:3])


# Cut off


def which(note: str) -> int:
    """The number of the head in a note, whatever signatures are below it."""
    return [one.partition("\n\n")[0] for one in NOTES].index(note.partition("\n\n")[0])


def _cuts() -> list[int]:
    return list(range(len(NOTES[1].encode()) + 1))


def test_a_note_that_was_cut_off_anywhere_is_passed_over(file: CheckpointFile) -> None:
    whole = f"{NOTES[0]}\n".encode()
    for length in _cuts():
        file.path.write_bytes(whole + NOTES[1].encode()[:length])
        log, verifier = readers(file.path)
        assert (file.last(), log, verifier[:1]) == (NOTES[0], [NOTES[0]], [NOTES[0]]), length
        # Complete but for the empty line that ends it, a note may count.
        assert verifier[1:] in ([], [NOTES[1]] if length >= len(NOTES[1].encode()) - 1 else []), length


@pytest.mark.parametrize("reader", ["log", "verifier"])
def test_the_notes_after_one_that_was_cut_off_anywhere_are_read_back(file: CheckpointFile, reader: str) -> None:
    """The process was killed in the midst of appending, and another appends."""
    whole = f"{NOTES[0]}\n".encode()
    wrong = []
    for length in _cuts():
        file.path.write_bytes(whole + NOTES[1].encode()[:length])
        file.append(NOTES[2])
        file.append(NOTES[3])
        assert file.last() == NOTES[3]
        signed = length >= NOTES[1].encode().index(f"\n— {WITNESS.name}".encode())  # by the log itself
        expected = [[0, 2, 3], *([[0, 1, 2, 3]] if signed else [])]
        if [which(note) for note in readers(file.path)[reader == "verifier"]] not in expected:
            wrong.append(length)
    assert wrong == []


def test_the_first_note_of_a_file_that_was_cut_off_anywhere_harms_nothing(file: CheckpointFile) -> None:
    for length in _cuts()[1:-2]:
        file.path.write_bytes(NOTES[1].encode()[:length])
        assert file.last() is None, length
        file.append(NOTES[2])
        assert file.last() == NOTES[2], length


def test_several_pieces_in_a_row_are_passed_over(file: CheckpointFile) -> None:
    cuts = _cuts()[1:-2]
    for first, second in zip(cuts, reversed(cuts), strict=True):
        file.path.write_bytes(f"{NOTES[0]}\n".encode() + NOTES[1].encode()[:first])
        with file.path.open("ab") as more:  # what a later attempt adds, until it is cut off as well
            more.write(b"\n\n\n" + NOTES[1].encode()[:second])
        file.append(NOTES[2])
        assert file.last() == NOTES[2], (first, second)


def test_a_newline_behind_a_note_does_not_take_it_back(file: CheckpointFile) -> None:
    """Whoever may only append could otherwise make room for an older database."""
    for newlines in range(1, 6):
        file.path.unlink(missing_ok=True)
        for count, note in enumerate(NOTES, 1):
            file.append(note)
            with file.path.open("a") as more:
                more.write("\n" * newlines)
            assert file.last() == note
            assert readers(file.path) == (NOTES[:count], NOTES[:count])


def test_what_was_appended_before_does_not_stand_for_what_came_after(file: CheckpointFile) -> None:
    """Old notes are no secret: a copy behind the last one must not make it the last."""
    for note in NOTES[:3]:
        file.append(note)
    with file.path.open("a") as more:
        more.write(f"{NOTES[0]}\n")
    assert file.last() == NOTES[2]
    file.append(NOTES[1])
    file.append(NOTES[3])
    assert file.last() == NOTES[3]
    assert [which(note) for note in readers(file.path)[0]] == [0, 1, 2, 0, 3]


@pytest.mark.parametrize("junk", ["x\n999999999\ny\ntime 9\n\n— x\n\n", NOTES[3].replace("\n12\n", "\n99\n") + "\n"])
def test_a_note_that_nobody_signed_does_not_keep_others_out(file: CheckpointFile, junk: str) -> None:
    file.append(NOTES[0])
    with file.path.open("a") as more:
        more.write(junk)
    file.append(NOTES[1])
    found = readers(file.path)
    assert all(notes[0] == NOTES[0] and notes[-1] == NOTES[1] for notes in found)
    last = file.last() or ""
    # What has not even the form is passed over; what has it is for the reader to refuse, out loud.
    assert last == NOTES[1] or (not is_whole(last) and "\n99\n" in junk)


@pytest.mark.parametrize("separator", [1, 2, 3])
def test_what_is_cut_off_again_behind_a_piece_harms_nothing(file: CheckpointFile, separator: int) -> None:
    """The disk has room for a part of what sets a piece apart: no note follows there."""
    whole = f"{NOTES[0]}\n".encode()
    for length in _cuts()[1:-2]:
        file.path.write_bytes(whole + NOTES[1].encode()[:length])
        _in_a_process(lambda path: _append_into_little_room(path, separator, cuts=False), file.path)
        assert file.path.stat().st_size == len(whole) + length + separator
        assert is_whole(file.last() or "")
        file.append(NOTES[2])
        assert file.last() == NOTES[2]
        for found in readers(file.path):
            assert [which(note) for note in found if is_whole(note)] == [which(note) for note in found], length


# A disk that is full


def _in_a_process(work: Callable[[Path], None], path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=work, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0


def _append_into_little_room(path: Path, room: int, *, cuts: bool) -> None:
    """Append with room for `room` bytes more; the kernel writes what it can, as on a disk that runs full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, resource.RLIM_INFINITY))
    if not cuts:  # a file that may only grow: chattr +a

        def refuse(_descriptor: int, _length: int) -> None:
            raise PermissionError

        os.ftruncate = refuse
    with pytest.raises(OSError, match=r"cut off|too large"):
        CheckpointFile(path, is_whole).append(NOTES[1])


@pytest.mark.parametrize("room", [0, 1, 30, 100, 200])
def test_a_full_disk_is_an_error_and_leaves_the_file_as_it_was(file: CheckpointFile, room: int) -> None:
    file.append(NOTES[0])
    before = file.path.read_bytes()
    _in_a_process(lambda path: _append_into_little_room(path, room, cuts=True), file.path)
    assert file.path.read_bytes() == before
    file.append(NOTES[2])
    assert readers(file.path) == ([NOTES[0], NOTES[2]], [NOTES[0], NOTES[2]])


@pytest.mark.parametrize("room", [0, 1, 30, 100, 200])
def test_a_full_disk_of_a_file_that_may_only_grow_is_passed_over(file: CheckpointFile, room: int) -> None:
    file.append(NOTES[0])
    before = file.path.read_bytes()
    _in_a_process(lambda path: _append_into_little_room(path, room, cuts=False), file.path)
    assert file.path.read_bytes() == before + NOTES[1].encode()[:room]
    assert file.last() == NOTES[0]
    file.append(NOTES[2])
    assert file.last() == NOTES[2]
    assert list(notes_in(file.path, KEYS)) == [NOTES[0], NOTES[2]]


def test_a_device_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        CheckpointFile(link, is_whole).append(NOTES[0])


# Several at once


def _append_many(path: Path) -> None:
    file = CheckpointFile(path, is_whole)
    for note in MANY:
        file.append(note)
        assert MANY.index(file.last() or "") >= MANY.index(note)


def test_processes_that_share_a_file_take_turns(file: CheckpointFile) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(file.path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    # Each is there, once, and in order: so each was in its turn compared with the last.
    assert (list(notes_in(file.path, KEYS)), file.last()) == (MANY, MANY[-1])


def test_a_reader_of_a_file_that_grows_sees_what_was_there(file: CheckpointFile) -> None:
    file.append(NOTES[0])
    reading = notes_in(file.path, KEYS)
    file.append(NOTES[1])
    assert list(reading) == [NOTES[0]]
