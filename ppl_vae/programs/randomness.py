"""Random number generators: seeded, and given back as they were."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch

from ppl_vae.programs.locking import one_at_a_time

__all__ = ["preserved_randomness", "seed_draws"]


def seed_draws(seed: int) -> None:
    """Seed torch's random number generators, on every device that there is.

    `torch.manual_seed` does more: for each kind of device that is not there it notes the call and its stack,
    and keeps both for the life of the process, which takes a millisecond a call, and memory without end.

    Example:
        >>> seed_draws(0)
        >>> first = torch.randn(2)
        >>> seed_draws(0)
        >>> torch.equal(first, torch.randn(2))
        True
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@functools.cache
def _gpus() -> range:
    """Asked once: where there is none, torch looks for the library of the driver at every question."""
    return range(torch.cuda.device_count())


class preserved_randomness:
    """Give the random number generators back as they were; until then no other thread may draw from them."""

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(one_at_a_time())
            stack.enter_context(torch.random.fork_rng(devices=_gpus()))
            self.stack = stack.pop_all()

    def __exit__(self, *exception: Any) -> None:
        self.stack.__exit__(*exception)
