"""Canary numbers: made at run time, sent everywhere, and searched for in every spelling that a leak could have.

Bytes come in, the places where a canary stands go out; what is searched is not known here. No result shows a
number, so that a failing test leaks none either.
"""

import base64
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path

_AREA, _GROUP = "937", "41"  # shared by all, so that one search for the beginning finds every canary
_HEX_RUN = re.compile(rb"[0-9a-fA-F]{32,}")
_HASHES: tuple[Callable[[bytes], "hashlib._Hash"], ...] = (hashlib.sha256, hashlib.sha1, hashlib.md5)
_HEX_SIZES = (64, 40, 32)
_WORTH_A_SEARCH = 4  # bytes of a shared beginning


class Canaries:
    """`count` numbers drawn from `seed`. They are fictitious: no such area and group is given out."""

    def __init__(self, seed: int, count: int) -> None:
        serials = random.Random(seed).sample(range(1000, 10000), count)
        self.numbers = [f"{_AREA}{_GROUP}{serial}" for serial in serials]
        self._kinds = {
            kind: {spell(number): at for at, number in enumerate(self.numbers)} for kind, spell in SPELLINGS.items()
        }
        self._digests = {
            digest(text.encode()).digest(): f"{digest.__name__.removeprefix('openssl_')} of canary {at}"
            for at, number in enumerate(self.numbers)
            for text in (number, dashed(number))
            for digest in _HASHES
        }
        self._hex_digests = {raw.hex().encode(): what for raw, what in self._digests.items()}

    def find(self, data: bytes) -> set[str]:
        """Which canaries stand in `data`, and in which spelling: `dashed of canary 3`."""
        found = {f"{kind} of canary {at}" for kind, spelled in self._kinds.items() for at in _positions(data, spelled)}
        found |= {what for raw, what in self._digests.items() if raw in data}
        for run in _HEX_RUN.finditer(data):
            text = run.group().lower()
            for size in _HEX_SIZES:
                windows = (text[at : at + size] for at in range(len(text) - size + 1))
                found |= {self._hex_digests[window] for window in windows if window in self._hex_digests}
        return found

    def find_in_files(self, directory: Path) -> dict[str, set[str]]:
        """Every file below `directory` that holds a canary, or has one in its name."""
        found: dict[str, set[str]] = {}
        for path in _files(directory):
            try:
                content = path.read_bytes().rstrip(b"\0")  # logs of databases are written into zeros
            except FileNotFoundError:
                continue  # a database drops files while it runs
            if here := self.find(content) | self.find(path.name.encode()):
                found[str(path.relative_to(directory))] = here
        return found


def dashed(number: str) -> str:
    return f"{number[:3]}-{number[3:5]}-{number[5:]}"


def spaced(number: str) -> str:
    return f"{number[:3]} {number[3:5]} {number[5:]}"


def dotted(number: str) -> str:
    return f"{number[:3]}.{number[3:5]}.{number[5:]}"


WRITTEN: dict[str, Callable[[str], str]] = {"bare": str, "dashed": dashed, "spaced": spaced, "dotted": dotted}


def _spellings() -> Iterator[tuple[str, Callable[[str], bytes]]]:
    """How each way of writing a number can stand in bytes."""
    for name, write in WRITTEN.items():

        def encoded(encode: Callable[[bytes], bytes], write: Callable[[str], str] = write) -> Callable[[str], bytes]:
            return lambda number: encode(write(number).encode())

        yield name, encoded(bytes)
        yield f"{name}, in hex", encoded(lambda raw: raw.hex().encode())
        yield f"{name}, in capital hex", encoded(lambda raw: raw.hex().upper().encode())
        yield f"{name}, in UTF-16 LE", encoded(lambda raw: raw.decode().encode("utf-16-le"))
        yield f"{name}, in UTF-16 BE", encoded(lambda raw: raw.decode().encode("utf-16-be"))
        yield f"{name}, in percents", encoded(lambda raw: b"".join(b"%%%02X" % byte for byte in raw))
        for offset in range(3):
            yield f"{name}, in base64 from byte {offset}", encoded(partial(_base64, offset))
    yield "dashed, dashes in percents", lambda number: dashed(number).replace("-", "%2D").encode()
    yield "spaced, spaces in percents", lambda number: spaced(number).replace(" ", "%20").encode()
    yield "spaced, spaces as plus", lambda number: spaced(number).replace(" ", "+").encode()


def _base64(offset: int, raw: bytes) -> bytes:
    """The characters of base64 that `raw` alone decides, `offset` bytes after a multiple of three."""
    text = base64.b64encode(bytes(offset) + raw)
    return text[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]


SPELLINGS = dict(_spellings())


def _positions(data: bytes, spelled: dict[bytes, int]) -> set[int]:
    """The canaries of one spelling that stand in `data`."""
    begin = _shared_beginning(min(spelled), max(spelled))
    if len(begin) < _WORTH_A_SEARCH:
        return {at for text, at in spelled.items() if text in data}
    size = len(next(iter(spelled)))
    found = set()
    place = data.find(begin)
    while place >= 0:
        if (at := spelled.get(data[place : place + size])) is not None:
            found.add(at)
        place = data.find(begin, place + 1)
    return found


def _shared_beginning(one: bytes, other: bytes) -> bytes:
    same = (a == b for a, b in zip(one, other, strict=True))
    return one[: sum(takewhile(bool, same))]


def _files(directory: Path) -> Iterable[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())
