"""The networks of a trained pair as two plain modules: from rows to moments of the latents, from latents to means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.inversion import Block
from ppl_vae.distributions import expected_value, unwrapped
from ppl_vae.errors import UserError
from ppl_vae.nn.flows import Flow

__all__ = ["DRAWS", "Decoder", "Encoder"]

DRAWS = 64
"""Of latents without moments in closed form, the points of a Sobol sequence that the moments are averaged over."""

LABELS = 1000
"""Values of all labels together that an encoder goes through, at most."""


class Encoder(nn.Module):
    """From fields to the mean of every latent, and its deviation: the networks of a generated guide.

    A label is summed out of the latents that depend on it. A family without moments in closed form, and a latent that
    another one depends on, is averaged over DRAWS points, the same for each row, so that it is a function of the row.

    Raises:
        UserError: for a guide that is more than networks of a row.
    """

    noise: Tensor

    def __init__(self, guide: Any) -> None:
        super().__init__()
        if not isinstance(guide, GeneratedGuide):
            raise UserError(f"export is of generated guides, and {type(guide).__name__} is not: train MeanField, say")
        odd = [b for b in guide.drawn if b.steps or b.each or any(guide.sites[n].moving for n in b.sites)]
        if odd or not guide.drawn or guide.shared.sites or not hasattr(guide, "encoder"):
            raise UserError(
                "export is of an encoder from rows to latents, and here latents are those of steps or members, are "
                "shared by all rows, or have a support that moves: ppl_vae.encode gives the codes"
            )
        self.encoder, self.mixers, self.heads = guide.encoder, guide.mixers, guide.heads
        self.blocks, self.sites = guide.drawn, guide.sites
        self.names: tuple[str, ...] = tuple(getattr(guide.encoder, "names", None) or guide.known.names)
        self.exact = len(guide.drawn) == 1 and len(guide.drawn[0].sites) == 1
        """Whether the guide itself says these moments, without draws."""
        labels = [self.sites[b.sites[0]].values for b in guide.drawn if self._is_label(b)]
        if math.prod(labels) > LABELS:
            raise UserError(
                f"the encoder goes through all values of the labels, and they have {math.prod(labels):,} together: "
                "ppl_vae.encode gives the codes"
            )
        sizes = [sum(self.sites[n].width for n in b.sites) for b in guide.drawn if not self._is_label(b)]
        self.register_buffer("noise", _points(2 * sum(sizes)))

    def forward(self, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean and deviation by name, [row, *D]; of a label its probabilities [row, C]."""
        row = self.encoder(fields)[None, None]
        found: dict[str, Tensor] = {}
        known: dict[str, Tensor] = {}  # features of the latents so far, [label values, points, row, width]
        log_w = torch.zeros(1, 1, 1)  # of the values of labels, [label values, points, row]
        at = 0
        for block, mixer, head in zip(self.blocks, self.mixers, self.heads, strict=True):
            parts = [*([row] if block.row else []), *(known[name] for name in block.given)]
            needed = any(name in later.given for later in self.blocks for name in block.sites)
            if self._is_label(block):
                site = self.sites[block.sites[0]]
                features, shape = _flat(parts, 1)
                fn: Any = unwrapped(site.classifier(head(mixer(features))))
                found[site.name] = _average(fn.probs.unflatten(0, shape), log_w)
                if needed:
                    log_w, known = _each_level(fn, site, shape, log_w, known)
                continue
            size = 2 * sum(self.sites[n].width for n in block.sites)
            noise, at = self.noise[:, at : at + size], at + size
            features, shape = _flat(parts, 1)
            closed = self._moments(block, head(mixer(features)))
            if closed is None or needed:
                self.exact = False
                features, many = _flat(parts, DRAWS)
                normal = noise[None, :, None].expand(*many, -1).flatten(0, 2)
                flat = self._drawn(block, head(mixer(features)), normal)
                known |= {n: self.sites[n].features(v).unflatten(0, many) for n, v in flat.items()}
            for name in block.sites:
                if closed is not None:
                    mean, spread = (v.unflatten(0, shape) for v in closed[name])
                else:
                    mean, spread = flat[name].unflatten(0, many), torch.zeros(1, 1, 1)
                found |= {name: _average(mean, log_w), f"{name}_sd": _deviation(mean, spread, log_w)}
        return found

    def _is_label(self, block: Block) -> bool:
        return self.sites[block.sites[0]].classified is not None

    def _moments(self, block: Block, posterior: Any) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Mean and deviation of each site, [..., row, *D], where they are known in closed form."""
        if len(block.sites) > 1 and not all(self.sites[n].is_real for n in block.sites):
            return None
        try:
            if len(block.sites) == 1:
                fn: Any = unwrapped(self.sites[block.sites[0]].constrained(posterior))
                return {block.sites[0]: (fn.mean, fn.stddev)}
            widths = [self.sites[n].width for n in block.sites]
            pairs = zip(block.sites, *(v.split(widths, -1) for v in (posterior.mean, posterior.stddev)), strict=True)
            return {n: tuple(self.sites[n].unpacked(v).value for v in values) for n, *values in pairs}  # type: ignore
        except (NotImplementedError, AttributeError):
            return None

    def _drawn(self, block: Block, posterior: Any, noise: Tensor) -> dict[str, Tensor]:
        """Values of these normal numbers, by site, [n, *D]."""
        if len(block.sites) == 1:
            site = self.sites[block.sites[0]]
            return {site.name: _pushed(site.constrained(posterior), noise, block)}
        vector = _pushed(posterior, noise, block)
        pieces = vector.split([self.sites[n].width for n in block.sites], -1)
        return {n: self.sites[n].unpacked(v).value for n, v in zip(block.sites, pieces, strict=True)}


def _points(size: int) -> Tensor:
    """Normal numbers [point, size] that are spread evenly."""
    if not size:
        return torch.zeros(DRAWS, 0)
    uniform = torch.quasirandom.SobolEngine(size, scramble=True, seed=0).draw(DRAWS, dtype=torch.float64)
    return (2**0.5 * torch.erfinv(2 * uniform.clamp(1e-6, 1 - 1e-6) - 1)).float()


def _flat(parts: list[Tensor], points: int) -> tuple[list[Tensor], tuple[int, int, int]]:
    """Features [label values, points, row, F] of as many of each, as matrices [n, F], and how many of each there are.

    Matrices, since torch decides by the numbers of rows how it multiplies anything else.
    """
    levels = max(part.shape[0] for part in parts)
    many = max(points, *(part.shape[1] for part in parts))
    shape = (levels, many, parts[0].shape[2])
    return [part.expand(*shape, part.shape[-1]).flatten(0, 2) for part in parts], shape


def _each_level(
    fn: Any, site: Any, shape: tuple[int, int, int], log_w: Tensor, known: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """All levels of a label beside all values so far: [levels * values, points, row]."""
    binary = isinstance(fn, dist.Bernoulli)
    chances = torch.stack([-fn.logits, fn.logits], -1).sigmoid() if binary else fn.probs
    logs = chances.clamp(min=1e-30).log()
    levels = logs.shape[-1]
    each = torch.stack([one.unflatten(0, shape) + log_w for one in logs.unbind(-1)])  # [level, value, points, row]
    own = torch.arange(2.0).reshape(2, 1) if binary else torch.eye(levels)
    own = own.reshape(levels, 1, 1, 1, -1).expand(-1, each.shape[1], -1, each.shape[3], -1).flatten(0, 1)
    spread = {n: v.unsqueeze(0).expand(levels, *v.shape).flatten(0, 1) for n, v in known.items()}
    return each.flatten(0, 1), spread | {site.name: own}


def _pushed(fn: Any, noise: Tensor, block: Block) -> Tensor:
    """The draws that these normal numbers [n, 2 * size] make, [n, *D]."""
    if isinstance(fn, dist.Independent):
        return _pushed(fn.base_dist, noise, block)
    if isinstance(fn, Flow | torch.distributions.TransformedDistribution):
        value = _pushed(fn.base if isinstance(fn, Flow) else fn.base_dist, noise, block)
        for transform in fn.transforms:
            own = getattr(transform, "call_and_ladj", None)  # some of ours know both at once, and nothing else
            value = transform(value) if own is None else own(value)[0]
        return value
    if isinstance(fn, torch.distributions.Normal):
        inner = fn.loc.shape[1:]
        return fn.loc + fn.scale * noise[:, : math.prod(inner)].unflatten(1, inner)
    size = fn.event_shape[0] if len(fn.event_shape) == 1 else 0
    own, common = noise[:, :size], noise[:, size:]
    if isinstance(fn, torch.distributions.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ own.unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, torch.distributions.LowRankMultivariateNormal):
        factor = fn._unbroadcasted_cov_factor
        if (rank := factor.shape[-1]) <= size:
            spread = (factor @ common[:, :rank].unsqueeze(-1)).squeeze(-1)
            return fn.loc + spread + fn._unbroadcasted_cov_diag.sqrt() * own
    raise UserError(
        f"the mean of q({', '.join(block.sites)} | x) has no closed form in this family, and its draws are no function "
        f"of normal numbers ({type(fn).__name__}): train a guide that has one, such as FullRank or IAF"
    )


def _average(values: Tensor, log_w: Tensor) -> Tensor:
    """The mean of values [label values, points, row, *D] by these weights [label values, points, row]; [row, *D]."""
    weights = log_w.exp().reshape(*log_w.shape, *[1] * (values.dim() - 3))
    return (weights * values).sum(0).mean(0)


def _deviation(mean: Tensor, spread: Tensor, log_w: Tensor) -> Tensor:
    """The deviation by the law of total variance, [row, *D]."""
    middle = _average(mean, log_w)
    return _average((mean - middle).square() + spread.square(), log_w).sqrt()


class Decoder(nn.Module):
    """From latents, and what the model is given, to the mean of every field: a model of rows.

    Raises:
        UserError: for a model without a decoder and a likelihood.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not isinstance(getattr(model, "decoder", None), nn.Module) or not hasattr(model, "likelihood"):
            raise UserError(f"export is of models with a decoder and a likelihood; {type(model).__name__} has none")
        self.model = model
        self.response = getattr(model, "response", None)
        self.inputs: tuple[str, ...] = model.decoded
        shown = [*model.likelihood.fields, *([self.response.likelihood.field] if self.response is not None else [])]
        self.nominal = frozenset(f.name for f in shown if f.kind == "categorical" and not f.shape and not f.ordered)
        self.fields: tuple[str, ...] = tuple(field.name for field in shown)

    def forward(self, values: Any) -> dict[str, Tensor]:
        """E[x | values] by field; a single latent comes alone, several values by name."""
        if isinstance(values, Tensor):
            values = {self.inputs[0]: values}
        features = self.model.decoder_input(values)
        sites = dict(self.model.likelihood.sites(self.model.decoder(features)))
        if self.response is not None:
            sites[self.response.name] = self.response(features)
        return {n: unwrapped(fn).probs if n in self.nominal else expected_value(fn) for n, fn in sites.items()}

    def given(self, values: Mapping[str, Tensor]) -> Any:
        """Values by name as `forward` takes them."""
        return values[self.inputs[0]] if len(self.inputs) == 1 else {n: values[n] for n in self.inputs}
