"""A prior for each label."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError
from ppl_vae.priors.base import Prior, at_least_one

__all__ = ["LabelConditional"]


class LabelConditional(Prior):
    """A normal for each label, log p(z | y) = sum_i log N(z_i; m_yi, s_yi^2) nats, for models with a label.

    Shapes: y [...] with values 0 to `labels` - 1, z [..., d]; m, s [labels, d]. The y may be observed, or latent and
    summed out. Every label starts with the standard normal; the data take them apart.

    Args:
        labels: how many labels there are.

    Raises:
        UserError: if labels is less than 1, or the prior is called without labels.

    Source: Jiang et al. 2017, arXiv 1611.05148 (a mixture over y of such normals).

    Example:
        >>> prior = LabelConditional(10).build(3)
        >>> prior(torch.tensor([0, 7])).batch_shape, prior(torch.tensor([0, 7])).event_shape
        (torch.Size([2]), torch.Size([3]))
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        at_least_one(self, labels=labels)
        self.labels = labels

    def setup(self) -> None:
        """m = 0, s = 1 for all labels."""
        self.loc = nn.Parameter(torch.zeros(self.labels, self.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.labels, self.latent_dim))

    def forward(self, condition: Tensor | None = None) -> dist.Distribution:
        """p(z | y): batch shape that of y."""
        if condition is None:
            raise UserError(
                "LabelConditional is p(z | y) and was called without y: call it as prior(y) in a model with a label, "
                "or take Mixture, which needs none"
            )
        y = condition.long()
        return dist.Normal(self.loc[y], self.log_scale[y].exp()).to_event(1)
