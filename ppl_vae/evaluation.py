"""Held-out evidence and its error, row by row, in memory that does not grow with particles or rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.analysis import analyse, preserved_randomness
from ppl_vae.chunks import Chunks
from ppl_vae.data import Split, as_split
from ppl_vae.errors import UserError
from ppl_vae.execution import run
from ppl_vae.lanes import Compile, check_mode
from ppl_vae.program import Pair
from ppl_vae.structure import Structure, sample_sites
from ppl_vae.support import check_support

__all__ = ["Evaluation", "evaluate"]

FLOATS_AT_ONCE = 2**24
"""How many numbers one pass may hold: 64 MB in float32, small enough for a laptop and its caches."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, one value a row, in nats.

    `elbo` is the mean log weight, `log_evidence` the log of the mean weight over `particles` (its expectation
    is a lower bound that grows with the particles), `log_evidence_se` its Monte Carlo standard error by the
    delta method, `ess` the effective number of particles, (sum w)^2 / sum w^2. `rate` is the KL part and
    `distortion` minus the likelihood part: rate + distortion = -elbo.
    """

    elbo: Float[Tensor, " row"]
    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    ess: Float[Tensor, " row"]
    rate: Float[Tensor, " row"]
    distortion: Float[Tensor, " row"]
    particles: int

    def summary(self) -> dict[str, float | int]:
        """Means over rows in nats per row; `_se` over rows, `_mc_se` of the Monte Carlo draws alone.

        Example:
            >>> one = torch.ones(4)
            >>> Evaluation(-one, -one, 0 * one, one, 0 * one, one, particles=1).summary()["nll"]
            1.0
        """
        rows = len(self.elbo)
        return {
            "rows": rows,
            "particles": self.particles,
            "negative_elbo": -float(self.elbo.mean()),
            "negative_elbo_se": _standard_error(self.elbo),
            "nll": -float(self.log_evidence.mean()),
            "nll_se": _standard_error(self.log_evidence),
            "nll_mc_se": float(self.log_evidence_se.square().sum().sqrt() / rows),
            "rate": float(self.rate.mean()),
            "distortion": float(self.distortion.mean()),
            "ess": float(self.ess.mean()),
        }


_COLUMNS = ("elbo", "log_evidence", "log_evidence_se", "ess", "rate", "distortion")


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def evaluate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    particles: int = 1000,
    *,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
) -> Evaluation:
    """ELBO and importance-sampled log evidence of held-out rows, with standard errors.

    log p(x) is estimated by log (1/K) sum_k p(x, z_k) / q(z_k | x), under whatever prior the model has.
    Discrete latents are summed out inside each weight. Time grows with rows x particles, memory does not.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), the proposal.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        particles: draws per row, K.
        seed: of the draws; the global generators are left alone.
        compile: as for `fit`: "auto" captures, then compiles a chunk of particles where there are enough of them (an
            encoder is then run once for each row), "on" at once, "off" never.
        floats_at_once: bounds the memory of one pass; by default 64 MB, on CUDA a quarter of what is free.

    Raises:
        UserError: for particles < 1, programs that break the contract, or latents shared by all rows, for which
            there is no evidence per row.

    Source: Burda et al. 2016, arXiv 1509.00519 (evidence by importance sampling).

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def posterior(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5 ** 0.5))
        >>> result = evaluate(model, posterior, torch.zeros(3), particles=10)
        >>> [round(v, 3) for v in result.log_evidence.tolist()]
        [-1.266, -1.266, -1.266]
    """
    if not isinstance(particles, int) or particles < 1:
        raise UserError(f"particles must be a whole number of at least 1, got {particles!r}")
    check_mode(compile)
    pair = Pair(model, guide)
    split = as_split(data, "test", getattr(model, "schema", None))
    split = split.to(pair.device)
    was_training = pair.training
    pair.eval()
    try:
        with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
            torch.manual_seed(seed)
            structure = analyse(pair, _some_rows(split))
            check_support(pair, structure.holes, structure.latents, split)
            _refuse_global(structure)
            cell = _floats_per_cell(pair, structure, split)
            floats_at_once = floats_at_once or _floats_at_once(pair.device)
            rows = max(1, min(len(split), 500, floats_at_once // cell))
            at_once = max(1, min(particles, floats_at_once // (cell * rows)))
            chunks = Chunks(pair, structure, compile)
            starts = range(0, len(split), rows)
            parts = [
                _rows(chunks, split.batch(slice(start, start + rows)), particles, at_once, len(starts) - 1 - i)
                for i, start in enumerate(starts)
            ]
    finally:
        pair.train(was_training)
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Evaluation(**dict(zip(_COLUMNS, columns, strict=True)), particles=particles)


def _refuse_global(structure: Structure) -> None:
    if structure.rows_total:
        raise UserError(
            f"plate {structure.plate!r} draws its own rows, so that values cannot be told row by row: size it by "
            f"the rows it is given, pyro.plate({structure.plate!r}, len(x))"
        )
    if structure.global_latents:
        sites = ", ".join(sorted(structure.global_latents))
        raise UserError(
            f"{sites} is shared by all rows, so that there is no evidence per row: evaluate the bound of the "
            "data set with ELBO, or make it a parameter"
        )


def _floats_at_once(device: torch.device) -> int:
    if device.type != "cuda":
        return FLOATS_AT_ONCE
    free, _ = torch.cuda.mem_get_info(device)
    return max(FLOATS_AT_ONCE, free // 16)


def _some_rows(split: Split, rows: int = 4) -> dict[str, Tensor]:
    """A few rows to read the pair on; where entries are missing anywhere, the first of these rows has some too."""
    batch = split.batch(slice(0, rows))
    for field in split.schema:
        values = split[field.name]
        holes = torch.isnan(values) if values.is_floating_point() else values == -1
        if bool(holes.any()):
            batch[field.name] = batch[field.name].clone()
            batch[field.name][0] = values[holes.flatten(1).any(1) if values.dim() > 1 else holes][0]
    return batch


def _floats_per_cell(pair: Pair, structure: Structure, split: Split) -> int:
    """About how many numbers one particle of one row needs: the tensors of its distributions and their makings."""
    batch = split.batch(slice(0, 2))
    traces = run(pair, structure, batch)
    found: dict[int, int] = {}
    for trace in (traces.guide, traces.model):
        for site in sample_sites(trace).values():
            for tensor in [site["value"], *_tensors_in(site["fn"])]:
                found[tensor.data_ptr()] = max(found.get(tensor.data_ptr(), 0), tensor.numel())
    return 1 + 3 * sum(found.values()) // len(next(iter(batch.values())))


def _tensors_in(fn: Any) -> list[Tensor]:
    found = []
    for value in vars(fn).values():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, torch.distributions.Distribution):
            found += _tensors_in(value)
    return found


def _rows(chunks: Chunks, batch: dict[str, Tensor], particles: int, at_once: int, left: int) -> tuple[Tensor, ...]:
    """The columns for some rows; `left` more batches of rows are to come."""
    sizes = [min(at_once, particles - start) for start in range(0, particles, at_once)]
    sums: list[Tensor] = []
    for i, k in enumerate(sizes):
        found = chunks(batch, k, len(sizes) - i + left * len(sizes))
        sums = (
            found
            if not sums
            else [a + b for a, b in zip(sums[:3], found[:3], strict=True)]
            + [torch.logaddexp(a, b) for a, b in zip(sums[3:], found[3:], strict=True)]
        )
    elbo, rate, likelihood = (v / particles for v in sums[:3])
    total, squares = sums[3:]
    ess = (2 * total - squares).exp()
    relative_variance = (particles / ess - 1).clamp(min=0) / max(particles - 1, 1)
    se = relative_variance.sqrt() if particles > 1 else torch.full_like(total, math.nan)
    return elbo, total - math.log(particles), se, ess, rate, -likelihood
