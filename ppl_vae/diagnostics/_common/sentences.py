"""Names in a sentence, and a remedy that several verdicts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["listed"]

LONGER = "a larger encoder or longer training"
SHOWN = 4
"""Names in a list, at most: the others are counted."""


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a"]), listed(["a", "b"]), listed([f"z[{i}]" for i in range(9)])
        ('a', 'a and b', 'z[0], z[1], z[2], z[3] and 5 more')
    """
    names = list(names)
    if len(names) > SHOWN + 1:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
