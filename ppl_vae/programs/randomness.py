"""Random number generators that are given back as they were."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["preserved_randomness"]


class preserved_randomness:
    """Give the random number generators back as they were."""

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
        self.fork.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.fork.__exit__(*exception)
