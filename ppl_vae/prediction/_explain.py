"""Which entries of a row a latent speaks of, by derivatives of what the model says about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import Field
from ppl_vae.data.convert import missing_in
from ppl_vae.display import Displayed
from ppl_vae.distributions import OneByOne, expected_value, unwrapped
from ppl_vae.errors import UserError, check_choice, check_known, check_several, check_whole
from ppl_vae.evaluation.passes import judging, refuse_endless
from ppl_vae.prediction._traverse import look_at
from ppl_vae.prediction.moved import Moved, column_names
from ppl_vae.prediction.places import Places
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.trained import takes_results
from ppl_vae.saving.atomic import write
from ppl_vae.saving.paths import path_of

__all__ = ["Explanation", "explain"]

Of = Literal["mean", "log_prob"]


@dataclass(frozen=True, repr=False)
class Explanation(Displayed):
    """What `explain` found for some rows, by entry of a field and entry of a latent site.

    Attributes:
        gradient: d f_j / d z_i at the posterior mean, [row, *S, latent].
        integrated: (z_i - z0_i) times the mean of d f_j / d z_i on the way from the prior mean z0, [row, *S, latent].
            Over i it sums to f_j(z) - f_j(z0).
        spread: deviation of each latent in its prior, [latent].
        field: the field's name.
        site: the latent site's name.
        of: what f is.
        about: what the field is, where that is known.
        rows: the numbers of the rows.
        value: the rows' values of the field, [row, *S].
    """

    gradient: Tensor
    integrated: Tensor
    spread: Tensor
    field: str
    site: str
    of: str
    about: Field | None
    rows: tuple[int, ...]
    value: Tensor

    @property
    def strength(self) -> Tensor:
        """The length of the gradient in units of the prior deviations, [row, *S]: how much an entry hangs on z."""
        return (self.gradient * self.spread).norm(dim=-1)

    def figure(self) -> Any:
        """The rows above their strengths; of what is no picture, a heat map of rows by entries."""
        strength = self.strength.cpu().float()
        if strength.dim() in (3, 4):
            value, scaled = self.value.cpu().float(), strength / strength.amax().clamp(min=1e-12)
            low, high = (float(v) for v in (value.nan_to_num().min(), value.nan_to_num().max()))
            pictures = torch.stack([(value - low) / max(high - low, 1e-12), scaled])
            columns = [f"row {row}" for row in self.rows]
            return plots.grid(pictures, [self.field, f"hangs on {self.site}"], limits=(0.0, 1.0), columns=columns)
        flat = strength.reshape(len(strength), -1)
        names = column_names(self.field, flat.shape[1], self.about)
        shown = flat.mean(0).topk(min(24, flat.shape[1])).indices.sort().values
        lines = [f"row {row}" for row in self.rows]
        return plots.heatmap(flat[:, shown], lines, [names[i] for i in shown.tolist()], axes=("entry", ""))

    def frame(self) -> Any:
        """A row for each row and entry: the strength, and the integrated gradient of each latent."""
        import pandas

        count, latents = len(self.rows), self.gradient.shape[-1]
        flat = self.strength.cpu().reshape(count, -1)
        names = column_names(self.field, flat.shape[1], self.about)
        parts = self.integrated.cpu().reshape(-1, latents)
        table = {
            "row": [row for row in self.rows for _ in names],
            "entry": names * count,
            "strength": flat.reshape(-1).tolist(),
        }
        table |= {f"{self.site}{i}": parts[:, i].tolist() for i in range(latents)}
        return pandas.DataFrame(table)

    def save(self, path: str | Path) -> Path:
        """Write a .png, a .csv, or an .npz with both gradients.

        Raises:
            UserError: for another ending.
        """
        path = path_of("path", path)
        return write(path, self.content(path.suffix.lower()))

    def content(self, ending: str) -> bytes:
        """What `save` writes into a file with this ending."""
        if ending == ".csv":
            return bytes(self.frame().to_csv(index=False, lineterminator="\n").encode())
        if ending in plots.DRAWN:
            return plots.to_bytes(self.figure(), ending[1:])
        kept = {"gradient": self.gradient, "integrated": self.integrated, "strength": self.strength[..., None]}
        return Moved({n: v.unsqueeze(0) for n, v in kept.items()}, (self.site,), self._words, "row", {}).content(ending)

    @property
    def _words(self) -> tuple[str, ...]:
        return tuple(f"row {row}" for row in self.rows)


@takes_results
@exclusive
def explain(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    rows: Sequence[int] | int = 0,
    *,
    site: str | None = None,
    field: str | None = None,
    of: Of = "mean",
    steps: int = 32,
    seed: int = 0,
) -> Explanation:
    """Which entries of a field a latent speaks of: d f_j / d z_i at the posterior mean of a row, and integrated to it.

    f_j is E[x_j | z, w] ("mean": what the latent moves; of a linear decoder its loadings W_ji), or log p(x_j | z, w) of
    the row's own entry in nats ("log_prob": what the entry asks of the latent). The integrated gradient goes from the
    prior mean of the site, the other latents staying where the guide puts the row (or following, see `traverse`).

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: rows, as for `traverse`.
        rows: the numbers of the rows, or of one.
        site: a continuous latent site; by default the first that tells something.
        field: an observed field; by default the largest.
        of: "mean" or "log_prob".
        steps: of the integral, by the midpoint rule: its error falls with their square.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for names that there are not, or a field whose mean has no closed form.

    Source: Simonyan et al. 2014, arXiv 1312.6034 (gradients); Sundararajan et al. 2017, arXiv 1703.01365 (integrated).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> explain(model, MeanField(model), model.data, rows=[5, 6]).strength.shape
        torch.Size([2, 8, 8])
    """
    steps = check_whole("steps", steps)
    check_choice("of", of, ("mean", "log_prob"))
    numbers = list(check_several("rows", rows, "row numbers")) if hasattr(rows, "__len__") else [rows]
    if not numbers:
        raise UserError("rows expects at least one number, got none")
    refuse_endless("steps", steps, len(numbers))
    pair, looked = look_at(model, guide, data, numbers, seed)
    places = looked.places
    if site is not None:
        check_known("continuous latent site", site, looked.latents)
    if not looked.latents:
        raise UserError("the pair has no continuous latent of single rows: there is nothing to differentiate by")
    chosen = looked.latents[site] if site else max(looked.latents.values(), key=lambda s: bool(s.ranked))
    about = _field(places, field)
    asked = range(len(numbers))
    with judging(pair, seed):
        speak = _spoken(places, chosen.site, about, of, asked)
        end = places.of(asked)[chosen.site].reshape(len(numbers), -1)
        start = chosen.centre.to(end).expand_as(end)
        gradient = _jacobian(speak, end)
        total = torch.zeros_like(gradient)
        for k in range(steps):
            total += _jacobian(speak, start + (k + 0.5) / steps * (end - start)) / steps
    difference = (end - start).reshape(len(end), *(1,) * (gradient.dim() - 2), -1)
    value = places.batch[about][: len(numbers)]
    kind = places.fields[about].kind if about in places.fields else "real"
    shown = value.to(torch.get_default_dtype()).masked_fill(missing_in(kind, value), torch.nan)
    return Explanation(
        gradient, total * difference, chosen.spread.to(end), about, chosen.site, of, places.fields.get(about),
        tuple(numbers), shown,
    )  # fmt: skip


def _field(places: Places, field: str | None) -> str:
    names = [name for name in places.observed if name in places.batch]
    if field is not None:
        return check_known("observed field", field, names)
    return max(names, key=lambda n: places.batch[n][0].numel())


def _spoken(places: Places, site: str, field: str, of: Of, rows: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """f of the site's values [row, latent], [row, *S]."""
    kept = places.of(rows)
    value = places.batch[field][list(rows)]
    shape = kept[site].shape

    def speak(z: Tensor) -> Tensor:
        moved = {site: z.reshape(shape)}
        followers = places.followers([site])
        latents = places.settled(moved, rows) if followers else kept | moved
        fn = unwrapped(places.sites(latents, rows)[field]["fn"])
        if of == "mean":
            try:
                return expected_value(fn).expand(value.shape)
            except (NotImplementedError, AttributeError):
                kind = type(fn).__name__
                raise UserError(f"the mean of field {field!r} ({kind}) has no closed form: use of='log_prob'") from None
        alone = fn.terms if isinstance(fn, OneByOne) else fn.log_prob
        if fn.event_dim and not isinstance(fn, OneByOne):
            raise UserError(f"field {field!r} has no log p of single entries ({type(fn).__name__}): use of='mean'")
        inside = fn.sample()
        gone = torch.isnan(value) if value.is_floating_point() else value == -1
        return alone(torch.where(gone, inside.to(value.dtype), value)).masked_fill(gone, 0.0)

    return speak


def _jacobian(speak: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """d f / d z_i, [row, *S, latent]: rows do not depend on each other, so one derivative for each latent is enough.

    The gradient J' v is linear in v, and its derivative by v in the direction e_i is J e_i.
    """
    columns = []
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        made = speak(z)
        if not made.requires_grad:  # the field does not hang on this site at all
            return made.new_zeros(*made.shape, z.shape[1])
        weights = torch.zeros_like(made, requires_grad=True)
        (pulled,) = torch.autograd.grad(made, z, weights, create_graph=True, allow_unused=True)
        if pulled is None:
            return made.new_zeros(*made.shape, z.shape[1])
        for i in range(z.shape[1]):
            (column,) = torch.autograd.grad(pulled[:, i].sum(), weights, retain_graph=True)
            columns.append(column.detach())
    return torch.stack(columns, -1)
