"""What the latents that are summed out are, given the drawn ones: draws, likeliest values together, probabilities."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.einsum.adjoint import require_backward
from pyro.ops.rings import MapRing, SampleRing
from torch import Tensor

from ppl_vae.programs.structure import frames
from ppl_vae.weights.factors import Factor
from ppl_vae.weights.value_sums import ValueSums

__all__ = ["Chosen", "drawn_values", "likeliest_values", "probabilities_of"]

Chosen = dict[str, Tensor]
"""Which of its values a summed latent takes, by the letter of the dim that they are on, enumeration dims gone.

Along a chain several latents have their values on one dim, each with a letter of its own.
"""


def drawn_values(sums: ValueSums) -> Chosen:
    """One joint draw of all summed latents from p(discrete | the other draws, x)."""
    return _chosen(sums, sums.joint(), SampleRing)


def likeliest_values(sums: ValueSums, counts: Mapping[str, Tensor | None]) -> Chosen:
    """The likeliest joint value of all summed latents given the other draws; along a chain it is the path of Viterbi.

    `counts` says which entries of a latent have a part in it, where some have none: how a row would go on after its
    end says nothing of the path before it.
    """
    factors = []
    for factor in sums.joint():
        mask = counts.get(factor.name) if factor.part == "prior" else None
        log = factor.log if mask is None else torch.where(mask, factor.log, torch.zeros_like(factor.log))
        factors.append(factor._replace(log=log))
    return _chosen(sums, factors, MapRing)


def probabilities_of(sums: ValueSums, names: Collection[str]) -> dict[str, Tensor]:
    """p(latent = value | the other draws, x) of summed latents, [value, ..., particle, plates], by site.

    That is the gradient of log sum p with respect to log p(latent = value | its parents), added up over the parents.
    Along a chain it is smoothing, forwards and backwards in linear time. Source: Darwiche 2003, J. ACM 50(3).
    """
    symbols = sums.symbols(sums.joint())
    added: dict[str, Tensor] = {}
    with torch.enable_grad():
        factors = []
        for factor in sums.joint():
            if factor.part == "prior" and factor.name in names and factor.name not in added:
                added[factor.name] = torch.zeros(
                    sums.shape_of(factor), dtype=factor.log.dtype, device=factor.log.device
                )
                factor = factor._replace(log=factor.log.detach() + added[factor.name].requires_grad_())
            factors.append(factor)
        summed = {*symbols.values()}
        logs = [log for group, dims in sums.components(factors, summed) for log in sums.sum_out(group, dims)]
        found = torch.autograd.grad(torch.stack([log.sum() for log in logs]).sum(), [*added.values()])
    return {name: gradient.movedim(sums.dim(name), 0) for name, gradient in zip(added, found, strict=True)}


def _chosen(sums: ValueSums, factors: Sequence[Factor], ring: type[Any]) -> Chosen:
    symbols = {*sums.symbols(factors).values()}
    # a latent of one value has no dim
    found = dict.fromkeys(symbols, torch.zeros((), dtype=torch.long))
    for group, dims in sums.components(factors, symbols):
        found |= _backward(sums, group, dims, ring)
    return found


def _backward(sums: ValueSums, group: Sequence[Factor], dims: set[str], ring: type[Any]) -> dict[str, Tensor]:
    """The chosen values on these dims, by dim: Pyro's forward sums (or maxima), then choices backwards."""
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    sizes: dict[str, int] = {}
    own = sums.symbols(group)
    logs_of: list[tuple[str | None, Tensor]] = []
    for factor in group:
        ordinal = frozenset(sums.run.model.plate_to_symbol[f.name] for f in frames(factor.site) if f.size > 1)
        log = sums.pack(factor)
        require_backward(log)
        logs_of.append((own.get(factor.name), log))
        sizes |= zip(log._pyro_dims, log.shape, strict=True)  # type: ignore[attr-defined]
        tree.setdefault(ordinal, []).append(log)
    cache: dict[Any, Any] = {}
    with shared_intermediates(cache):
        contracted = contract_tensor_tree(tree, set(dims), ring=ring(cache=cache, dim_to_size=sizes))
    for logs in contracted.values():
        for log in logs:
            log._pyro_backward()
    found = {}
    for symbol, log in logs_of:
        drawn: Any = log._pyro_backward_result  # type: ignore[attr-defined]
        for index, dim in zip(drawn, drawn._pyro_sample_dims, strict=True):
            # what depends on a latent may be in plates of its own, and has its draw again for each of their elements
            if dim == symbol:
                index._pyro_dims = drawn._pyro_dims[1:]
                found[dim] = sums.unpack(index)
    return found
