"""Level and power of the tests of a guide, beside those of sbi on the same draws.

    python benchmarks/calibration_tests.py --runs 500 --rows 300 --only exact
    python benchmarks/calibration_tests.py --runs 200 --rows 100

A linear-Gaussian model with two latents and five entries, whose posterior is known, and a posterior with two modes. Of
every run there are `rows` truths and 99 draws of a guide for each: of the exact posterior, of one that is 20 % too
narrow, shifted by 0.3 deviations, without its correlation, and with one of two modes dropped. Told is in what share of
runs each test rejects at 5 %. Where sbi (PyPI `sbi`) is installed, its tests see the same draws; its L-C2ST trains a
hundred networks a run and is asked in the first `--networks` runs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.diagnostics._calibration.classifier import ROWS_EACH, features, local_statistics, swapped, units_of
from ppl_vae.diagnostics._calibration.ranks import rank_tests, simes

DRAWS, PERMUTATIONS = 99, 199
W = torch.tensor([[1.0, 0.8], [0.7, 0.9], [-0.3, 0.2], [0.5, 0.5], [1.2, 0.9]])
COVARIANCE = torch.linalg.inv(torch.eye(2) + W.T @ W / 0.25)
APART, NARROW = 1.5, 0.5


class Run(NamedTuple):
    """Truths z [row, d], data x [row, e], draws [draw, row, d], and densities log p(x, z) and log q(z | x).

    `at` are draws of the guide at one more row, [draw, 1, d], whose data are `at_x`.
    """

    z: Tensor
    x: Tensor
    draws: Tensor
    log_joint: Callable[[Tensor], Tensor]
    log_q: Callable[[Tensor], Tensor]
    at: Tensor
    at_x: Tensor


def linear(kind: str, rows: int) -> Run:
    """z ~ N(0, I), x ~ N(W z, 0.5^2)."""
    z = torch.randn(rows, 2)
    x = z @ W.T + 0.5 * torch.randn(rows, 5)
    scale, shift = {"narrow": (0.8, 0.0), "shifted": (1.0, 0.3)}.get(kind, (1.0, 0.0))
    tril = scale * torch.linalg.cholesky(COVARIANCE)
    if kind == "correlation":
        tril = torch.diag(COVARIANCE.diagonal().sqrt())

    def guide(x: Tensor) -> dist.MultivariateNormal:
        loc = x @ W @ COVARIANCE / 0.25 + shift * COVARIANCE.diagonal().sqrt()
        return dist.MultivariateNormal(loc, scale_tril=tril)

    def log_joint(v: Tensor) -> Tensor:
        return dist.Normal(0.0, 1.0).log_prob(v).sum(-1) + dist.Normal(v @ W.T, 0.5).log_prob(x).sum(-1)

    at_x = torch.full((1, 5), 0.7)
    at = guide(at_x).sample((2 * DRAWS,))
    return Run(z, x, guide(x).sample((DRAWS + 1,)), log_joint, guide(x).log_prob, at, at_x)


def modes(kind: str, rows: int) -> Run:
    """z_1 ~ half N(-1.5, 0.5^2), half N(1.5, 0.5^2), z_2 ~ N(0, 1), x ~ N(|z_1| + z_2, 0.5^2): p(z | x) is even in z_1.

    Exact draws of z | x by a grid in z_1, given which z_2 is normal; the guide has the right half alone.
    """
    sign = 2.0 * torch.randint(0, 2, (rows,)) - 1
    z1 = sign * APART + NARROW * torch.randn(rows)
    z2 = torch.randn(rows)
    x = (z1.abs() + z2 + 0.5 * torch.randn(rows)).unsqueeze(-1)
    grid = torch.linspace(-4, 4, 1601)
    prior = torch.logaddexp(*(dist.Normal(m, NARROW).log_prob(grid) for m in (-APART, APART)))
    prior = prior.masked_fill(grid < 0, -math.inf) if kind == "mode" else prior

    def weights(x: Tensor) -> Tensor:
        return (prior + dist.Normal(grid.abs(), 1.25**0.5).log_prob(x)).log_softmax(-1)

    def guide(x: Tensor, draws: int) -> Tensor:
        first = grid[torch.multinomial(weights(x).exp(), draws, replacement=True)].T
        first = first + (torch.rand_like(first) - 0.5) * (grid[1] - grid[0])
        second = (x.T - first.abs()) / 1.25 + (0.25 / 1.25) ** 0.5 * torch.randn_like(first)
        return torch.stack([first, second], -1)

    def log_q(v: Tensor) -> Tensor:
        place = ((v[..., 0] + 4) / (grid[1] - grid[0])).round().long().clamp(0, 1600)
        marginal = torch.gather(weights(x).expand(*v.shape[:-1], -1), -1, place.unsqueeze(-1)).squeeze(-1)
        mean = (x.T - v[..., 0].abs()) / 1.25
        return marginal + dist.Normal(mean, (0.25 / 1.25) ** 0.5).log_prob(v[..., 1])

    def log_joint(v: Tensor) -> Tensor:
        first = torch.logaddexp(*(dist.Normal(m, NARROW).log_prob(v[..., 0]) for m in (-APART, APART)))
        seen = dist.Normal(v[..., 0].abs() + v[..., 1], 0.5).log_prob(x.T)
        return first + dist.Normal(0.0, 1.0).log_prob(v[..., 1]) + seen

    at_x = torch.full((1, 1), 1.5)
    return Run(torch.stack([z1, z2], -1), x, guide(x, DRAWS + 1), log_joint, log_q, guide(at_x, 2 * DRAWS), at_x)


KINDS = {
    "exact": linear,
    "narrow": linear,
    "shifted": linear,
    "correlation": linear,
    "exact, two modes": modes,
    "mode": modes,
}


def ours(run: Run, generator: torch.Generator) -> dict[str, float]:
    """p-values of our tests: of ranks, as `calibration` makes them, and of the classifier of `local_calibration`."""
    z, draws = run.z, run.draws[1:]
    mean, unit = z.mean(0), z.std(0)
    x = (run.x - run.x.mean(0)) / run.x.std(0)
    point = mean + unit * (x @ torch.randn(x.shape[1], 2) / x.shape[1] ** 0.5)

    def distance(v: Tensor) -> Tensor:
        return ((v - point) / unit).square().sum(-1)

    quantities = {"z[0]": lambda v: v[..., 0], "z[1]": lambda v: v[..., 1], "log p(x, z)": run.log_joint}
    quantities |= {"TARP": distance, "log q(z | x)": run.log_q}
    found = {}
    for name, value in quantities.items():
        ranks = (value(draws) < value(z)).sum(0).numpy()
        tests = rank_tests(ranks, DRAWS)
        found |= {f"{name}: {what}": getattr(tests, what) for what in ("uniform", "symmetric", "spread")}
    together = simes(np.array([*found.values()]))
    units = units_of(draws)
    most = len(z) // ROWS_EACH // 5 - 1
    _, size, directions = torch.linalg.svd(x, full_matrices=False)
    row = (directions[:most].T * len(x) ** 0.5 / size[:most])[:, : max(most, 0)]
    own = torch.stack([units.of(z), units.of(run.draws[0])])
    middle = features(own).mean((0, 1))
    columns = features(own, (x @ row).clamp(-3, 3), middle)
    told = swapped(columns[0] - columns[1], PERMUTATIONS, generator)
    own = units_of(run.at[DRAWS:]).of(run.at[:DRAWS])
    at_x = ((run.at_x - run.x.mean(0)) / run.x.std(0)) @ row
    relative = local_statistics(told, features(own, at_x.clamp(-3, 3), middle))[0]
    found["classifier"] = told.p_value
    found["classifier at a row"] = float((relative >= relative[0] * (1 - 1e-9)).double().mean())
    return found | {"calibration, all together": together}


def theirs(run: Run, networks: bool, seed: int) -> dict[str, float]:
    """p-values of sbi's tests, in its own words."""
    from sbi.diagnostics.lc2st import LC2ST
    from sbi.diagnostics.sbc import check_uniformity_frequentist
    from sbi.diagnostics.tarp import _run_tarp, check_tarp, get_tarp_references

    z, draws = run.z, run.draws[1:]
    ranks = torch.stack([(draws[..., i] < z[:, i]).sum(0) for i in range(2)], 1).float()
    first, second = check_uniformity_frequentist(ranks, DRAWS).tolist()
    region = (run.log_q(draws) < run.log_q(z)).sum(0).float().unsqueeze(1)
    found = {"sbi: SBC, z[0]": first, "sbi: SBC, z[1]": second}
    found["sbi: expected coverage"] = float(check_uniformity_frequentist(region, DRAWS)[0])
    found["sbi: TARP"] = check_tarp(*_run_tarp(draws, z, get_tarp_references(z), z_score_theta=True))[1]
    found["sbi: SBC, both (Holm)"] = min(1.0, 2 * min(first, second))
    if networks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test = LC2ST(prior_samples=z, xs=run.x, posterior_samples=run.draws[0], seed=seed, num_trials_null=50)
            test.train_on_observed_data(verbosity=0)
            test.train_under_null_hypothesis(verbosity=0)
            found["sbi: L-C2ST at a row"] = float(test.p_value(run.at[:DRAWS, 0], run.at_x))
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 200), ("rows", 100), ("networks", 0), ("seed", 0)):
        words.add_argument(f"--{name}", type=int, default=default)
    words.add_argument("--only", nargs="*", default=list(KINDS))
    asked = words.parse_args()
    beside = False
    with contextlib.suppress(ImportError):
        import sbi.diagnostics  # noqa: F401

        beside = True
    for kind in asked.only:
        found: dict[str, list[float]] = {}
        began, spent = time.process_time(), 0.0
        for i in range(asked.runs):
            torch.manual_seed(asked.seed * 100_000 + i)
            run = KINDS[kind](kind, asked.rows)
            p_values: dict[str, Any] = ours(run, torch.Generator().manual_seed(2**40 + i))
            if beside:
                before = time.process_time()
                p_values |= theirs(run, i < asked.networks, i)
                spent += time.process_time() - before
            for name, p in p_values.items():
                found.setdefault(name, []).append(p)
        seconds = time.process_time() - began
        print(f"{kind}: {asked.runs} runs of {asked.rows} rows, {seconds - spent:.0f} s ours, {spent:.0f} s sbi's")
        for name, several in found.items():
            share = float(np.mean(np.array(several) <= 0.05))
            error = math.sqrt(max(share * (1 - share), 1e-9) / len(several))
            print(f"  {name:28} rejects in {100 * share:5.1f} % ± {100 * error:.1f} ({len(several)})", flush=True)


if __name__ == "__main__":
    main()
