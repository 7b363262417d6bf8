"""The time of one training step: ours compiled, captured and eager, Pyro's SVI, torch written by hand, NumPyro.

    python benchmarks/step_time.py [--rounds 12] [--steps 10] [--only vae,iwae,gated,m2,iaf] [--clock wall|cpu]

Same networks, rows, optimizer (Adam, 1e-3) and batch of 128 in every column; each column has its own copy. Rounds are
interleaved, so that a busy machine is equally bad for all; medians over rounds, and ratios to ours compiled. `cpu`
counts this process's processor time, which on a shared machine says more, with OMP_NUM_THREADS=1. NumPyro is a
column where it can be imported (`pip install -e ".[bench]"`). The floor is the number of floating-point operations of
the step written by hand over the speed of a large matrix product with as many threads.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ppl_vae.analysis import analyse
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.compiler import compiled
from ppl_vae.data import Field, Schema
from ppl_vae.graph import StepGraph
from ppl_vae.guides import IAF, MeanField
from ppl_vae.models import VAE
from ppl_vae.networks import MLP, concatenate, hidden_layer
from ppl_vae.program import Pair
from ppl_vae.steps import BoundStep

ROWS, PIXELS, LABELS = 128, 784, 10
Step = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Case:
    """What the columns have in common: networks, and the step in three ways of writing it."""

    ours: Callable[[], tuple[Any, Any]]
    bound: Any
    pyro: Callable[[], tuple[Any, Any]]
    loss: Any
    hand: Callable[[], nn.Module]


# -- a VAE, as a Pyro example writes it, and by hand -----------------------------------------------------------


class Networks(nn.Module):
    """Encoder to mean and scale, decoder to logits."""

    def __init__(self, hidden: tuple[int, ...], latent: int, activation: str) -> None:
        super().__init__()
        layers, width = [], PIXELS
        for size in hidden:
            layers += hidden_layer(width, size, activation)
            width = size
        self.encoder = nn.Sequential(*layers)
        self.loc, self.scale = nn.Linear(width, latent), nn.Linear(width, latent)
        self.decoder = MLP(latent, hidden[::-1], PIXELS, activation)
        self.latent = latent

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.loc(h), self.scale(h).exp()


class Example(Networks):
    """The programs of Pyro's VAE example."""

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zero = torch.zeros(x.shape[0], self.latent, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            image = self.decoder(z).sigmoid()
            pyro.sample("obs", dist.Bernoulli(image, validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        for name in ("encoder", "loc", "scale"):
            pyro.module(name, getattr(self, name))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*self.encode(x)).to_event(1))


class ByHand(Networks):
    """Minus the bound, as somebody who knows the model writes it."""

    def __init__(self, *shape: Any, particles: int = 1) -> None:
        super().__init__(*shape)
        self.particles = particles

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encode(x)
        noise = torch.randn(self.particles, *loc.shape)
        z = loc + scale * noise
        logits = self.decoder(z)
        fit = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_w = fit + (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)
        return -(log_w.logsumexp(0) if self.particles > 1 else log_w).mean()


def vae(hidden: tuple[int, ...], latent: int, activation: str, particles: int = 1) -> Case:
    schema = Schema((Field("x", "binary", (PIXELS,)),))

    def ours() -> tuple[Any, Any]:
        model = VAE(schema, latent_dim=latent, hidden=hidden[::-1], activation=activation)
        return model, MeanField(model, hidden=hidden, activation=activation)

    def theirs() -> tuple[Any, Any]:
        example = Example(hidden, latent, activation)
        return example.model, example.guide

    single = particles == 1
    loss = Trace_ELBO() if single else RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True)
    bound = ELBO() if single else IWAE(particles)
    return Case(ours, bound, theirs, loss, lambda: ByHand(hidden, latent, activation, particles=particles))


# -- M2 with ten labels, summed out ----------------------------------------------------------------------------


class M2(nn.Module):
    """p(y) p(z) p(x | y, z) and q(y | x) q(z | x, y) as two Pyro programs; the rows have no labels."""

    def __init__(self, hidden: int = 400, latent: int = 20) -> None:
        super().__init__()
        self.decoder = MLP(LABELS + latent, (hidden,), PIXELS, "softplus")
        self.classifier = MLP(PIXELS, (hidden,), LABELS, "softplus")
        self.encoder = MLP(PIXELS + LABELS, (hidden,), 2 * latent, "softplus")
        self.latent = latent

    def one_hot(self, y: Tensor) -> Tensor:
        return (y.unsqueeze(-1) == torch.arange(LABELS)).float()

    def encode(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.encoder(concatenate([x, label])).chunk(2, -1)
        return loc, raw.exp()

    def model(self, x: Tensor) -> None:
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(LABELS) / LABELS))
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            logits = self.decoder(concatenate([self.one_hot(y), z]))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.classifier(x)))
            pyro.sample("z", dist.Normal(*self.encode(x, self.one_hot(y))).to_event(1))

    def forward(self, x: Tensor) -> Tensor:
        """By hand: minus the ELBO with the label summed out, [label, row]."""
        log_q = self.classifier(x).log_softmax(-1).T
        label = torch.eye(LABELS).unsqueeze(1).expand(LABELS, len(x), LABELS)
        loc, scale = self.encode(x.expand(LABELS, *x.shape), label)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        logits = self.decoder(torch.cat([label, z], -1))
        fit = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        elbo = fit + (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1) - log_q
        return -(log_q.exp() * elbo).sum(0).mean()


def m2() -> Case:
    def ours() -> tuple[Any, Any]:
        programs = M2()
        return programs.model, programs.guide

    def theirs() -> tuple[Any, Any]:
        programs = M2()
        return programs.model, config_enumerate(programs.guide, "parallel", expand=True)

    return Case(ours, ELBO(), theirs, TraceEnum_ELBO(max_plate_nesting=1), M2)


# -- an IAF guide: the same guide in all columns ----------------------------------------------------------------


def iaf() -> Case:
    schema = Schema((Field("x", "binary", (PIXELS,)),))

    def ours() -> tuple[Any, Any]:
        model = VAE(schema, latent_dim=20, hidden=(400,), activation="softplus")
        return model, IAF(model, flows=2, width=128, hidden=(400,), activation="softplus")

    class Hand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.guide = ours()

        def forward(self, x: Tensor) -> Tensor:
            flow = self.guide.heads[0](self.guide.encoder({"x": x}))
            z = flow.rsample()
            logits = self.model.decoder(z)
            fit = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
            return -(fit + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - flow.log_prob(z)).mean()

    return Case(ours, ELBO(), ours, Trace_ELBO(), Hand)


CASES: dict[str, Callable[[], Case]] = {
    "vae": lambda: vae((400,), 20, "softplus"),
    "iwae": lambda: vae((400,), 20, "softplus", particles=5),
    "gated": lambda: vae((300, 300), 40, "gated"),
    "m2": m2,
    "iaf": iaf,
}

# -- columns ----------------------------------------------------------------------------------------------------


def our_steps(case: Case, x: Tensor) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for way in ("eager", "captured", "compiled"):
        torch.manual_seed(0)
        pair = Pair(*case.ours())
        structure = analyse(pair, {"x": x})
        optimizer = torch.optim.AdamW(pair.parameters(), 1e-3, weight_decay=0.0, fused=True)
        step = BoundStep(pair, structure, case.bound, optimizer, 60_000, lambda epoch: 1.0)
        if way == "eager":
            steps["ours, eager"] = lambda x, step=step: step({"x": x}, 1.0)
            continue
        start = time.perf_counter()
        graph = StepGraph(step, {"x": x})
        if way == "compiled":
            graph.use(compiled(graph.captured, graph.inputs({"x": x}, 1.0)))
        print(f"  ours, {way}: ready after {time.perf_counter() - start:.1f} s", flush=True)
        steps[f"ours, {way}"] = lambda x, graph=graph: graph.replay({"x": x}, 1.0)
    return steps


def pyro_step(case: Case, x: Tensor) -> Step:
    pyro.clear_param_store()
    model, guide = case.pyro()
    return SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=case.loss).step


def hand_steps(case: Case) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    network = case.hand()
    for name, compiling in (("by hand, eager", False), ("by hand, torch.compile", True)):
        own = copy.deepcopy(network)
        optimizer = torch.optim.Adam(own.parameters(), 1e-3, fused=True)
        loss = torch.compile(own) if compiling else own

        def step(x: Tensor, loss: Any = loss, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss(x).backward()
            optimizer.step()

        steps[name] = step
    return steps


def numpyro_step(x: Tensor) -> Step | None:
    """NumPyro's SVI of the 784-400-20 VAE, jitted, as its own example writes it."""
    try:
        import jax
        import numpyro
        import numpyro.distributions as ndist
        from jax import numpy as jnp
        from jax.example_libraries import stax
        from numpyro import optim
        from numpyro.infer import SVI as JaxSVI
        from numpyro.infer import Trace_ELBO as JaxELBO
    except ImportError:
        return None
    encoder = stax.serial(
        stax.Dense(400),
        stax.Softplus,
        stax.FanOut(2),
        stax.parallel(stax.Dense(20), stax.serial(stax.Dense(20), stax.Exp)),
    )
    decoder = stax.serial(stax.Dense(400), stax.Softplus, stax.Dense(PIXELS), stax.Sigmoid)

    def model(batch: Any) -> None:
        decode = numpyro.module("decoder", decoder, (ROWS, 20))
        with numpyro.plate("batch", ROWS):
            z = numpyro.sample("z", ndist.Normal(0, 1).expand([20]).to_event(1))
            numpyro.sample("obs", ndist.Bernoulli(decode(z)).to_event(1), obs=batch)

    def guide(batch: Any) -> None:
        encode = numpyro.module("encoder", encoder, (ROWS, PIXELS))
        with numpyro.plate("batch", ROWS):
            numpyro.sample("z", ndist.Normal(*encode(batch)).to_event(1))

    svi = JaxSVI(model, guide, optim.Adam(1e-3), JaxELBO())
    rows = jnp.asarray(x.numpy())
    state = [svi.init(jax.random.PRNGKey(0), rows)]
    update = jax.jit(svi.update)

    def step(_: Tensor) -> None:
        state[0], loss = update(state[0], rows)
        loss.block_until_ready()

    return step


def floor(case: Case, x: Tensor, clock: Callable[[], float]) -> float:
    """Seconds that the step's floating-point operations take at the speed of a large matrix product."""
    network = case.hand()
    with FlopCounterMode(display=False) as counter:
        network(x).backward()
    a, times = torch.randn(2048, 2048), []
    for _ in range(6):
        start = clock()
        a @ a
        times.append(clock() - start)
    return counter.get_total_flops() / (2 * 2048**3 / min(times))


def measure(steps: dict[str, Step], x: Tensor, rounds: int, count: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of a step by column."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            for _ in range(count):
                step(x)
            if i:  # the first round warms up
                times[name].append((clock() - start) / count)
    return {name: statistics.median(v) for name, v in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    ask = parser.parse_args()
    pyro.enable_validation(False)
    clock = time.perf_counter if ask.clock == "wall" else time.process_time
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((ROWS, PIXELS), 0.3))
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {torch.get_num_threads()} threads, {ask.clock} time")
    for name in ask.only.split(","):
        print(name, flush=True)
        case = CASES[name]()
        steps = our_steps(case, x) | {"Pyro's SVI": pyro_step(case, x)} | hand_steps(case)
        if name == "vae" and (jax_step := numpyro_step(x)) is not None:
            steps["NumPyro, jitted"] = jax_step
        found = measure(steps, x, ask.rounds, ask.steps, clock)
        ours = found["ours, compiled"]
        for column, seconds in found.items():
            print(f"  {column:24s} {seconds * 1e3:8.2f} ms   ours compiled / this {ours / seconds:5.2f}", flush=True)
        print(f"  {'floor (arithmetic)':24s} {floor(case, x, clock) * 1e3:8.2f} ms", flush=True)


if __name__ == "__main__":
    main()
