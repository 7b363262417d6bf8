"""How close every posterior family comes to the true posterior, where the evidence is known; and what a step costs.

    python benchmarks/posterior_quality.py                         # families x problems, some 30 minutes on one core
    python benchmarks/posterior_quality.py --families IAF Planar --problems banana --steps 3000
    python benchmarks/posterior_quality.py --nuts                  # posteriors of the examples against Pyro's NUTS

Printed: the gap, exact log evidence minus ELBO, in nats per row (mean over ROWS rows drawn from the model), with the
Monte Carlo standard error of the ELBO; then milliseconds per step. A model has no parameters here, the guide is trained
on just these rows, so that a gap is the family's (or its optimisation's), not the encoder's. Every family has the same
budget: ELBO with PARTICLES draws, Adam, learning rate falling from 0.01 to 0 like a cosine.
"""

from __future__ import annotations

import argparse
import math
import runpy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ppl_vae import guides, log_weights
from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.bounds import ELBO
from ppl_vae.checks.analysis import analyse
from ppl_vae.guides import FullRank, Refined, Spline
from ppl_vae.prediction.coding import encode
from ppl_vae.programs.program import Pair
from ppl_vae.schedules import Cosine

ROWS, PARTICLES, DRAWS = 16, 32, 8000

VARIANTS: dict[str, Callable[..., Any]] = {
    "Refined(MeanField)": guides.MeanField,
    "Sylvester, orthogonal": partial(guides.Sylvester, basis="orthogonal"),
    "Sylvester, triangular": partial(guides.Sylvester, basis="triangular"),
    "Spline, coupling": partial(guides.Spline, coupling=True),
}
EVERY = {name: getattr(guides, name) for name in guides.__all__}
FAMILIES = {name: cls for name, cls in EVERY.items() if issubclass(cls, GeneratedGuide)} | VARIANTS


@dataclass(frozen=True)
class Problem:
    """A model, the log evidence of rows [row], what else is known, and the encoder's hidden layers."""

    model: Callable[..., Any]
    log_evidence: Callable[[Tensor], Tensor]
    best_mean_field: float | None = None
    responsibilities: Callable[[Tensor], Tensor] | None = None
    hidden: tuple[int, ...] = (64,)

    def rows(self, count: int) -> Tensor:
        """x of some rows, drawn from the model."""
        with torch.no_grad():
            return self.model(n=count)


# -- problems ----------------------------------------------------------------------------------------------------

W = torch.tensor([[1.0, 0.8, -0.4, 0.2], [0.9, 1.0, -0.3, 0.5], [0.2, 0.3, 1.0, 0.9]])
SIGMA = 0.4


def linear_gaussian(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ W.T, SIGMA).to_event(1), obs=x)


def linear_gaussian_evidence(x: Tensor) -> Tensor:
    w = W.double()
    covariance = w @ w.T + SIGMA**2 * torch.eye(3, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x.double())


def linear_gaussian_mean_field() -> float:
    """The least KL divergence of independent normals: half of sum log diag(precision) - log det(precision)."""
    precision = torch.eye(4, dtype=torch.float64) + W.double().T @ W.double() / SIGMA**2
    return float(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)))


def banana(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z[..., 1] + z[..., 0].square() - 1, 0.2), obs=x)


def line(limit: float, count: int) -> Tensor:
    return torch.linspace(-limit, limit, count, dtype=torch.float64)


def banana_evidence(x: Tensor) -> Tensor:
    """Given the first latent x is normal; the integral over it is a sum (trapezoids converge exponentially here)."""
    z = line(9.0, 4001)
    prior = dist.Normal(0.0, 1.0).log_prob(z) + math.log(float(z[1] - z[0]))
    return (prior + dist.Normal(z.square() - 1, math.hypot(1.0, 0.2)).log_prob(x.double().unsqueeze(-1))).logsumexp(-1)


def two_moons(x=None, n=1):
    """A noisy radius and a noisy |z_0|: what is left are two arcs, left and right."""
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        seen = torch.stack([z.square().sum(-1).sqrt(), z[..., 0].abs()], -1)
        return pyro.sample("x", dist.Normal(seen, torch.tensor([0.2, 0.4])).to_event(1), obs=x)


def two_moons_evidence(x: Tensor) -> Tensor:
    z = line(7.0, 1401)
    a, b = z.unsqueeze(-1), z
    prior = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(0.0, 1.0).log_prob(b) + 2 * math.log(float(z[1] - z[0]))
    radius = (a.square() + b.square()).sqrt()
    rows = []
    for row in x.double():
        given = dist.Normal(radius, 0.2).log_prob(row[0]) + dist.Normal(a.abs(), 0.4).log_prob(row[1])
        rows.append((prior + given).flatten().logsumexp(0))
    return torch.stack(rows)


SHARES = torch.tensor([0.5, 0.3, 0.2])
CENTRES = torch.tensor([[0.0, 0.0], [1.5, 0.5], [0.0, 2.0]])
STYLES = torch.tensor([[[0.8, 0.5], [0.6, 0.9]], [[0.3, -0.6], [0.9, 0.2]], [[0.7, 0.0], [-0.5, 0.4]]])


def label_and_style(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        y = pyro.sample("y", dist.Categorical(SHARES))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = CENTRES[y] + (STYLES[y] @ z.unsqueeze(-1)).squeeze(-1)
        return pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


def label_joint(x: Tensor) -> Tensor:
    styles = STYLES.double()
    covariance = styles @ styles.mT + 0.25 * torch.eye(2, dtype=torch.float64)
    given = dist.MultivariateNormal(CENTRES.double(), covariance).log_prob(x.double().unsqueeze(1))
    return SHARES.double().log() + given


def gamma_poisson(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Gamma(1.5, 0.5))
        return pyro.sample("x", dist.Poisson(z), obs=x)


def gamma_poisson_evidence(x: Tensor) -> Tensor:
    return dist.GammaPoisson(torch.tensor(1.5, dtype=torch.float64), torch.tensor(0.5).double()).log_prob(x.double())


def two_layers(x=None, n=1):
    """z2 -> z1 -> x: the upper latent sets the scale of the lower one."""
    with pyro.plate("data", n if x is None else len(x)):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.0, top.exp()))
        return pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def two_layers_evidence(x: Tensor) -> Tensor:
    top = line(9.0, 4001)
    prior = dist.Normal(0.0, 1.0).log_prob(top) + math.log(float(top[1] - top[0]))
    scale = ((2 * top).exp() + 0.25).sqrt()
    return (prior + dist.Normal(0.0, scale).log_prob(x.double().unsqueeze(-1))).logsumexp(-1)


PROBLEMS = {
    "linear-Gaussian": Problem(
        linear_gaussian, linear_gaussian_evidence, best_mean_field=linear_gaussian_mean_field(), hidden=()
    ),
    "banana": Problem(banana, banana_evidence),
    "two moons": Problem(two_moons, two_moons_evidence),
    "label and style": Problem(
        label_and_style, lambda x: label_joint(x).logsumexp(-1), responsibilities=lambda x: label_joint(x).softmax(-1)
    ),
    "Gamma-Poisson": Problem(gamma_poisson, gamma_poisson_evidence),
    "two layers": Problem(two_layers, two_layers_evidence),
}


# -- training and measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Gap and its standard error in nats per row, seconds per step, and the largest error of a responsibility."""

    gap: float
    error: float
    seconds: float
    responsibility: float | None = None


def train(model: Any, guide: Any, fields: dict[str, Tensor], steps: int, lr: float, batch: int | None = None) -> float:
    """A plain torch loop with a bound as its loss; returns the median seconds per step."""
    pair = Pair(model, guide)
    structure = analyse(pair, fields)
    bound, schedule = ELBO(PARTICLES), Cosine(lr, steps)
    rows = len(next(iter(fields.values())))
    optimizer = torch.optim.Adam(guide.parameters(), lr, fused=True)
    times = []
    for step in range(steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        index = slice(None) if batch is None else torch.randint(rows, (batch,))
        weights = bound.weigh(pair, structure, {n: v[index] for n, v in fields.items()})
        optimizer.zero_grad(set_to_none=True)
        (-bound.surrogate(weights).mean()).backward()
        torch.nn.utils.clip_grad_norm_(guide.parameters(), 10.0)  # one wild draw must not freeze Adam
        optimizer.step()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


@torch.no_grad()
def gap(problem: Problem, guide: Any, x: Tensor) -> tuple[float, float]:
    """Mean over rows of log evidence - ELBO, and its Monte Carlo standard error."""
    weights = log_weights(problem.model, guide, {"x": x}, DRAWS, discrete="expectation", chunk=1000).log_weight.double()
    error = (weights.var(0) / len(weights)).sum().sqrt() / len(x)
    return float((problem.log_evidence(x) - weights.mean(0)).mean()), float(error)


def measure(family: str, problem: Problem, steps: int, seed: int) -> Measured:
    """Train a family on a problem and measure it."""
    pyro.set_rng_seed(seed)
    x = problem.rows(ROWS)
    guide = FAMILIES[family](problem.model, x, hidden=problem.hidden)
    seconds = train(problem.model, guide, {"x": x}, steps, 0.01)
    if family.startswith("Refined"):
        guide = Refined(guide, steps=300, lr=0.05, particles=PARTICLES)
        start = time.perf_counter()
        guide(x=x)
        seconds = (time.perf_counter() - start) / guide.steps
    found = gap(problem, guide, x)
    if problem.responsibilities is None:
        return Measured(*found, seconds)
    shares = encode(guide, {"x": x}, draws=1)["y"]
    return Measured(*found, seconds, float((shares - problem.responsibilities(x)).abs().max()))


def families_by_problems(families: list[str], problems: list[str], steps: int, seed: int) -> None:
    """The table of gaps, and that of milliseconds; a line for each family as soon as it is known."""
    console = Console(width=40 + 22 * len(problems))
    gaps = Table("family", *problems, title=f"gap in nats per row ± standard error; {steps} steps, seed {seed}")
    times = Table("family", *problems, title="milliseconds per step (of Refined: per refining step)")
    exact = [PROBLEMS[p].best_mean_field for p in problems]
    gaps.add_row("mean field, closed form", *("" if v is None else f"{v:.4f}" for v in exact))
    for family in families:
        found = [measure(family, PROBLEMS[p], steps, seed) for p in problems]
        cells = [f"{m.gap:.4f} ± {m.error:.4f}" for m in found]
        print(family, *cells, sep=" | ", flush=True)
        labels = [m.responsibility for m in found]
        gaps.add_row(family, *(c if r is None else f"{c} ({r:.4f})" for c, r in zip(cells, labels, strict=True)))
        times.add_row(family, *(f"{1e3 * m.seconds:.1f}" for m in found))
    console.print(gaps)
    console.print("in brackets: the largest error of a responsibility")
    console.print(times)


# -- against NUTS --------------------------------------------------------------------------------------------------

EXAMPLES = Path(__file__).parents[1] / "examples"
BEST = {
    "factor_analysis": FullRank,
    "mixture": FullRank,
    "hierarchy": Spline,
    "regression": FullRank,
    "counts": Spline,
    "mixed_table": Spline,
}


def example_rows(script: dict[str, Any], rows: int) -> dict[str, Tensor]:
    """Simulated rows of an example by field, without holes and without labels: NUTS knows neither."""
    table = script["simulate"](rows=rows, seed=1).drop(columns="kind", errors="ignore").dropna()
    fields = script.get("FIELDS") or {"x": list(table.columns)}
    return {name: torch.tensor(table[columns].to_numpy(), dtype=torch.float32) for name, columns in fields.items()}


def nuts(model: Any, fields: dict[str, Tensor], draws: int) -> dict[str, Tensor]:
    """Draws of the latents, [draw, row, ...]; rows are independent given the parameters, so one chain serves all."""
    kernel = pyro.infer.NUTS(model, max_plate_nesting=1)
    chain = pyro.infer.MCMC(kernel, num_samples=draws, warmup_steps=500, disable_progbar=True)
    chain.run(**fields)
    return chain.get_samples()


def against_nuts(name: str, steps: int, draws: int, seed: int) -> None:
    """Posterior means and deviations of single rows: the best family beside NUTS."""
    pyro.clear_param_store()
    script = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    fields = example_rows(script, 400)
    model = script["Model"](**script["TRUTH"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    pyro.set_rng_seed(seed)
    guide = BEST[name](model, fields, hidden=(128, 128))
    train(model, guide, fields, steps, 0.003, batch=32)
    few = {n: v[:3] for n, v in fields.items()}
    refined = Refined(guide, steps=300, lr=0.02, particles=64)
    found = nuts(model, few, draws)
    for label, q in ((BEST[name].__name__, guide), (f"Refined({BEST[name].__name__})", refined)):
        ours = drawn(q, few, 4 * draws)
        for site in found:
            print(f"{name:16} {label:18} {site:8} {compared(ours[site], found[site])}", flush=True)


@torch.no_grad()
def drawn(guide: Any, fields: dict[str, Tensor], draws: int) -> dict[str, Tensor]:
    """Draws of a guide, [draw, row, ...]: a plate to the left of its own."""
    with pyro.plate("draws", draws, dim=-2):
        return guide(**fields)


def compared(ours: Tensor, theirs: Tensor) -> str:
    """The largest differences over rows and entries, in units of NUTS's posterior sd, and NUTS's own error."""
    mean, sd = theirs.mean(0), theirs.std(0)
    ess = pyro.ops.stats.effective_sample_size(theirs.unsqueeze(0), chain_dim=0, sample_dim=1).clamp(max=len(theirs))
    off = ((ours.mean(0) - mean) / sd).abs().max()
    ratio = (ours.std(0) / sd - 1).abs().max()
    return (
        f"mean off by {off:.3f} sd (MCSE {ess.min() ** -0.5:.3f}), sd off by {100 * ratio:.1f}% "
        f"(MCSE {100 * (2 * ess.min()) ** -0.5:.1f}%)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nuts", action="store_true", help="the examples against NUTS instead")
    parser.add_argument("--examples", nargs="+", default=list(BEST), choices=list(BEST), metavar="EXAMPLE")
    parser.add_argument("--draws", type=int, default=6000, help="of NUTS")
    asked = parser.parse_args()
    pyro.enable_validation(False)
    if asked.nuts:
        for name in asked.examples:
            against_nuts(name, asked.steps, asked.draws, asked.seed)
    else:
        families_by_problems(asked.families, asked.problems, asked.steps, asked.seed)


if __name__ == "__main__":
    main()
