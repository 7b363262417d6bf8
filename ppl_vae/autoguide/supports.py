"""Supports that are the same at every run, and those for which the model has to be asked.

The bound of `Uniform(0, 1 - a)` follows another latent, that of `Uniform(0, upper)` may follow the row or a
parameter. A bound is taken to be fixed only if it is one number, the same for every row, in runs of the model on
other rows, with other latents and other parameters; for all others the guide runs the model, with the latents drawn
so far, up to the site.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.distributions import Transform, constraints

from ppl_vae.distributions import support_of
from ppl_vae.errors import ProgramError
from ppl_vae.programs.execution import isolated
from ppl_vae.programs.program import Program

__all__ = ["described", "has_tensors", "model_distribution", "with_numbers"]


def with_numbers(support: Any) -> Any | None:
    """A support whose bounds are plain numbers instead of tensors; None if some bound is not one number.

    Example:
        >>> import torch
        >>> with_numbers(constraints.interval(torch.zeros(3, 1)[:1].expand(3, 4), torch.tensor(2.0)))
        Interval(lower_bound=0.0, upper_bound=2.0)
        >>> with_numbers(constraints.interval(0.0, torch.tensor([1.0, 2.0]))) is None
        True
    """
    try:
        return _numbered(support)
    except _Many:
        return None


class _Many(Exception):
    """A bound that is several numbers, or something else."""


def _numbered(part: Any) -> Any:
    if isinstance(part, Tensor):
        if any(step for step, size in zip(part.stride(), part.shape, strict=True) if size > 1) or not part.numel():
            raise _Many
        return part.reshape(-1)[0].item()
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, list | tuple):
        return [_numbered(p) for p in part]
    if isinstance(part, constraints.Constraint | Transform):
        found = copy.copy(part)
        for name, value in vars(part).items():
            if not name.startswith("_"):
                found.__dict__[name] = _numbered(value)
        return found
    raise _Many


def has_tensors(part: Any) -> bool:
    """Whether a support has bounds that come from tensors, and may be others at another run."""
    if isinstance(part, list | tuple):
        return any(has_tensors(p) for p in part)
    if isinstance(part, constraints.Constraint | Transform):
        return any(has_tensors(v) for n, v in vars(part).items() if not n.startswith("_"))
    return not (part is None or isinstance(part, bool | int | float | str))


def described(fn: Any) -> Any:
    """The support of a distribution as something to compare; None if its bounds are not single numbers."""
    support = with_numbers(support_of(fn))
    return None if support is None else _described(support)


def _described(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return tuple(_described(p) for p in part)
    if isinstance(part, constraints.Constraint | Transform):
        parts = {n: _described(v) for n, v in sorted(vars(part).items()) if not n.startswith("_")}
        return type(part), tuple(parts.items())
    return part


class _Reached(BaseException):
    """The model came to the site that it was asked for: no error, and none that a program may catch."""

    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn


class _UpTo(Messenger):
    """Give latents their values, and stop at a site."""

    def __init__(self, name: str, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.name, self.values = name, values

    def _pyro_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name == self.name:
            raise _Reached(msg["fn"])
        if name in self.values:
            msg["value"], msg["done"], msg["is_observed"] = self.values[name], True, False


def model_distribution(program: Program, name: str, values: Mapping[str, Tensor], fields: Mapping[str, Tensor]) -> Any:
    """The model's distribution at a site, given the latents before it.

    The model runs as if nothing were around it, but for the parameters: a program that calls `pyro.param` gets those of
    the pair that is being run.

    Raises:
        ProgramError: if the model does not come to the site.
    """
    answers = [h for h in runtime._PYRO_STACK if getattr(h, "answers_params", False)]
    with isolated():
        runtime._PYRO_STACK.extend(answers)
        try:
            with _UpTo(name, values):
                (program.program if answers else program)(**program.select(fields))
        except _Reached as reached:
            return reached.fn
    raise ProgramError(
        name,
        f"the model did not come to site {name!r} when its support was asked for",
        "let every run of the model have the same latents",
    )
