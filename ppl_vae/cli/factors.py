"""`ppl-vae factors`: which latent means which known factor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import as_json as plain
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import AskedRows, read_source, text_form
from ppl_vae.cli.output import print_table, say
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry.words import check_choice, check_whole, split_words
from ppl_vae.saving.atomic import write_new

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.diagnostics import Factors
    from ppl_vae.runs.folder import Run

__all__ = ["factors"]


@o.on_rows
def factors(
    run: o.RunFolder,
    factors: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Known factors of the rows: those of the sprites, or columns of the file, in the model or not.",
            show_default="all of sprites, else the label",
        ),
    ] = None,
    trees: Annotated[
        str,
        typer.Option(
            metavar="forest|boosted", help="Regressor of the DCI scores; boosted is that of published tables, and slow."
        ),
    ] = "forest",
    rows: Annotated[int, typer.Option(help="Use only the first N rows.")] = 10_000,
    *,
    asked: AskedRows,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A .png, .pdf or .svg, or a .csv of nats.", show_default="RUN/figures/factors.png"
        ),
    ] = None,
    seed: o.Seed = 0,
    as_json: o.JsonOption = False,
) -> None:
    """Find which latent encodes which known factor.

    Reports the mutual information of every latent with every factor (age, sex, scanner), compared with permuted rows,
    and disentanglement scores (MIG, SAP, DCI, FactorVAE, beta-VAE, modularity), compared with random latents.
    """
    check_choice("--trees", trees, ("forest", "boosted"))
    check_whole("--rows", rows, 20)
    check_whole("--seed", seed, 0)
    names = split_words("--factors", factors)
    target = check_target(out, run / "figures" / "factors.png", (*o.DRAWN, ".csv"))
    opened = asked.opened()
    chosen, name = asked.rows(opened)
    from ppl_vae import diagnostics, plots

    known: Any = names
    if names is not None:
        known = {n: v[:rows] for n, v in _columns(names, opened, asked, chosen, name).items()}
    found = diagnostics.factors(  # type: ignore[call-overload]
        opened.model,
        opened.guide,
        chosen.rows(slice(0, rows)),
        known,
        trees=trees,
        seed=seed,
    )
    ending = target.suffix.lower()
    content = found.frame().to_csv().encode() if ending == ".csv" else plots.to_bytes(found.figure(), ending[1:])
    file = write_new(target, content)
    if as_json:
        told = {"run": run, "rows": name, "out": file, "nats": found.frame().to_dict("index"), **found.summary()}
        typer.echo(json.dumps(plain(told), indent=2, ensure_ascii=False))
        return
    print_table(_table(found))
    say(found.verdict)
    say(f"latents and factors of {found.rows:,} rows ({name}) written to {file}")


def _table(found: Factors) -> Any:
    """Scores, with errors and those of random latents."""
    from rich.table import Table

    table = Table(title=f"{found.rows:,} rows, posterior means", title_justify="left")
    for heading in ("score", "", "random latents"):
        table.add_column(heading, justify="left" if heading == "score" else "right")
    for name, score in found.scores.items():
        table.add_row(name.replace("_", " "), _number(score), f"{score.random:.3f}")
    return table


def _number(score: Any) -> str:
    return f"{score.value:.3f}" + (f" ± {score.se:.3f}" if score.se == score.se else "")


# -- columns that are no part of the model -----------------------------------------------------------------


def _columns(names: Sequence[str], run: Run, asked: AskedRows, split: Split, name: str) -> dict[str, Any]:
    """What is known of the rows, by name: of the split, else of the file that they came from."""
    there: dict[str, Any] = {f.name: split.truth(f.name) for f in split.schema if not f.shape} | split.factors
    absent = [n for n in names if n not in there]
    if absent:
        path = Path(asked.data or "").expanduser() if asked.words.is_file else run.data_file
        if path is None:
            raise unknown_name("factor", absent[0], there)
        source = _as_columns(read_source(path, text_form(run)))
        for column in absent:
            if column not in source:
                raise unknown_name(f"factor or column of {path.name}", column, [*there, *source])
        if asked.words.is_file:
            there |= {n: source[n] for n in absent}
        else:
            there |= _of_split(run, path, absent, split, name)
    return {n: there[n] for n in names}


def _as_columns(source: Any) -> Mapping[str, Any]:
    """Columns of a table, or arrays of one value a row, by name."""
    if hasattr(source, "columns"):
        return {str(c): source[c].to_numpy() for c in source.columns}
    if isinstance(source, Mapping):
        return {name: values for name, values in source.items() if getattr(values, "ndim", 0) == 1}
    return {}


def _of_split(run: Run, path: Path, names: Sequence[str], split: Split, name: str) -> dict[str, Any]:
    """Columns of the run's own file for the rows of one of its splits, which is cut again as for training."""
    from ppl_vae.data import load

    told = run.info["data"]["source"].get("options", {})
    for option in ("group", "outliers"):
        if told.get(option) is not None:
            raise UserError(f"rows were chosen by {option}=, so that columns of {path.name} do not stand beside them")
    kept = ("seed", "test", "validation", "separator", "decimal", "encoding", "missing_marks")
    again = load(path, missing="allow", fields={n: n for n in names}, **{n: told[n] for n in kept if n in told})
    beside = getattr(again, name)
    if len(beside) != len(split):
        raise UserError(f"{path.name} has other rows than the run: {len(beside):,} {name} rows, not {len(split):,}")
    return {n: beside[n] for n in names}
