"""`ppl-vae evaluate`: the held-out numbers of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.certify import certified_each
from ppl_vae.cli.evaluation_tables import evaluation_table, gap_table, title_of
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import refuse_busy, update_evaluation, writing
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.judging import Judged, judge, judge_gap
from ppl_vae.cli.output import print_table, say, spared
from ppl_vae.cli.workers import PartsOption, parts_of
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_choice, check_whole

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.runs.folder import Run

__all__ = ["evaluate"]


@o.on_rows
def evaluate(
    run: o.RunFolder,
    particles: Annotated[int, typer.Option(help="Draws per row.")] = 5000,
    gap: Annotated[
        bool,
        typer.Option(
            "--gap", help="Split log p(x) - ELBO into approximation gap (family) and amortization gap (encoder)."
        ),
    ] = False,
    gap_rows: Annotated[int, typer.Option(help="Maximum number of rows for --gap.")] = 200,
    gap_evidence: Annotated[
        str, typer.Option(metavar="iwae|ais", help="Evidence used by --gap: importance weights, or annealing (slower).")
    ] = "iwae",
    certified: Annotated[
        bool,
        typer.Option("--certified", help="Also certify log p(x) of every row to 0.05 nats; takes minutes."),
    ] = False,
    parts: PartsOption = None,
    workers: Annotated[int, typer.Option(help="Parallel processes for --parts or --certified.")] = 1,
    *,
    asked: AskedRows,
    seed: o.Seed = 0,
    as_json: o.JsonOption = False,
) -> None:
    """Evaluate a run on held-out rows.

    Reports the ELBO and the importance-sampled log evidence with standard errors; for a deterministic autoencoder,
    which has no evidence, the reconstruction error. Also writes them to RUN/evaluation.json.
    """
    check_whole("--particles", particles, 1)
    check_whole("--gap-rows", gap_rows, 1)
    check_choice("--gap-evidence", gap_evidence, ("iwae", "ais"))
    check_whole("--seed", seed, 0)
    check_whole("--workers", workers, 1)
    if parts is not None and gap:
        raise UserError("--gap looks at some rows, --parts writes what is told of all: leave one out")
    if parts is not None and certified:
        raise UserError("--certified keeps its rows in the run, --parts writes them elsewhere: leave one out")
    if parts is None and not certified and workers > 1:
        raise UserError("--workers share the rows of --parts: name its folder")
    refuse_busy(run, "ppl-vae evaluate")
    from ppl_vae.runs.files import read_evaluation

    opened = asked.opened(whole=True)
    read_evaluation(run)  # a damaged one is refused before the work
    from ppl_vae.evaluation.joint_weights import shares_latents

    rows, name = asked.rows(opened)
    if parts is not None:
        _in_parts(opened, rows, name, parts, workers, particles, seed, as_json)
        return
    shared = shares_latents(opened.pair, rows.to(opened.pair.device))
    # what simpler scores and baselines are made from, and what latents that all rows share were fitted to
    train = opened.data().train if rows.outliers is not None or shared else _train_of(opened)
    sure = certified_each(opened, rows, workers, seed=seed) if certified else None
    judged = judge(opened.model, opened.guide, rows, particles, seed, train, certified=sure)
    summary = judged.summary
    if gap:
        summary["gap"] = judge_gap(opened.model, opened.guide, rows, gap_rows, particles, seed, gap_evidence)
    if as_json:
        typer.echo(json.dumps(plain({"run": run, "rows": name, "evaluation": summary}), indent=2))
        _keep(run, name, judged)
        return
    print_table(evaluation_table(title_of(summary, name), summary))
    if gap:
        print_table(gap_table(summary["gap"]))
        say(summary["gap"]["verdict"])
    if (file := _keep(run, name, judged)) is not None:
        say(f"written to {file}")


def _in_parts(
    opened: Run, rows: Split, name: str, folder: Path, workers: int, particles: int, seed: int, as_json: bool
) -> None:
    """Evaluate very many rows by parts, and tell the means."""
    from ppl_vae.evaluation import evaluate_rows

    found = parts_of(evaluate_rows, opened, rows, folder, workers, seed, particles=particles)
    told = found.summary()
    if as_json:
        typer.echo(
            json.dumps(plain({"run": opened.path, "rows": name, "parts": found.folder, "means": told}), indent=2)
        )
        return
    say(f"{found.rows:,} rows of {name}, nats per row, ± standard error over rows")
    for column in ("elbo", "log_evidence", "rate", "distortion", "ess"):
        say(f"  {column:13}{told[column]:10.4f} ± {told[f'{column}_se']:.4f}")
    say(f"written to {found.folder}")


def _train_of(run: Run) -> Split | None:
    """The training rows, where they can be had again; without them there are no baselines."""
    try:
        return run.data().train
    except UserError:
        return None


def _keep(run: Path, name: str, judged: Judged) -> Path | None:
    """Put the numbers, which have been told, into the run folder."""
    with spared("the evaluation"), writing(run, "ppl-vae evaluate"):
        return update_evaluation(run, name, judged)
    return None
