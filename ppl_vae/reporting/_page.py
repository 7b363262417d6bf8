"""The report of a run: its numbers in plain words and its figures, as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from torch import Tensor

from ppl_vae.arviz import Posterior
from ppl_vae.data import Data, OneUnit, Split
from ppl_vae.errors import check_choice
from ppl_vae.evaluation import Evaluation, JointEvaluation
from ppl_vae.plots.drawing import FORMATS
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import Card, headline, without_evidence
from ppl_vae.reporting._descriptions import columns, data_name, name_of, what_was_trained
from ppl_vae.reporting._diagnosed import diagnosed
from ppl_vae.reporting._html import Section, Verdict, render
from ppl_vae.reporting._imputation import imputed
from ppl_vae.reporting._labels import labels_and_clusters
from ppl_vae.reporting._latent_space import latent_space
from ppl_vae.reporting._response import cards, predicted, section
from ppl_vae.reporting._rows import prior_samples, reconstructions, under_conditions
from ppl_vae.reporting._shared import posterior_of, shared_latents, verdicts_of_posterior
from ppl_vae.reporting._snapshots import training_seen
from ppl_vae.reporting._training import reconstruction_training, training
from ppl_vae.reporting._trust import trusted_rows
from ppl_vae.reporting._unit import page_of_unit
from ppl_vae.reporting._verdicts import baselines, verdicts
from ppl_vae.reporting.view import MOST, View, held_out, look
from ppl_vae.runs.folder import Run
from ppl_vae.saving.atomic import write

__all__ = ["write_report"]


def write_report(
    run: Run,
    data: Data | Split,
    evaluation: Mapping[str, float | int] | None = None,
    row_by_row: Evaluation | JointEvaluation | None = None,
    *,
    seed: int = 0,
    posterior: Posterior | None = None,
    figure_format: str = "png",
) -> Path:
    """Draw every figure into run.path/'figures' and write run.path/'report.html', self-contained.

    Rows come from the test split; without one from validation, else from train, and the report says so. Where all data
    are one unit it tells the bound, the evidence and the posterior of all latents.
    Figures are drawn anew, over those of an earlier report.

    Args:
        run: an opened run folder.
        data: the data of the run, or one split.
        evaluation: what `Evaluation.summary` returns; None says that the run was not evaluated.
        row_by_row: the evaluation of all rows of the split that is shown; names the rows where the guide fails.
        seed: chooses the rows that are shown, and the draws.
        posterior: of the latents that all rows share; drawn here where it is not given.
        figure_format: of the files of figures: png, pdf or svg; the page holds PNG.

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
        >>> model = VAE(data, latent_dim=2, hidden=(8,))
        >>> result = ppl_vae.fit(model, MeanField(model), data, epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = ppl_vae.open_run(result.save(folder + "/run"))
        ...     page = write_report(run, data).read_text()
        >>> "not evaluated" in page, "https://" in page
        (True, False)
    """
    check_choice("figure_format", figure_format, tuple(FORMATS))
    split = held_out(data)
    if isinstance(split, OneUnit):
        album = Album(run.path / "figures", figure_format)
        return write(run.path / "report.html", page_of_unit(run, split, evaluation, posterior, album, seed))
    pair = run.pair
    was_training = pair.training
    pair.eval()
    try:
        view = look(pair, data, run.schema, seed=seed)
        album = Album(run.path / "figures", figure_format)
        response = predicted(view)
        found = posterior_of(pair, data, posterior, seed)
        sections = [
            what_was_trained(run, data, view, album),
            *columns(run, data),
            *baselines(evaluation),
            reconstruction_training(run, album) if view.points else training(run, album),
            *training_seen(run, album),
            *shared_latents(data, found, album),
            *section(response, album),
            reconstructions(view, album),
            *imputed(view, album),
            prior_samples(view, album),
            *under_conditions(view, album),
            *labels_and_clusters(view, album),
            *latent_space(view, album, _told(view, row_by_row)),
            *trusted_rows(view, row_by_row, album),
            *diagnosed(run.path),
        ]
    finally:
        pair.train(was_training)
    return write(
        run.path / "report.html",
        _page(run, data, view, evaluation, sections, cards(response), verdicts_of_posterior(data, found)),
    )


def _page(
    run: Run,
    data: Data | Split,
    view: View,
    evaluation: Mapping[str, float | int] | None,
    sections: Sequence[Section],
    first: list[Card],
    shared: list[Verdict],
) -> str:
    parts = (("model", run.model), ("guide", run.guide))
    model, guide = (name_of(run.info.get(role), program).partition("(")[0].strip() for role, program in parts)
    return render(
        f"{model} with {guide} on {data_name(run, data)}",
        f"Run {run.path.name}. {_where(view, data)}",
        first + (headline(run, evaluation) if not view.points else without_evidence(evaluation, view)),
        sections,
        f"Made by ppl-vae {metadata.version('ppl-vae')}. Rows and draws were chosen with seed {view.seed}. "
        "Every figure is also a file in the folder `figures` beside this page. 1 nat = 1.44 bits.",
        verdicts(run, view, evaluation, shared) if not view.points else shared,
    )


def _told(view: View, found: Evaluation | JointEvaluation | None) -> dict[str, Tensor]:
    """Numbers of the rows that are shown, for the map."""
    if not isinstance(found, Evaluation) or len(found.khat) <= max(view.numbers, default=0):
        return {}
    return {"log p(x)": found.log_evidence[view.numbers], "k-hat": found.khat[view.numbers]}


def _where(view: View, data: Data | Split) -> str:
    rows = f"{len(view):,} {view.split} rows"
    rows += " chosen at random" if len(view) == MOST else ""
    if view.split == "test":
        return f"The figures show {rows}, which training did not see."
    if isinstance(data, Split):
        return f"The figures show {rows}."
    lacking = "no test split" if view.split == "validation" else "neither a test nor a validation split"
    return f"The figures show {rows}: the data has {lacking}."
