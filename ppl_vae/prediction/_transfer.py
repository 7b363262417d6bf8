"""Content of one row, style of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import UserError, check_known, check_several
from ppl_vae.evaluation.passes import judging
from ppl_vae.prediction._traverse import conditions_of, look_at
from ppl_vae.prediction.moved import Moved
from ppl_vae.prediction.places import Places
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.trained import takes_results

__all__ = ["transfer"]


@takes_results
@exclusive
def transfer(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    contents: Sequence[int],
    styles: Sequence[int],
    *,
    keep: Sequence[str] | None = None,
    take: Sequence[str] | None = None,
    seed: int = 0,
) -> Moved:
    """Keep some latents (or conditions) of one row and take the others of another: every content with every style.

    Say what is kept of the content or what is taken of the style; the rest is the other's. Of a model with a label or a
    condition y (`M2`, `CVAE`), `keep=("y",)` writes the contents' classes in the styles' hands; of `Multimodal`,
    `take=("w_x",)` gives the shared content of one row the private latents of another.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: rows, as for `traverse`.
        contents: numbers of rows, the lines of the grid.
        styles: numbers of rows, its columns.
        keep: sites and conditions of the content.
        take: sites and conditions of the style.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for names that there are not, both or neither of keep and take, nothing to keep, or nothing to take.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import CVAE
        >>> model = CVAE(ppl_vae.load("digits"), latent_dim=4)
        >>> transfer(model, MeanField(model), model.data, [0, 1, 2], [7, 9], keep=("y",)).values["x"].shape
        torch.Size([3, 2, 8, 8])
    """
    if (keep is None) == (take is None):
        raise UserError("transfer expects keep= (of the content) or take= (of the style): give one of the two")
    contents, styles = (check_several(n, v, "row numbers") for n, v in (("contents", contents), ("styles", styles)))
    if not contents or not styles:
        raise UserError(f"transfer expects rows for contents and styles, got {len(contents)} and {len(styles)}")
    pair, looked = look_at(model, guide, data, [*contents, *styles], seed)
    places = looked.places
    conditions = [*conditions_of(pair, places), *_observed_conditions(places)]
    names = [*(n for n in places.values if places.rows_at[n] is not None), *conditions]
    said = take if keep is None else keep
    asked = [said] if isinstance(said, str) else check_several("keep" if take is None else "take", said, "names")
    for name in asked:
        check_known("latent site or condition", name, names)
    kept = {*asked} if keep is not None else {*names} - {*asked}
    if not kept or kept == {*names}:
        what = "keep" if not kept else "take"
        raise UserError(f"transfer has nothing to {what} of {', '.join(names)}: name some of them, and not all")
    lines = [i for i in range(len(contents)) for _ in styles]
    columns = [len(contents) + j for _ in contents for j in range(len(styles))]
    with judging(pair, seed):
        here, there = places.of(lines), places.of(columns)
        latents = {n: (here if n in kept else there)[n] for n in places.values}
        of_style = {n for n in conditions if n not in kept}
        mixed = {n: v[columns if n in of_style else lines] for n, v in places.batch.items()}
        both = replace(places, batch=mixed)
        made = both.decode(latents, range(len(lines)))
    values = {n: v.unflatten(0, (len(contents), len(styles))).detach() for n, v in made.items()}
    other = [n for n in names if n not in kept]
    note = f"{', '.join(sorted(kept))} of the content, {', '.join(other)} of the style"
    return Moved(
        values,
        tuple(f"row {row}" for row in contents),
        tuple(f"row {row}" for row in styles),
        "content, style",
        places.fields,
        (note,),
    )


def _other(places: Places, name: str) -> Tensor:
    """Another value of a field in every row: the next category, or that of another row."""
    values, field = places.batch[name], places.fields.get(name)
    if field is not None and field.cardinality and not field.shape:
        return (values + 1) % field.cardinality
    return values.roll(1, 0)


def _observed_conditions(places: Places) -> list[str]:
    """The observed fields that others are drawn given, such as the label of an M2 whose rows all have one.

    What depends on an observed field is seen by giving rows another value of it.
    """
    rows = range(len(places))
    latents = places.of(rows)
    found = []
    for name in places.observed:
        if name in places.batch:
            other = replace(places, batch={**places.batch, name: _other(places, name)})
            before, after = places.decode(latents, rows), other.decode(latents, rows)
            if any(not torch.allclose(before[n], after[n], equal_nan=True) for n in before if n != name):
                found.append(name)
    return found
