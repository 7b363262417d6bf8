"""A guide generated from a model: every local latent is amortized through an encoder of the observed fields.

The model is run once; its latent sites, supports and plates are read; the guide draws the same sites in the
order in which the model does, each from features of the row and of the latents drawn before it. So the
dependencies between latents that observing the row creates (explaining away) can be represented. Latents outside
the data plate, shared by all rows, get ordinary variational parameters instead.
"""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ExpTransform, IndependentTransform, ReshapeTransform
from torch.nn import functional as F

from ppl_vae.analysis import preserved_randomness
from ppl_vae.contract import data_plate
from ppl_vae.data import Field, Schema, Split, as_split
from ppl_vae.data.example import example
from ppl_vae.errors import UserError
from ppl_vae.missing import Holes, can_enumerate
from ppl_vae.networks import FieldEncoder, concatenate
from ppl_vae.program import Program
from ppl_vae.recorded import Recorded
from ppl_vae.structure import frames, sample_sites, shapes_only

__all__ = ["GeneratedGuide"]


@dataclass(frozen=True)
class Site:
    """A latent site of the model: what its part of the guide must look like."""

    name: str
    event_shape: torch.Size
    support: Any
    discrete: type[dist.Distribution] | None
    size: int

    def features(self, value: Tensor) -> Tensor:
        """A drawn value as features for the latents that come after it, [..., size]."""
        if self.discrete is dist.Categorical:
            return (value.unsqueeze(-1) == torch.arange(self.size, device=value.device)).to(torch.get_default_dtype())
        return value.reshape(value.shape[: value.dim() - len(self.event_shape)] + (-1,))


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Pyro modules have a metaclass of their own; this one also honours abstract methods."""


class GeneratedGuide(Recorded, PyroModule, metaclass=_AbstractPyroModule):
    """q(z | x) for any model, with one abstract method: `family`, from features to a distribution over R^d.

    Args:
        model: the generative program. A model of this package knows its data; for any other callable give
            `data`, or let `ppl_vae.fit` do so.
        data: a data set, a split, a dict of arrays, one array (field `x`), or a schema.
        hidden: widths of the encoder's hidden layers.
        activation: of the hidden layers, see `ppl_vae.networks.MLP`.
        encoder: any module from the dict of observed fields to features [B, F], with F in its attribute
            `size`; by default a `FieldEncoder`.

    Raises:
        UserError: for a site that this guide cannot represent (naming it), or when used before it has data.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        data: Any = None,
        *,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # Not a submodule: the model's parameters are the model's.
        object.__setattr__(self, "program", Program(model, "model"))
        self.hidden, self.activation = tuple(hidden), activation
        if encoder is not None:
            self.encoder = encoder
        self.sites: tuple[Site, ...] = ()
        self.globals: tuple[Site, ...] = ()
        known = data if data is not None else getattr(model, "data", None) or getattr(model, "schema", None)
        if known is not None:
            self.setup(known)

    program: Program

    @abstractmethod
    def family(self, features: int, size: int) -> nn.Module:
        """A module from features [..., F] to a distribution with event shape [size], batch shape [...]."""

    # -- reading the model -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the model has been read and the networks exist."""
        return bool(self.sites or self.globals)

    def setup(self, data: Any) -> None:
        """Read the model on a few rows and create the networks, standardised by the training rows."""
        split = None if isinstance(data, Schema) else as_split(data, "train")
        schema = data if split is None else split.schema
        batch = example(schema, split)
        holes = Holes(None, batch=batch)
        with preserved_randomness(), torch.no_grad(), shapes_only():
            trace = poutine.trace(holes(self.program)).get_trace(**batch)
        model = sample_sites(trace)
        frame = data_plate(model)
        self.plate, self.dim = frame.name, int(frame.dim or -1)
        latent = {n: s for n, s in model.items() if not s["is_observed"]}
        local = {n: s for n, s in latent.items() if any(f.dim == frame.dim for f in frames(s))}
        self.sites = tuple(_site(n, s) for n, s in local.items())
        self.globals = tuple(_site(n, s) for n, s in latent.items() if n not in local)
        if not latent:
            raise UserError("the model has no latent site: there is nothing to infer, train it by maximum likelihood")
        self._build([f for f in schema if f.name in batch and f.name not in holes.found.keys() & latent.keys()], split)

    def _build(self, fields: Sequence[Field], split: Split | None) -> None:
        observed = [f for f in fields if f.name in self.program.select({f.name: torch.empty(0) for f in fields})]
        if not hasattr(self, "encoder"):
            self.encoder = FieldEncoder(observed or fields, split, self.hidden, self.activation)
        width = int(self.encoder.size)  # type: ignore[arg-type]
        heads: dict[str, nn.Module] = {}
        for site in self.sites:
            heads[site.name] = nn.Linear(width, site.size) if site.discrete else self.family(width, site.size)
            width += site.size
        self.heads = nn.ModuleDict(heads)
        self.shared = nn.ModuleDict({s.name: _GlobalNormal(s) for s in self.globals})
        for part in self.program.modules():
            attach = getattr(part, "attach", None)  # of a prior that is made of the guide's encoder
            if callable(attach):
                attach(self, observed or fields, split)

    def normal_head(self, name: str) -> nn.Module | None:
        """The module from encoder features [..., F] to a site's mean-field normal over R^d, if it is one; else None."""
        site = next((s for s in self.sites if s.name == name), None)
        if site is None or site is not self.sites[0] or site.discrete or not _is_real(site.support):
            return None  # later sites depend on the values of earlier ones too
        head = self.heads[name]
        with torch.no_grad():
            fn = head(torch.zeros(1, int(self.encoder.size)))  # type: ignore[arg-type]
        return head if isinstance(fn, dist.Independent) and isinstance(fn.base_dist, dist.Normal) else None

    # -- the program -----------------------------------------------------------------------------------------

    def forward(self, *args: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Draw every latent of the model for the rows of a batch; returns the draws by site name."""
        if not self.ready:
            raise UserError(
                f"{type(self).__name__} has not seen data yet: give it some, {type(self).__name__}(model, data)"
            )
        fields = dict(zip(self.program.arguments, args, strict=False)) | fields
        rows = len(next(iter(fields.values())))
        values = {s.name: pyro.sample(s.name, self.shared[s.name]()) for s in self.globals}
        features = [self.encoder(fields)]
        with pyro.plate(self.plate, rows, dim=self.dim):
            for site in self.sites:
                value = pyro.sample(site.name, self._posterior(site, concatenate(features)))
                values[site.name] = value
                features.append(site.features(value))
        return values

    def _posterior(self, site: Site, features: Tensor) -> dist.Distribution:
        head = self.heads[site.name](features)
        if site.discrete is None:
            return constrain(head, site.support, site.event_shape)
        logits = head.squeeze(-1) if site.discrete is dist.Bernoulli else head
        return site.discrete(logits=logits)


class _GlobalNormal(nn.Module):
    """A mean-field normal on the unconstrained space of a global latent."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.loc = nn.Parameter(torch.zeros(site.size))
        self.raw_scale = nn.Parameter(torch.full((site.size,), -2.0))

    def forward(self) -> dist.Distribution:
        base = dist.Normal(self.loc, F.softplus(self.raw_scale)).to_event(1)
        return constrain(base, self.site.support, self.site.event_shape)


def constrain(base: Any, support: Any, event_shape: torch.Size) -> dist.Distribution:
    """A distribution over R^d carried to a site's support and event shape; a plain normal where that suffices."""
    if isinstance(base, dist.Independent) and isinstance(base.base_dist, dist.Normal) and _is_real(support):
        normal = base.base_dist
        shape = normal.batch_shape[:-1] + event_shape
        return dist.Normal(normal.loc.reshape(shape), normal.scale.reshape(shape)).to_event(len(event_shape))
    transform = _bijection(support)
    unconstrained = transform.inverse_shape(event_shape)
    transforms: list[Any] = []
    if tuple(unconstrained) != tuple(base.event_shape):
        transforms.append(ReshapeTransform(base.event_shape, unconstrained))
    if not _is_real(support):
        transforms.append(transform)
    return dist.TransformedDistribution(base, transforms) if transforms else base


def _bijection(support: Any) -> Any:
    """biject_to, without the "+ 0" that torch puts after exp for positive values and that hides their support."""
    inner = support
    while isinstance(inner, constraints.independent):
        inner = inner.base_constraint
    if getattr(inner, "lower_bound", None) == 0 and not hasattr(inner, "upper_bound"):
        exp = ExpTransform()
        return IndependentTransform(exp, support.event_dim) if support.event_dim else exp
    return biject_to(support)


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def _site(name: str, site: Mapping[str, Any]) -> Site:
    fn = site["fn"]
    if len(frames(site)) > 1:
        plates = ", ".join(f.name for f in frames(site))
        raise UserError(
            f"latent site {name!r} is in several plates ({plates}): write it with .to_event() inside the data "
            "plate alone, or write this guide by hand"
        )
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    if can_enumerate(fn):
        kind = next((k for k in (dist.Categorical, dist.OneHotCategorical, dist.Bernoulli) if isinstance(fn, k)), None)
        if kind is None:
            raise UserError(
                f"latent site {name!r} is {type(fn).__name__}: of the discrete latents a generated guide has "
                "classifiers for Categorical, OneHotCategorical and Bernoulli; write this guide by hand"
            )
        size = 1 if kind is dist.Bernoulli else fn.enumerate_support(expand=False).shape[0]
        return Site(name, fn.event_shape, fn.support, kind, size)
    if getattr(fn.support, "is_discrete", False):
        raise UserError(
            f"latent site {name!r} is {type(fn).__name__}, whose support is infinite: write this guide by hand"
        )
    unconstrained = biject_to(fn.support).inverse_shape(fn.event_shape)
    return Site(name, fn.event_shape, fn.support, None, math.prod(unconstrained))
