"""Which latents a guide draws together, in which order, and given which of those before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ppl_vae.autoguide.chains import TOGETHER, contracted
from ppl_vae.autoguide.inversion import Block, faithful_blocks
from ppl_vae.autoguide.reading import Reading
from ppl_vae.autoguide.stepping import chain_block, with_members, without_states
from ppl_vae.autoguide.summing import refuse_large_sums, too_many
from ppl_vae.programs.dependencies import Guessed, Parents

__all__ = ["Plan", "shared_features"]

SHARED_AS_FEATURES = 32
"""Latents shared by all rows are features of the rows' own latents if they have at most this many numbers."""


def shared_features(model: Reading) -> list[str]:
    """The latents shared by all rows that those of the rows are drawn given: all of them, or none if they are many."""
    return [*model.shared] if sum(s.width for s in model.shared.values()) <= SHARED_AS_FEATURES else []


@dataclass(frozen=True)
class Plan:
    """What a guide's options say of the order of its draws.

    Args:
        families: the sites with a family of their own, each drawn apart from the others.
        joint: whether all other continuous latents of a row are one draw.
        structured: whether latents are conditioned on those before them.
        own_encoder: whether the encoder is not the default one, which alone reads steps and members.
    """

    families: frozenset[str]
    joint: bool
    structured: bool
    own_encoder: bool

    def for_rows(self, model: Reading) -> tuple[tuple[Block, ...], Reading]:
        """The blocks of the rows, and the model without the latents that it has to sum out alone.

        Labels whose joint values are too many to list leave the guide, and the blocks of the others are found anew.
        """
        model = without_states(model, model.local if self.own_encoder else self.families)
        if model.members is not None:
            model = replace(model, members=None) if self.own_encoder else with_members(model)
        while too_large := too_many(blocks := self._blocks(model), model.local):
            model = replace(
                model,
                local={n: s for n, s in model.local.items() if n not in too_large},
                summed=model.summed | {n: s for n, s in model.local.items() if n in too_large},
            )
        if not isinstance(model.parents, Guessed):
            refuse_large_sums(model.summed, model.parents)
        return blocks, model

    def _blocks(self, model: Reading) -> tuple[Block, ...]:
        known = shared_features(model)
        together = [model.chain.sites] if model.chain else [model.members.latents] if model.members else []
        apart = {n for names in together for n in names}
        before = [n for n in model.local if n not in apart]
        blocks = self._faithful(model, before, known, contracted(model.parents, together))
        if model.chain is not None:
            return (*blocks, chain_block(model.chain, {*known, *before}, self.structured))
        if model.members is not None:
            each = self._faithful(model, [*model.members.latents], [*known, *before], model.parents)
            blocks += tuple(replace(b, each=True) for b in each)
        return blocks

    def _faithful(
        self, model: Reading, names: Sequence[str], known: Sequence[str], parents: Parents
    ) -> tuple[Block, ...]:
        """The blocks of some of the rows' latents, where `known` ones have been drawn before."""
        labels = [n for n in names if n in model.local and model.local[n].classified]
        late = [n for n in labels if model.local[n].plates]
        blocks = faithful_blocks(
            [n for n in names if n in model.local and n not in labels],
            [n for n in labels if n not in late],
            late,
            parents,
            joint=lambda name: self.joint and name not in self.families,
            known=known,
            summed={*model.summed, TOGETHER},
            order=[n for n in model.order if n not in model.summed],
            touching=model.touching,
        )
        return blocks if self.structured else tuple(Block(b.sites) for b in blocks)

    def for_shared(self, model: Reading, joint: bool) -> tuple[Block, ...]:
        """One block of all that have no family of their own, if the family is a joint one."""
        together = [n for n in model.shared if n not in self.families]
        blocks = [tuple(together)] if together and joint else [(n,) for n in together]
        blocks += [(n,) for n in model.shared if n in self.families]
        names = [*model.shared]
        return tuple(Block(b, row=False) for b in sorted(blocks, key=lambda b: names.index(b[0])))
