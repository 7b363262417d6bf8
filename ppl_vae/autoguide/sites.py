"""A latent site of a model, and how it is laid out as a vector of real numbers for every row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ExpTransform, IndependentTransform, ReshapeTransform

from ppl_vae.distributions import is_real
from ppl_vae.errors import UserError
from ppl_vae.nn.heads import is_normal
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import frames

__all__ = ["Plate", "Site", "Unpacked", "read_site", "sample_together"]

_CLASSIFIED = (dist.Categorical, dist.OneHotCategorical, dist.Bernoulli)


class Plate(NamedTuple):
    """A plate of fixed size, other than the data plate."""

    name: str
    size: int
    dim: int


@dataclass(frozen=True)
class Site:
    """A latent site: its event shape, support, and the plates around it other than the data plate.

    A continuous element is `size` unconstrained real numbers, a discrete one (of kind `classified`) has `size`
    logits; a row has `width` of them, all elements of its plates together.
    """

    name: str
    event_shape: torch.Size
    support: Any
    classified: type[dist.Distribution] | None
    size: int
    plates: tuple[Plate, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in a row: one vector holds all elements of the inner plates."""
        return self.size * math.prod(p.size for p in self.plates)

    @contextmanager
    def inside(self, entered: dict[str, Any]) -> Iterator[None]:
        """The plates of this site, for its sample statement; `entered` keeps those of one run of the guide."""
        with ExitStack() as stack:
            for plate in self.plates:
                if plate.name not in entered:
                    entered[plate.name] = pyro.plate(plate.name, plate.size, dim=plate.dim)
                stack.enter_context(entered[plate.name])
            yield

    # -- vectors and elements --------------------------------------------------------------------------------

    def spread(self, vector: Tensor) -> Tensor:
        """A row's vector [..., width] as elements [..., plates at their dims ..., size]."""
        if not self.plates:
            return vector
        vector = _padded(vector, self._depth + 1)
        vector = vector.reshape(vector.shape[:-1] + tuple(p.size for p in self.plates) + (self.size,))
        vector = self._exchanged(vector)
        return vector.reshape(vector.shape[: -1 - len(self.plates)] + (self.size,))

    def gathered(self, elements: Tensor) -> Tensor:
        """Elements [..., plates ..., n] as one vector a row, [..., n * elements]."""
        if not self.plates:
            return elements
        elements = _padded(elements, self._depth + 1)
        count = len(self.plates)
        elements = self._exchanged(elements.reshape(elements.shape[:-1] + (1,) * count + elements.shape[-1:]))
        return elements.flatten(-1 - count)

    @property
    def _depth(self) -> int:
        return max(-p.dim for p in self.plates)

    def _exchanged(self, tensor: Tensor) -> Tensor:
        count = len(self.plates)
        for i, plate in enumerate(self.plates):
            tensor = tensor.transpose(plate.dim - 1 - count, i - 1 - count)
        return tensor

    # -- distributions and values ----------------------------------------------------------------------------

    def classifier(self, logits: Tensor) -> dist.Distribution:
        """The distribution of a discrete site from a row's logits [..., width]."""
        logits = self.spread(logits)
        if self.classified is dist.Bernoulli:
            return dist.Bernoulli(logits=logits.squeeze(-1))  # type: ignore[misc]
        return dist.Categorical(logits=logits) if self.event_shape == () else dist.OneHotCategorical(logits=logits)

    def constrained(self, base: Any) -> dist.Distribution:
        """A distribution over a row's vector, carried to the support and the shape of this site.

        Normals stay normals as far as the support allows, points stay points; any other family must not be inside
        inner plates.
        """
        if isinstance(base, dist.Delta):
            return self._point(base)
        if is_normal(base):
            loc, scale = (self._unflattened(self.spread(v)) for v in (base.base_dist.loc, base.base_dist.scale))
            shaped: Any = dist.Normal(loc, scale).to_event(len(self.unconstrained_shape))
            transforms: list[Any] = []
        else:
            shaped, transforms = base, []
            if self.unconstrained_shape != base.event_shape:
                transforms.append(ReshapeTransform(base.event_shape, self.unconstrained_shape, cache_size=1))
        if not self.is_real:
            transforms.append(_cached(self.bijection))
        return dist.TransformedDistribution(shaped, transforms) if transforms else shaped

    def _point(self, base: Any) -> dist.Distribution:
        """A point carried to the support; log |d value / d vector| is no part of it, since a point has no density.

        What is trained is then the most probable value in the model's own coordinates, as by Pyro's AutoDelta. The
        elements of inner plates share the vector's log_density.
        """
        free = self._unflattened(self.spread(base.v))
        value = free if self.is_real else self.bijection(free)
        batch = value.shape[: value.dim() - len(self.event_shape)]
        each = base.log_density / math.prod(p.size for p in self.plates)
        return dist.Delta(value, each.expand(batch), event_dim=len(self.event_shape))

    def unpacked(self, vector: Tensor) -> Unpacked:
        """The value of this site in a row's joint draw, as a distribution."""
        free = self._unflattened(self.spread(vector))
        if self.is_real:
            batch = free.shape[: free.dim() - len(self.event_shape)]
            return Unpacked(free, free.new_zeros(()).expand(batch), self.support, len(self.event_shape))
        value = self.bijection(free)
        stretch = self.bijection.log_abs_det_jacobian(free, value)
        return Unpacked(value, -stretch, self.support, len(self.event_shape))

    def features(self, value: Tensor) -> Tensor:
        """A drawn value as features [..., width] for the latents that come after it."""
        if self.classified is dist.Categorical:
            levels = torch.arange(self.size, device=value.device)
            return self.gathered((value.unsqueeze(-1) == levels).to(torch.get_default_dtype()))
        if self.classified is not None or self.is_real:
            return self.gathered(_flattened(value, len(self.event_shape)))
        return self.gathered(_flattened(self.bijection.inv(value), len(self.unconstrained_shape)))

    def vector(self, value: Tensor) -> tuple[Tensor, Tensor | float]:
        """A value as a row's unconstrained vector [..., width], and log |d value / d vector| [...]."""
        if self.is_real:
            return self.features(value), 0.0
        free = self.bijection.inv(value)
        stretch = self.bijection.log_abs_det_jacobian(free, value)
        return self.features(value), self.gathered(stretch.unsqueeze(-1)).sum(-1)

    @property
    def is_real(self) -> bool:
        """Whether the support is all of R, so that nothing has to be transformed."""
        return is_real(self.support)

    @property
    def bijection(self) -> Any:
        """biject_to, without the "+ 0" that torch puts after exp for positive values and that hides their support."""
        inner = self.support
        while isinstance(inner, constraints.independent):
            inner = inner.base_constraint
        if getattr(inner, "lower_bound", None) == 0 and not hasattr(inner, "upper_bound"):
            exp = ExpTransform()
            return IndependentTransform(exp, self.support.event_dim) if self.support.event_dim else exp
        return biject_to(self.support)

    @property
    def unconstrained_shape(self) -> torch.Size:
        """The event shape of one element before it is constrained."""
        return torch.Size(self.bijection.inverse_shape(self.event_shape))

    def _unflattened(self, vector: Tensor) -> Tensor:
        return vector.reshape(vector.shape[:-1] + self.unconstrained_shape)


class Unpacked(dist.TorchDistribution):
    """A site's part of a joint draw: its value, known once the joint is drawn, and log |d vector / d value|.

    log_prob is that number at the value and -inf elsewhere, up to rounding, since replaying a draw computes it
    anew. Shapes: value [..., *event], log_density [...].
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, value: Tensor, log_density: Tensor, support: Any, event_dim: int) -> None:
        self.value, self.log_density, self._support = value, log_density, support
        edge = value.dim() - event_dim
        super().__init__(value.shape[:edge], value.shape[edge:], validate_args=False)

    @property
    def support(self) -> Any:
        """The support of the site."""
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Unpacked:
        """The same values for more particles."""
        batch = torch.Size(batch_shape)
        value = self.value.expand(batch + self.event_shape)
        return Unpacked(value, self.log_density.expand(batch), self._support, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The value: there is nothing to draw."""
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log |d vector / d value| at the value of the joint draw."""
        if value is self.value:
            return self.log_density
        near = (value - self.value).abs() <= 1e-4 * (1 + self.value.abs())
        same = near.flatten(near.dim() - len(self.event_shape)).all(-1) if self.event_shape else near
        return torch.where(same, self.log_density, -torch.inf)


def sample_together(
    name: str, joint: dist.Distribution, sites: Sequence[Site], entered: dict[str, Any]
) -> dict[str, Tensor]:
    """Draw a row's joint vector at an auxiliary site, and from it the values of several sites."""
    vector = pyro.sample(name, joint, infer={"is_auxiliary": True, "joint": name})
    values = {}
    for site, piece in zip(sites, vector.split([s.width for s in sites], dim=-1), strict=True):
        with site.inside(entered):
            values[site.name] = pyro.sample(site.name, site.unpacked(piece), infer={"joint": name})
    return values


def read_site(name: str, site: Mapping[str, Any], dim: int | None) -> Site:
    """What a run of the model tells of a latent site; `dim` is the data plate's.

    Raises:
        UserError: for a site that a generated guide cannot draw.
    """
    fn, inner = site["fn"], [f for f in frames(site) if f.dim != dim]
    for frame in inner:
        if frame.full_size not in (None, frame.size):
            raise UserError(
                f"latent site {name!r} is in plate {frame.name!r}, which is subsampled: only the data plate may be; "
                "give it all of its elements, or write this guide by hand"
            )
    plates = tuple(Plate(f.name, f.size, int(f.dim)) for f in inner)
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    if not getattr(fn.support, "is_discrete", False):
        size = math.prod(biject_to(fn.support).inverse_shape(fn.event_shape))
        return Site(name, fn.event_shape, fn.support, None, size, plates)
    if not can_enumerate(fn):
        raise UserError(
            f"latent site {name!r} is {type(fn).__name__}, whose support is infinite: write this guide by hand"
        )
    kind = next((k for k in _CLASSIFIED if isinstance(fn, k)), None)
    if kind is None or not any(f.dim == dim for f in frames(site)):
        where = "" if kind is None else " shared by all rows"
        raise UserError(
            f"latent site {name!r} is {type(fn).__name__}{where}: of the discrete latents a generated guide has "
            "classifiers for Categorical, OneHotCategorical and Bernoulli inside the data plate; write this guide "
            "by hand"
        )
    size = 1 if kind is dist.Bernoulli else fn.enumerate_support(expand=False).shape[0]
    return Site(name, fn.event_shape, fn.support, kind, size, plates)


def _padded(tensor: Tensor, dims: int) -> Tensor:
    return tensor.reshape((1,) * (dims - tensor.dim()) + tuple(tensor.shape))


def _flattened(value: Tensor, event_dim: int) -> Tensor:
    return value.flatten(value.dim() - event_dim) if event_dim else value.unsqueeze(-1)


def _cached(transform: Any) -> Any:
    """The transform remembering its last value, so that log q of an own draw needs no inverse."""
    try:
        return transform.with_cache(1)
    except NotImplementedError:
        return transform
