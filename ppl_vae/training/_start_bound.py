"""The bound of all rows as the start of a run looks at it: raised by steps, and judged with the same draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.bounds import ELBO
from ppl_vae.data import Split
from ppl_vae.errors import UserError
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.programs.structure import Structure
from ppl_vae.training._replayed import Replayed, Values
from ppl_vae.training._start_normals import Normals
from ppl_vae.training._start_patience import Patience
from ppl_vae.weights.psis import khat

__all__ = ["StartBound"]

DRAWS, ALONE = 12, 4
"""Draws of a step, and of one whose programs run them one by one."""

JUDGED = 600
"""Draws by which starts are compared."""

NETWORKS = 5e-3
"""Step size of networks for the rows' own latents, which are trained along."""

ROWS, ENTRIES, FEW = 4000, 400_000, 100
"""Rows of a step, at most: so many, and so many numbers in them; but not fewer than the last."""


class StartBound:
    """The bound of a pair on all rows, or on as many as a step looks at."""

    def __init__(
        self, pair: Pair, shared: SharedPosterior, structure: Structure, train: Split, patience: Patience
    ) -> None:
        self.pair, self.shared, self.structure, self.train = pair, shared, structure, train
        self.patience = patience
        width = 1 if train.is_one_unit else sum(field.size for field in train.schema)
        self.rows = len(train) if train.is_one_unit else min(len(train), ROWS, max(FEW, ENTRIES // max(1, width)))
        self.scale = len(train) / self.rows
        self.networks = [p for p in pair.parameters() if all(p is not q for q in shared.parameters())]
        self.graphs: dict[Normals | None, Replayed] = {}

    def optimise(
        self,
        base: Normals | None,
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
        step = self._step(base, parameters, estimator)
        failed = 0
        for i in range(steps):
            if self.patience.is_over():
                break
            for group in optimizer.param_groups:
                group["lr"] = group["most"] * (0.02 + 0.98 * (1 + math.cos(math.pi * i / steps)) / 2)
            try:
                loss, *gradients = step(*self.batch().values(), left=self.patience.planned)
            except (UserError, ValueError, torch.linalg.LinAlgError):
                return False
            if loss is None or not bool(loss.isfinite()):
                failed += 1
                if failed > steps // 10 or not all(bool(p.isfinite().all()) for p in self.pair.guide.parameters()):
                    return False
                continue
            for parameter, gradient in zip(parameters + self.networks, gradients, strict=True):
                parameter.grad = gradient
            held = [p for p in parameters if p.grad is not None]
            nn.utils.clip_grad_norm_(held, 1e3 * len(held) ** 0.5)
            optimizer.step()
            self.patience.steps += 1
            if each is not None and i >= steps - steps // 3:
                each()
        return True

    def _step(self, base: Normals | None, parameters: list[nn.Parameter], estimator: Any) -> Replayed:
        """From the fields of a batch to minus the bound and its gradients; the same graph in every round of a base."""
        if base in self.graphs:
            return self.graphs[base]
        together, names = self.structure.broadcasts, tuple(self.batch())
        bound = ELBO(DRAWS if together else ALONE, estimator=estimator if together else "reparameterised")

        def step(*values: Tensor) -> Values:
            with torch.enable_grad(), self._drawn_from(base):
                batch = dict(zip(names, values, strict=True))
                weights = bound.weigh(self.pair, self.structure, batch, scaled=True)
                loss = -bound.total(bound.surrogate(weights), weights, self.scale)
                found = torch.autograd.grad(loss, parameters + self.networks, allow_unused=True)
            return [loss.detach(), *found]

        modules = nn.ModuleList([self.pair, *([] if base is None else [base])])
        return self.graphs.setdefault(base, Replayed(modules, step))

    def _drawn_from(self, base: Normals | None) -> Any:
        return nullcontext() if base is None else self.shared.instead(base.base)

    @torch.no_grad()
    def judged(self, base: Normals | None) -> tuple[float, float]:
        """The bound of all rows in nats and k-hat of its weights, with the same draws for all starts."""
        seed_draws(0)
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
        some = self.train.head
        return some.batch(torch.randperm(len(some))[: self.rows].to(some.device))
