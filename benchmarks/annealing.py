"""Log evidence by annealing beside importance sampling, and what compiling it saves: the default digits VAE.

    python benchmarks/annealing.py [--rows 50] [--temperatures 200] [--seed 0]

16 chains, 10 leapfrog steps. Processor seconds, the capture and the compilation included; nats per row on the same
held-out rows. BDMC on as many simulated rows says how exact such an estimate is, from both sides.
"""

from __future__ import annotations

import argparse
import time

import torch

import ppl_vae
from ppl_vae import diagnostics
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.schedules import WarmUp


def main() -> None:
    words = argparse.ArgumentParser()
    for name, default in (("rows", 50), ("temperatures", 200), ("seed", 0)):
        words.add_argument(f"--{name}", type=int, default=default)
    asked = words.parse_args()
    torch.manual_seed(asked.seed)
    data = ppl_vae.load("digits")
    model = VAE(data, latent_dim=16)
    guide = MeanField(model)
    ppl_vae.fit(model, guide, data, beta=WarmUp(10), weight_decay=1.0, epochs=40, seed=asked.seed)
    rows = data.test.rows(slice(0, asked.rows))
    sampled = ppl_vae.evaluate(model, guide, rows, particles=5000, seed=asked.seed)
    told = f"{sampled.log_evidence.mean():.3f} (Monte Carlo {_error(sampled.log_evidence_se):.3f})"
    print(f"importance sampling, 5,000 particles: {told}; k-hat too large in {len(sampled.unreliable)} rows")
    for mode in ("off", "auto"):
        start = time.process_time()
        found = diagnostics.annealed_evidence(
            model, guide, rows, temperatures=asked.temperatures, seed=asked.seed, compile=mode
        )
        seconds = time.process_time() - start
        told = f"{found.log_evidence.mean():.3f} (Monte Carlo {_error(found.log_evidence_se):.3f})"
        print(f"annealed, compile={mode!r}: {told}, {found.ess.mean():.1f} effective chains, {seconds:.0f} s")
    both = diagnostics.bidirectional(
        model, guide, data, rows=asked.rows, temperatures=asked.temperatures, seed=asked.seed
    )
    print(both.verdict)


def _error(errors: torch.Tensor) -> float:
    return float(errors.square().sum().sqrt() / len(errors))


if __name__ == "__main__":
    main()
