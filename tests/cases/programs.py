"""Programs with latents of every kind, for the guides that are made from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from cases.problem import Program


def of_latent(prior: Callable[[], Any], mean: Callable[[Tensor], Tensor]) -> Program:
    """A model with one latent z of the given prior and three measurements around a function of it."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(mean(z).unsqueeze(-1).expand(*mean(z).shape, 3), 1.0).to_event(1), obs=x)

    return model


def two_layers(x=None):
    with pyro.plate("rows", len(x)):
        top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(top.sum(-1), top[..., 0].exp()))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x)


def label_and_style(x=None, y=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(4)), obs=y)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = z + 1.0 * y
        pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, 3), 1.0).to_event(1), obs=x)


def one_hot_label(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(torch.ones(4)))
        flag = pyro.sample("flag", dist.Bernoulli(0.3))
        mean = y @ torch.arange(4.0) + flag
        pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, 3), 1.0).to_event(1), obs=x)


def with_globals(x=None):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    loading = pyro.sample("loading", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * loading, scale.unsqueeze(-1)).to_event(1), obs=x)


def measured(mean: Tensor, x: Tensor) -> None:
    """Three measurements around a number."""
    pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, 3), 1.0).to_event(1), obs=x)


def label_then_two(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
        scale = pyro.sample("scale", dist.Gamma(2.0 + y, 1.0))
        shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        measured(scale.log() + shift.sum(-1), x)


def latent_then_label(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([z, torch.zeros_like(z), -z], -1)))
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        measured(z + y + w[..., 0], x)


def within_rows(x=None):
    """A latent for each row and one for each of its measurements."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            u = pyro.sample("u", dist.Gamma(2.0, 1.0))
            flag = pyro.sample("flag", dist.Bernoulli(0.2))
            pyro.sample("x", dist.Normal(z + u.log(), 1.0 + flag), obs=x.T)


def flags_within_rows(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            flag = pyro.sample("flag", dist.Bernoulli(0.2))
            pyro.sample("x", dist.Normal(z, 0.5 + 2.0 * flag), obs=x.T)


def alike_measurements(x=None):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("measurement", 3, dim=-1):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def items(x=None):
    """Each measurement has a difficulty of its own, shared by all rows."""
    item = pyro.plate("item", 3, dim=-2)
    with item:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with item:
            pyro.sample("x", dist.Normal(z - difficulty, 1.0), obs=x.T)


def two_fields(x=None, count=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        measured(z.sum(-1), x)
        pyro.sample("count", dist.Poisson(z[..., 0].exp()), obs=count)


def fields_of(model: Program, rows: int = 6) -> dict[str, Tensor]:
    """Rows of every field that a program of the table observes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float32).to(torch.get_default_dtype())
    count = torch.arange(rows).to(x.dtype) % 4
    return {"x": x} | ({"count": count} if model is two_fields else {})


PROGRAMS: dict[str, Program] = {
    "real": of_latent(lambda: dist.Normal(0.0, 1.0), lambda z: z),
    "vector": of_latent(lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), lambda z: z.sum(-1)),
    "matrix": of_latent(lambda: dist.Normal(torch.zeros(2, 3), 1.0).to_event(2), lambda z: z.sum((-1, -2))),
    "positive": of_latent(lambda: dist.Gamma(2.0, 1.0), lambda z: z.log()),
    "positive vector": of_latent(lambda: dist.Gamma(2.0, torch.ones(2)).to_event(1), lambda z: z.log().sum(-1)),
    "unit interval": of_latent(lambda: dist.Beta(2.0, 2.0), lambda z: z),
    "simplex": of_latent(lambda: dist.Dirichlet(torch.ones(4)), lambda z: z[..., 0]),
    "interval": of_latent(lambda: dist.Uniform(-2.0, 5.0), lambda z: z),
    "correlations": of_latent(lambda: dist.LKJCholesky(3, 1.0), lambda z: z[..., 2, 0]),
    "two layers": two_layers,
    "label and style": label_and_style,
    "one-hot label and flag": one_hot_label,
    "shared by all rows": with_globals,
    "ordered": of_latent(
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
        ),
        lambda z: z[..., 1],
    ),
    "label, then two": label_then_two,
    "latent, then label": latent_then_label,
    "within rows": within_rows,
    "flags within rows": flags_within_rows,
    "alike measurements": alike_measurements,
    "items": items,
    "two fields": two_fields,
}
