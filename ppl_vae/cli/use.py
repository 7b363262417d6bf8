"""What is done with a trained run: evaluate, sample, encode, report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.conditions import conditions_of, given_words
from ppl_vae.cli.inputs import open_words, rows_of
from ppl_vae.cli.output import (
    Judged,
    check_target,
    column_names,
    evaluation_table,
    gap_table,
    judge,
    judge_gap,
    print_table,
    read_rows,
    refuse_busy,
    say,
    spared,
    update_evaluation,
    write_rows,
    writing,
)
from ppl_vae.cli.output import (
    as_json as plain,
)
from ppl_vae.errors import UserError
from ppl_vae.registry.rows import DataWords
from ppl_vae.registry.words import check_choice, check_whole, split_words

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Data, Field, Split
    from ppl_vae.runs.folder import Run

__all__ = ["encode", "evaluate", "report", "sample"]

ROWS_AT_ONCE = 2000
"""How many rows are encoded in one pass: enough to be fast, few enough for a small machine."""


def evaluate(
    run: o.RunFolder,
    particles: Annotated[int, typer.Option(help="Draws per row.")] = 5000,
    gap: Annotated[
        bool, typer.Option("--gap", help="Take log evidence - ELBO apart: the family's part, and the encoder's.")
    ] = False,
    gap_rows: Annotated[int, typer.Option(help="Rows for --gap at most, evenly spread.")] = 200,
    gap_evidence: Annotated[
        str, typer.Option(metavar="iwae|ais", help="The evidence of --gap: by weights, or by annealing (longer).")
    ] = "iwae",
    data: o.OtherData = None,
    split: o.SplitName = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Judge a run on held-out rows.

    ELBO and importance-sampled evidence with their errors, or, of a deterministic autoencoder, which has none, how
    well rows come back; also goes into RUN/evaluation.json.
    """
    check_whole("--particles", particles, 1)
    check_whole("--gap-rows", gap_rows, 1)
    check_choice("--gap-evidence", gap_evidence, ("iwae", "ais"))
    check_whole("--seed", seed, 0)
    words = _words(data, label, columns, missing)
    refuse_busy(run, "ppl-vae evaluate")
    from ppl_vae.runs.files import read_evaluation

    opened = open_words(run, model, guide, device)
    read_evaluation(run)  # a damaged one is refused before the work
    from ppl_vae.evaluation.joint import shares_latents

    rows, name = rows_of(opened, words, split)
    shared = shares_latents(opened.pair, rows.to(opened.pair.device))
    # what simpler scores and baselines are made from, and what latents that all rows share were fitted to
    train = opened.data().train if rows.outliers is not None or shared else _train_of(opened)
    judged = judge(opened.model, opened.guide, rows, particles, seed, train)
    summary = judged.summary
    if gap:
        summary["gap"] = judge_gap(opened.model, opened.guide, rows, gap_rows, particles, seed, gap_evidence)
    if as_json:
        typer.echo(json.dumps(plain({"run": run, "rows": name, "evaluation": summary}), indent=2))
        _keep(run, name, judged)
        return
    print_table(evaluation_table(f"{summary['rows']:,} rows: {name}", summary))
    if gap:
        print_table(gap_table(summary["gap"]))
        say(summary["gap"]["verdict"])
    if (file := _keep(run, name, judged)) is not None:
        say(f"written to {file}")


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


def sample(
    run: o.RunFolder,
    n: Annotated[int, typer.Option("-n", help="How many rows.")] = 64,
    seed: o.Seed = 0,
    mean: Annotated[bool, typer.Option("--mean", help="The mean of x given the latents, no draw.")] = False,
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B",
            help="Conditions of a conditional model, in turn over the rows. Repeat it.",
            show_default="those of training rows",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .npz with latents and rows, a .csv of rows, or a .png.",
            show_default="RUN/samples.npz, and RUN/figures/samples.png for images",
        ),
    ] = None,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Draw rows from the model."""
    check_whole("-n", n, 1)
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "samples.npz", (".npz", ".csv", ".png"))
    values = given_words(given)
    opened = open_words(run, model, guide, device)
    from ppl_vae.prediction.coding import simulate

    fields, wanted = _observed(opened)
    under = conditions_of(opened, wanted, values, n)
    drawn = simulate(opened.pair, opened.schema, n, seed=seed, draw=not mean, given=under)
    if target.suffix.lower() == ".png":
        written = [_picture(opened, fields, drawn, target)]
    else:
        shown = {name: opened.schema[name] for name in under} | fields
        arrays = drawn | under
        table = {name: column for site, field in shown.items() for name, column in _table(site, field, arrays).items()}
        written = [write_rows(target, arrays, table)]
        if out is None and any(field.is_image for field in fields.values()):
            written.append(_picture(opened, fields, drawn, run / "figures" / "samples.png"))
    say(f"{n} rows written to {' and '.join(map(str, written))}")


def _observed(run: Run) -> tuple[dict[str, Field], tuple[str, ...]]:
    """The fields that the model generates, by site (x where there is one), and the names of those it is given."""
    from ppl_vae.checks.analysis import analyse
    from ppl_vae.data.example import example

    batch = {name: value.to(run.pair.device) for name, value in example(run.schema, None).items()}
    structure = analyse(run.pair, batch)
    sites, model = structure.observed, run.pair.model
    known = {*sites, *structure.latents, *structure.summed_model}
    wanted = tuple(n for n, needed in model.arguments.items() if needed and n in run.schema and n not in known)
    if "x" in sites:
        return {"x": run.schema["x"]}, wanted
    fields = {s: run.schema[s] for s in sites if s in run.schema} or {sites[0] if sites else "x": run.schema["x"]}
    return fields, wanted


def _table(site: str, field: Field, drawn: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """The values of a field by column: of a single category its name, unless it is a mean."""
    x = drawn[site]
    if field.shape == () and field.kind == "categorical" and field.names and not x.is_floating_point():
        return {site: [field.names[i] for i in x.tolist()]}
    if field.unit and field.shape == ():
        from ppl_vae.data.frames import in_words

        return {site: in_words(field, x)}
    if field.origin:
        from ppl_vae.data.frames import restored

        x = restored(field, x)
    flat = x.reshape(len(x), -1)
    names = [site] if field.shape == () and site != "x" else column_names(site, flat.shape[1], field.names)
    return dict(zip(names, flat.T.tolist(), strict=True))


def _picture(run: Run, fields: Mapping[str, Field], drawn: Mapping[str, Tensor], out: Path) -> Path:
    import torch

    from ppl_vae import plots
    from ppl_vae.plots.drawing import to_png_bytes
    from ppl_vae.saving.atomic import write_new

    picture = next((site for site, field in fields.items() if field.is_image), None)
    if picture is not None:
        return write_new(out, to_png_bytes(plots.samples(drawn[picture][:256])))
    train = run.data().train
    rows = torch.cat([train[field.name].reshape(len(train), -1).float() for field in fields.values()], dim=-1)
    made = torch.cat([drawn[site].reshape(len(drawn[site]), -1).float() for site in fields], dim=-1)
    names = None if len(fields) == 1 else [name for s, f in fields.items() for name in _table(s, f, drawn)]
    return write_new(out, to_png_bytes(plots.table_samples(rows, made, names=names)))


def encode(
    run: o.RunFolder,
    data: o.OtherData = None,
    split: o.SplitName = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An .npz or a .csv.", show_default="RUN/latents.npz"),
    ] = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Write posterior means of the latents.

    One row for each row of the data, in their order; of discrete latents the class probabilities.
    """
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "latents.npz", (".npz", ".csv"))
    words = _words(data, label, columns, missing)
    opened = open_words(run, model, guide, device)
    rows, name = rows_of(opened, words, split)
    means = _means(opened, rows, seed)
    labels = rows["y"] if "y" in rows.schema else None
    arrays = means | ({} if labels is None else {"y": labels})
    table: dict[str, Any] = {}
    for site, value in means.items():
        flat = value.reshape(len(rows), -1)
        table |= dict(zip(column_names(site, flat.shape[1]), flat.T.tolist(), strict=True))
    if labels is not None and labels.dim() == 1:
        table["y"] = _label_words(labels.tolist(), rows.schema["y"].names)
    file = write_rows(target, arrays, table)
    say(f"latents of {len(rows):,} rows ({name}) written to {file}")


def _means(run: Run, rows: Any, seed: int) -> dict[str, Tensor]:
    """Posterior means of the latents that every row has, [row, *event], in passes over rows."""
    import torch

    from ppl_vae.checks.analysis import analyse
    from ppl_vae.prediction.coding import encode as encode_batch

    rows = rows.to(run.pair.device)
    shared = analyse(run.pair, rows.batch(slice(0, 2))).global_latents
    if isinstance(run.guide, torch.nn.Module):
        run.guide.eval()
    parts = [
        encode_batch(run.guide, rows.batch(slice(start, start + ROWS_AT_ONCE)), seed=seed)
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    means = {site: torch.cat([p[site] for p in parts]) for site in parts[0] if site not in shared}
    if not means:
        raise UserError("this guide has no latent of single rows: there is nothing to encode")
    return means


def _label_words(labels: list[int], names: tuple[str, ...]) -> list[str]:
    """Category names where there are any; nothing for a missing label."""
    return ["" if y < 0 else names[y] if y < len(names) else str(y) for y in labels]


def report(
    run: o.RunFolder,
    data: o.OtherData = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
) -> None:
    """Write figures and report.html anew."""
    check_whole("--seed", seed, 0)
    words = _words(data, label, columns, missing)
    _refuse_unwritable(run)
    from ppl_vae.runs.files import read_diagnostics, read_evaluation

    opened = open_words(run, model, guide)
    found = read_evaluation(run)
    read_diagnostics(run)  # a damaged one is refused before the work
    rows = _whole(opened, words)
    from ppl_vae.report import write_report
    from ppl_vae.report.view import held_out

    shown = held_out(rows).name
    summary = found.get("test") or next(iter(found.values()), None)
    own = found.get(shown, {}).get("particles") if data is None else None
    row_by_row = read_rows(run, shown, own) if own else None
    with writing(run, "ppl-vae report", wait=0.0):
        say(f"report written to {write_report(opened, rows, summary, row_by_row, seed=seed)}")


def _refuse_unwritable(run: Path) -> None:
    if run.is_dir() and not os.access(run, os.W_OK):
        raise UserError(f"{run} cannot be written, and a report goes there: copy the run to a folder of your own")


def _whole(run: Run, words: DataWords) -> Data:
    """All splits of the run's data, or of other data with the same fields."""
    if words.data is None:
        return run.data()
    data = words.load()
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        if part is not None:
            from ppl_vae.data import as_split

            as_split(part, schema=run.schema)  # refuses fields that do not fit, by name
    return data


def _words(data: str | None, label: str | None, columns: str | None, missing: str) -> DataWords:
    check_choice("--missing", missing, ("refuse", "allow"))
    return DataWords(data, label, split_words("--columns", columns), missing)
