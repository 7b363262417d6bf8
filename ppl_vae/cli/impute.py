"""`ppl-vae impute`: a table with holes in, the same table without holes out."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.files import array_bytes, check_target
from ppl_vae.cli.inputs import data_words, file_rows, open_words, read_source, rows_of, text_form
from ppl_vae.cli.output import note, say
from ppl_vae.cli.workers import PartsOption, parts_of
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Split
    from ppl_vae.prediction import Imputation
    from ppl_vae.runs.folder import Run

__all__ = ["impute"]

TABLES, ARRAYS = (".csv", ".parquet"), (".npz", ".npy")


def impute(
    run: o.RunFolder,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A table or arrays with missing entries.", show_default="the run's own file"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .csv or .parquet of a table, an .npz of arrays.",
            show_default="RUN/imputed, with the ending of the data",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(help="Also write this many completed tables, stacked, to OUT-draws (multiple imputation).")
    ] = 0,
    particles: Annotated[int, typer.Option(help="Draws per row.")] = 1000,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing: hide observed cells of the test rows (or of FILE) and compare."),
    ] = False,
    share: Annotated[float, typer.Option(help="Fraction of observed cells to hide for --check.")] = 0.2,
    parts: PartsOption = None,
    workers: Annotated[int, typer.Option(help="Parallel processes for --parts.")] = 1,
    label: o.LabelOption = None,
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Fill in missing entries, or measure how well it works.

    Every missing entry is replaced by its mean given the observed entries of its row (or the most probable category);
    all other cells are unchanged. With --check, observed cells are hidden, imputed and compared: errors by column, and
    the coverage of the intervals.
    """
    check_whole("--workers", workers, 1)
    if parts is None and workers > 1:
        raise UserError("--workers share the rows of --parts: name its folder")
    if parts is not None and (check or out is not None or draws):
        raise UserError("--parts writes every row, filled in, to a folder: leave --check, --out and --draws out")
    if check:
        if out is not None or draws:
            raise UserError("--check writes nothing: leave --out and --draws away")
        _check(open_words(run, model, guide, device), data, label, share, particles, seed, as_json)
        return
    if as_json:
        raise UserError("--json tells what --check finds: add --check")
    for option, number, least in (("--draws", draws, 0), ("--particles", particles, 1), ("--seed", seed, 0)):
        check_whole(option, number, least)
    check_target(out, run / "imputed", (*TABLES, ".npz"))
    opened = open_words(run, model, guide, device)
    if parts is not None:
        _in_parts(opened, data, label, parts, workers, particles, seed)
        return
    path = _path(opened, data)
    form = text_form(opened)
    source = read_source(path, form)
    is_table = hasattr(source, "columns")
    ending = path.suffix.lower() if path.suffix.lower() in TABLES else ".csv"
    usual = run / f"imputed{ending if is_table else '.npz'}"
    target = check_target(out, usual, TABLES if is_table else (".npz",))
    beside = target.with_stem(f"{target.stem}-draws")
    if draws and is_table:
        check_target(None if out is None else beside, beside, TABLES)
    label = label or opened.info["data"]["source"].get("options", {}).get("label")
    if draws and is_table and "draw" in source.columns:
        raise UserError("column 'draw' has the name of the column that numbers the draws: rename it")
    found = _imputed(opened, file_rows(opened, source, str(path), label), draws, particles, seed)
    for finding in found.findings:
        note(str(finding))
    if is_table:
        table = _Table(path, form, source, found, {"y": label} if label else {})
        written = [table.write(target, None)] + ([table.write(beside, range(draws))] if draws else [])
    else:
        written = [_write_arrays(target, source, found, draws)]
    say(f"{_said(found)} in {path.name}; written to {' and '.join(map(str, written))}")


def _in_parts(
    run: Run, data: str | None, label: str | None, folder: Path, workers: int, particles: int, seed: int
) -> None:
    """Fill in very many rows by parts."""
    import ppl_vae
    from ppl_vae.prediction import with_holes

    words = data_words(data or str(_path(run, None)), label, None, "allow")
    rows, name = rows_of(run, words, None, schema=with_holes(run.schema))
    found = parts_of(ppl_vae.impute, run, rows, folder, workers, seed, particles=particles)
    say(f"{found.rows:,} rows of {name} written to {found.folder}, missing entries filled in")


def _check(
    run: Run, data: str | None, label: str | None, share: float, particles: int, seed: int, as_json: bool
) -> None:
    """Tell how well hidden cells of held-out rows are imputed."""
    from ppl_vae.cli.files import as_json as plain
    from ppl_vae.prediction import check_imputation

    check_whole("--particles", particles, 1)
    check_whole("--seed", seed, 0)
    if data is None:
        rows, name = rows_of(run, data_words(None, None, None, "refuse"), None)
    else:
        path = _path(run, data)
        rows, name = _split(run, file_rows(run, read_source(path, text_form(run)), str(path), label)), path.name
    found = check_imputation(run.model, run.guide, rows, share=share, particles=particles, seed=seed)
    if as_json:
        typer.echo(json.dumps(plain({"rows": name, "check": found.summary()}), indent=2))
        return
    say(f"rows: {name}\n{found!r}")


def _path(run: Run, data: str | None) -> Path:
    if data is not None:
        return Path(data).expanduser()
    if (own := run.data_file) is None:
        raise UserError("the data of this run were no file: name the table with holes, --data FILE")
    return own


def _imputed(run: Run, rows: Any, draws: int, particles: int, seed: int) -> Imputation:
    import ppl_vae

    split = _split(run, rows)
    return ppl_vae.impute(run.model, run.guide, split, draws=max(draws, 1), particles=particles, seed=seed)


def _split(run: Run, rows: Any) -> Split:
    """Rows of a file as the run has them, with holes anywhere."""
    from ppl_vae.data import as_split
    from ppl_vae.data.containers import is_table
    from ppl_vae.prediction import with_holes

    pair = run.pair
    if "y" not in pair.model.arguments and "y" not in pair.guide.arguments:  # a label that the pair does not look at
        if is_table(rows):
            rows = rows.drop(columns="y", errors="ignore")
        elif isinstance(rows, Mapping):
            rows = {name: values for name, values in rows.items() if name != "y"}
    return as_split(rows, schema=with_holes(run.schema))


def _said(found: Imputation) -> str:
    count = sum(int(mask.sum()) for mask in found.mask.values())
    if not count:
        return "no missing entries"
    import torch

    holey = torch.stack([mask.flatten(1).any(1) if mask.dim() > 1 else mask for mask in found.mask.values()]).any(0)
    ess = found.ess[holey]
    return (
        f"{count:,} missing entries of {int(holey.sum()):,} rows imputed (effective particles: median "
        f"{float(ess.median()):,.0f}, least {float(ess.min()):,.0f} of {found.particles:,})"
    )


def _write_arrays(out: Path, source: Any, found: Imputation, draws: int) -> Path:
    """The arrays as they came, with their holes filled, and [draw, row, ...] beside them."""
    import torch

    from ppl_vae.saving.atomic import write_new

    came = source if isinstance(source, Mapping) else {"x": source}
    arrays: dict[str, Tensor] = {name: found.mean.get(name, torch.as_tensor(value)) for name, value in came.items()}
    if draws:
        arrays |= {f"{name}_draws": values for name, values in found.draws.items()}
    return write_new(out, array_bytes(arrays))


class _Table:
    """A table from a file, and what was found for its holes; cells that are not filled stay as they are spelled."""

    def __init__(self, path: Path, form: Any, frame: Any, found: Imputation, names: Mapping[str, str]) -> None:
        from ppl_vae.data.files import spelled

        self.found, self.names, self.frame, self.separator = found, names, frame.astype(object), ","
        if (text := spelled(path, form)) is not None:
            self.frame, self.separator = text
        self.parsed = frame

    def write(self, out: Path, draws: range | None) -> Path:
        """The table with means, or with each of some draws, one below the other after a first column `draw`."""
        import pandas

        from ppl_vae.saving.atomic import write_new

        if draws is None:
            table = self._filled(self.found.mean)
        else:
            tables = [self._filled({n: v[d] for n, v in self.found.draws.items()}) for d in draws]
            table = pandas.concat([t.assign(draw=d)[["draw", *t.columns]] for d, t in zip(draws, tables, strict=True)])
        content = io.BytesIO()
        if out.suffix.lower() == ".csv":
            table.to_csv(content, index=False, lineterminator="\n", sep=self.separator)
        else:
            table.infer_objects().to_parquet(content, index=False)
        return write_new(out, content.getvalue())

    def _filled(self, rows: Mapping[str, Tensor]) -> Any:
        from ppl_vae.data.frames import columns_with

        table = self.frame.copy()
        holes = columns_with(self.found.schema, self.found.mask)
        for name, (field, values) in columns_with(self.found.schema, rows).items():
            name, gaps = self._column(name), holes[name][1].tolist()
            cells = table[name].tolist() if name in table.columns else [""] * len(table)
            table[name] = _spelled(field, values, gaps, cells)
        return table

    def _column(self, name: str) -> str:
        """The column of a field's part; the columns of an array that was trained without names are taken in order."""
        name = self.names.get(name, name)
        number = name.rpartition("_")[2]
        if name in self.frame.columns or not number.isdecimal() or len(self.frame.columns) <= int(number):
            return name
        return str(self.frame.columns[int(number)])


def _spelled(field: Any, values: Tensor, gaps: list[bool], cells: list[Any]) -> list[Any]:
    """Cells with their gaps filled: a level or whole number as other cells of the column spell it."""
    from ppl_vae.data.frames import in_words

    words = in_words(field, values)
    if not any(gaps):
        return cells
    known: dict[Any, Any] = {}
    if any(isinstance(c, str) and re.fullmatch(r"[-+]?[\d.]*,\d+", c) for c in cells):  # a file with decimal commas
        words = [str(word).replace(".", ",") for word in words]
    if field.kind in ("binary", "count", "categorical"):
        known = {word: cell for word, cell, gap in zip(words, cells, gaps, strict=True) if not gap}
        if known and all(isinstance(cell, str) and cell.endswith(".0") for cell in known.values()):
            known |= {word: f"{word}.0" for word in words if word not in known}
    return [known.get(word, word) if gap else cell for word, cell, gap in zip(words, cells, gaps, strict=True)]
