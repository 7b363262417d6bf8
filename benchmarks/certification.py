"""How often intervals of certified evidence cover the truth, where the truth is known; and what the default run takes.

    python benchmarks/certification.py coverage --rows 500
    python benchmarks/certification.py digits --run runs/digits-vae-mean_field
    python benchmarks/certification.py anneal --run runs/digits-vae-mean_field --rows 100 --out long-anneal

`coverage` makes rows of three models whose evidence has a closed form or a quadrature, gives them guides that are wrong
in different ways, and counts by method the rows whose interval of 95% holds log p(x). `anneal` holds the certified
evidence of some rows of a run against a long anneal of each, 16 chains over 5,000 temperatures with 5 leapfrog steps
each; stopped, it goes on.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

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


def anneal(folder: str, rows: int, out: str, temperatures: int, seed: int) -> None:
    """Certified evidence of a run's first test rows beside a long anneal of each."""
    run = ppl_vae.open_run(folder)
    some = run.data().test.rows(slice(0, rows))
    began = time.process_time()
    parts = ppl_vae.in_parts(
        diagnostics.annealed_evidence,
        *(run.model, run.guide, some),
        out=out,
        size=10,
        seed=seed + 1,
        temperatures=temperatures,
        steps=5,
        progress=lambda done, of: print(f"{done} of {of} rows, {time.process_time() - began:.0f} s", flush=True),
    )
    long = parts.frame()
    evidence, error = (torch.tensor(long[name].to_numpy()) for name in ("log_evidence", "log_evidence_se"))
    found = ppl_vae.certify(run.model, run.guide, some, seed=seed)
    apart = found.log_evidence - evidence
    both = torch.hypot(found.log_evidence_se, error)
    within = int((apart.abs() <= 1.96 * both).sum())
    mean, mean_error = float(apart.mean()), float(both.square().sum().sqrt() / rows)
    print(f"certified: {int(found.certified.sum())} of {rows}, mean {float(found.log_evidence.mean()):.4f}")
    print(f"annealed: mean {float(evidence.mean()):.4f}, error of a row {float(error.median()):.3f} (median)")
    print(f"difference {mean:+.4f} ± {mean_error:.4f} nats per row; within 1.96 errors in {within} of {rows} rows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "digits", "anneal"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--run", default="runs/digits-vae-mean_field")
    parser.add_argument("--without", nargs="*", default=[], help="methods to leave out, such as annealed-long")
    parser.add_argument("--out", default="long-anneal", help="where parts of the long anneal are kept")
    parser.add_argument("--temperatures", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "coverage":
        coverage(options.rows, options.seed, options.without)
    elif options.what == "anneal":
        anneal(options.run, options.rows, options.out, options.temperatures, options.seed)
    else:
        digits(options.run, options.seed)
