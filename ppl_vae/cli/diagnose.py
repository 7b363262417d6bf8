"""`ppl-vae diagnose`: whether to believe a run, one verdict after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import refuse_busy, writing
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import note, say, spared
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry.words import check_choice, check_whole, split_words

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.runs.folder import Run

__all__ = ["NAMES", "diagnose"]

Diagnosis = Callable[[Any, Any, Any, int], Any]


class _Kind(NamedTuple):
    """What is asked, and the function of `ppl_vae.diagnostics` that answers it, from a model, a guide, rows, a seed."""

    asks: str
    answer: Diagnosis
    always: bool = True


def _of(name: str, *, guide: bool = True) -> Diagnosis:
    def answer(model: Any, q: Any, rows: Any, seed: int) -> Any:
        from ppl_vae import diagnostics

        return getattr(diagnostics, name)(*((model, q) if guide else (model,)), rows, seed=seed)

    return answer


_KINDS = {
    "joint-posterior": _Kind("can the posterior of the shared latents be trusted", _of("joint_posterior")),
    "collapse": _Kind("are the latents used", _of("collapse")),
    "calibration": _Kind("are posteriors neither too narrow nor too wide", _of("calibration")),
    "local-calibration": _Kind("are posteriors right for each row", _of("local_calibration")),
    "predictive-check": _Kind("do simulated data match the observed statistics", _of("predictive_check")),
    "two-sample": _Kind(
        "can samples of the model be distinguished from rows of the data", _of("two_sample", guide=False)
    ),
    "loo-pit": _Kind("is each value where the rest of its row predicts it", _of("loo_pit")),
    "bdmc": _Kind("between which bounds does the log evidence lie", _of("bidirectional"), always=False),
}

NAMES = tuple(_KINDS)


@o.on_rows
def diagnose(
    run: o.RunFolder,
    only: Annotated[
        str | None,
        typer.Option(metavar="A,B", help=f"Some of {', '.join(NAMES)}.", show_default="all but bdmc, which is slow"),
    ] = None,
    rows: Annotated[int, typer.Option(help="Use only the first N rows.")] = 1000,
    *,
    asked: AskedRows,
    seed: o.Seed = 0,
    figure_format: o.FigureFormat = "png",
    as_json: o.JsonOption = False,
) -> None:
    """Check a run: collapse, calibration, model criticism.

    Prints a verdict for each question, corrected for its own tests, and at the end what remains when all questions are
    corrected together. Numbers are written to RUN/diagnostics.json, figures to RUN/figures, and both
    are added to the report.
    """
    check_whole("--rows", rows, 2)
    check_whole("--seed", seed, 0)
    check_choice("--figure-format", figure_format, o.FIGURES)
    wanted = _wanted(only)
    refuse_busy(run, "ppl-vae diagnose")
    from ppl_vae.runs.files import read_diagnostics

    opened = asked.opened(whole=True)
    read_diagnostics(run)  # a damaged one is refused before the work
    from ppl_vae.evaluation.joint_weights import shares_latents

    train = opened.data().train if asked.data is None and asked.split is None else None
    split = None
    if train is not None and shares_latents(opened.pair, train.to(opened.pair.device)):
        split = "train"  # whose posterior is judged: that of the rows it was fitted to
    chosen, name = asked.rows(opened, split)
    chosen = chosen.inliers().rows(slice(0, rows))
    found = {kind: _answer(kind, opened, chosen, seed, figure_format) for kind in wanted}
    all_of_them = _together(found)
    if as_json:
        told_all = {"run": run, "rows": name, "diagnostics": found, **all_of_them}
        typer.echo(json.dumps(plain(told_all), indent=2, ensure_ascii=False))
    else:
        say("all data as one unit" if chosen.is_one_unit else f"{len(chosen):,} rows: {name}")
        for kind, told in found.items():
            say(f"\n{kind} ({_KINDS[kind].asks}?)\n  {told['verdict']}")
        if all_of_them:
            say(f"\n{all_of_them['together']['verdict']}")
    with spared("the diagnosis"), writing(run, "ppl-vae diagnose"):
        file = _keep(run, found, name, len(chosen))
        if not as_json:
            more = f"figures are in {run / 'figures'}; ppl-vae report {run} puts them into the report"
            say(f"\nwritten to {file}; {more}")


def _together(found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What all diagnoses say together; a p-value corrected for all of them joins the summary of each that tests."""
    from ppl_vae.diagnostics.together import together

    all_of_them = together({kind: told["summary"] for kind, told in found.items()})
    if len(all_of_them.alone) < 2:
        return {}
    for kind, p in all_of_them.corrected.items():
        found[kind]["summary"]["p_together"] = p
    return {"together": {"verdict": all_of_them.verdict, "p": all_of_them.corrected}}


def _wanted(only: str | None) -> list[str]:
    if only is None:
        return [name for name, kind in _KINDS.items() if kind.always]
    words = split_words("--only", only) or []
    for word in words:
        if word not in _KINDS:
            raise unknown_name("diagnosis", word, NAMES)
    return [name for name in NAMES if name in words]


def _answer(kind: str, run: Run, rows: Split, seed: int, ending: str) -> dict[str, Any]:
    """Verdict and numbers, with the figure written; a line where the question has no meaning for this pair."""
    from ppl_vae.plots.drawing import save

    note(f"{kind} ...")
    try:
        found = _KINDS[kind].answer(run.model, run.guide, rows, seed)
    except UserError as reason:
        return {"verdict": f"does not apply: {reason}", "summary": {}}
    with spared("a figure"):
        figure = found.figure()
        for each in dict.fromkeys(("png", ending)):  # the report shows PNG
            save(figure, run.path / "figures" / f"diagnosis-{kind}.{each}")
    return {"verdict": found.verdict, "summary": found.summary()}


def _keep(run: Path, found: dict[str, dict[str, Any]], name: str, rows: int) -> Path:
    from ppl_vae.runs.files import read_diagnostics
    from ppl_vae.saving.atomic import write_json

    said = {kind: {"rows": f"{rows:,} rows: {name}", **plain(answer)} for kind, answer in found.items()}
    return write_json(run / "diagnostics.json", read_diagnostics(run) | said)
