"""Networks that are run and not trained: afterwards their modes and running means are what they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["evaluating", "kept_buffers"]

SMALL_BUFFER = 2**20


@contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Put modules into evaluation mode; a part that was in it already stays so afterwards.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Dropout().eval())
        >>> with evaluating(net):
        ...     print(net.training)
        False
        >>> net.training, net[1].training
        (True, False)
    """
    training = [m for p in programs if isinstance(p, nn.Module) for m in p.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def kept_buffers(modules: nn.Module) -> Iterator[None]:
    """Running means and counters are afterwards what they were; large buffers are nobody's running mean."""
    before = [(b, b.clone()) for b in modules.buffers() if b.numel() <= SMALL_BUFFER]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
