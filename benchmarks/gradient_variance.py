"""Gradient variance of the estimators, at q = p and away from it, on a model whose posterior is known.

    python benchmarks/gradient_variance.py

Linear-Gaussian model (2 latents, 4 entries). The guide is the exact posterior, shifted by `shift` and with its
standard deviations multiplied by `width`. Printed: the standard deviation, over 20,000 draws, of the gradient
with respect to the shift, and its signal-to-noise ratio |mean| / sd; seed 0.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from rich.console import Console
from rich.table import Table

from ppl_vae.bounds import ELBO, IWAE, MIWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.programs.program import Pair

DRAWS = 20_000
W = torch.tensor([[1.0, 0.5, -0.3, 0.2], [0.1, -0.8, 0.6, 0.9]], dtype=torch.float64)
X = torch.tensor([0.5, -1.0, 0.2, 1.5], dtype=torch.float64)
SIGMA = 0.7
COVARIANCE = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + W @ W.T / SIGMA**2)
FACTOR = torch.linalg.cholesky(COVARIANCE)


def model(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W, SIGMA).to_event(1), obs=x)


def gradients(bound, shift: float, width: float) -> torch.Tensor:
    """The gradient with respect to the shift of each of DRAWS independent rows, [draw, latent]."""
    pyro.set_rng_seed(0)
    x = X.expand(DRAWS, 4)
    moved = torch.full((DRAWS, 2), shift, dtype=torch.float64, requires_grad=True)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            mean = x @ W.T @ COVARIANCE / SIGMA**2 + moved
            pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=width * FACTOR))

    pair = Pair(model, guide)
    structure = analyse(pair, {"x": x})
    surrogate = bound.surrogate(bound.weigh(pair, structure, {"x": x}))
    return torch.autograd.grad(surrogate.sum(), moved)[0]


def main() -> None:
    table = Table("bound", "estimator", "guide", "sd of gradient", "signal / noise")
    for where, (shift, width) in {"q = p": (0.0, 1.0), "shift .3, width 1.3": (0.3, 1.3)}.items():
        for name, make, kinds in (
            ("ELBO", lambda e: ELBO(1, estimator=e), ("reparameterised", "stl")),
            ("IWAE-10", lambda e: IWAE(10, estimator=e), ("reparameterised", "dreg")),
            ("IWAE-100", lambda e: IWAE(100, estimator=e), ("reparameterised", "dreg")),
            ("MIWAE-4x10", lambda e: MIWAE(4, 10, estimator=e), ("reparameterised", "dreg")),
        ):
            for kind in kinds:
                found = gradients(make(kind), shift, width)[:, 0]
                sd, mean = float(found.std()), float(found.mean())
                ratio = "-" if sd < 1e-12 or shift == 0 else f"{abs(mean) / sd:.2f}"
                table.add_row(name, kind, where, f"{sd:.4f}", ratio)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
