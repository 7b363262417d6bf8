"""Encoders: from the observed fields of a row to the features on which its posterior depends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError, absent_field, made_by, shown, unknown_name
from ppl_vae.nn.hiding import Hiding, may_be_missing
from ppl_vae.nn.inputs import OneHotInput, input_layer
from ppl_vae.nn.networks import concatenate, hidden_layers, widths
from ppl_vae.nn.own_input import OwnInput
from ppl_vae.nn.sequences import SequenceInput

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["FieldEncoder", "adapted", "encoder_of"]


class FieldEncoder(nn.Module):
    """Features of the observed fields of a row, for a guide: one input layer for each field, then hidden layers.

    Tables and small images are standardised vectors, labels one-hot vectors, images from 16 x 16 on are read by
    convolutions, and fields named in `repeated` by a network that does not see the order of their measurements.
    Everything is standardised by the training rows alone. Shapes: fields [B, *shape] -> features [B, F].

    Args:
        fields: the observed fields.
        train: the training rows; without them nothing is standardised.
        hidden: widths of the hidden layers.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        repeated: names of fields whose first dimension counts exchangeable measurements.
        convolutions: False reads images as vectors.
        beside: give the inputs of the hidden layers as features too, behind the hidden ones.
        noise: deviation of the normal noise that is added in training mode to standardised entries (labels have none):
            features that are not led astray by it. Each noisy row is read by a guide of its own, so that a bound stays
            a bound (Im et al. 2017, arXiv 1511.06406); evaluation is without noise.
        hide: with this probability a field of a row is hidden in training mode (`ppl_vae.nn.hiding.Hiding`); then any
            field may be missing later.
        own: modules for some fields by name, in the place of their input layers (`ppl_vae.nn.own_input.OwnInput`), or
            `"gru"` (`ppl_vae.nn.sequences.SequenceInput`).

    Raises:
        UserError: for a noise that is negative or no number, or a share that cannot be hidden.

    Example:
        >>> import ppl_vae
        >>> data = ppl_vae.load("digits")
        >>> encoder = FieldEncoder([data.schema["x"]], data.train, hidden=(32,))
        >>> encoder(data.train.batch(slice(0, 5))).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        fields: Sequence[Field],
        train: Split | None,
        hidden: Sequence[int] = (256, 256),
        activation: str = "gelu",
        *,
        repeated: Iterable[str] = (),
        convolutions: bool = True,
        noise: float = 0.0,
        hide: float = 0.0,
        own: Mapping[str, nn.Module | str] | None = None,
        beside: bool = False,
    ) -> None:
        super().__init__()
        self.hiding, self.any_subset = Hiding(fields, hide), hide > 0
        fields = may_be_missing(fields) if hide else fields
        if not 0 <= noise < math.inf:
            raise UserError(f"noise must not be negative, got {noise}")
        repeated = frozenset(repeated)
        self.names = tuple(f.name for f in fields)
        # a list: torch forbids dots and the names of its own attributes in a ModuleDict, and a column may have either
        own = own or {}
        if unknown := own.keys() - {*self.names}:
            raise unknown_name("field of the encoder", min(unknown), self.names)
        layers = [
            _own_layer(own[f.name], f, train, noise)
            if f.name in own
            else input_layer(f, f.name in repeated, convolutions, noise)(f, train)
            for f in fields
        ]
        self.inputs = nn.ModuleList(layers)
        width = sum(int(layer.size) for layer in self.inputs)  # type: ignore[arg-type, misc]
        hidden = widths(hidden)
        self.beside = width if beside and hidden else 0
        self.size = (hidden[-1] if hidden else width) + self.beside
        self.layers = hidden_layers(width, hidden, activation)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Encode the fields that this encoder was built for."""
        inputs = self.read(self.hiding(batch) if self.training else batch)
        hidden = self.layers(inputs)
        return torch.cat([hidden, inputs], dim=-1) if self.beside else hidden

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the hidden layers are given of the fields, [B, width]."""
        return concatenate([self._input(name, batch) for name in self.names])

    def input_of(self, name: str) -> nn.Module:
        """The input layer of a field."""
        return self.inputs[self.names.index(name)]

    def sees_holes(self, name: str) -> bool:
        """Whether a field had missing entries in the rows that this encoder was made for."""
        return bool(self.input_of(name).missing)

    def _input(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        layer = self.input_of(name)
        if name not in batch and isinstance(layer, OneHotInput):  # rows without labels may come without the field
            rows = next(iter(batch.values()))
            return layer(rows.new_full(rows.shape[:1], -1, dtype=torch.long))
        if name not in batch:
            raise absent_field(name, batch)
        return layer(batch[name])


def _own_layer(asked: Any, field: Field, train: Split | None, noise: float) -> nn.Module:
    """The input layer of a field from a module, or from the word for one."""
    if isinstance(asked, nn.Module):
        return OwnInput(asked, field)
    if not isinstance(asked, str):
        raise UserError(f"encoder of field {field.name!r} expects a module, or 'gru', got {shown(asked)}")
    if asked != "gru":
        raise unknown_name(f"encoder of field {field.name!r}", asked, ["gru"])
    if not field.shape or field.shape[0] < 2:
        raise UserError(f"encoder 'gru' reads rows of several steps [T, ...], got {field}: leave it out")
    return SequenceInput(field, train, noise)


class _OnField(nn.Module):
    """A network of one tensor, given the only observed field."""

    def __init__(self, network: nn.Module, name: str, size: int) -> None:
        super().__init__()
        self.network, self.name, self.size = network, name, size

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.network(batch[self.name])


class _OnFields(nn.Module):
    """A network of the dict of fields that does not say how many features it gives."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.network(batch)


def encoder_of(
    encoder: Any, fields: Sequence[Field], train: Split | None, batch: Mapping[str, Tensor], **options: Any
) -> nn.Module:
    """An encoder of fields from what a user gave: a module of all, one for each of some, or a function that makes one.

    Modules by field name stand in the place of input layers, in a `FieldEncoder` with these options. A function is
    called with (fields, train).

    Raises:
        UserError: for another thing, and what `adapted` and `FieldEncoder` refuse.
    """
    if isinstance(encoder, Mapping):
        return FieldEncoder(fields, train, own=encoder, **options)
    if not isinstance(encoder, nn.Module):
        if not callable(encoder):
            raise UserError(
                "encoder must be a module from the fields to features [B, F], a dict of modules by field or a function "
                f"of (fields, train) that makes a module, got {type(encoder).__name__}"
            )
        encoder = made_by("encoder", encoder, fields, train, of="(fields, train)")
    return adapted(encoder, {f.name: batch[f.name] for f in fields})


def adapted(encoder: nn.Module, batch: Mapping[str, Tensor]) -> nn.Module:
    """A user's encoder as one from the dict of fields to features [B, F], with F in `size`.

    Raises:
        UserError: if it does not give features [B, F] for a batch.
    """
    if isinstance(encoder, FieldEncoder | _OnField | _OnFields):
        return encoder
    rows = len(next(iter(batch.values())))
    tries: list[tuple[object, Callable[[int], nn.Module]]] = [(batch, lambda size: _OnFields(encoder, size))]
    if len(batch) == 1:
        name, value = next(iter(batch.items()))
        tries.append((value, lambda size: _OnField(encoder, name, size)))
    reason = ""
    for given, wrap in tries:
        try:
            with torch.no_grad():
                features = encoder(given)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            reason = f"it fails ({' '.join(str(error).split())[:200]})"
            continue
        if isinstance(features, Tensor) and features.dim() == 2 and len(features) == rows:
            return wrap(features.shape[1])
        reason = f"it gives {tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__}"
    shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in batch.items())
    raise UserError(
        f"encoder must be a module from the dict of observed fields, or from the only one, to features [{rows}, F]; "
        f"for {shapes} {reason}"
    )
