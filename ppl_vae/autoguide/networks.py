"""The networks of a generated guide: the encoder of the rows, and for every block of latents a mixer and a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ppl_vae.autoguide.families import Family
from ppl_vae.autoguide.inversion import Block, fields_of
from ppl_vae.autoguide.reading import Reading
from ppl_vae.autoguide.sites import Site
from ppl_vae.data import Field, Schema, Split
from ppl_vae.errors import UserError
from ppl_vae.nn.encoders import FieldEncoder, encoder_of
from ppl_vae.nn.experts import ExpertHead, Experts, FieldByField
from ppl_vae.nn.heads import NormalHead
from ppl_vae.nn.networks import Mixer, concatenate, hidden_layer
from ppl_vae.nn.recurrent import RecurrentEncoder
from ppl_vae.nn.sets import SetEncoder

__all__ = ["BlockNetworks", "EncoderChoice", "fields_of_blocks"]


@dataclass(frozen=True)
class EncoderChoice:
    """What a guide's options say of the encoder: the user's own, or which one is made for the rows of the model.

    Args:
        own: what the user gave, see `ppl_vae.nn.encoders.encoder_of`.
        reads: the words by which the model says that some of its fields are read.
        experts: whether every field has an encoder of its own.
        beside: whether a plain encoder gives its inputs as features too.
        hide: the share of rows from which a field is hidden in training.
        **options: widths, activation and noise of the one that is made.
    """

    own: Any
    reads: Mapping[str, str]
    experts: bool
    beside: bool
    hide: float
    options: dict[str, Any]

    def made(
        self, blocks: Sequence[Block], schema: Schema, split: Split | None, batch: Mapping[str, Tensor], model: Reading
    ) -> nn.Module | None:
        """The encoder of the observed fields, or None if no latent depends on them."""
        if self.experts:
            fields = [schema[name] for name in _seen_by_experts(blocks, model)]
            own = self._with_reads(fields, self.own)
            return FieldByField(fields, split, repeated=model.repeated, own=own, hide=self.hide, **self.options)
        fields = [schema[name] for name in model.observed]
        own = self._with_reads(fields, self.own)
        if own is not None and (self.own is not None or any(block.row for block in blocks)):
            return encoder_of(own, fields, split, batch, repeated=model.repeated, hide=self.hide, **self.options)
        if not any(block.row for block in blocks):
            return None
        if self.hide and (model.members is not None or model.timing is not None):
            raise UserError("hide= hides whole fields of rows, and here rows are sequences or groups: leave it out")
        if model.members is not None:
            of_members = any(block.each for block in blocks)
            return SetEncoder(fields, split, model.members.timing, of_members=of_members, **self.options)
        if model.timing is not None:
            of_rows = any(block.row and not block.steps for block in blocks)
            return RecurrentEncoder(fields, split, model.timing, of_rows=of_rows, **self.options)
        return FieldEncoder(fields, split, repeated=model.repeated, beside=self.beside, hide=self.hide, **self.options)

    def _with_reads(self, fields: Sequence[Field], own: Any) -> Any:
        """What the model says of how its fields are read, where the user says nothing of them."""
        reads = {f.name: self.reads[f.name] for f in fields if f.name in self.reads}
        return {**reads, **(own or {})} if reads and isinstance(own, Mapping | None) else own


def fields_of_blocks(blocks: Sequence[Block], model: Reading) -> list[tuple[int, ...]]:
    """The numbers of the fields that each block of latents is tied to, each of which has an expert of its own."""
    names = _seen_by_experts(blocks, model)
    tied = fields_of(blocks, model.parents, [*model.local, *model.summed], names, known=model.shared)
    return [tuple(names.index(name) for name in of_block) for of_block in tied]


def _seen_by_experts(blocks: Sequence[Block], model: Reading) -> list[str]:
    if model.timing is not None or any(block.steps for block in blocks):
        raise UserError("experts= are of rows with several fields, and here rows are sequences: leave it out")
    if context := [name for name in model.observed if name not in model.parents]:
        raise UserError(
            f"experts= see fields that the model observes, and {context[0]!r} is a condition: leave experts out"
        )
    return [name for name in model.observed if name in model.parents]


@dataclass(frozen=True)
class BlockNetworks:
    """Makes the mixer and the head of a block, given the encoder.

    Args:
        family: from (features, size) to the head of a block; `families` are those of some sites.
        following: from (features, lags, size) to the head of a chain.
        hidden: widths of the hidden layers; latents that are conditioned on others go through one of the last width.
        activation: of these layers.
        experts: how the heads of several fields are put together, if every field has its own.
        tied: then the fields of each block.
        encoder: of the rows.
        sites: the latents of the rows, and those before them, by name.
    """

    family: Callable[[int, int], nn.Module]
    families: Mapping[str, Family]
    following: Callable[[int, int, int], nn.Module]
    hidden: tuple[int, ...]
    activation: str
    experts: Experts | None
    tied: Sequence[tuple[int, ...]]
    encoder: Any
    sites: Mapping[str, Site]

    def mixer(self, block: Block) -> nn.Module:
        """What a label or another latent says depends on the row; a head that is linear in both only adds them up."""
        if not self._mixes(block):
            return _Concatenation()
        return Mixer(self._width(block), self.hidden[-1], self.activation)

    def head(self, number: int, block: Block) -> nn.Module:
        """From the features of a block to the distribution of its vector, or to the logits of its label."""
        if self._sees_fields(block):
            return self._expert(block, self.tied[number])
        features = self.hidden[-1] if self._mixes(block) else self._width(block)
        if block.steps:
            return self.following(features, block.lags, self._size(block.steps[0]))
        head = self._of_features(block, features)
        beside = getattr(self.encoder, "beside", 0) if block.row and not block.given else 0
        if isinstance(head, NormalHead) and beside:
            head.set_beside(beside)
        return head

    def _width(self, block: Block) -> int:
        """How many features of the row and of the latents before it there are."""
        row = 0
        if block.row:
            row = int(self.encoder.step_size if block.steps or block.each else self.encoder.size)
        return row + self._size(block.given)

    def _size(self, names: Sequence[str]) -> int:
        return sum(self.sites[n].width for n in names)

    def _sees_fields(self, block: Block) -> bool:
        return self.experts is not None and block.row

    def _mixes(self, block: Block) -> bool:
        return bool(block.given and self.hidden) and not self._sees_fields(block)

    def _of_features(self, block: Block, features: int) -> nn.Module:
        size, first = self._size(block.sites), block.sites[0]
        if first in self.families:
            return self.families[first].make(features, size)
        return nn.Linear(features, size) if self.sites[first].classified else self.family(features, size)

    def _expert(self, block: Block, tied: Sequence[int]) -> nn.Module:
        """A head for each field that these latents are tied to, put together; all of them if they are tied to none."""
        if self.experts is None or not isinstance(self.encoder, FieldByField):
            raise TypeError("experts are of an encoder field by field")

        def make(features: int) -> nn.Module:
            if not (block.given and self.hidden):
                return self._of_features(block, features)
            mixer = hidden_layer(features, self.hidden[-1], self.activation)
            return nn.Sequential(*mixer, self._of_features(block, self.hidden[-1]))

        sizes, first = self.encoder.sizes, block.sites[0]
        logits = self.sites[first].classified is not None and first not in self.families
        given, name = self._size(block.given), ", ".join(block.sites)
        return ExpertHead(self.experts, tied or range(len(sizes)), sizes, given, make, logits=logits, name=name)


class _Concatenation(nn.Module):
    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        return concatenate(parts)
