"""A user's decoder, whatever module or function makes it, as one for a likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.data import Field
from ppl_vae.decoders.base import Decoder
from ppl_vae.decoders.conv import laid_out
from ppl_vae.errors import UserError
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.nn.inputs import channels_of
from ppl_vae.nn.networks import MLP
from ppl_vae.registry.resolve import resolve

__all__ = ["decoder_of", "is_ours", "likelihood_over", "network_of", "suits"]


def is_ours(decoder: Any) -> bool:
    """Whether this is a decoder of the package: a name, a class, an object."""
    return isinstance(decoder, str | Decoder) or (isinstance(decoder, type) and issubclass(decoder, Decoder))


def suits(decoder: Any, field: Field) -> bool:
    """Whether a decoder of the package, named for several fields, is meant for this one."""
    return bool(resolve("decoder", decoder, of=Decoder).suits(field))


def likelihood_over(decoder: Any, likelihood: Likelihood | Columns) -> Likelihood | Columns:
    """The likelihood whose features a decoder makes: of sequences one that sees the entries before each."""
    return resolve("decoder", decoder, of=Decoder).over(likelihood) if is_ours(decoder) else likelihood


def decoder_of(decoder: Any, inputs: int, likelihood: Likelihood | Columns) -> nn.Module:
    """A decoder from its name with options (`conv:width=16`), its class, an object, a module or a function.

    A module goes from [n, inputs] to [n, F], the features of the likelihood, or to pictures [n, C, H, W] with the
    features of every pixel side by side as channels. A function (or class of modules) makes one, from `inputs` and
    the likelihood.

    Raises:
        UserError: for another thing, or a module whose output is no features of this likelihood.

    Example:
        >>> from ppl_vae.data import Field
        >>> from ppl_vae.likelihoods import Normal
        >>> likelihood = Normal().build(Field("x", "real", (6,)))
        >>> decoder_of(lambda d, likelihood: nn.Linear(d, likelihood.size), 2, likelihood)(torch.zeros(3, 2)).shape
        torch.Size([3, 6])
    """
    if is_ours(decoder):
        return resolve("decoder", decoder, of=Decoder).build(inputs, likelihood)
    if not isinstance(decoder, nn.Module):
        if not callable(decoder):
            raise UserError(
                "decoder must be a name, a decoder of ppl_vae.decoders, a module from latents [n, d] to features, or a "
                f"function of (inputs, likelihood) that makes one, got {type(decoder).__name__}"
            )
        try:
            decoder = decoder(inputs, likelihood)
        except TypeError as error:
            raise UserError(f"decoder= must be a function of (inputs, likelihood), and fails: {error}") from error
        if not isinstance(decoder, nn.Module):
            raise UserError(f"the function of decoder= must make a module, and made {type(decoder).__name__}")
    return decoder if isinstance(decoder, Decoder) and decoder.inputs else _Own(decoder, inputs, likelihood)


def network_of(
    decoder: Any,
    inputs: int,
    likelihood: Likelihood | Columns,
    hidden: Sequence[int],
    activation: str,
    *,
    beside: bool = False,
) -> nn.Module:
    """`decoder_of` what a user gave, or fully connected layers of these widths, with a linear map `beside` them."""
    if decoder is None:
        return MLP(inputs, hidden, likelihood.size, activation, beside=beside)
    return decoder_of(decoder, inputs, likelihood)


class _Own(nn.Module):
    """A module of [n, d] under any leading dims, its output laid out as the likelihood reads it."""

    shape: tuple[int, ...]
    entry: int

    def __init__(self, network: nn.Module, inputs: int, likelihood: Likelihood | Columns) -> None:
        super().__init__()
        self.network, self.inputs, self.size = network, inputs, likelihood.size
        self.shape = likelihood.field.shape if isinstance(likelihood, Likelihood) else ()
        self.entry = likelihood.width if isinstance(likelihood, Likelihood) else 0
        self._check()

    def forward(self, z: Tensor) -> Tensor:
        """f(z), [..., F]."""
        made = self.network(z.reshape(-1, self.inputs))
        return self._features(made).reshape(*z.shape[:-1], self.size)

    def _features(self, made: Tensor) -> Tensor:
        return laid_out(made, self.shape, self.entry) if self._is_planes(made) else made

    def _is_planes(self, made: Tensor) -> bool:
        if len(self.shape) not in (2, 3) or made.shape[1:] == (*self.shape, self.entry):
            return False
        channels, sides = channels_of(self.shape)
        return tuple(made.shape[1:]) == (channels * self.entry, *sides)

    def _check(self) -> None:
        """Refuse a module whose output is no features, on two latent vectors."""
        like = next((p for p in self.network.parameters() if p.is_floating_point()), torch.zeros(()))
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                made = self.network(torch.zeros(2, self.inputs, dtype=like.dtype, device=like.device))
            came = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            came = f"an error ({' '.join(str(error).split())[:200]})"
        self.network.train(was_training)
        allowed = [(2, self.size), (2, *self.shape, self.entry), *([(2, *self.shape)] if self.entry == 1 else [])]
        if isinstance(came, tuple) and (came in allowed or self._is_planes(made)):
            return
        pictures = ""
        if len(self.shape) in (2, 3):
            channels, sides = channels_of(self.shape)
            pictures = f" or pictures {(2, channels * self.entry, *sides)}"
        raise UserError(
            f"decoder must go from latents (2, {self.inputs}) to features (2, {self.size}){pictures}, got {came}"
        )
