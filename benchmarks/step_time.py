"""The time of one training step: ours compiled, captured and eager, Pyro's SVI, torch written by hand, NumPyro.

    python benchmarks/step_time.py [--rounds 12] [--steps 10] [--only vae,iwae,iwae50,gated,conv,m2,iaf] [--batch 128]
        [--clock wall|cpu] [--columns "ours, compiled;Pyro's SVI"]

Same networks, rows, optimizer (Adam, 1e-3) and batch in every column. Each column is a process of its own, as a user
would run it, because what one leaves in the C library's allocator makes another faster; with ", memory kept" behind its
name it is started with the variables that tell glibc to keep freed memory. Rounds are interleaved, so that a busy
machine is equally bad for all; medians over rounds, and ratios to ours compiled. `cpu` counts processor time, which on
a shared machine says more, with OMP_NUM_THREADS=1 (NumPyro's own threads are counted too). NumPyro and pythae are
columns where they can be imported (`pip install -e ".[bench]"`). The floor is the number of floating-point operations
of the step written by hand over the speed of a large matrix product with as many threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from peers import PIXELS, pythae_vae
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Field, Schema
from ppl_vae.guides import IAF, MeanField
from ppl_vae.models import VAE
from ppl_vae.nn.networks import MLP, concatenate, hidden_layer
from ppl_vae.programs.program import Pair
from ppl_vae.speed.compiler import compiled
from ppl_vae.training._step_graph import StepGraph
from ppl_vae.training._steps import BoundStep
from ppl_vae.training.settings import Settings

LABELS = 10
KEPT = ", memory kept"
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""What tells glibc, when a process starts, to keep up to 1 GB of freed memory: docs/design/007-capture.md."""
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


# -- convolutions: the same programs in all columns ------------------------------------------------------------


class Convolutional(nn.Module):
    """28 x 28 - 32 x 14 x 14 - 64 x 7 x 7 - 20 and back, as two Pyro programs and by hand."""

    def __init__(self, latent: int = 20) -> None:
        super().__init__()
        down = [nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(64 * 49, 2 * latent))
        up = [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)]
        self.decoder = nn.Sequential(nn.Linear(latent, 64 * 49), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)), *up)
        self.latent = latent

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.encoder(x.reshape(-1, 1, 28, 28)).chunk(2, -1)
        return loc, raw.exp()

    def decode(self, z: Tensor) -> Tensor:
        logits: Tensor = self.decoder(z.reshape(-1, self.latent))
        return logits.reshape(*z.shape[:-1], PIXELS)

    def model(self, x: Tensor) -> None:
        pyro.module("convolutional", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("convolutional", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.encode(x)).to_event(1))

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encode(x)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        fit = -F.binary_cross_entropy_with_logits(self.decode(z), x, reduction="none").sum(-1)
        return -(fit + (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)).mean()


def convolutional() -> Case:
    def ours() -> tuple[Any, Any]:
        programs = Convolutional()
        return programs.model, programs.guide

    return Case(ours, ELBO(), ours, Trace_ELBO(), Convolutional)


CASES: dict[str, Callable[[], Case]] = {
    "vae": lambda: vae((400,), 20, "softplus"),
    "iwae": lambda: vae((400,), 20, "softplus", particles=5),
    "iwae50": lambda: vae((400,), 20, "softplus", particles=50),
    "conv": convolutional,
    "gated": lambda: vae((300, 300), 40, "gated"),
    "m2": m2,
    "iaf": iaf,
}

# -- columns ----------------------------------------------------------------------------------------------------


def our_step(case: Case, x: Tensor, way: str, precision: str = "float32") -> Step:
    torch.manual_seed(0)
    pair = Pair(*case.ours())
    structure = analyse(pair, {"x": x})
    optimizer = torch.optim.AdamW(pair.parameters(), 1e-3, weight_decay=0.0, fused=True)
    step = BoundStep(pair, structure, case.bound, optimizer, 60_000, Settings(precision=precision))
    if way == "eager":
        return lambda x: step({"x": x}, 1.0)
    start = time.perf_counter()
    graph = StepGraph(step, {"x": x})
    if way == "compiled":
        graph.use(compiled(graph.captured, graph.inputs({"x": x}, 1.0)))
    print(f"  ours, {way}, {precision}: ready after {time.perf_counter() - start:.1f} s", flush=True)
    return lambda x: graph.replay({"x": x}, 1.0)


def pyro_step(case: Case) -> Step:
    model, guide = case.pyro()
    return SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=case.loss).step


def hand_step(network: nn.Module, loss: Callable[[Tensor], Tensor]) -> Step:
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)

    def step(x: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(x).backward()
        optimizer.step()

    return step


def pythae_step() -> Step:
    """pythae's VAE as its trainer steps it: a dict of data in, an output with a loss, torch's Adam."""
    network = pythae_vae(400, 20, nn.Softplus)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        network({"data": x}, epoch=1, dataset_size=60_000).loss.backward()
        optimizer.step()

    return step


def numpyro_step(x: Tensor) -> Step:
    """NumPyro's SVI of the 784-400-20 VAE, jitted, as its own example writes it."""
    import jax
    import numpyro
    import numpyro.distributions as ndist
    from jax import numpy as jnp
    from jax.example_libraries import stax
    from numpyro import optim
    from numpyro.infer import SVI as JaxSVI
    from numpyro.infer import Trace_ELBO as JaxELBO

    encoder = stax.serial(
        stax.Dense(400),
        stax.Softplus,
        stax.FanOut(2),
        stax.parallel(stax.Dense(20), stax.serial(stax.Dense(20), stax.Exp)),
    )
    decoder = stax.serial(stax.Dense(400), stax.Softplus, stax.Dense(PIXELS), stax.Sigmoid)

    def model(batch: Any) -> None:
        decode = numpyro.module("decoder", decoder, (len(x), 20))
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", ndist.Normal(0, 1).expand([20]).to_event(1))
            numpyro.sample("obs", ndist.Bernoulli(decode(z)).to_event(1), obs=batch)

    def guide(batch: Any) -> None:
        encode = numpyro.module("encoder", encoder, (len(x), PIXELS))
        with numpyro.plate("batch", len(x)):
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


COLUMNS: dict[str, Callable[[Case, Tensor], Step]] = {
    "ours, eager": lambda case, x: our_step(case, x, "eager"),
    "ours, captured": lambda case, x: our_step(case, x, "captured"),
    "ours, compiled": lambda case, x: our_step(case, x, "compiled"),
    "ours, compiled, bfloat16": lambda case, x: our_step(case, x, "compiled", "bfloat16"),
    "Pyro's SVI": lambda case, x: pyro_step(case),
    "by hand, eager": lambda case, x: hand_step(*[case.hand()] * 2),
    "by hand, torch.compile": lambda case, x: hand_step(network := case.hand(), torch.compile(network)),
    "NumPyro, jitted": lambda case, x: numpyro_step(x),
    "pythae": lambda case, x: pythae_step(),
}


def work(pipe: Any, name: str, column: str, x: Tensor, clock: str) -> None:
    """A column's own process: told how many steps to make, it answers with the seconds of one."""
    pyro.enable_validation(False)
    warnings.simplefilter("ignore")
    now = time.perf_counter if clock == "wall" else time.process_time
    try:
        step = COLUMNS[column.removesuffix(KEPT)](CASES[name](), x)
    except ImportError:
        pipe.send(None)
        return
    pipe.send(0.0)
    while count := pipe.recv():
        start = now()
        for _ in range(count):
            step(x)
        pipe.send((now() - start) / count)


@contextmanager
def surroundings(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables of the processes that are started inside."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for variable in variables:
            del os.environ[variable]


def measure(name: str, columns: list[str], x: Tensor, rounds: int, count: int, clock: str) -> dict[str, float]:
    """Median seconds of a step by column."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for column in columns:
        pipe, end = context.Pipe()
        workers.append(context.Process(target=work, args=(end, name, column, x, clock), daemon=True))
        with surroundings(MALLOC if column.endswith(KEPT) else {}):
            workers[-1].start()
        if pipe.recv() is None:
            print(f"  {column}: cannot be imported", flush=True)
        else:
            pipes[column] = pipe
    times: dict[str, list[float]] = {column: [] for column in pipes}
    for i in range(rounds + 1):
        for column, pipe in pipes.items():
            pipe.send(count)
            if i:  # the first round warms up
                times[column].append(pipe.recv())
            else:
                pipe.recv()
    for pipe in pipes.values():
        pipe.send(0)
    for worker in workers:
        worker.join()
    return {column: statistics.median(v) for column, v in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--columns", default=";".join(COLUMNS), help="names as in the table, separated by ;")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    ask = parser.parse_args()
    clock = time.perf_counter if ask.clock == "wall" else time.process_time
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((ask.batch, PIXELS), 0.3))
    print(
        f"torch {torch.__version__}, pyro {pyro.__version__}, {torch.get_num_threads()} threads, {ask.clock} time, "
        f"batch {ask.batch}"
    )
    for name in ask.only.split(","):
        print(name, flush=True)
        columns = [c for c in ask.columns.split(";") if name == "vae" or c not in ("NumPyro, jitted", "pythae")]
        found = measure(name, columns, x, ask.rounds, ask.steps, ask.clock)
        ours = found.get("ours, compiled", float("nan"))
        for column, seconds in found.items():
            print(f"  {column:24s} {seconds * 1e3:8.2f} ms   ours compiled / this {ours / seconds:5.2f}", flush=True)
        print(f"  {'floor (arithmetic)':24s} {floor(CASES[name](), x, clock) * 1e3:8.2f} ms", flush=True)


if __name__ == "__main__":
    main()
