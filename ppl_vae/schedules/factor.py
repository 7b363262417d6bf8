"""Total correlation by a network that tells draws of q(z) from draws whose latents were shuffled over rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.errors import UserError, check_several, check_whole
from ppl_vae.schedules.annealing import Cyclical, WarmUp, check_numbers, like
from ppl_vae.schedules.objectives import Critic, Latents, Objective, Seen, Shaped, check_between
from ppl_vae.weights.log_weights import LogWeights

__all__ = ["DensityRatio", "FactorTC"]


@dataclass(frozen=True)
class FactorTC(Objective):
    """FactorVAE: the total correlation of q(z), told by a second network, costs gamma beside the KL.

    Maximises ELBO(beta) - gamma E log [q(z) / prod_d q(z_d)], where the log ratio is the log odds of a classifier
    between draws of the batch and the same draws with every latent permuted over its rows. It learns one step after
    each step of the pair, with Adam(lr, betas=(0.5, 0.9)), from the draws of that step; its state is part of
    checkpoints. The estimate is what the classifier has learnt: too low before it has. Steps run eagerly, never
    captured, as two networks take turns.

    Args:
        gamma: weight of the total correlation; 10 to 40 for sprites.
        beta: weight of the KL, a number or a warm-up.
        hidden: widths of the classifier.
        lr: its learning rate.
        between: total correlation between "entries" of all latents, or between "sites".

    Raises:
        UserError: when training begins, with a bound other than `ELBO()` of one particle, discrete latents, only one
            latent, or compile="on".

    Source: Kim & Mnih 2018, arXiv 1802.05983.

    Example:
        >>> FactorTC(gamma=10.0).hidden
        (256, 256, 256)
    """

    gamma: float = 10.0
    beta: float | WarmUp | Cyclical = 1.0
    hidden: tuple[int, ...] = (256, 256, 256)
    lr: float = 1e-4
    between: Literal["entries", "sites"] = "entries"

    def __post_init__(self) -> None:
        self._check("gamma")
        check_numbers(self, "lr", positive=True)
        widths = (self.hidden,) if isinstance(self.hidden, int) else self.hidden
        widths = check_several("FactorTC: hidden", widths, "widths, such as (256, 256)")
        object.__setattr__(self, "hidden", tuple(check_whole("FactorTC: hidden", width) for width in widths))
        check_between("FactorTC", self.between)

    def _begin(self, latents: Latents, rows: int) -> Shaped:
        sizes = [v.shape[1] for v in latents.values.values()]
        groups = sizes if self.between == "sites" else [1] * sum(sizes)
        if len(groups) < 2:
            raise UserError("FactorTC: a total correlation is between several latents, got one: take between='entries'")
        return _Factoring(self, groups, latents.joined)


class _Factoring(Shaped):
    """The objective and its classifier."""

    def __init__(self, told: FactorTC, groups: list[int], like_these: Tensor) -> None:
        super().__init__(self._value_of, 0)
        self.told = told
        self.ratio = DensityRatio(groups, told.hidden).to(like_these)
        self.critic: Critic = Critic(self.ratio, torch.optim.Adam(self.ratio.parameters(), told.lr, (0.5, 0.9)))

    def _value_of(self, weights: LogWeights, latents: Latents, beta: float | Tensor, rows: int) -> Seen:
        z, rate = latents.joined, weights.rate.mean()
        fixed = {name: p.detach() for name, p in self.ratio.named_parameters()}
        correlation = torch.func.functional_call(self.ratio, fixed, (z,)).mean()
        if torch.is_grad_enabled():
            self.ratio.seen = z.detach()
        objective = weights.log_likelihood.mean() - like(beta, rate) * rate - self.told.gamma * correlation
        return Seen(objective, total_correlation=correlation.detach())

    def learn(self) -> None:
        """One step of the classifier on the draws that were seen last."""
        self.critic.optimizer.zero_grad(set_to_none=True)
        self.ratio.loss(self.ratio.seen).backward()
        self.critic.optimizer.step()


class DensityRatio(nn.Module):
    """A network whose value is log q(z) - log prod_g q(z_g), once it tells draws from those permuted over rows.

    Args:
        groups: how many entries each group of latents has that is permuted as one.
        hidden: widths.
    """

    seen: Tensor

    def __init__(self, groups: list[int], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.groups = groups
        widths = [sum(groups), *hidden]
        steps = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*(part for step in steps for part in step), nn.Linear(widths[-1], 1))

    def forward(self, z: Tensor) -> Tensor:
        """The log ratio at draws [row, entry], [row]."""
        found: Tensor = self.layers(z)[:, 0]
        return found

    def permuted(self, z: Tensor) -> Tensor:
        """Draws of the product of marginals: every group of latents in another order of the rows."""
        order = torch.rand(len(z), len(self.groups), device=z.device).argsort(0)
        return z.gather(0, order.repeat_interleave(torch.tensor(self.groups, device=z.device), 1))

    def loss(self, z: Tensor) -> Tensor:
        """Minus the log likelihood of a classifier between the two, per draw."""
        return 0.5 * (softplus(-self(z)).mean() + softplus(self(self.permuted(z))).mean())
