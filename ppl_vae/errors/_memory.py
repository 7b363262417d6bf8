"""A lack of memory, told in a line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ppl_vae.errors._classes import UserError

__all__ = ["is_memory", "within_memory"]

_ALLOCATION = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGT]i?B)")


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("allocate memory", "out of memory", "can't allocate", "not enough memory")
    )


@contextlib.contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Inside, a lack of memory is told in a line, with how much was asked for at once.

    Raises:
        UserError: there is not enough memory, or a tensor is larger than any memory.

    Example:
        >>> with within_memory("the draws"):
        ...     raise MemoryError("can't allocate memory: you tried to allocate 8000000000000 bytes")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: the draws needs more memory than there is (7,451 GiB at once): take smaller numbers
    """
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError) as error:
        text = str(error)
        huge = "too large" in text or "Storage size calculation overflowed" in text or "numel: integer mult" in text
        if not (huge or is_memory(error)):
            raise
        found = _ALLOCATION.search(text)
        much = ""
        if found:
            much = f" ({int(found[1]) / 2**30:,.0f} GiB at once)" if found[1] else f" ({found[2]} at once)"
        raise UserError(f"{what} needs more memory than there is{much}: take smaller numbers") from error
