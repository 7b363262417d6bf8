"""Posteriors put together from one expert for each field: products, mixtures, and mixtures of products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.nn.heads import is_normal
from ppl_vae.nn.hiding import Hiding
from ppl_vae.nn.networks import concatenate

if TYPE_CHECKING:
    from ppl_vae.data import Field, Split

__all__ = ["EXPERTS", "ExpertHead", "ExpertMixture", "FieldByField", "of_all_given", "product"]

Experts = Literal["product", "mixture", "mopoe"]

EXPERTS = ("product", "mixture", "mopoe")
"""How the experts of the fields of a row are put together."""

MOST_FIELDS = 8
"""Fields of which all subsets are products of a mixture: 255 of them."""


_OF_ALL_GIVEN: ContextVar[bool] = ContextVar("of all given", default=False)


@contextmanager
def of_all_given() -> Iterator[None]:
    """Inside, a `mopoe` posterior of a row with fields S is the product of S alone, the part that has seen all of them.

    In training the guide is the mixture over all subsets of S, whose density a bound needs. Asked what follows from S
    one takes q(z | x_S), as the source does: most other parts have seen less than what is given.
    """
    before = _OF_ALL_GIVEN.set(True)
    try:
        yield
    finally:
        _OF_ALL_GIVEN.reset(before)


class FieldByField(nn.Module):
    """Features of every field by itself, side by side, and which fields the row has: [B, F_1 + ... + F_M + M].

    A field of which a row has no entry, or that is not in the batch, has the flag 0; its features are of no use.

    Args:
        fields: the fields.
        train: the training rows.
        repeated: names of fields of exchangeable measurements.
        own: modules for some fields by name, in the place of their input layers.
        hide: with this probability a field of a row is hidden in training mode (`ppl_vae.nn.hiding.Hiding`).
        **options: of each `FieldEncoder`.
    """

    any_subset: ClassVar[bool] = True
    """Whether rows may lack fields that no training row lacked."""

    def __init__(
        self,
        fields: Sequence[Field],
        train: Split | None,
        *,
        repeated: frozenset[str] = frozenset(),
        own: Mapping[str, nn.Module | str] | None = None,
        hide: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.hiding = Hiding(fields, hide)
        self.names = tuple(f.name for f in fields)
        self.codes = {f.name: f.kind == "categorical" for f in fields}
        self.dims = {f.name: len(f.shape) for f in fields}
        own = own or {}
        self.each = nn.ModuleList(
            [
                FieldEncoder(
                    [f],
                    train,
                    repeated=repeated & {f.name},
                    own={f.name: own[f.name]} if f.name in own else None,
                    **options,
                )
                for f in fields
            ]
        )
        self.sizes = [int(encoder.size) for encoder in self.each]  # type: ignore[arg-type]
        self.size = sum(self.sizes) + len(self.sizes)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Encode what the batch has."""
        here = [name for name in self.names if name in batch]
        if not here:
            raise UserError(f"expected some of the fields {', '.join(self.names)}, got {', '.join(batch) or 'none'}")
        like = self.each[self.names.index(here[0])](batch)
        shown = self.hiding(batch) if self.training else batch
        features, flags = [], []
        for name, encoder, size in zip(self.names, self.each, self.sizes, strict=True):
            if name not in batch:
                features.append(like.new_zeros(*like.shape[:-1], size))
                flags.append(like.new_zeros(*like.shape[:-1], 1))
                continue
            features.append(encoder(batch))
            value = shown[name]
            seen = value >= 0 if self.codes[name] else ~torch.isnan(value)
            lead = seen.dim() - self.dims[name]
            flags.append(seen.reshape(*seen.shape[:lead], -1).any(-1, keepdim=True))
        return torch.cat([*features, *(flag.to(like.dtype) for flag in flags)], -1)

    def input_of(self, name: str) -> nn.Module:
        """The input layer of a field."""
        encoder: Any = self.each[self.names.index(name)]
        return encoder.input_of(name)

    def sees_holes(self, name: str) -> bool:
        """Whether rows may miss a field: any of them."""
        return True


class ExpertMixture(dist.TorchDistribution):
    """sum_k w_k p_k(z) of any distributions p_k over R^d, with weights that no parameter moves.

    A draw chooses k by w, then z ~ p_k, reparameterised: since the weights are constants, the gradient of any
    expectation is that of the draws alone. Weights of -inf (log) leave a component out. Shapes: log_weights [..., K].

    Example:
        >>> parts = [dist.Normal(torch.tensor([m]), 1.0).to_event(1) for m in (-1.0, 1.0)]
        >>> both = ExpertMixture(parts, torch.tensor([0.5, 0.5]).log())
        >>> float(both.log_prob(torch.zeros(1))), float(both.mean)
        (-1.4189..., 0.0)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, parts: Sequence[Any], log_weights: Tensor) -> None:
        self.parts = list(parts)
        batch = torch.broadcast_shapes(log_weights.shape[:-1], *(part.batch_shape for part in self.parts))
        self.log_weights = log_weights.log_softmax(-1).expand(*batch, len(self.parts))
        super().__init__(batch, self.parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the first component: they all have one."""
        return self.parts[0].support

    def expand(self, batch_shape: Any, _instance: Any = None) -> ExpertMixture:
        """The same mixture for more particles."""
        batch = torch.Size(batch_shape)
        weights = self.log_weights.expand(*batch, len(self.parts))
        return ExpertMixture([part.expand(batch) for part in self.parts], weights)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Choose a component for each row, and draw from it."""
        shape = torch.Size(sample_shape) + self.batch_shape
        draws = torch.stack(
            [part.expand(self.batch_shape).rsample(torch.Size(sample_shape)) for part in self.parts], -1
        )
        noise = -torch.empty(*shape, len(self.parts), device=draws.device, dtype=draws.dtype).exponential_().log()
        chosen = (self.log_weights + noise).argmax(-1)
        index = chosen.reshape(*shape, *(1,) * len(self.event_shape), 1).expand(*shape, *self.event_shape, 1)
        return draws.gather(-1, index).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log sum_k w_k p_k(value)."""
        each = torch.stack([part.log_prob(value) for part in self.parts], -1)
        gone = torch.isinf(self.log_weights)
        return torch.where(gone, -math.inf, each + self.log_weights.masked_fill(gone, 0.0)).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """sum_k w_k E_k[z]."""
        means = torch.stack([part.mean.expand(self.batch_shape + self.event_shape) for part in self.parts], -1)
        weights = self.log_weights.exp()
        return (means * weights.reshape(*weights.shape[:-1], *(1,) * len(self.event_shape), -1)).sum(-1)


class ExpertHead(nn.Module):
    """From the features of all fields, and of earlier latents, to a posterior put together from experts.

    Of a row with fields S: `product` is N(0, I) times prod_{m in S} q_m, `mixture` the mean of q_m over S, `mopoe` the
    mean over the non-empty subsets of S of their products (`of_all_given`: the product of S). Without any field it is
    N(0, I), of labels uniform.

    Args:
        how: `product`, `mixture` or `mopoe`.
        fields: the numbers of the fields that these latents are tied to.
        sizes: of the features of every field of the encoder.
        given: how many features the earlier latents have, which come last.
        make: from a number of features to the module of one expert: a distribution over R^d, or logits.
        logits: whether the experts give logits of labels.
        name: of the latents, for messages.

    Raises:
        UserError: for a family that cannot be multiplied, or more fields than there may be subsets of.

    Source: Wu & Goodman 2018, arXiv 1802.05335 (MVAE); Shi et al. 2019, arXiv 1911.03393 (MMVAE); Sutter et al. 2021,
    arXiv 2105.02470 (MoPoE).
    """

    def __init__(
        self,
        how: Experts,
        fields: Sequence[int],
        sizes: Sequence[int],
        given: int,
        make: Callable[[int], nn.Module],
        *,
        logits: bool = False,
        name: str = "z",
    ) -> None:
        super().__init__()
        self.how, self.fields, self.sizes, self.logits = how, tuple(fields), list(sizes), logits
        if how == "mopoe" and len(self.fields) > MOST_FIELDS:
            raise UserError(
                f"experts='mopoe' has a part for every subset of the fields that {name} is tied to, at most "
                f"{MOST_FIELDS}, got {len(self.fields)}: use 'product' or 'mixture'"
            )
        self.each = nn.ModuleList([make(self.sizes[m] + given) for m in self.fields])
        with torch.no_grad():
            made = self.each[0](torch.zeros(2, self.sizes[self.fields[0]] + given))
        self.size = made.shape[-1] if logits else int(made.event_shape[0])
        if not logits and isinstance(made, dist.Delta):
            raise UserError(f"experts put densities together, and {name} is drawn from a point: use another guide")
        if not logits and how != "mixture" and not is_normal(made):
            raise UserError(
                f"experts={how!r} multiplies normals, and {name} is drawn from {type(made).__name__}: use MeanField or "
                "experts='mixture'"
            )
        if not logits and how == "mixture":
            _refuse_without_inverse(made, name)
        chosen = range(len(self.fields))
        self.subsets = [s for n in range(1, len(self.fields) + 1) for s in itertools.combinations(chosen, n)]

    def forward(self, features: Tensor) -> Any:
        """The posterior [...] of rows with these features [..., F]."""
        edge = sum(self.sizes)
        parts = features[..., :edge].split(self.sizes, -1)
        flags = features[..., edge : edge + len(self.sizes)]
        given = features[..., edge + len(self.sizes) :]
        seen = [flags[..., m] > 0 for m in self.fields]
        experts = [
            head(concatenate([parts[m], given]) if given.shape[-1] else parts[m])
            for m, head in zip(self.fields, self.each, strict=True)
        ]
        return self._of_logits(experts, seen) if self.logits else self._of_densities(experts, seen)

    @property
    def _of_all_given(self) -> bool:
        return self.how == "mopoe" and _OF_ALL_GIVEN.get()

    def _of_densities(self, experts: list[Any], seen: list[Tensor]) -> Any:
        none = ~torch.stack(seen, -1).any(-1)
        if self.how == "product" or self._of_all_given:
            return product(experts, seen, prior=self.how == "product")
        like = experts[0].mean if is_normal(experts[0]) else experts[0].rsample().detach()
        prior = dist.Normal(torch.zeros_like(like), torch.ones_like(like)).to_event(1)
        if self.how == "mixture":
            components, there = experts, seen
        else:
            components = [product([experts[m] for m in s], [seen[m] for m in s], prior=False) for s in self.subsets]
            there = [torch.stack([seen[m] for m in s], -1).all(-1) for s in self.subsets]
        weights = torch.stack([*there, none], -1)
        return ExpertMixture([*components, prior], torch.where(weights, 0.0, -math.inf).to(like.dtype))

    def _of_logits(self, experts: list[Tensor], seen: list[Tensor]) -> Tensor:
        zero = torch.zeros_like(experts[0])
        kept = [torch.where(there[..., None], logits, zero) for logits, there in zip(experts, seen, strict=True)]
        if self.how == "product" or self._of_all_given:
            return torch.stack(kept).sum(0)
        sums = kept if self.how == "mixture" else [torch.stack([kept[m] for m in s]).sum(0) for s in self.subsets]
        members = [(m,) for m in range(len(kept))] if self.how == "mixture" else self.subsets
        there = [torch.stack([seen[m] for m in s], -1).all(-1) for s in members]
        weights = torch.stack([*there, ~torch.stack(seen, -1).any(-1)], -1)
        # of a two-valued label the one logit is that of the value 1, against 0
        both = [logits if self.size > 1 else torch.cat([zero, logits], -1) for logits in [*sums, zero]]
        each = torch.stack([logits.log_softmax(-1) for logits in both], -1)
        log_p = each.masked_fill(~weights[..., None, :], -math.inf).logsumexp(-1)
        return log_p if self.size > 1 else log_p[..., 1:] - log_p[..., :1]


def _refuse_without_inverse(fn: Any, name: str) -> None:
    """A mixture asks each part for the density of what another part drew."""
    try:
        with torch.no_grad():
            fn.log_prob(torch.randn(fn.batch_shape + fn.event_shape))
    except (NotImplementedError, KeyError, UserError) as error:  # torch's, Pyro's and our way of having no inverse
        raise UserError(
            f"experts='mixture' asks for the density of other experts' draws, and {name} is drawn from a "
            f"{type(fn).__name__} without an inverse: use another guide"
        ) from error


def product(experts: Sequence[Any], seen: Sequence[Tensor], *, prior: bool) -> Any:
    """The normal that is proportional to the product of those normals that are `seen`, and of N(0, I) if `prior`.

    Precisions add up, and means are weighted by them. Without any factor it is N(0, I).

    Example:
        >>> two = [dist.Normal(torch.tensor([m]), 1.0).to_event(1) for m in (1.0, 2.0)]
        >>> both = product(two, [torch.tensor(True)] * 2, prior=True)
        >>> float(both.mean), float(both.variance)
        (1.0, 0.333...)
    """
    precision: Any = 1.0 if prior else 0.0
    pull: Any = 0.0
    for expert, there in zip(experts, seen, strict=True):
        one = torch.where(there[..., None], expert.variance.reciprocal(), 0.0)
        precision, pull = precision + one, pull + one * expert.mean
    if not prior:
        precision = torch.where(precision > 0, precision, 1.0)
    return dist.Normal(pull / precision, precision.rsqrt()).to_event(1)
