"""A latent site of a model, and how it is laid out as a vector of real numbers for every row."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ExpTransform, IndependentTransform, ReshapeTransform

from ppl_vae.autoguide.supports import with_numbers
from ppl_vae.autoguide.unpacked import Unpacked
from ppl_vae.distributions import is_real, support_of
from ppl_vae.errors import ProgramError, one_unit_words
from ppl_vae.nn.heads import is_normal
from ppl_vae.programs.density import is_point_mass
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import frames

__all__ = ["CLASSIFIED", "Plate", "Site", "read_site"]

CLASSIFIED = (dist.Categorical, dist.OneHotCategorical, dist.Bernoulli)


class Plate(NamedTuple):
    """A plate of fixed size, which is none of the rows; without a name, a dim that the model has in no plate."""

    name: str
    size: int
    dim: int


@dataclass(frozen=True)
class Site:
    """A latent site: its event shape, support, the plate of the rows that it is in, if any, and its other plates.

    A continuous element is `size` real numbers, of `unconstrained_shape` before it is constrained, a discrete one (of
    kind `classified`) has `size` logits; a row has `width` of them, all elements of its plates together. The support of
    a `moving` site is another one at every run, and the model is asked for it. In the plates it is `over` it is drawn
    element by element: they are none of the vector.
    """

    name: str
    event_shape: torch.Size
    support: Any
    classified: type[dist.Distribution] | None
    size: int
    plates: tuple[Plate, ...] = ()
    rows: str | None = None
    unconstrained_shape: tuple[int, ...] = ()
    moving: bool = False
    over: tuple[Plate, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in a row: one vector holds all elements of the inner plates."""
        return self.size * math.prod(p.size for p in self.plates)

    @property
    def values(self) -> int:
        """How many values one element of a finite site has."""
        return 2 if self.classified is dist.Bernoulli else self.size

    def at(self, fn: Any) -> Site:
        """This site with the support that it has in one run, from the model's distribution there."""
        return replace(self, support=support_of(fn), moving=False)

    @contextmanager
    def inside(self, entered: dict[str, Any], elements: bool = True) -> Iterator[None]:
        """The plates of this site, for its sample statement; `entered` keeps those of one run of the guide.

        Without its `elements` they are those of the site's vector.
        """
        with ExitStack() as stack:
            if self.rows is not None:
                stack.enter_context(entered[self.rows])
            for plate in (*self.over, *(self.plates if elements else ())):
                if not plate.name:
                    continue
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
                transforms.append(
                    ReshapeTransform(base.event_shape, torch.Size(self.unconstrained_shape), cache_size=1)
                )
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
        bound = getattr(inner, "lower_bound", None)
        if isinstance(bound, int | float) and bound == 0 and not hasattr(inner, "upper_bound"):
            exp = ExpTransform()
            return IndependentTransform(exp, self.support.event_dim) if self.support.event_dim else exp
        return biject_to(self.support)

    def _unflattened(self, vector: Tensor) -> Tensor:
        return vector.reshape(vector.shape[:-1] + self.unconstrained_shape)


def read_site(
    name: str, site: Mapping[str, Any], rows: Collection[str], moving: bool = False, summed: bool = False
) -> Site:
    """What a run of the model tells of a latent site; `rows` are the plates of the rows.

    A site that is `summed` out in the model may also be outside of them, where all data are one unit.

    Raises:
        ProgramError: for a site that a generated guide cannot draw.
    """
    fn, own = site["fn"], next((f.name for f in frames(site) if f.name in rows), None)
    inner = [f for f in frames(site) if f.name not in rows]
    for frame in inner:
        if frame.full_size not in (None, frame.size):
            raise ProgramError(
                name,
                f"latent site {name!r} is in plate {frame.name!r}, which is subsampled: only the data plate may be",
                "give it all of its elements, or write this guide by hand",
            )
    plates = tuple(Plate(f.name, f.size, int(f.dim)) for f in inner)
    if not rows:  # all data are one unit, whose statements need no plates
        held, shape = {p.dim for p in plates}, fn.batch_shape
        loose = [d for d in range(-len(shape), 0) if d not in held and (shape[d] > 1 or not held)]
        plates += tuple(Plate("", shape[d], d) for d in loose)
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    if is_point_mass(fn):
        raise ProgramError(
            name,
            f"latent site {name!r} is a point in the model (Delta): no draw of a guide could have a density there",
            f"note the value, pyro.deterministic({name!r}, ...)",
        )
    if not getattr(fn.support, "is_discrete", False):
        support = support_of(fn)
        try:
            free = _free_shape(fn, support)
        except NotImplementedError:
            raise ProgramError(
                name,
                f"latent site {name!r} is {type(fn).__name__}: no map from R^d onto its values ({support}) is known",
                "draw numbers that are free and transform them in the model, or write this guide by hand",
            ) from None
        support, size = with_numbers(support) or support, math.prod(free)
        return Site(name, fn.event_shape, support, None, size, plates, own, free, moving)
    if own is None and not summed:
        raise ProgramError(
            name,
            f"latent site {name!r} is {type(fn).__name__} shared by all rows: no gradient chooses between its values",
            f"take all data as one unit, {one_unit_words()}, which sums it out, fit the model once for each of its "
            "values, or write this guide by hand",
        )
    kind = next((k for k in CLASSIFIED if isinstance(fn, k)), dist.Categorical)
    size = 1 if kind is dist.Bernoulli else _count(name, fn)
    return Site(name, fn.event_shape, fn.support, kind, size, plates, own)


def _free_shape(fn: Any, support: Any) -> tuple[int, ...]:
    """The shape of one element before it is constrained; bounds may have all of the batch's dims."""
    free = biject_to(support)
    shape = free.inverse_shape(fn.batch_shape + fn.event_shape)
    dims = free.domain.event_dim + len(fn.event_shape) - free.codomain.event_dim
    return tuple(shape[len(shape) - dims :])


def _count(name: str, fn: Any) -> int:
    """How many values a discrete distribution has.

    Raises:
        ProgramError: if they are not finitely many, or not the same for every row.
    """
    remedy = "write this guide by hand"
    if not can_enumerate(fn):
        raise ProgramError(name, f"latent site {name!r} is {type(fn).__name__}, whose support is infinite", remedy)
    try:
        return int(fn.enumerate_support(expand=False).shape[0])
    except NotImplementedError as error:
        reason = " ".join(str(error).split())
        raise ProgramError(
            name,
            f"latent site {name!r} is {type(fn).__name__}, whose values cannot be listed ({reason})",
            f"let it have the same values in every row, or {remedy}",
        ) from None


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
