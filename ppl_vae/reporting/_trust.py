"""The section of a report about trust: the rows in which the guide fails, by name and as pictures."""

from __future__ import annotations

from ppl_vae import plots
from ppl_vae.diagnostics import khat_scatter
from ppl_vae.evaluation import Evaluation, JointEvaluation
from ppl_vae.reporting._album import Album, is_picture, limits_of
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._html import Picture, Section
from ppl_vae.reporting.view import View
from ppl_vae.weights.psis import khat_limit

__all__ = ["trusted_rows"]

NAMED, DRAWN = 12, 12

WHAT_TO_TRY = (
    "What to try, in this order:\n\n"
    "- the family lacks the shape of the posterior: take a richer one (`--guide full_rank`, `iaf` or `spline`)\n"
    "- rows that resemble these are judged well: take a wider encoder (`--hidden`) or more epochs\n"
    "- these rows are rare: collect more training rows like them\n"
    "- only the evidence matters: take more particles, or `ppl-vae certify`; they correct the evidence, not the guide"
)


def trusted_rows(view: View, found: Evaluation | JointEvaluation | None, album: Album) -> list[Section]:
    """k-hat of every held-out row, and those above the limit; nothing where no row was evaluated one by one."""
    if found is None or isinstance(found, JointEvaluation):  # then all rows have one weight
        return []
    if len(found.khat) <= max(view.numbers, default=0) or not bool(found.khat.isfinite().any()):
        return []
    bad, limit = found.unreliable, khat_limit(found.particles)
    words = (
        f"The evidence of a row is an average of {found.particles:,} importance weights p(x, z) / q(z | x). If the "
        "guide is too narrow somewhere, a few large weights dominate. k-hat measures how heavy their tail is. Below "
        f"{limit:.2f} the evidence of the row and its Monte Carlo error can be believed. Above it the estimate is a "
        "lower bound on average, as ever, but how far below the evidence it lies is not known."
    )
    if bad:
        words += (
            f"\n\n**{len(bad):,} of {len(found.khat):,} rows ({100 * len(bad) / len(found.khat):.1f} %) are above the "
            f"limit**; the worst are below.\n\n{WHAT_TO_TRY}"
        )
    else:
        words += "\n\n**No row is above the limit**: nothing here speaks against the guide."
    caption = "Each point is a row. Above the line the guide misses a part of the posterior that matters."
    middle = number(float(found.khat.median()))
    alt = f"k-hat against NLL: {len(bad):,} of {len(found.khat):,} rows above {limit:.2f}, the median is {middle}."
    figures = [album.add("khat", khat_scatter(-found.log_evidence, found.khat, found.particles), caption, alt)]
    if drawn := _pictures(view, found, bad, album):
        figures.append(drawn)
    table = (
        (("row", "k-hat", "effective draws", "NLL, nats", "negative ELBO, nats"), _lines(view, found, bad))
        if bad
        else None
    )
    return [Section("Where to believe the guide", words, table, tuple(figures))]


def _lines(view: View, found: Evaluation, bad: list[int]) -> list[list[object]]:
    places = {row: at for at, row in enumerate(view.numbers)}
    names = [view.name(places[i]) if i in places else f"{view.split} row {i}" for i in bad[:NAMED]]
    told = [found.khat, found.ess, -found.log_evidence, -found.elbo]
    return [[name, *(number(float(t[i])) or "not finite" for t in told)] for name, i in zip(names, bad, strict=False)]


def _pictures(view: View, found: Evaluation, bad: list[int], album: Album) -> Picture | None:
    places = {row: at for at, row in enumerate(view.numbers)}
    rows = [i for i in bad if i in places][:DRAWN]
    if not rows or not is_picture(view):
        return None
    at = [places[i] for i in rows]
    figure = plots.reconstructions(
        view.values[at],
        view.reconstruct(at),
        labels=[f"{min(float(found.khat[i]), 99.0):.1f}" for i in rows],
        limits=limits_of(view),
    )
    caption = (
        f"The {len(rows)} rows of largest k-hat, which is written above each: the data, and below it what the model "
        "makes of the guide's mean. Look for what they have in common."
    )
    return album.add("khat-rows", figure, caption)
