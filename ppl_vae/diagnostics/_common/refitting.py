"""A guide trained further for the data at hand, for as long as somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.speed.capture import Uncapturable, capture
from ppl_vae.weights.log_weights import weigh

__all__ = ["Refitting", "refitted"]


@contextmanager
def refitted(
    pair: Pair, structure: Structure, batch: Batch, *, steps: int, lr: float, particles: int
) -> Iterator[None]:
    """Inside, the guide's parameters are trained further for this batch; afterwards they are what they were."""
    with Refitting(pair, structure, batch, particles).on(batch, steps, lr):
        yield


class Refitting:
    """Training a guide for one batch after another of the same shapes, from where it is or from near given latents.

    The ELBO's gradient is captured once, so that a step costs what its arithmetic costs.
    """

    def __init__(self, pair: Pair, structure: Structure, batch: Batch, particles: int) -> None:
        self.pair, self.structure, self.particles, self.names = pair, structure, particles, list(batch)
        self.parameters = [p for p in pair.guide.parameters() if p.requires_grad]
        self._gradients: Any = self._of
        if self.parameters:
            with suppress(Uncapturable):  # as it is, only slower
                self._gradients = capture(pair, lambda *fields: self._of(*fields), list(batch.values()))

    @property
    def trains(self) -> bool:
        """Whether the guide has something to train."""
        return bool(self.parameters)

    @contextmanager
    def on(self, batch: Batch, steps: int, lr: float, near: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Inside, the guide is one for this batch; afterwards it is what it was.

        Steps of Adam raise the ELBO; their size falls linearly to 0. With `near`, what is shared starts there, away by
        a draw of the guide from its own mean: an unfinished fit is then no better than a finished one.
        """
        before = {name: value.detach().clone() for name, value in self.pair.guide.state_dict().items()}
        try:
            if near is not None:
                _moved(self.pair, near)
            self._train(batch, steps, lr)
            yield
        finally:
            self.pair.guide.load_state_dict(before)

    def _train(self, batch: Batch, steps: int, lr: float) -> None:
        optimizer = torch.optim.Adam(self.parameters, lr=lr) if self.parameters else None
        for step in range(steps if optimizer is not None else 0):
            for group in optimizer.param_groups:  # type: ignore[union-attr]
                group["lr"] = lr * (1 - step / steps)
            for parameter, gradient in zip(self.parameters, self._gradients(*batch.values()), strict=True):
                parameter.grad = gradient
            optimizer.step()  # type: ignore[union-attr]
        for parameter in self.parameters:
            parameter.grad = None

    def _of(self, *fields: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            found = weigh(self.pair, self.structure, dict(zip(self.names, fields, strict=True)), self.particles)
            bound = found.log_weight.sum(1) + (0.0 if found.log_global is None else found.log_global)
            gradients = torch.autograd.grad(-bound.mean(), self.parameters, allow_unused=True)
        pairs = zip(self.parameters, gradients, strict=True)
        return [torch.zeros_like(p) if g is None else g for p, g in pairs]


def _moved(pair: Pair, near: Mapping[str, Tensor]) -> None:
    """Move a generated guide's posterior of what is shared to these values, up to a draw; leave any other guide."""
    shared = getattr(pair.guide.program, "shared", None)
    if not isinstance(shared, SharedPosterior) or any(site.moving for site in shared.sites.values()):
        return
    names = [name for block in shared.blocks for name in block.sites]
    if not names or not set(names) <= near.keys():
        return
    draws = shared.sample((200,))
    vectors = torch.cat([shared.sites[n].vector(draws[n])[0] for n in names], -1)
    truth = torch.cat([shared.sites[n].vector(near[n])[0].reshape(-1) for n in names])
    with torch.no_grad():
        shared.centre += truth + vectors[0] - 2 * vectors.mean(0)
