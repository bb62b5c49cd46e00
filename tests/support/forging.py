"""Small changes to what is true: bits, hashes, characters and spellings. Chance is given, so that a run repeats."""

import base64
import random
from collections.abc import Callable, Sequence

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def changed_hashes(hashes: Sequence[bytes], chance: random.Random) -> list[bytes]:
    """One thing about a list of hashes changed; now and then nothing, when it has too few."""
    changed = list(hashes)
    at = chance.randrange(len(changed)) if changed else 0
    strange = chance.choice([bytes(32), b"", b"\x00", chance.randbytes(32), chance.randbytes(31), *changed])
    changes: list[Callable[[], object]] = [lambda: changed.insert(at, strange), lambda: changed.append(strange)]
    if changed:
        one = changed[at]
        flipped = flipped_bit(one, chance)
        changes += [lambda: changed.__setitem__(at, flipped)] * 3
        changes += [
            lambda: changed.__setitem__(at, strange),
            lambda: changed.__setitem__(at, one[:-1]),
            lambda: changed.__setitem__(at, one + b"\x00"),
            lambda: changed.__setitem__(at, one[::-1]),
            lambda: changed.pop(at),
            lambda: changed.__delitem__(slice(at, None)),
            changed.reverse,
            lambda: changed.__setitem__(slice(at, at + 2), changed[at : at + 2][::-1]),
            lambda: changed.__setitem__(slice(at, at + 2), _cut_elsewhere(changed[at : at + 2], chance)),
        ]
    chance.choice(changes)()
    return changed


def flipped_bit(raw: bytes, chance: random.Random) -> bytes:
    """One bit of some bytes flipped."""
    at = chance.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1 :]


def changed_character(text: str, chance: random.Random) -> str:
    """One character of a text flipped, taken out, put in or doubled."""
    at = chance.randrange(len(text))
    flipped = chr(ord(text[at]) ^ 1 << chance.randrange(7))
    here = chance.choice([flipped, flipped, flipped, "", text[at] * 2, text[at] + "\n", text[at].swapcase(), " "])
    return text[:at] + here + text[at + 1 :]


def other_base64(text: str, chance: random.Random) -> str:
    """The same bytes in another spelling, which a lenient reader takes."""
    spellings = [text.rstrip("=") if text.endswith("=") else text + "=", text + "\n", text[:10] + " " + text[10:]]
    raw = base64.b64decode(text)
    spellings.append(base64.urlsafe_b64encode(raw).decode())
    padding = len(text) - len(text.rstrip("="))
    if padding:  # bits that are thrown away
        last = _ALPHABET.index(text[-padding - 1])
        spellings.append(f"{text[: -padding - 1]}{_ALPHABET[last | chance.randrange(1, 4**padding)]}{'=' * padding}")
    return chance.choice(spellings)


def _cut_elsewhere(pair: Sequence[bytes], chance: random.Random) -> list[bytes]:
    together = b"".join(pair)
    cut = chance.randrange(len(together) + 1)
    return [together[:cut], together[cut:]]
