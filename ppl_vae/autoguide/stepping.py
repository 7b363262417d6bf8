"""The part of a generated guide that goes through the steps or the members of a row, with one network for all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.autoguide.chains import Chain
from ppl_vae.autoguide.drawing import GuideRun, draw
from ppl_vae.autoguide.inversion import Block
from ppl_vae.autoguide.members import member_sites
from ppl_vae.autoguide.reading import Reading
from ppl_vae.nn.networks import concatenate

__all__ = ["chain_block", "draw_steps", "laid_out", "placed", "steps_density", "with_members", "without_states"]


def without_states(model: Reading, kept: Collection[str]) -> Reading:
    """A model with a chain of which the guide draws something, its finite states left to the model, or without one.

    Args:
        model: what was read.
        kept: sites that have a family of their own, which steps with one network cannot have.
    """
    chain = model.chain
    if chain is None:
        return model
    drawn = {n for n in chain.sites if n in model.local and model.local[n].classified is None}
    if not drawn or drawn & {*kept}:
        return replace(model, chain=None, timing=None)
    states = {n: model.local[n] for n in chain.sites if n in model.local and n not in drawn}
    steps = tuple(tuple(n for n in step if n in drawn) for step in chain.steps)
    return replace(
        model,
        local={n: s for n, s in model.local.items() if n not in states},
        summed=model.summed | states,
        chain=replace(chain, steps=steps),
    )


def with_members(model: Reading) -> Reading:
    """A model whose members' latents are drawn one by one."""
    members = model.members
    return model if members is None else replace(model, local=member_sites(members, model.local))


def chain_block(chain: Chain, known: Collection[str], structured: bool) -> Block:
    """The block of all steps, conditioned on the latents before it that it is tied to."""
    given = tuple(n for n in chain.given if n in known) if structured else ()
    return Block(chain.sites, given, steps=chain.steps, lags=chain.lags if structured else 0)


def placed(features: Tensor, dim: int, given: Sequence[Tensor]) -> list[Tensor]:
    """Features of steps [T, B, F], laid out as [T, particles ..., B, 1 ..., F], and the latents that they go with."""
    features = features.reshape(features.shape[:2] + (1,) * (-1 - dim) + features.shape[2:])
    depth = max((g.dim() for g in given), default=0) - features.dim() + 1
    features = features.reshape(features.shape[:1] + (1,) * depth + features.shape[1:]) if depth > 0 else features
    return [features, *given]


def laid_out(features: Tensor, dim: int, inner: int) -> Tensor:
    """Features of members [N, B, F] with the rows at `dim` and the members at `inner`: [..., N, ..., B, ..., F]."""
    features = features if inner < dim else features.transpose(0, 1)
    outer, nearer = sorted((dim, inner))
    between, after = (1,) * (nearer - outer - 1), (1,) * (-1 - nearer)
    return features.reshape(features.shape[0], *between, features.shape[1], *after, features.shape[2])


def draw_steps(block: Block, head: Any, features: Tensor, run: GuideRun) -> None:
    """Draw the latents of every step that this batch has."""
    following = head(features)
    before = _nothing(block, features, run)
    for t, step in enumerate(block.steps[: len(features)]):
        draw(Block(step).name, step, following(t, before), run)
        before = [concatenate([run.features(name) for name in step]), *before][: block.lags]


def steps_density(block: Block, head: Any, features: Tensor, run: GuideRun) -> Tensor:
    """log q of given values of all steps, [B]."""
    following = head(features)
    before = _nothing(block, features, run)
    total: Any = 0.0
    for t, step in enumerate(block.steps[: len(features)]):
        parts = [run.site(name).vector(run.values[name]) for name in step]
        vector = concatenate([v for v, _ in parts])
        total = total + following(t, before).log_prob(vector) - sum(stretch for _, stretch in parts)
        before = [vector, *before][: block.lags]
    return total.reshape(-1)


def _nothing(block: Block, features: Tensor, run: GuideRun) -> list[Tensor]:
    """What stands for the steps before the first one."""
    width = sum(run.sites[name].width for name in block.steps[0])
    return [torch.zeros(width, dtype=features.dtype, device=features.device)] * block.lags
