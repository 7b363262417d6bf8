"""Random number generators that are given back as they were."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from ppl_vae.programs.locking import one_at_a_time

__all__ = ["preserved_randomness"]


class preserved_randomness:
    """Give the random number generators back as they were; until then no other thread may draw from them."""

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(one_at_a_time())
            stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
            self.stack = stack.pop_all()

    def __exit__(self, *exception: Any) -> None:
        self.stack.__exit__(*exception)
