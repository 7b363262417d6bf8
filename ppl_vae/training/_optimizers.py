"""The optimizer of a run: Adam, or what a user makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from ppl_vae.errors import UserError, made_by
from ppl_vae.nn.networks import Beside
from ppl_vae.programs.program import Pair
from ppl_vae.training.settings import Settings

__all__ = ["NoOptimizer", "optimizer_of"]


def optimizer_of(pair: Pair, settings: Settings) -> Any:
    """The optimizer of all parameters that are trained.

    Raises:
        UserError: if what a user made is no optimizer of torch, or one that evaluates a step several times.
    """
    parameters = [p for p in pair.parameters() if p.requires_grad]
    if not parameters:
        return NoOptimizer()
    if settings.optimizer is None:
        return _adam(pair, settings)
    made = _made(settings.optimizer, parameters)
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"optimizer {type(made).__name__} evaluates the loss several times in a step, and every batch is seen "
            "once: use one that needs no closure, such as torch.optim.Adam"
        )
    return made


def _made(optimizer: Callable[[Any], Any], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    made = made_by("optimizer", optimizer, parameters, of="the parameters")
    if not isinstance(made, torch.optim.Optimizer):
        raise UserError(
            f"optimizer must make an optimizer of torch from parameters, but it made {type(made).__name__}: write "
            "lambda parameters: torch.optim.SGD(parameters, 0.1)"
        )
    return made


def _adam(pair: Pair, settings: Settings) -> torch.optim.Optimizer:
    """Adam; with weight decay on the matrices of networks, which torch names `weight`.

    Biases, scales, the means of a mixture, pseudo-inputs and linear maps beside a network have no reason to be near 0.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    linear = {id(p) for part in pair.modules() if isinstance(part, Beside) for p in part.parameters()}
    for name, parameter in pair.named_parameters():
        if parameter.requires_grad:
            decays = settings.decay > 0 and name.endswith("weight") and parameter.dim() > 1
            decays = decays and id(parameter) not in linear
            (decayed if decays else others).append(parameter)
    groups = [(decayed, settings.decay), (others, 0.0)]
    lr = settings.lr(0.0) if callable(settings.lr) else settings.lr
    # without decay one group, so one operation, for all parameters
    return torch.optim.AdamW([{"params": p, "weight_decay": d} for p, d in groups if p], lr, fused=True)


class NoOptimizer:
    """For programs without parameters."""

    param_groups: ClassVar[list[dict[str, Any]]] = []

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do."""

    def step(self) -> None:
        """Nothing to do."""
