"""Every tensor that is to be trained belongs to one of the two programs; what belongs to nobody is named and refused.

A network that a model takes from a closure, without `pyro.module`, is not registered anywhere: no optimizer has it, no
file keeps it. The graph of log p and log q tells which tensors a run met, the programs' variables what they are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import Finding
from ppl_vae.programs.execution import PairTrace
from ppl_vae.programs.program import Batch, Pair, Program
from ppl_vae.programs.structure import sample_sites
from ppl_vae.programs.variables import name_of, variables_of

__all__ = ["NAMELESS", "leaves", "strangers", "unowned"]

NAMELESS = "a tensor"
"""What is said of one that no variable of the programs has."""


def unowned(pair: Pair, batch: Batch, drawn: PairTrace) -> Iterator[Finding]:
    """What a run meets that requires a gradient and no program owns; and a guide that was made from another model."""
    with torch.enable_grad():
        sites = [site for trace in (drawn.guide, drawn.model) for site in sample_sites(trace).values()]
        terms = [term for site in sites if (term := _log_prob(site)) is not None]
    yield from strangers(pair.model.program, pair.guide.program, terms, [*pair.parameters(), *batch.values()])
    yield from _other_model(pair)


def strangers(model: Any, guide: Any, terms: list[Tensor], known: Iterable[Tensor]) -> Iterator[Finding]:
    """The variables of two programs that have a tensor with a gradient which some terms depend on and nobody knows."""
    owned, said = {id(tensor) for tensor in known}, set()
    for leaf in leaves(terms):
        if id(leaf) not in owned:
            role, owner, name = _place(model, guide, leaf)
            if owner not in said:
                said.add(owner)
                yield _finding(role, owner, name, leaf)


def _log_prob(site: dict[str, Any]) -> Tensor | None:
    """log p of a site; None for a flow that has no inverse of a value it did not just draw."""
    try:
        return site["fn"].log_prob(site["value"])
    except (NotImplementedError, KeyError):
        return None


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors at which the graphs behind some tensors begin: those that a backward pass would give a gradient.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> [leaf is weight for leaf in leaves([(2 * weight).sum()])]
        [True]
    """
    found = [t for t in tensors if t.requires_grad and t.grad_fn is None]
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if variable is not None and not any(variable is leaf for leaf in found):
            found.append(variable)
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)
    return found


def _finding(role: str, owner: str, name: str, leaf: Tensor) -> Finding:
    is_module = owner != name
    shape = tuple(leaf.shape)
    what = f"{owner} has a parameter {name} {shape}" if is_module else f"{owner} {shape}"
    return Finding(
        owner,
        f"{what} that the {role} computes with, but that no program owns: it would never be trained, nor saved",
        f"register it in the {role}, "
        + (f"pyro.module({_bare(owner)!r}, {_bare(owner)})" if is_module else f"{_bare(owner)} = pyro.param(...)")
        + f", make the {role} an nn.Module that has it, or fix it with .requires_grad_(False)",
    )


def _bare(owner: str) -> str:
    """The variable's own name: `decoder` of "the closure variable decoder of model"."""
    words = owner.split()
    return words[3] if len(words) > 3 else "it"


def _place(model: Any, guide: Any, leaf: Tensor) -> tuple[str, str, str]:
    """The program that a tensor is reached from, the variable by which, and the parameter's name in it."""
    for role, program in (("model", model), ("guide", guide)):
        for path, thing in variables_of(program):
            if thing is leaf:
                return role, path, path
            if isinstance(thing, nn.Module):
                for name, parameter in thing.named_parameters():
                    if parameter is leaf:
                        return role, path, name
    return "model or guide", NAMELESS, NAMELESS


def _other_model(pair: Pair) -> Iterator[Finding]:
    """A generated guide remembers the model that it was made from."""
    made_from = getattr(pair.guide.program, "program", None)
    # a method is another object at every look (`dmm.model`), and equal to itself
    if isinstance(made_from, Program) and made_from.program != pair.model.program:
        guide, model = type(pair.guide.program).__name__, name_of(pair.model.program)
        yield Finding(
            None,
            f"the guide {guide} was made from another model object: its sites, their supports and the scale of its "
            f"inputs are that one's, not those of this {model}",
            f"make it from the model that it is trained with, {guide}(model)",
            "warning",
        )
