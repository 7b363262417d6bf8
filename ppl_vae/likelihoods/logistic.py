"""Mass of a logistic distribution between two points, without cancellation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["log_mass"]


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(sigmoid(high) - sigmoid(low)) for low < high, in nats; finite, with finite gradients, far in the tails.

    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), a product, so that nothing cancels.

    Example:
        >>> a, b = torch.tensor([-1.0, 90.0]), torch.tensor([1.0, 91.0])
        >>> log_mass(a, b)
        tensor([ -0.7719, -90.4587])
        >>> (b.sigmoid() - a.sigmoid()).log()
        tensor([-0.7719,    -inf])
    """
    return F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(low - high))
