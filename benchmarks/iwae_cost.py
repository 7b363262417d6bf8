"""What a step of IWAE-50 costs beside its arithmetic: ours (eager) against the same sums written by hand in torch.

    python benchmarks/iwae_cost.py

VAE 784-400-20, batch 128, Bernoulli, fused Adam, same networks and random numbers per step; rounds interleaved,
medians. The hand-written step knows the model; ours runs two Pyro programs.
"""

from __future__ import annotations

import statistics
import time

import pyro
import torch
from torch.nn import functional as F

from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Field, Schema
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.programs.program import Pair
from ppl_vae.training._steps import BoundStep
from ppl_vae.training.settings import Settings

SCHEMA = Schema((Field("x", "binary", (784,)),))


def build():
    torch.manual_seed(0)
    model = VAE(SCHEMA, latent_dim=20, hidden=(400,), activation="softplus")
    guide = MeanField(model, hidden=(400,), activation="softplus")
    return model, guide


def by_hand(model, guide, optimizer, x, k):
    optimizer.zero_grad(set_to_none=True)
    loc, raw = guide.heads[0].linear(guide.encoder({"x": x})).chunk(2, -1)
    scale = F.softplus(raw + 0.5413)
    noise = torch.randn(k, *loc.shape)
    z = loc + scale * noise
    logits = model.decoder(z)
    likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    log_w = likelihood + (-0.5 * z.square() + 0.5 * noise.square() + scale.log()).sum(-1)
    (-log_w.logsumexp(0).mean()).backward()
    optimizer.step()


def main() -> None:
    pyro.enable_validation(False)
    x = torch.bernoulli(torch.full((128, 784), 0.3))
    for k in (1, 5, 50):
        model, guide = build()
        pair = Pair(model, guide)
        bound = ELBO() if k == 1 else IWAE(k)
        optimizer = torch.optim.Adam(pair.parameters(), 1e-3, fused=True)
        step = BoundStep(pair, analyse(pair, {"x": x}), bound, optimizer, 60_000, Settings())
        twin_model, twin_guide = build()
        twin = torch.optim.Adam([*twin_model.parameters(), *twin_guide.parameters()], 1e-3, fused=True)
        times: dict[str, list[float]] = {"ours": [], "hand": []}
        for i in range(60 if k < 50 else 24):
            for name in times:
                start = time.perf_counter()
                if name == "ours":
                    step({"x": x}, 1.0)
                else:
                    by_hand(twin_model, twin_guide, twin, x, k)
                if i > 3:
                    times[name].append(time.perf_counter() - start)
        ours, hand = (statistics.median(v) * 1e3 for v in times.values())
        print(f"K = {k:3d}: ours {ours:7.2f} ms, by hand {hand:7.2f} ms, ratio {ours / hand:.2f}")


if __name__ == "__main__":
    main()
