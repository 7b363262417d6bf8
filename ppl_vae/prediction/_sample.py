"""New rows of a trained pair: from the model, or given the values of some columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.data import Field, Schema, Split
from ppl_vae.data.convert import Raw, convert
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_known, check_whole, shown, unknown_name
from ppl_vae.prediction._impute import impute, with_holes
from ppl_vae.prediction.coding import simulate
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

__all__ = ["Drawn", "sample"]

FEW = 30
"""With fewer effective particles draws repeat each other, and are further from p(rest | given) than they seem."""


@dataclass(frozen=True, repr=False)
class Drawn(Displayed):
    """Rows that were drawn, [row, *S] by field; what was given is in each of them.

    `log_evidence` is log p(given) in nats with its Monte Carlo standard error, `ess` the effective number of the
    `particles` among which the rows' latents were chosen; all None where nothing was given.
    """

    rows: Mapping[str, Tensor]
    schema: Schema
    particles: int | None = None
    ess: float | None = None
    log_evidence: float | None = None
    log_evidence_se: float | None = None

    @property
    def doubt(self) -> str | None:
        """What to say of draws that rest on few particles, else None."""
        if self.ess is None or self.ess >= FEW:
            return None
        return (
            f"the draws rest on {self.ess:.1f} effective particles of {self.particles:,}: what was given is unusual, "
            "or the guide never saw rows with holes; take more particles, or train with missing entries"
        )

    def frame(self) -> Any:
        """The rows as a DataFrame, categories by name, in the units of the data."""
        from ppl_vae.data.frames import filled_frame

        mask = {name: torch.ones_like(values, dtype=torch.bool) for name, values in self.rows.items()}
        return filled_frame(self.schema, self.rows, mask, None)


@takes_results
@exclusive
def sample(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    n: int = 64,
    *,
    given: Mapping[str, Any] | None = None,
    particles: int = 5000,
    seed: int = 0,
) -> Drawn:
    """n rows x ~ p(x), or x_rest ~ p(x_rest | x_given) for any columns that are given.

    With z_k ~ q(z | x_given) and weights w_k = p(x_given, z_k) / q(z_k | x_given), a row takes z_k with probability
    w_k / sum w and then x_rest ~ p(x | z_k): sampling importance resampling, exact as K grows, whatever the guide.
    Where the guide leaves few effective particles, the prior p(z) is tried as proposal, and the better one taken.

    Args:
        model: p(z) p(x | z), one of this package, which knows its fields.
        guide: q(z | x).
        n: how many rows.
        given: values of columns (or of parts of a field) by name, categories by name; None draws whole rows.
        particles: K.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for a name that is no column, a value outside its field, or counts below 1.

    Source: Rubin 1987 (sampling importance resampling); Mattei & Frellsen 2018, arXiv 1802.04826.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> from ppl_vae.guides import MeanField
        >>> x = torch.randn(200, 1, generator=torch.manual_seed(0)) @ torch.ones(1, 2)
        >>> x = x + 0.1 * torch.randn(200, 2, generator=torch.manual_seed(1))
        >>> data = ppl_vae.load({"a": x[:, 0], "b": x[:, 1]})
        >>> model = VAE(data, latent_dim=1, hidden=(8,))
        >>> found = sample(model, MeanField(model), 100, given={"a": 2.0})
        >>> bool((found.rows["a"] == 2).all()), 1 < found.rows["b"].mean() < 3
        (True, tensor(True))
    """
    n, particles = check_whole("n", n), check_whole("particles", particles)
    schema = getattr(model, "schema", None)
    if not isinstance(schema, Schema):
        raise UserError("sample needs a model that knows its fields, such as VAE(data): this one has no schema")
    pair = Pair(model, guide)
    looked_at = {*pair.model.arguments, *pair.guide.arguments}
    schema = schema.of(f for f in with_holes(schema) if f.name != "y" or "y" in looked_at)
    if not isinstance(given, Mapping | None):
        raise UserError(f"given expects values by the name of their column, got {shown(given)}")
    if not given:
        drawn = simulate(pair.eval(), schema, n, seed=seed)
        return Drawn({name: drawn[name] for name in schema.names if name in drawn}, schema)
    row = Split(schema, "test", partial_row(schema, given)).to(pair.device)
    found = impute(model, guide, row, draws=n, particles=particles, seed=seed)
    if float(found.ess[0]) < FEW:  # such as of a guide that never saw rows with holes
        other = impute(model, _Prior(model), row, draws=n, particles=particles, seed=seed)
        found = max(found, other, key=lambda each: float(each.ess[0]))
    rows = {
        f.name: found.draws[f.name][:, 0] if f.name in found.draws else row[f.name].expand(n, *f.shape) for f in schema
    }
    return Drawn(
        rows, schema, particles, *(float(v[0]) for v in (found.ess, found.log_evidence, found.log_evidence_se))
    )


class _Prior(nn.Module):
    """The latents of a model, drawn as it draws them: a proposal that needs no look at the row."""

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)

    def forward(self, *args: Tensor, **fields: Tensor) -> None:
        """Run the model without what it observes."""
        poutine.block(self.model, hide_fn=lambda site: bool(site.get("is_observed")))(*args, **fields)


def partial_row(schema: Schema, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """One row [1, *S] by field with these values, all else missing; values are in the units of the data.

    Example:
        >>> partial_row(Schema((Field("x", "real", (2,), names=("a", "b"), missing=True),)), {"b": 3})
        {'x': tensor([[nan, 3.]])}
    """
    places: dict[str, tuple[Field, int | None]] = {field.name: (field, None) for field in schema if not field.shape}
    for field in schema:
        if field.shape and field.kind != "categorical":
            places |= {name: (field, i) for i, name in enumerate(field.names)}
    for name in given:
        check_known("column", name, places)
    found = {}
    for field in schema:
        gone = -1.0 if field.kind == "categorical" else np.nan
        values = np.full((1, *field.shape), gone)
        for name, value in given.items():
            if places[name][0].name == field.name:
                place = (0,) if places[name][1] is None else (0, places[name][1])
                values[place] = _code(field, name, value)
        found[field.name] = convert(field, Raw(values, coded=field.kind == "categorical"))
    return found


def _code(field: Field, name: str, value: Any) -> float:
    """A value as a number: of a category its code, by its name or, if it has none, as it is."""
    if field.kind == "categorical":
        known = field.names or tuple(map(str, range(field.cardinality or 0)))
        if str(value) not in known:
            raise unknown_name(f"value of {name}", str(value), known)
        return known.index(str(value))
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"given {name}={value!r}: expected a number, leave it out where it is not known") from error
    if not np.isfinite(number):
        raise UserError(f"given {name}={value!r}: expected a finite number, leave it out where it is not known")
    return number
