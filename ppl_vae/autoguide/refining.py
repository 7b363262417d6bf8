"""Improve a guide's answer for the rows at hand: every row gets offsets of its own, chosen by gradient steps.

Of a generated guide, whatever its family, the offsets are added to what its last networks say; of any other program
to the parameters of the distributions that it draws latents from, where these are unconstrained.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.checks.analysis import analyse
from ppl_vae.errors import UserError
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Pair, Programs
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.log_weights import weigh

__all__ = ["Layers", "Offsets", "Parameters", "moved", "offsets_of", "refine"]


class Offsets(Protocol):
    """Where a guide can be moved, row by row."""

    def zeros(self, rows: int) -> list[Tensor]:
        """Offsets that change nothing, [row, ...] each."""

    def applied(self, offsets: list[Tensor]) -> AbstractContextManager[Any]:
        """The guide moved by offsets; inside it is run on as many rows."""


def offsets_of(pair: Pair, structure: Structure, fields: Mapping[str, Tensor]) -> Offsets:
    """Where the guide of a pair can be moved."""
    guide = pair.guide.program
    return Layers(guide) if isinstance(guide, GeneratedGuide) else Parameters(pair, structure, fields)


def refine(
    pair: Pair, offsets: Offsets, fields: Mapping[str, Tensor], *, steps: int, lr: float, particles: int
) -> list[Tensor]:
    """Offsets [row, ...] that raise E_q[log p(x, z) - log q(z | x)] of these rows, by Adam.

    Args:
        pair: model and guide.
        offsets: where the guide can be moved.
        fields: the rows.
        steps: gradient steps.
        lr: Adam's step size at the start; it falls linearly to 0.
        particles: draws of each row in a step.
    """
    found = [o.requires_grad_() for o in offsets.zeros(len(next(iter(fields.values()))))]
    if not found:
        return []
    tiled = {n: v.repeat((particles,) + (1,) * (v.dim() - 1)) for n, v in fields.items()}
    structure = analyse(pair, tiled)
    optimizer = torch.optim.Adam(found, lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        many = [o.repeat((particles,) + (1,) * (o.dim() - 1)) for o in found]
        log_w = weigh(moved(pair, offsets, many), structure, tiled).log_weight
        gradients = torch.autograd.grad(-log_w.sum() / particles, found, allow_unused=True)
        for offset, gradient in zip(found, gradients, strict=True):
            offset.grad = gradient
        optimizer.step()
    return found


def moved(pair: Pair, offsets: Offsets, chosen: list[Tensor]) -> Programs:
    """The same model with the guide moved by offsets, for the rows that these are for."""

    def guide(**fields: Tensor) -> Any:
        with offsets.applied(chosen):
            return pair.guide(**fields)

    return _Programs(pair.model, guide)


@dataclass
class _Programs:
    model: Any
    guide: Any


class Layers:
    """Offsets of what the linear layers in the heads of a generated guide give."""

    def __init__(self, guide: GeneratedGuide) -> None:
        self.dim = guide.dim
        self.layers = [layer for layer in guide.heads.modules() if isinstance(layer, nn.Linear)]

    def zeros(self, rows: int) -> list[Tensor]:
        """[row, feature] for each layer."""
        return [layer.weight.new_zeros(rows, layer.out_features) for layer in self.layers]

    @contextmanager
    def applied(self, offsets: list[Tensor]) -> Iterator[None]:
        """The layers with an offset for every row added to what they give."""

        def adding(offset: Tensor) -> Any:
            placed = offset.reshape(offset.shape[:1] + (1,) * (-1 - self.dim) + offset.shape[1:])
            return lambda module, inputs, output: output + placed

        handles = [layer.register_forward_hook(adding(o)) for layer, o in zip(self.layers, offsets, strict=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Parameters:
    """Offsets of the unconstrained parameters of the distributions that a program draws its local latents from.

    Under a label that is summed out, a later latent has offsets of its own for each of the label's values.

    Raises:
        UserError: for a distribution that cannot be made anew from its parameters, by site.
    """

    def __init__(self, pair: Pair, structure: Structure, fields: Mapping[str, Tensor]) -> None:
        self.dim, self.nesting = structure.dim, structure.nesting
        with torch.no_grad():
            trace = run(pair, structure, fields).guide
        self.like: dict[str, list[Tensor]] = {}
        for name in structure.latents:
            if name not in structure.global_latents:
                fn = trace.nodes[name]["fn"]
                leaf, row = _leaf(name, fn), len(fn.batch_shape) + self.dim
                self.like[name] = [free.movedim(row, 0) for _, free in _unconstrained(leaf)]

    def zeros(self, rows: int) -> list[Tensor]:
        """[row, ...] for each parameter."""
        return [v.new_zeros(rows, *v.shape[1:]) for values in self.like.values() for v in values]

    def applied(self, offsets: list[Tensor]) -> AbstractContextManager[Any]:
        """The program with moved distributions."""
        each = iter(offsets)
        return _Moving(self.dim, self.nesting, {name: [next(each) for _ in v] for name, v in self.like.items()})


class _Moving(Messenger):
    """Move the parameters of the distributions of some sites."""

    def __init__(self, dim: int, nesting: int, offsets: dict[str, list[Tensor]]) -> None:
        super().__init__()
        self.dim, self.nesting, self.offsets = dim, nesting, offsets

    def _pyro_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name in self.offsets:
            msg["fn"] = self._made_anew(msg["fn"], iter(self.offsets[name]), len(msg["fn"].batch_shape))

    def _made_anew(self, fn: Any, offsets: Iterator[Tensor], batch: int) -> Any:
        if isinstance(fn, dist.Independent):
            return self._made_anew(fn.base_dist, offsets, batch).to_event(fn.reinterpreted_batch_ndims)
        if isinstance(fn, dist.MaskedDistribution):
            return self._made_anew(fn.base_dist, offsets, batch).mask(fn._mask)
        if type(fn) is dist.TransformedDistribution:
            return dist.TransformedDistribution(self._made_anew(fn.base_dist, offsets, batch), fn.transforms)
        parameters = {}
        for argument, free in _unconstrained(fn):
            right = free.dim() - batch - self.dim  # dims from the rows on
            offset = self._placed(next(offsets), free.dim(), right)
            parameters[argument] = transform_to(fn.arg_constraints[argument])(free + offset)
        return type(fn)(**parameters, validate_args=False)

    def _placed(self, offset: Tensor, dims: int, right: int) -> Tensor:
        """An offset with its rows where the parameter has them; particles go between values of labels and plates."""
        offset = offset.movedim(0, offset.dim() - right)
        labels = offset.dim() - right - self.nesting - self.dim
        if labels > 0 and dims > offset.dim():
            offset = offset.reshape(offset.shape[:labels] + (1,) * (dims - offset.dim()) + offset.shape[labels:])
        return offset


_INSTEAD = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


def _arguments(fn: Any) -> list[str]:
    """The names of the parameters that make a distribution, one of each set of alternatives."""
    taken = inspect.signature(type(fn).__init__).parameters
    return [n for n in fn.arg_constraints if n in taken and _INSTEAD.get(n) not in fn.arg_constraints]


def _leaf(name: str, fn: Any) -> Any:
    """The distribution that has the parameters."""
    leaf = fn
    while isinstance(leaf, dist.Independent | dist.MaskedDistribution) or type(leaf) is dist.TransformedDistribution:
        leaf = leaf.base_dist
    if not _arguments(leaf) or leaf.batch_shape[: len(fn.batch_shape)] != fn.batch_shape:
        raise UserError(
            f"the guide's {type(leaf).__name__} at site {name!r} cannot be refined: it is not made of parameters that "
            "can be moved row by row; use a generated guide, or a distribution such as Normal"
        )
    return leaf


def _unconstrained(fn: Any) -> list[tuple[str, Tensor]]:
    """The parameters of a distribution, unconstrained, by name, with all of its batch dims."""
    found = []
    for name in _arguments(fn):
        constraint, value = fn.arg_constraints[name], getattr(fn, name)
        free = transform_to(constraint).inv(value)
        found.append((name, free.expand(fn.batch_shape + free.shape[free.dim() - constraint.event_dim :])))
    return found
