"""Begin a pair where another one ended: one stage of a training after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.errors import UserError, check_flag, shown
from ppl_vae.priors import Prior
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, Program

__all__ = ["warm_start"]


class _Trained(Protocol):
    """What `fit` returns and what `open_run` opens."""

    @property
    def model(self) -> Callable[..., Any]: ...

    @property
    def guide(self) -> Callable[..., Any]: ...


@exclusive
def warm_start(
    model: Callable[..., Any], guide: Callable[..., Any], start: _Trained, *, freeze: bool = False
) -> tuple[str, ...]:
    """Give a pair the networks of a trained pair, as far as they fit; the next `fit` begins there.

    A part (a network such as the decoder or the encoder, a latent's own head, a parameter by itself) is taken whole, if
    the trained pair has one of the same name with tensors of the same names and shapes; else it stays as it is. So a
    pair begins with the guide and decoder of one with another prior, or with a bound that is cheaper; and M1M2 begins
    with the features of a VAE. A prior is taken only between pairs with the same latents, as it is a density of them.
    What the trained pair has seen, this one has seen too: it must have had no rows or labels that are held out now.

    Args:
        model: p(z) p(x | z), which is changed in place.
        guide: q(z | x), likewise.
        start: the trained pair, as `fit` returns it or `open_run` opens it. It is left alone: nothing is shared.
        freeze: keep what was taken out of further training (`requires_grad_(False)`).

    Returns:
        The names of the parts that were taken, such as "model.decoder".

    Raises:
        UserError: if no part fits, or the guide has not seen data yet.

    Source: layers that are trained one after the other, as M1 and M2 in Kingma et al. 2014, arXiv 1406.5298.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import M1M2, VAE
        >>> data = ppl_vae.load("digits", labels=100)
        >>> features = VAE(data, latent_dim=8)
        >>> first = ppl_vae.fit(features, MeanField(features), data, epochs=1)
        >>> model = M1M2(data, latent_dims=(8, 16))
        >>> ppl_vae.warm_start(model, MeanField(model), first, freeze=True)
        ('model.decoder', 'guide.encoder', 'guide.heads.0')
    """
    if not (hasattr(start, "model") and hasattr(start, "guide")):
        raise UserError(f"start expects a trained pair, as `fit` returns it or `open_run` opens it, got {shown(start)}")
    check_flag("freeze", freeze)
    own, theirs = Pair(model, guide), Pair(start.model, start.guide)
    for program in (own.guide.program, theirs.guide.program):
        if isinstance(program, GeneratedGuide) and not program.ready:
            name = type(program).__name__
            raise UserError(f"{name} has not seen data yet, and has no networks: give it some, {name}(model, data)")
    same = _latents(own) == _latents(theirs)
    there = {name: state for name, part, state in _parts(theirs) if same or not isinstance(part, Prior)}
    taken = []
    for name, part, state in _parts(own):
        trained = any(isinstance(tensor, nn.Parameter) for tensor in state.values())
        if not trained or _shapes(state) != _shapes(there.get(name, {})):
            continue
        with torch.no_grad():
            for key, tensor in state.items():
                tensor.copy_(there[name][key])
        if freeze:
            for tensor in [part] if isinstance(part, nn.Parameter) else part.parameters():
                tensor.requires_grad_(False)
        taken.append(name)
    if not taken:
        raise UserError(
            f"no part of {_name(theirs)} fits {_name(own)}: give both the same latent_dim, hidden widths and encoder "
            "(their networks are compared by name and shape)"
        )
    return tuple(taken)


def _parts(pair: Pair) -> Iterator[tuple[str, Any, dict[str, Tensor]]]:
    """Networks and parameters of a pair by name, each with its tensors; what lies before a latent's head is of it."""
    for role, program in (("model", pair.model), ("guide", pair.guide)):
        body = getattr(program, "body", None)
        for home in (program.own, body):
            if home is not None:
                yield from ((f"{role}.{n}", p, {"": p}) for n, p in home.named_parameters(recurse=False))
        for name, child in () if body is None else body.named_children():
            if name == "heads" and isinstance(body, GeneratedGuide):
                for i, both in enumerate(zip(body.mixers, body.heads, strict=True)):
                    head = nn.ModuleList(both)
                    yield f"{role}.heads.{i}", head, _state(head)
            elif not (name == "mixers" and isinstance(body, GeneratedGuide)):
                yield f"{role}.{name}", child, _state(child)


def _state(part: nn.Module) -> dict[str, Tensor]:
    return {**dict(part.named_parameters()), **dict(part.named_buffers())}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _latents(pair: Pair) -> frozenset[str]:
    return frozenset(getattr(pair.guide.program, "sites", ()))


def _name(pair: Pair) -> str:
    return f"{_called(pair.model)} with {_called(pair.guide)}"


def _called(program: Program) -> str:
    inner = program.program
    return type(inner).__name__ if isinstance(inner, nn.Module) else getattr(inner, "__name__", type(inner).__name__)
