"""Small cells: which rows of counts stay hidden, so that nothing that is published says more of them.

A row with a count from 1 to below the limit is hidden: all its counts are. Every sum, rate and other table is computed
from the rows that are shown, and from nothing else.

What that guarantees against whoever knows this rule and everything that is published: of a hidden row they learn its
name, and that at least one of its counts is from 1 to below the limit. Any other counts of which that is true give the
same publication to the letter. So each hidden count has at least two values that fit, since the limit is 3 or more, and
where a row has several counts, values from the limit on too. Nothing that is computed reads a hidden count: there is no
second round of hiding that could be undone.

It is a guarantee of one publication. What is known from elsewhere, as from the callers' own counts, is no part of it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

SMALLEST_LIMIT: Final = 3  # below it a hidden count could only be 1
HIDDEN: Final = "*"
Cell = int | str


def is_hidden(counts: Iterable[int], limit: int) -> bool:
    """Whether a row with these counts is hidden by this limit (0: none is)."""
    return any(0 < count < limit for count in counts)


def share_hidden(hidden: Sequence[bool]) -> str:
    """What a sum over rows says of those that it leaves out."""
    return "all" if hidden and all(hidden) else "some" if any(hidden) else "none"
