"""A VAE of pythae, wrapped: its `get_nll` beside ours, where it is right, and where it is not what it says.

    pip install pythae && python benchmarks/wrapped_peer.py [--rows 100] [--seed 0]

pythae's default networks on scikit-learn's digits: black and white (`bce`), and grey levels (`mse`). Nats per row on
the first test rows; differences are of estimates by different draws, with the Monte Carlo error of both. Written for
pythae 0.1.2.
"""

from __future__ import annotations

import argparse
import math

import torch
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from torch import Tensor

import ppl_vae


def rows_of(black_and_white: bool) -> tuple[Tensor, Tensor]:
    """Training and test rows [row, 1, 8, 8] in 0 to 1."""
    data = ppl_vae.load("digits")
    grey = [split["x"].reshape(-1, 1, 8, 8).float() / 16 for split in (data.train, data.test)]
    train, test = [(g > 0.5).float() for g in grey] if black_and_white else grey
    return train, test


def trained(model: VAE, x: Tensor, steps: int) -> VAE:
    """By its own loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        some = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:128]]
        optimizer.zero_grad()
        model({"data": some}).loss.backward()
        optimizer.step()
    return model.eval()


def told(name: str, value: float, other: float, error: float) -> None:
    """A line."""
    apart = abs(value - other) / error if error else math.inf
    print(f"  {name}: {value:.3f}, ours {other:.3f} ({apart:.1f} errors of {error:.3f} apart)")


def error_of(several: Tensor, draws: float = 1.0) -> float:
    """The error of a difference of two means over rows with this Monte Carlo error, by so many times fewer draws."""
    return float((2 * draws * several.square().sum()).sqrt() / len(several))


def ask_vae(loss: str, likelihood: str, rows: int, steps: int, seed: int) -> None:
    """Its loss and its `get_nll` beside ours."""
    torch.manual_seed(seed)
    train, test = rows_of(loss == "bce")
    config = VAEConfig(input_dim=(1, 8, 8), latent_dim=8, reconstruction_loss=loss)
    model, some = trained(VAE(config), train, steps), test[:rows]
    pair = ppl_vae.wrap(model.encoder, model.decoder, likelihood)
    found = ppl_vae.evaluate(*pair, some, particles=1000, iwae=[1, 100, 200], seed=1)
    elbo, evidence, bound = float(found.elbo.mean()), float(found.log_evidence.mean()), found.iwae
    print(f"{loss}, wrapped as {likelihood!r}; k-hat too large in {len(found.unreliable)} of {rows} rows")
    with torch.no_grad():
        own = float(model({"data": some}).loss) + (0.0 if loss == "bce" else 32 * math.log(2 * math.pi))
        told("loss and the constant that it drops", -own, elbo, error_of(found.iwae_se[1], 500))
        asked = {k: float(model.get_nll(some, n_samples=k, batch_size=100)) for k in (1000, 1, 299)}
        told("get_nll, 1,000 draws", asked[1000], evidence, error_of(found.log_evidence_se))
        print(f"  get_nll, one draw asked for: {asked[1]:.3f}; the bound of one draw is {elbo:.3f}")
        told("  it takes a hundred", asked[1], float(bound[100].mean()), error_of(found.iwae_se[100], 5))
        told("get_nll, 299 asked for: 200", asked[299], float(bound[200].mean()), error_of(found.iwae_se[200], 3))
        if loss == "bce":
            grey = rows_of(False)[1][:rows]
            print(f"  get_nll of grey levels, of which this is no density: {float(model.get_nll(grey, 1000, 100)):.3f}")
    print(f"  {ppl_vae.certify(*pair, some, validate=50).verdict}")


def ask_iwae(rows: int, steps: int, seed: int) -> None:
    """Its loss beside the bound."""
    torch.manual_seed(seed)
    train, test = rows_of(True)
    config = IWAEConfig(input_dim=(1, 8, 8), latent_dim=8, reconstruction_loss="bce", number_samples=10)
    model, some = trained(IWAE(config), train, steps), test[:rows]
    pair = ppl_vae.wrap(model.encoder, model.decoder, "bernoulli")
    found = ppl_vae.evaluate(*pair, some, particles=1000, iwae=[10], seed=1)
    with torch.no_grad():
        losses = [float(model({"data": some}).loss) for _ in range(50)]
    print(f"IWAE, 10 draws: minus its loss {-sum(losses) / 50:.3f}; the bound {float(found.iwae[10].mean()):.3f}")
    print(f"  log p(x) by 1,000 draws: {float(found.log_evidence.mean()):.3f}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 100), ("steps", 1500), ("seed", 0)):
        words.add_argument(f"--{name}", type=int, default=default)
    asked = words.parse_args()
    ask_iwae(**vars(asked))
    for loss, likelihood in (("bce", "bernoulli"), ("mse", "normal")):
        ask_vae(loss, likelihood, **vars(asked))


if __name__ == "__main__":
    main()
