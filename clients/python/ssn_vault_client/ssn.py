"""Owns the value that holds a Social Security number in a caller's program. It comes in as text and goes
out only through `reveal()` and `last4`; it knows nothing of what makes a number valid, which is the vault's
decision."""

from hmac import compare_digest
from typing import NoReturn, Self, final

from ssn_vault_client.text import text

_HIDDEN = "Ssn(***)"


@final
class Ssn:
    """A number as it was typed, or as much of one as the vault gave: nine digits or the last four.

    Printing, formatting and logging show `Ssn(***)`; pickling is refused, and `json` does not know it.
    Equal when the text is equal: `900-12-3456` and `900123456` differ here, and are one number to the
    vault.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Takes any text, well-formed or not. Raises TypeError or ValueError that do not show it."""
        self._value = text("ssn", value)

    def reveal(self) -> str:
        """The text itself. Every place that calls this is a place to review."""
        return self._value

    @property
    def last4(self) -> str:
        """The last four ASCII digits, fewer if there are fewer."""
        return "".join(character for character in self._value if character in "0123456789")[-4:]

    def __repr__(self) -> str:
        return _HIDDEN

    def __str__(self) -> str:
        return _HIDDEN

    def __format__(self, spec: str) -> str:
        return format(_HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ssn):
            return NotImplemented
        return compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Ssn, self._value))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an Ssn is not pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("an Ssn is not pickled")
