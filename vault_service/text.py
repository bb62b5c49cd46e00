"""What free text may hold that people write and others read: justifications and reasons. Pure."""

import unicodedata
from typing import Final

# They reorder what a reader sees (Unicode Standard Annex 9).
_DIRECTION: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BREAKS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators
_UNSEEN: Final = frozenset({"Cf", "Cn", "Co", "Mn", "Me"})
_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols that print as nothing


SHORTEST_JUSTIFICATION: Final = 10  # characters
LONGEST_JUSTIFICATION: Final = 500


def text_problem(text: str, shortest: int, longest: int) -> str | None:
    """What is wrong with one line of text of `shortest` to `longest` characters, in words; None when nothing is.

    Invisible characters, and spaces around the text, do not count for the least length; all count for the greatest.
    """
    if text.isascii() and text.isprintable():  # nearly all texts: no look at single characters
        seen = text.strip()
        return None if len(seen) >= shortest and len(text) <= longest else _length(shortest, longest)
    if any(c in _DIRECTION or unicodedata.category(c) in _BREAKS for c in text):
        return "must be one line without control characters or marks that change the direction of writing"
    seen = "".join(c for c in text if c not in _BLANK and unicodedata.category(c) not in _UNSEEN).strip()
    if len(seen) < shortest or len(text) > longest:
        return _length(shortest, longest)
    return None


def _length(shortest: int, longest: int) -> str:
    return f"must have {shortest} to {longest} characters"
