"""Incomes that are missing because they are high: a VAE of the table, and one in which the mask is data.

python examples/missing_not_at_random.py
"""

import torch

import ppl_vae
from ppl_vae.bounds import IWAE
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, NotMIWAE


def people(n: int) -> torch.Tensor:
    """Years of schooling, rent and income of n people, standardised."""
    means = torch.randn(n, 1)
    return means * torch.tensor([0.7, 0.8, 0.9]) + torch.randn(n, 3) * torch.tensor([0.7, 0.6, 0.45])


def main(epochs: int = 150) -> None:
    """Impute the incomes with both models, and compare with what they were."""
    torch.manual_seed(0)
    x = people(1000)
    seen = torch.rand(len(x)) < torch.sigmoid(1 - 4 * x[:, 2])  # the higher the income, the less it is told
    holey = x.clone()
    holey[~seen, 2] = torch.nan
    data = ppl_vae.load(holey, missing="allow", test=0, validation=0.1)
    truth = x[~seen, 2]
    print(f"{len(truth)} of {len(x)} incomes are missing; their mean is {truth.mean():.2f}")
    for name, model in {
        "VAE, which takes them as missing at random": VAE(data, latent_dim=2),
        "NotMIWAE, which models the mask": NotMIWAE(data, latent_dim=2, hides="large"),
    }.items():
        guide = MeanField(model)
        ppl_vae.fit(model, guide, data, IWAE(10), epochs=epochs, lr=0.01)
        found = ppl_vae.impute(model, guide, holey, particles=500).mean["x"][~seen, 2]
        error = (found - truth).square().mean().sqrt()
        print(f"{name}: mean {found.mean():.2f}, root mean squared error {error:.2f}")


if __name__ == "__main__":
    main()
