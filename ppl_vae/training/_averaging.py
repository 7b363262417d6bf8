"""The mean of the last weights of a run, kept where it is better than the last ones.

At a constant learning rate the last weights go to and fro about the optimum; their mean over the last part of the run
does not. Where the posterior of what all rows share is seen to do that, both are judged by the bound of all training
rows with the same draws, and the better one is kept.

Source: Polyak and Juditsky 1992 (the mean of iterates); Shamir and Zhang 2013, arXiv 1212.1824 (polynomial decay, which
needs to know no end of the run).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.programs.program import Pair

__all__ = ["Average", "Mirrored", "bounds_of"]

DECAY = 8
"""Weights of after t of T looks count t^8: half of the mean is the last 7% of the run, 99.8% the second half."""

AN_EPOCH = 4
"""Looks in an epoch, at most."""

PASSES = 32
"""Passes over the training rows by which the two are judged, at most; each once more with mirrored draws."""


class Average:
    """The mean of the weights that are trained, brought up to date a few times an epoch.

    Args:
        pair: whose weights.
        applies: if not, nothing is kept.
    """

    def __init__(self, pair: Pair, applies: bool) -> None:
        self.applies, self.count = applies, 0
        self.weights = {n: p for n, p in pair.named_parameters() if p.requires_grad} if applies else {}
        self.means = {n: p.detach().clone() for n, p in self.weights.items()}

    def after(self, step: int, steps: int) -> None:
        """Take in the weights after a step of an epoch of so many, if it is one of those that are looked at."""
        if not self.weights or (step % -(-steps // AN_EPOCH) and step != steps):
            return
        self.count += 1
        share = (DECAY + 1) / (self.count + DECAY)
        torch._foreach_lerp_([*self.means.values()], [p.detach() for p in self.weights.values()], share)

    def state(self) -> dict[str, Tensor]:
        """As a checkpoint holds it."""
        if not self.weights:
            return {}
        return {"average/count": torch.tensor(self.count)} | {f"average/of/{n}": v for n, v in self.means.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """From a checkpoint; from none that is there, it begins anew."""
        self.count = int(tensors.get("average/count", 0))
        for name, mean in self.means.items() if self.count else ():
            mean.copy_(tensors[f"average/of/{name}"])

    def over(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of a pair with the mean in the place of its weights."""
        return {n: self.means[n].clone() if n in self.means else v for n, v in state.items()}


def bounds_of(
    states: Sequence[Mapping[str, Tensor]], load: Callable[[Any], Any], judge: Callable[[int], float], epochs: int
) -> list[float]:
    """The bound of all training rows with each of these weights, and the same draws for all.

    Args:
        states: of the pair.
        load: puts one in place.
        judge: from a seed to the bound with it.
        epochs: how long was trained: judging takes a small part of that.
    """
    found = []
    for state in states:
        load(state)
        seen = [each for seed in range(max(1, min(PASSES, epochs // 8))) for each in _mirrored_too(judge, seed)]
        found.append(sum(seen) / len(seen))
    return found


def _mirrored_too(judge: Callable[[int], float], seed: int) -> tuple[float, float]:
    plain = judge(seed)
    with Mirrored():
        return plain, judge(seed)


class Mirrored(TorchDispatchMode):
    """Normal draws on the other side of their mean, where what is linear in them cancels in a mean of both.

    Example:
        >>> seed = torch.manual_seed(0)
        >>> draw = torch.randn(2)
        >>> seed = torch.manual_seed(0)
        >>> with Mirrored():
        ...     torch.equal(torch.randn(2), -draw)
        True
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _STANDARD:
            return found.neg_()
        if func is torch.ops.aten.normal_.default:
            given = dict(zip(("self", "mean", "std"), args, strict=False)) | (kwargs or {})
            return found.neg_().add_(2 * given.get("mean", 0.0))
        return found


_STANDARD = (torch.ops.aten.randn.default, torch.ops.aten.randn.generator, torch.ops.aten.randn_like.default)
