"""The report of a run: its numbers in plain words and its figures, as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import plots
from ppl_vae.atomic import write
from ppl_vae.data import Data, Split
from ppl_vae.html import Section, render
from ppl_vae.latents import ACTIVE, Latents
from ppl_vae.report_words import headline, name_of, number, what_was_trained
from ppl_vae.runs import Run
from ppl_vae.view import View, look

__all__ = ["write_report"]

STEPS = 9
SPAN = 2.5
LINES = 64
"""Latents whose traversal is drawn as pictures, at most."""


def write_report(
    run: Run,
    data: Data | Split,
    evaluation: Mapping[str, float | int] | None = None,
    *,
    seed: int = 0,
) -> Path:
    """Draw every figure into run.path/'figures' (PNG) and write run.path/'report.html', self-contained.

    Rows come from the test split; without one from validation, else from train, and the report says so.
    Figures are drawn anew, over those of an earlier report.

    Args:
        run: an opened run folder.
        data: the data of the run, or one split.
        evaluation: what `Evaluation.summary` returns; None says that the run was not evaluated.
        seed: chooses the rows that are shown, and the draws.

    Returns:
        The path of report.html.

    Raises:
        UserError: for rows that do not fit the run, or programs that break the contract.
        OSError: if the folder cannot be written.

    Example:
        >>> import tempfile, ppl_vae
        >>> from ppl_vae.models import VAE
        >>> from ppl_vae.guides import MeanField
        >>> data = ppl_vae.load([[0.1, 2.5], [0.2, 3.5], [0.4, 1.5], [0.3, 0.5], [0.2, 1.0]])
        >>> model = VAE(data, latent_dim=2)
        >>> result = ppl_vae.fit(model, MeanField(model), data, epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = ppl_vae.open_run(result.save(folder + "/run"))
        ...     page = write_report(run, data).read_text()
        >>> "not evaluated" in page, "https://" in page
        (True, False)
    """
    pair = run.pair
    was_training = pair.training
    pair.eval()
    try:
        view = look(pair, data, run.schema, seed=seed)
        page = _Page(run.path / "figures")
        sections = [what_was_trained(run, data, view), _training(run, page)]
        sections += [_reconstructions(view, page), _prior(view, page), *_latent_space(view, page)]
    finally:
        pair.train(was_training)
    model, guide = (name_of(run.info.get(k), p) for k, p in (("model", run.model), ("guide", run.guide)))
    source = data.name if isinstance(data, Data) else run.info.get("data", {}).get("name", data.name)
    return write(
        run.path / "report.html",
        render(
            f"{model.partition('(')[0].strip()} with {guide.partition('(')[0].strip()} on {source}",
            f"Run {run.path.name}. The figures show {_where(view, data)}.",
            headline(run, evaluation),
            sections,
            f"Made by ppl-vae {metadata.version('ppl-vae')}. Rows and draws were chosen with seed {seed}. "
            "Every figure is also a file in the folder `figures` beside this page. All information is in nats: "
            "1 nat = 1.44 bits.",
        ),
    )


def _where(view: View, data: Data | Split) -> str:
    few = "" if len(view) < 2000 else "2,000 randomly chosen "
    if isinstance(data, Split) or view.split == "test":
        return (
            f"{few}{view.split} rows, which training did not see"
            if view.split == "test"
            else f"{few}rows of the split {view.split!r}"
        )
    if view.split == "validation":
        return f"{few}validation rows: there is no test split"
    return f"{few}training rows: there is neither a test nor a validation split"


@dataclass
class _Page:
    """Draws each figure once: into the folder and into the page."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def figure(self, name: str, figure: Figure, caption: str, alt: str) -> tuple[bytes, str, str]:
        """A figure as a section holds it."""
        png = plots.to_png_bytes(figure)
        write(self.folder / f"{name}.png", png)
        self.names.append(name)
        return png, caption, alt


def _training(run: Run, page: _Page) -> Section:
    best = run.info.get("best", {}).get("epoch")
    if not run.history:
        return Section("Training curve", "This run has no history: `history.jsonl` is empty.")
    at = next((r for r in run.history if r["epoch"] == best), run.history[-1])
    validated = at.get("validation") is not None
    text = f"At epoch {at['epoch']} the bound was {number(at['train']) or 'not finite'} nats per training row"
    text += f" and {number(at['validation'])} per validation row." if validated else "."
    caption = "Higher is better; the dashed line marks the epoch whose weights were kept. "
    if validated:
        caption += (
            "While both curves rise together the model learns what is common to all rows; where training goes on "
            "rising and validation falls, it has begun to learn its training rows by heart. "
        )
    if any(r.get("rate") is not None for r in run.history):
        caption += (
            "On the right the two parts of the bound on training rows: bound = −distortion − rate. A rate that "  # noqa: RUF001
            "falls to 0 would mean that the latents are no longer used."
        )
    curve = plots.training_curve(run.history, best_epoch=best or None)
    return Section(
        "Training curve", text, figures=(page.figure("training", curve, caption, "bound over epochs"),)
    )


def _limits(view: View) -> tuple[float, float] | None:
    kind, top = view.field.kind, view.field.cardinality
    if kind in ("binary", "unit"):
        return 0.0, 1.0
    if kind in ("categorical", "count") and top is not None:
        return 0.0, float(max(top - 1, 1))
    seen = view.values[torch.isfinite(view.values)]
    return (float(seen.min()), float(seen.max())) if len(seen) else None


def _is_picture(view: View) -> bool:
    shape = view.field.shape
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _columns(view: View) -> list[str]:
    size = view.field.size
    names = view.field.names
    if len(names) == size and view.field.kind != "categorical":
        return list(names)
    return [view.field.name] if size == 1 else [f"{view.field.name}[{i}]" for i in range(size)]


def _gap_words(view: View) -> str:
    return " Sand-coloured pixels were not observed." if bool(view.values.isnan().any()) else ""


def _reconstructions(view: View, page: _Page) -> Section:
    title, words = (
        f"{view.split.capitalize()} rows and their reconstructions",
        (
            "Each row is encoded by the guide, and the model is asked what it expects to see for these latents: E[x|z] "
            "at the posterior mean."
        ),
    )
    if view.held.keys() - view.shared:
        words = (
            "Each row is encoded by the guide, and the model is asked what it expects to see for these latents: "
            "E[x|z], averaged over 16 draws from the guide."
        )
    if not _is_picture(view):
        x, mean = _flat(view.values), _flat(view.reconstruct(list(range(len(view)))))
        figure = plots.table_reconstructions(x, mean, names=_columns(view))
        caption = (
            "A point is a row. Points on the line: the latents keep this column. A flat cloud: they do not, and the "
            "model falls back on the column's average."
        )
        return Section(title, words, figures=(page.figure("reconstructions", figure, caption, title),))
    rows = list(range(min(24, len(view))))
    if view.labels is not None:
        rows.sort(key=lambda row: int(view.labels[row]) if view.labels is not None else 0)
    labels = None if view.label is None else [view.class_of(row) or "?" for row in rows]
    figure = plots.reconstructions(
        view.values[rows], view.reconstruct(rows), labels=labels, limits=_limits(view)
    )
    caption = (
        f"{len(rows)} {view.split} rows picked at random{', sorted by class' if labels else ''}. Above the data, below "
        "the model. Look for what the latents lose: a row that comes back as another class, or strokes and edges "
        f"that are smoothed away.{_gap_words(view)}"
    )
    return Section(title, words, figures=(page.figure("reconstructions", figure, caption, title),))


def _prior(view: View, page: _Page) -> Section:
    title = "Samples from the prior"
    words = (
        "No row is looked at here: latents z are drawn from the prior p(z), and the model makes something of them. "
        "This is what the model has learned to be possible."
    )
    if not _is_picture(view):
        draws = _flat(view.prior(max(500, min(len(view), 2000)), draw=True))
        figure = plots.table_samples(_flat(view.values), draws, names=_columns(view))
        caption = (
            f"Grey: the {len(view):,} {view.split} rows. Blue line: {len(draws):,} rows drawn from the model, z from p(z) and x "
            "from p(x|z). The two should cover each other; mass where there are no rows is invented, rows without "
            "mass are missed."
        )
        return Section(title, words, figures=(page.figure("samples", figure, caption, title),))
    count, limits = 64, _limits(view)
    made = page.figure(
        "samples",
        plots.samples(view.prior(count), limits=limits, title="model: E[x|z], z from the prior"),
        "Mean pictures E[x|z], not draws of single pixels, so they look smoother than data. Look for pictures that "
        "belong to no class: there the prior puts mass where no row is.",
        title,
    )
    rows = list(range(min(count, len(view))))
    real = page.figure(
        "data",
        plots.samples(view.values[rows], limits=limits, title=f"data: {view.split} rows"),
        f"As many {view.split} rows, to compare with: are all classes there, and as often?{_gap_words(view)}",
        f"{view.split} rows",
    )
    return Section(title, words, figures=(made, real))


def _latent_space(view: View, page: _Page) -> list[Section]:
    if not view.latents:
        return [
            Section(
                "Latent space",
                "The model has no continuous latent of single rows, so there is nothing to move, to interpolate or "
                "to map: traversals, rates, interpolations and the map are left out.",
            )
        ]
    first = view.latents[0]
    sections = [_traversal(view, first, page), _rates(view, page)]
    if _is_picture(view) and (lines := _interpolation(view, first, page)) is not None:
        sections.append(lines)
    return [*sections, _map(view, first, page)]


def _typical(view: View, latents: Latents) -> int:
    """The row whose latents are as far from their average as is usual."""
    distance = (latents.mean - latents.mean.mean(0)).norm(dim=-1)
    return int((distance - distance.median()).abs().argmin())


def _traversal(view: View, latents: Latents, page: _Page) -> Section:
    title, ranked = "What each latent does", latents.ranked
    if not latents.real:
        return Section(
            title,
            f"The latent {latents.site!r} lives on a bounded set, on which moving one dimension alone is not meaningful: traversals are left out.",
        )
    if not ranked:
        return Section(title, _collapsed(latents))
    row = _typical(view, latents)
    steps, made = _moved(view, latents, ranked[:LINES], row)
    unit = "nats" if latents.exact else "activity"
    titles = [f"{latents.site}{i}  {latents.information[i]:.2f} {unit}" for i in ranked]
    standard = bool(((latents.centre.abs() < 1e-6) & ((latents.spread - 1).abs() < 1e-6)).all())
    text = (
        f"{_count(latents)} Each is moved from −{SPAN:g} to {SPAN:g} "  # noqa: RUF001
        f"{'(about 99 % of the prior lies within)' if standard else 'standard deviations of the prior around its mean'} "
        f"while the others stay where the guide puts {view.name(row)}, a row at a usual distance from the middle. "
        "Those that tell most about a row come first."
    )
    axis = "value of z" if standard else "prior sd from mean"
    if _is_picture(view):
        figure = plots.traversal(made, steps, titles[:LINES], limits=_limits(view), axis=axis)
        caption = (
            "Follow a line from left to right: what changes is what this latent stands for, such as slant, weight or "
            "a change of class. The number beside it says how much the guide uses it, "
            f"{'its KL to the prior per row' if latents.exact else 'the variance of its posterior mean as a share of the prior variance'}."
        )
        more = f" Of {len(ranked)} latents, the first {LINES} are drawn." if len(ranked) > LINES else ""
        return Section(title, text + more, figures=(page.figure("traversal", figure, caption, title),))
    return Section(title, text, figures=_table_traversals(view, made, steps, titles, axis, page))


def _table_traversals(
    view: View, made: Tensor, steps: Tensor, titles: Sequence[str], axis: str, page: _Page
) -> tuple[tuple[bytes, str, str], ...]:
    scale = torch.from_numpy(np.nanstd(_flat(view.values).numpy(), axis=0))
    caption = (
        "A panel is a latent, a line is a column: where it rises or falls, the latent moves this column's mean, in "
        "units of the column's standard deviation in the data. Columns that move together share a cause."
    )
    figures = []
    for start in range(0, len(made), 12):
        some = slice(start, start + 12)
        figure = plots.table_traversal(
            made[some].flatten(2), steps, names=_columns(view), titles=titles[some], scale=scale, axis=axis
        )
        name = "traversal" if start == 0 else f"traversal-{start // 12 + 1}"
        figures.append(page.figure(name, figure, caption, "how the columns move with each latent"))
        caption = "The next latents, drawn in the same way."
    return tuple(figures)


def _moved(view: View, latents: Latents, ranked: list[int], row: int) -> tuple[Tensor, Tensor]:
    """Each latent moved through the same steps: the steps, and E[x | z], [latent, step, *S]."""
    steps = torch.linspace(-SPAN, SPAN, STEPS)
    base = latents.mean[row].repeat(len(ranked), 1)
    made = []
    for step in steps:  # one step of all latents at a time, so that other draws are the same at every step
        z = base.clone()
        for line, i in enumerate(ranked):
            z[line, i] = latents.centre[i] + step * latents.spread[i]
        made.append(view.decode({latents.site: latents.shaped(z)}, [row] * len(ranked)))
    return steps, torch.stack(made, 1)


def _count(latents: Latents) -> str:
    active, every = len(latents.ranked), len(latents.information)
    if active == every:
        return (
            f"All {every} dimensions of {latents.site} carry information."
            if every > 1
            else f"{latents.site} is one number, and it carries information."
        )
    return f"Of the {every} dimensions of {latents.site}, {active} carr{'ies' if active == 1 else 'y'} information (more than {ACTIVE:g}{' nats' if latents.exact else ''}); the others are left out."


def _collapsed(latents: Latents) -> str:
    return (
        f"None of the {len(latents.information)} dimensions of {latents.site} carries information: whatever the row, "
        "the guide answers with the prior. This is **posterior collapse**; there is nothing to move. A warm-up of "
        "the KL weight, a weaker decoder or more training may help."
    )


def _rates(view: View, page: _Page) -> Section:
    figures = []
    for number_, latents in enumerate(view.latents):
        several = f" of {latents.site}" if len(view.latents) > 1 else ""
        if latents.exact:
            axis = "KL to the prior (nats per row)"
            total = float(latents.information.sum())
            caption = (
                f"The KL of each latent{several} to its prior, averaged over {len(view):,} {view.split} rows; together "
                f"{number(total)} nats. A tall bar is a latent that tells much about a row; a grey one could be removed "
                "without loss."
            )
        else:
            axis = "variance of the mean / prior's"
            caption = (
                f"The variance over rows of the posterior mean of each latent{several}, as a share of the prior's variance. "
                "Near 1, the row decides the latent; near 0, the latent ignores the row. (The KL of single latents has no "
                "closed form for this pair.)"
            )
        figure = plots.rate_per_latent(latents.information, active=ACTIVE, axis=axis)
        name = "rate" if number_ == 0 else f"rate-{number_ + 1}"
        figures.append(page.figure(name, figure, caption, axis))
    text = " ".join(
        _count(latents).replace("; the others are left out", "; the others are grey")
        for latents in view.latents
    )
    return Section("How much each latent tells", text, figures=tuple(figures))


def _pairs(view: View, most: int = 6) -> list[tuple[int, int]]:
    """Pairs of different rows, of different classes where those are known; a class comes again last."""
    if view.labels is None:
        return [(i, i + 1) for i in range(0, min(2 * most, len(view) - 1), 2)]
    first: dict[str, int] = {}
    for row in range(len(view)):
        if (known := view.class_of(row)) is not None:
            first.setdefault(known, row)
    rows = list(first.values())
    if len(rows) < 2:
        return [(i, i + 1) for i in range(0, min(2 * most, len(view) - 1), 2)]
    around = [(rows[i], rows[(i + 1) % len(rows)]) for i in range(len(rows))]
    return (around[::2] + around[1::2])[: min(most, len(around) if len(rows) > 2 else 1)]


def _interpolation(view: View, latents: Latents, page: _Page) -> Section | None:
    pairs = _pairs(view)
    if not pairs:
        return None
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    between = []
    for t in torch.linspace(0, 1, STEPS):
        z = (1 - t) * latents.mean[left] + t * latents.mean[right]
        between.append(view.decode({latents.site: latents.shaped(z)}, left))
    images = torch.stack([view.values[left], *between, view.values[right]], 1)
    ends = [(view.class_of(a) or view.name(a), view.class_of(b) or view.name(b)) for a, b in pairs]
    figure = plots.interpolation(images, limits=_limits(view), ends=ends)
    caption = (
        "Framed: two real rows. Between them E[x|z] along a straight line from the one's posterior mean to the other's, the "
        "ends included. Look for intermediate pictures that are possible themselves; a sudden jump, or a mere "
        "superposition of both ends, shows a gap between the classes."
    )
    text = f"Pairs of {view.split} rows{' of different classes' if view.labels is not None else ''}, and the way between them in latent space."
    return Section(
        "From one row to another",
        text,
        figures=(page.figure("interpolation", figure, caption, "interpolations"),),
    )


def _map(view: View, latents: Latents, page: _Page) -> Section:
    title, size = "A map of the latents", latents.mean.shape[1]
    if size == 1:
        return Section(title, f"{latents.site} has one dimension, so there is no map to draw.")
    points, axes, how = _plane(latents)
    names = view.label.names if view.label is not None else ()
    figure = plots.latent_map(points, labels=view.labels, names=names or None, axes=axes)
    text = f"Where the guide puts {len(view):,} {view.split} rows: the posterior mean of {latents.site} for each. {how}"
    caption = "A point is a row; near points are rows that the model sees as similar. " + (
        "The colour is the class, which training did not see unless the model has a label: classes that form islands were "
        "found from the rows alone. Classes that overlap here may still be apart in the other dimensions."
        if view.label is not None
        else "Separate clouds would be groups of rows; one round cloud is what the standard normal prior asks for."
    )
    return Section(title, text, figures=(page.figure("map", figure, caption, title),))


def _plane(latents: Latents) -> tuple[Tensor, tuple[str, str], str]:
    """Two coordinates of each row's posterior mean, what they are called, and how they were chosen."""
    if latents.mean.shape[1] == 2:
        return latents.mean.cpu(), (f"{latents.site}0", f"{latents.site}1"), ""
    centred = (latents.mean - latents.mean.mean(0)).cpu()
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    share = (sizes.square() / sizes.square().sum().clamp(min=1e-30))[:2].tolist()
    how = (
        f"Of the {centred.shape[1]} dimensions, the two principal axes of these means are drawn; they carry "
        f"{100 * sum(share):.0f} % of their variance."
    )
    names = tuple(
        f"{word} principal axis ({100 * s:.0f} %)" for word, s in zip(("first", "second"), share, strict=True)
    )
    return centred @ axes[:2].T, (names[0], names[1]), how


Figures = tuple[tuple[bytes, str, str], ...]
_Any = Any
