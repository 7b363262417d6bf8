"""How often intervals of certified evidence cover the truth, where the truth is known; and what the default run takes.

    python benchmarks/certification.py coverage --rows 500
    python benchmarks/certification.py digits --run runs/digits-vae-mean_field
    python benchmarks/certification.py draws --rows 20
    python benchmarks/certification.py anneal --run runs/digits-vae-mean_field --rows 100 --out long-anneal

`coverage` makes rows of three models whose evidence has a closed form or a quadrature, gives them guides that are wrong
in different ways, and counts by method the rows whose interval of 95% holds log p(x). `draws` holds draws from
the posterior of single rows, and of eight schools, against exact ones by two-sample tests. `anneal` holds the certified
evidence of some rows of a run against a long anneal of each, 16 chains over 5,000 temperatures with 5 leapfrog steps
each; stopped, it goes on.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import ppl_vae
from ppl_vae import diagnostics
from ppl_vae.diagnostics._certification import climb as module
from ppl_vae.diagnostics._certification.methods import METHODS

D = 5


def linear(x: Tensor) -> None:
    """z ~ N(0, I_2), x ~ N(W z, 0.5^2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings().T, 0.5).to_event(1), obs=x)


def loadings() -> Tensor:
    """W, [D, 2], with columns that are not orthogonal."""
    return torch.tensor([[1.0, 0.8], [0.7, 0.9], [-0.3, 0.2], [0.5, 0.5], [1.2, 0.9]])


def linear_exact(x: Tensor) -> Tensor:
    """log p(x), [row]."""
    w = loadings().double()
    return dist.MultivariateNormal(torch.zeros(D).double(), w @ w.T + 0.25 * torch.eye(D).double()).log_prob(x.double())


def banana(x: Tensor) -> None:
    """z ~ N(0, I_2), x ~ N(2 z_2 - z_1^2, 0.4^2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(2 * z[..., 1] - z[..., 0] ** 2, 0.4), obs=x)


def banana_exact(x: Tensor) -> Tensor:
    """log p(x), [row]: z_2 integrated in closed form, z_1 on a grid."""
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    inner = dist.Normal(-(grid**2), math.sqrt(4 + 0.4**2)).log_prob(x.double()[:, None])
    return (inner + dist.Normal(0.0, 1.0).log_prob(grid)).logsumexp(1) + math.log(18 / 20_000)


def styled(x: Tensor) -> None:
    """y ~ Categorical(0.3, 0.7), z ~ N(0, 1), x ~ N(z + 3 y, 0.5^2): two modes."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + 3.0 * y, 0.5), obs=x)


def styled_exact(x: Tensor) -> Tensor:
    """log p(x), [row]."""
    parts = [dist.Normal(3.0 * y, 1.25**0.5).log_prob(x.double()) + math.log(p) for y, p in enumerate((0.3, 0.7))]
    return torch.logaddexp(*parts)


def narrow(width: int | None) -> Callable[..., None]:
    """A guide that looks at nothing: a normal about 0 with a deviation of 0.3."""

    def guide(x: Tensor) -> None:
        loc = torch.zeros(len(x)) if width is None else torch.zeros(len(x), width)
        with pyro.plate("data", len(x)):
            q = dist.Normal(loc, 0.3)
            pyro.sample("z", q if width is None else q.to_event(1))

    return guide


def two_moons(x: Tensor) -> None:
    """z ~ N(0, I_2), x ~ N(|z_1| + z_2^2, 0.4^2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0].abs() + z[..., 1] ** 2, 0.4), obs=x)


def eight_schools(y: Tensor) -> None:
    """mu ~ N(0, 5^2), tau ~ half Cauchy(5), theta ~ N(mu, tau^2), centred; y ~ N(theta, sigma^2)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, SIGMA), obs=y)


def eight_schools_guide(y: Tensor) -> None:
    """A rough one."""
    pyro.sample("mu", dist.Normal(4.0, 3.0))
    pyro.sample("tau", dist.LogNormal(1.0, 0.5))
    with pyro.plate("school", len(y)):
        pyro.sample("theta", dist.Normal(4.0 * torch.ones(len(y)), 3.0))


EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools_exact(draws: int) -> tuple[float, Tensor]:
    """log p(y) by quadrature over (mu, log tau), and exact draws [draw, 10] of mu, log tau and theta."""
    mu, log_tau = torch.linspace(-35, 45, 801).double(), torch.linspace(-9, 8, 1701).double()
    tau, y, sigma = log_tau.exp(), EFFECTS.double(), SIGMA.double()
    spread = (tau[:, None] ** 2 + sigma**2).sqrt()
    seen = dist.Normal(mu[:, None, None], spread).log_prob(y).sum(-1)  # [mu, tau]
    prior = dist.Normal(0.0, 5.0).log_prob(mu)[:, None] + dist.HalfCauchy(5.0).log_prob(tau) + log_tau
    joint = seen + prior
    evidence = float(joint.flatten().logsumexp(0) + math.log(0.1 * 0.01))
    at = torch.multinomial(joint.flatten().softmax(0), draws, replacement=True)
    m = mu[at // len(tau)] + 0.1 * (torch.rand(draws) - 0.5)
    t = log_tau[at % len(tau)] + 0.01 * (torch.rand(draws) - 0.5)
    precision = 1 / sigma**2 + (-2 * t).exp()[:, None]
    mean = (y / sigma**2 + m[:, None] * (-2 * t).exp()[:, None]) / precision
    theta = mean + torch.randn(draws, 8) / precision.sqrt()
    return evidence, torch.cat([torch.stack([m, t], 1), theta], 1)


def on_a_grid(log_likelihood: Callable[[Tensor], Tensor], draws: int) -> Tensor:
    """Draws of p(z | x) in two dimensions, [draw, 2], each uniform in its cell."""
    axis = torch.linspace(-5, 5, 1001).double()
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_likelihood(z)
    chosen = torch.multinomial(joint.softmax(0), draws, replacement=True)
    return z[chosen] + 0.01 * (torch.rand(draws, 2) - 0.5)


EXACT_DRAWS: dict[str, tuple[Callable[..., None], Callable[[Tensor], Callable[[Tensor], Tensor]]]] = {
    "linear": (linear, lambda x: lambda z: dist.Normal(z @ loadings().double().T, 0.5).log_prob(x).sum(-1)),
    "banana": (banana, lambda x: lambda z: dist.Normal(2 * z[:, 1] - z[:, 0] ** 2, 0.4).log_prob(x)),
    "two moons": (two_moons, lambda x: lambda z: dist.Normal(z[:, 0].abs() + z[:, 1] ** 2, 0.4).log_prob(x)),
}


def draws(rows: int, seed: int, count: int = 200) -> None:
    """Certified draws beside exact ones, by MMD with permutations; of label and style by the share of labels, too."""
    for name, (model, likelihood) in EXACT_DRAWS.items():
        torch.manual_seed(seed)
        shape = (rows, D) if name == "linear" else (rows,)
        trace = pyro.poutine.trace(pyro.poutine.uncondition(model)).get_trace(torch.zeros(shape))
        x = trace.nodes["x"]["value"].detach()
        found = ppl_vae.certify(model, narrow(2), {"x": x}, draws=count, validate=0, seed=seed)
        p = [
            diagnostics.mmd(found.draws["z"][:, i], on_a_grid(likelihood(x[i].double()), count), seed=i).p_value
            for i in range(rows)
        ]
        told(name, p, found)
    torch.manual_seed(seed)
    y = (torch.rand(rows) < 0.7).float()
    x = torch.randn(rows) + 3 * y + 0.5 * torch.randn(rows)
    found = ppl_vae.certify(styled, narrow(None), {"x": x}, draws=count, validate=0, seed=seed)
    parts = torch.stack([dist.Normal(3.0 * k, 1.25**0.5).log_prob(x) + math.log(q) for k, q in enumerate((0.3, 0.7))])
    p = []
    for i in range(rows):
        label = torch.multinomial(parts[:, i].softmax(0), count, replacement=True)
        z = (x[i] - 3 * label) / 1.25 + (0.25 / 1.25) ** 0.5 * torch.randn(count)
        mine = torch.stack([found.draws["z"][:, i], 3.0 * found.draws["y"][:, i]], 1)
        p.append(diagnostics.mmd(mine, torch.stack([z, 3.0 * label], 1), seed=i).p_value)
    told("label and style", p, found)
    evidence, exact = eight_schools_exact(count)
    unit: dict[str, Any] = {"rows": None, "draws": count, "validate": 0, "seed": seed}
    found = ppl_vae.certify(eight_schools, eight_schools_guide, {"y": EFFECTS}, **unit)
    parts = [found.draws["mu"][:, None], found.draws["tau"].log()[:, None], found.draws["theta"]]
    mine = torch.cat(parts, 1).double()
    scale = exact.std(0)
    p = [diagnostics.mmd(mine / scale, exact / scale).p_value]
    told("eight schools, centred", p, found)
    value, error = float(found.log_evidence), float(found.log_evidence_se)
    print(f"  log evidence {value:.3f} ± {error:.3f}, quadrature {evidence:.3f}", flush=True)


def told(name: str, p: list[float], found: ppl_vae.diagnostics.Certified) -> None:
    """A line."""
    low = sum(v <= 0.05 for v in p)
    print(
        f"{name}: {int(found.certified.sum())} of {len(p)} certified; MMD rejects at 5% in {low} of {len(p)}, smallest "
        f"p {min(p):.3f}, median {sorted(p)[len(p) // 2]:.2f}",
        flush=True,
    )


PROBLEMS = {
    "linear": (linear, linear_exact, 2, (torch.zeros(D),)),
    "banana": (banana, banana_exact, 2, ()),
    "label and style": (styled, styled_exact, None, ()),
}


def coverage(rows: int, seed: int, without: list[str]) -> None:
    """Each method alone on rows of each problem."""
    for name, (model, exact, width, _) in PROBLEMS.items():
        torch.manual_seed(seed)
        shape = (rows, D) if name == "linear" else (rows,)
        trace = pyro.poutine.trace(pyro.poutine.uncondition(model)).get_trace(torch.zeros(shape))
        x = trace.nodes["x"]["value"].detach()
        truth = exact(x)
        for method in (m for m in METHODS if m.name not in without):
            before, module.METHODS = module.METHODS, (method,)
            began = time.process_time()
            try:
                found = ppl_vae.certify(model, narrow(width), {"x": x}, validate=0, seed=seed)
            finally:
                module.METHODS = before
            if method.name in found.reasons:
                continue
            sure = found.certified
            apart = (found.log_evidence - truth).abs() <= 1.96 * found.log_evidence_se
            covered = int((sure & apart).sum())
            share = 100 * covered / max(int(sure.sum()), 1)
            error = float(((found.log_evidence - truth)[sure]).mean()) if bool(sure.any()) else math.nan
            print(
                f"{name}: {method.name}: sure of {int(sure.sum())} of {rows}, covers {share:.1f} %, "
                f"mean error {error:+.4f} nats, {time.process_time() - began:.0f} processor seconds",
                flush=True,
            )


def digits(folder: str, seed: int) -> None:
    """The default run, before and after."""
    run = ppl_vae.open_run(folder)
    began, clock = time.process_time(), time.time()
    found = ppl_vae.certify(run.model, run.guide, run.data(), seed=seed, progress=print)
    print(found.verdict)
    print(found.summary())
    print(f"{time.process_time() - began:.0f} processor seconds, {time.time() - clock:.0f} s")


def anneal(folder: str, rows: int, out: str, size: int, temperatures: int, seed: int) -> None:
    """Certified evidence of a run's first test rows beside a long anneal of each."""
    run = ppl_vae.open_run(folder)
    some = run.data().test.rows(slice(0, rows))
    began = time.process_time()
    parts = ppl_vae.in_parts(
        diagnostics.annealed_evidence,
        *(run.model, run.guide, some),
        out=out,
        size=size,
        seed=seed + 1,
        temperatures=temperatures,
        steps=5,
        progress=lambda done, of: print(f"{done} of {of} rows, {time.process_time() - began:.0f} s", flush=True),
    )
    long = parts.frame()
    evidence, error = (torch.tensor(long[name].to_numpy()) for name in ("log_evidence", "log_evidence_se"))
    found = ppl_vae.certify(run.model, run.guide, some, validate=0, seed=seed)
    apart = found.log_evidence - evidence
    both = torch.hypot(found.log_evidence_se, error)
    within = int((apart.abs() <= 1.96 * both).sum())
    mean, mean_error = float(apart.mean()), float(both.square().sum().sqrt() / rows)
    print(f"certified: {int(found.certified.sum())} of {rows}, mean {float(found.log_evidence.mean()):.4f}")
    print(f"annealed: mean {float(evidence.mean()):.4f}, error of a row {float(error.median()):.3f} (median)")
    print(f"difference {mean:+.4f} ± {mean_error:.4f} nats per row; within 1.96 errors in {within} of {rows} rows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "digits", "draws", "anneal"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--run", default="runs/digits-vae-mean_field")
    parser.add_argument("--without", nargs="*", default=[], help="methods to leave out, such as annealed-long")
    parser.add_argument("--out", default="long-anneal", help="where parts of the long anneal are kept")
    parser.add_argument("--size", type=int, default=50, help="rows that are annealed together")
    parser.add_argument("--temperatures", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "coverage":
        coverage(options.rows, options.seed, options.without)
    elif options.what == "draws":
        draws(options.rows, options.seed)
    elif options.what == "anneal":
        anneal(options.run, options.rows, options.out, options.size, options.temperatures, options.seed)
    else:
        digits(options.run, options.seed)
