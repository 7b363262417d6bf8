"""The bound of all rows as the start of a run looks at it: raised by steps, and judged with the same draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.bounds import ELBO
from ppl_vae.data import Split
from ppl_vae.errors import UserError
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.psis import khat

__all__ = ["StartBound"]

DRAWS, ALONE = 12, 4
"""Draws of a step, and of one whose programs run them one by one."""

JUDGED = 600
"""Draws by which starts are compared."""

NETWORKS = 5e-3
"""Step size of networks for the rows' own latents, which are trained along."""

ROWS = 4000
"""Rows of a step, at most."""


class StartBound:
    """The bound of a pair on all rows, or on as many as a step looks at."""

    def __init__(self, pair: Pair, shared: SharedPosterior, structure: Structure, train: Split) -> None:
        self.pair, self.shared, self.structure, self.train = pair, shared, structure, train
        self.rows = len(train) if train.is_one_unit else min(len(train), ROWS)
        self.scale = len(train) / self.rows
        self.networks = [p for p in pair.parameters() if all(p is not q for q in shared.parameters())]

    def optimise(
        self,
        base: Callable[[int], Any] | None,
        parameters: list[nn.Parameter],
        steps: int,
        lr: float,
        each: Callable[[], None] | None = None,
        estimator: Any = "stl",
    ) -> bool:
        """Steps of Adam on the bound of all rows; whether the bound stayed finite. The rate falls like a cosine."""
        groups = [{"params": parameters, "lr": lr, "most": lr}]
        if self.networks:
            groups.append({"params": self.networks, "lr": NETWORKS, "most": min(NETWORKS, lr)})
        optimizer: Any = torch.optim.Adam(groups, betas=(0.9, 0.99))
        together = self.structure.broadcasts
        bound = ELBO(DRAWS if together else ALONE, estimator=estimator if together else "reparameterised")
        failed = 0
        for i in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["most"] * (0.02 + 0.98 * (1 + math.cos(math.pi * i / steps)) / 2)
            optimizer.zero_grad(set_to_none=True)
            try:
                with self._drawn_from(base):
                    weights = bound.weigh(self.pair, self.structure, self.batch(), scaled=True)
                    loss = -bound.total(bound.surrogate(weights), weights, self.scale)
            except (UserError, ValueError):
                return False
            if not bool(loss.isfinite()):
                failed += 1
                if failed > steps // 10 or not all(bool(p.isfinite().all()) for p in self.pair.guide.parameters()):
                    return False
                continue
            loss.backward()
            held = [p for p in parameters if p.grad is not None]
            nn.utils.clip_grad_norm_(held, 1e3 * len(held) ** 0.5)
            optimizer.step()
            if each is not None and i >= steps - steps // 3:
                each()
        return True

    def _drawn_from(self, base: Callable[[int], Any] | None) -> Any:
        return nullcontext() if base is None else self.shared.instead(base)

    @torch.no_grad()
    def judged(self, base: Callable[[int], Any] | None) -> tuple[float, float]:
        """The bound of all rows in nats and k-hat of its weights, with the same draws for all starts."""
        torch.manual_seed(0)
        bound, size = ELBO(1), 50 if self.structure.broadcasts else 1
        count = JUDGED if self.structure.broadcasts else JUDGED // 4
        found, batch = [], self.batch()
        for _ in range(0, count, size):
            bound.particles = size
            with self._drawn_from(base):
                weights = bound.weigh(self.pair, self.structure, batch)
            total = self.scale * weights.log_weight.sum(1)
            found.append(total if weights.log_global is None else total + weights.log_global)
        logs = torch.cat(found).double()
        return float(logs.mean()), float(khat(logs[:, None]))

    def batch(self) -> Batch:
        """All rows, or a random choice of them where they are many."""
        if self.rows == len(self.train) or self.train.is_one_unit:
            return self.train.batch(slice(0, len(self.train)))
        return self.train.batch(torch.randperm(len(self.train))[: self.rows].to(self.train.device))
