"""A guide trained further for the data at hand, for as long as somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.log_weights import weigh

__all__ = ["refit", "refitted"]


@contextmanager
def refitted(
    pair: Pair, structure: Structure, batch: Batch, *, steps: int, lr: float, particles: int
) -> Iterator[None]:
    """Inside, the guide's parameters are trained further for this batch; afterwards they are what they were."""
    before = {name: value.detach().clone() for name, value in pair.guide.state_dict().items()}
    try:
        refit(pair, structure, batch, steps=steps, lr=lr, particles=particles)
        yield
    finally:
        pair.guide.load_state_dict(before)


def refit(pair: Pair, structure: Structure, batch: Batch, *, steps: int, lr: float, particles: int) -> None:
    """Raise the ELBO of a batch by steps of Adam on the guide's parameters, whose size falls linearly to 0."""
    parameters = [p for p in pair.guide.parameters() if p.requires_grad]
    if not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=lr)
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            found = weigh(pair, structure, batch, particles)
            bound = found.log_weight.sum(1) + (0.0 if found.log_global is None else found.log_global)
            gradients = torch.autograd.grad(-bound.mean(), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    for parameter in parameters:
        parameter.grad = None
