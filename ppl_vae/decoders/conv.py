"""The decoder of pictures: convolutions between enlargements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.data import Field
from ppl_vae.decoders.base import Decoder
from ppl_vae.errors import UserError, check_whole
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.nn.inputs import channels_of

__all__ = ["Conv"]

SMALLEST = 7
"""Where the enlargements begin: a picture whose shorter side is at most this."""


class Conv(Decoder):
    """Convolutions between enlargements, for pictures of any size and number of channels.

    A linear map makes a picture of at most 7 pixels on its shorter side. Each step enlarges it to the next size of the
    field's halvings (7, 14, 28 or 4, 8, ..., 64) and convolves it, with half as many channels; a last convolution gives
    the likelihood's features of every pixel. Enlarging by nearest neighbours leaves no chequered patterns.
    Shapes: z [..., d] -> [..., F] for fields [H, W], [C, H, W] (C at most 4, else [H, W, C]).

    Args:
        width: channels of the largest picture.
        most: channels of the smallest one, at most.
        kernel: side of the convolutions, odd.

    Raises:
        UserError: for a field that is no picture, or several fields at once.

    Source: Odena, Dumoulin & Olah 2016, Distill, doi 10.23915/distill.00003 (enlarge, then convolve).

    Example:
        >>> import torch
        >>> from ppl_vae.data import Field
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> decoder = Conv().build(10, Bernoulli().build(Field("x", "binary", (28, 28))))
        >>> decoder(torch.zeros(5, 3, 10)).shape, decoder.sizes
        (torch.Size([5, 3, 784]), [(7, 7), (14, 14), (28, 28)])
    """

    def __init__(self, width: int = 32, most: int = 128, kernel: int = 3) -> None:
        super().__init__()
        self.width, self.most = check_whole("width", width), check_whole("most", most)
        self.kernel = check_whole("kernel", kernel)
        if self.kernel % 2 == 0:
            raise UserError(f"kernel must be odd, so that pictures keep their size, got {kernel}")

    @classmethod
    def suits(cls, field: Field) -> bool:
        """Pictures."""
        return field.is_image

    def setup(self, likelihood: Likelihood | Columns) -> None:
        """The sizes of the pictures, and a convolution for each."""
        if isinstance(likelihood, Columns) or len(likelihood.field.shape) not in (2, 3):
            what = "a table" if isinstance(likelihood, Columns) else f"rows of shape {likelihood.field.shape}"
            raise UserError(f"decoder Conv makes pictures [H, W] or [C, H, W], got {what}: use Dense")
        self.shape, self.entry = likelihood.field.shape, likelihood.width
        channels, sides = channels_of(self.shape)
        self.sizes = halvings(sides)
        steps = len(self.sizes)
        wide = [min(self.width << (steps - 1 - i), max(self.most, self.width)) for i in range(steps)]
        self.first = nn.Linear(self.inputs, wide[0] * self.sizes[0][0] * self.sizes[0][1])
        around = self.kernel // 2
        self.convolutions = nn.ModuleList([nn.Conv2d(a, b, self.kernel, padding=around) for a, b in pairwise(wide)])
        self.last = nn.Conv2d(wide[-1], channels * self.entry, self.kernel, padding=around)

    def features(self, z: Tensor) -> Tensor:
        """Enlarge and convolve, then lay the features out as the likelihood reads them."""
        planes = F.gelu(self.first(z)).unflatten(-1, (-1, *self.sizes[0]))
        for size, convolution in zip(self.sizes[1:], self.convolutions, strict=True):
            planes = F.gelu(convolution(F.interpolate(planes, size=size)))
        return laid_out(self.last(planes), self.shape, self.entry)


def halvings(sides: Sequence[int]) -> list[tuple[int, ...]]:
    """The sizes of a picture from small to its own, each half of the next.

    Example:
        >>> halvings((28, 28)), halvings((64, 48)), halvings((5, 9))
        ([(7, 7), (14, 14), (28, 28)], [(8, 6), (16, 12), (32, 24), (64, 48)], [(5, 9)])
    """
    found = [tuple(sides)]
    while min(found[0]) > SMALLEST:
        found.insert(0, tuple(-(-side // 2) for side in found[0]))
    return found


def laid_out(planes: Tensor, shape: tuple[int, ...], entry: int) -> Tensor:
    """Planes [n, channels * entry, H, W], `entry` features of each pixel's channel, as features [n, |S| * entry].

    Example:
        >>> import torch
        >>> laid_out(torch.zeros(2, 6, 4, 5), (3, 4, 5), 2).shape
        torch.Size([2, 120])
    """
    channels, sides = channels_of(shape)
    planes = planes.reshape(planes.shape[0], channels, entry, *sides).movedim(2, -1)  # [n, C, H, W, entry]
    if len(shape) == 3 and shape[0] != channels:  # channels last
        planes = planes.movedim(1, -2)
    return planes.reshape(planes.shape[0], -1)  # its own number of rows, in a graph that takes any
