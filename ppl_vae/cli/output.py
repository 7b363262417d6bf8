"""What the commands say and write: tables, JSON, rows."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ppl_vae.errors import NoDensity, UnsavedWarning, UserError, unknown_name
from ppl_vae.saving.atomic import write, write_new
from ppl_vae.saving.locks import InUse, held

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from ppl_vae.data import Split
    from ppl_vae.evaluation import Evaluation, JointEvaluation

__all__ = [
    "Interrupted",
    "Judged",
    "array_bytes",
    "as_json",
    "check_target",
    "column_names",
    "evaluation_table",
    "gap_table",
    "judge",
    "judge_gap",
    "note",
    "print_table",
    "printable",
    "read_rows",
    "refuse_busy",
    "say",
    "spared",
    "table_text",
    "terminal_width",
    "told_warnings",
    "update_evaluation",
    "write_rows",
    "writing",
]


class Interrupted(Exception):
    """The user stopped a command; says how to go on."""


SCREEN = 1200
"""Letters of a message at most: what fits on a screen beside what else is there."""


def printable(text: str) -> str:
    """Text as a line of a terminal: control characters, which a column of a table may hold, as their numbers; cut.

    Example:
        >>> print(printable("a" + chr(27) + "[31mred" + chr(10) + " b"))
        a\\x1b[31mred b
        >>> len(printable("x" * 10**6))
        1200
    """
    line = _escaped(" ".join(text.split()))
    head = SCREEN * 3 // 4
    return line if len(line) <= SCREEN else f"{line[:head]} ... {line[head + 5 - SCREEN :]}"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def note(text: str) -> None:
    """A line on stderr."""
    typer.echo(f"ppl-vae: {printable(text)}", err=True)


def say(text: str) -> None:
    """Lines on stdout, with the spaces that they have."""
    typer.echo("\n".join(map(_escaped, text.split("\n"))))


@contextmanager
def told_warnings() -> Iterator[None]:
    """Within the block what could not be saved is told in a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnsavedWarning)
        usual = warnings.showwarning

        def tell(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, UnsavedWarning):
                note(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = tell
        yield


@contextmanager
def spared(what: str) -> Iterator[None]:
    """A file that cannot be written costs the file, not what was found: a line says so, and the command goes on."""
    try:
        yield
    except OSError as error:
        note(f"warning: {what} is not written ({error.strerror or error}: {error.filename})")
    except InUse as error:
        note(f"warning: {what} is not written: {error}")


@contextmanager
def writing(run: Path, doing: str, *, wait: float = 60.0) -> Iterator[None]:
    """Hold a run folder while a command writes there; one that cannot be written needs no holder."""
    if not os.access(run, os.W_OK):
        yield
        return
    with held(run, doing, wait=wait):
        yield


def refuse_busy(run: Path, doing: str) -> None:
    """Raise while another process trains in a run folder: what it holds is about to change."""
    if run.is_dir():
        with writing(run, doing, wait=0.0):
            pass


def print_table(table: Table) -> None:
    """A table on stdout; in a pipe no line is folded to the width of a terminal that is not there."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def terminal_width() -> int | None:
    """How many letters a line of the terminal has; None in a pipe."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else None


class Judged(NamedTuple):
    """The held-out numbers of a pair, and those of every row where it has an evidence.

    Where all rows share latents, `rows` is of the training rows, which are weighed together.
    """

    summary: dict[str, Any]
    rows: Evaluation | JointEvaluation | None


def judge(model: Any, guide: Any, rows: Split, particles: int, seed: int, train: Split | None = None) -> Judged:
    """The held-out numbers of a pair: its evidence, or, with a line that says why, how well rows come back.

    Where some rows are outliers, the summary is that of the others, and AUCs say how well the evidence tells them;
    simpler scores that they are compared with are made from training rows. Where all rows share latents, the training
    rows are weighed together, and the others are judged by the posterior that these leave.
    """
    import ppl_vae
    from ppl_vae.evaluation import evaluate_rows
    from ppl_vae.evaluation.joint import shares_latents
    from ppl_vae.evaluation.jointly import evaluate_jointly
    from ppl_vae.prediction import label_scores
    from ppl_vae.programs.program import Pair

    pair = Pair(model, guide)
    if train is not None and shares_latents(pair, train.to(pair.device)):
        joint = evaluate_jointly(pair, train, None if rows is train else rows, particles, seed=seed)
        for finding in joint.findings:
            note(str(finding))
        return Judged(joint.summary() | {"seed": seed}, joint)
    inliers, apart = rows.inliers(), dict[str, Any]()
    try:
        found = evaluate_rows(model, guide, rows, particles=particles, seed=seed)
    except NoDensity as reason:
        note(str(reason))
        back = ppl_vae.reconstruct(model, guide, inliers, seed=seed)
        return Judged(back.summary() | label_scores(model, guide, inliers) | {"seed": seed}, None)
    for finding in found.findings:
        note(str(finding))
    usual = found
    if rows.outliers is not None:
        from ppl_vae.diagnostics import anomalies_of, of_rows

        apart = anomalies_of(found, model, rows, train).summary()
        apart = {key: value for key, value in apart.items() if key == "outliers" or key.startswith("auc")}
        usual = of_rows(found, (~rows.outliers).nonzero()[:, 0])
    apart |= {} if train is None else _against(model, guide, usual, inliers, train)
    return Judged(usual.summary() | label_scores(model, guide, inliers) | apart | {"seed": seed}, found)


def _against(model: Any, guide: Any, found: Evaluation, rows: Split, train: Split) -> dict[str, float]:
    """The evidence beside densities without latents, where the fields that the model observes have some."""
    import torch

    from ppl_vae.checks.analysis import analyse
    from ppl_vae.data.example import example
    from ppl_vae.evaluation.baselines import against, baselines, worthless
    from ppl_vae.programs.program import Pair
    from ppl_vae.programs.randomness import preserved_randomness

    pair = Pair(model, guide)
    if len(found.log_evidence) != len(rows) or getattr(rows, "is_one_unit", False):
        return {}
    rows, train = rows.to(pair.device), train.to(pair.device)
    with preserved_randomness(), torch.no_grad():
        observed = analyse(pair, example(train.schema, train)).observed
    try:
        simple = baselines(model, observed, train, rows)
    except UserError:  # a field that no likelihood of this package fits
        return {}
    summary = against(found.log_evidence, simple)
    if (words := worthless(summary)) is not None:
        note(f"warning: {words}")
    return summary


def judge_gap(
    model: Any, guide: Any, rows: Any, most: int, particles: int, seed: int, evidence: Any = "iwae"
) -> dict[str, Any]:
    """The gap between log evidence and ELBO taken apart, on some rows at most, and which rows these are."""
    import torch

    from ppl_vae.diagnostics import gap

    rows = rows.inliers()
    count = len(rows)
    index = torch.linspace(0, count - 1, min(most, count)).round().long()
    which = f"all {count:,}" if len(index) == count else f"{len(index):,} of {count:,}, evenly spread"
    found = gap(model, guide, rows.rows(index), evidence=evidence, particles=particles, seed=seed)
    return found.summary() | {"which_rows": which, "seed": seed}


def gap_table(summary: Mapping[str, Any]) -> Table:
    """ELBO, refined ELBO, log evidence and the two gaps between them, in nats per row."""
    from rich.table import Table

    table = Table(
        title=f"The gap taken apart, rows: {summary['which_rows']}",
        caption="± standard error over rows, and of the Monte Carlo draws alone; the evidence and both gaps are lower "
        "bounds",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("nats per row")
    table.add_column("", justify="right")
    table.add_column("Monte Carlo", justify="right")
    names = {
        "elbo": "ELBO",
        "refined_elbo": f"ELBO, q refined row by row ({summary['refining_steps']} steps)",
        "log_evidence": f"log evidence, importance sampled with {summary['particles']:,} particles",
        "approximation": "approximation gap (the family's)",
        "amortization": "amortization gap (the encoder's)",
    }
    for key, words in names.items():
        table.add_row(words, _with_error(summary, key), f"± {_number(summary[f'{key}_mc_se'], 3)}")
    return table


def evaluation_table(title: str, summary: Mapping[str, Any]) -> Table:
    """The held-out numbers of a run, in nats per row."""
    from rich.table import Table

    if "joint_elbo" in summary:
        return _joint_table(title, summary)
    if "particles" not in summary:
        return _reconstruction_table(title, summary)
    particles = f"{summary['particles']:,}"
    table = Table(title=title, caption="± standard error over rows", title_justify="left", caption_justify="left")
    table.add_column("nats per row")
    table.add_column("", justify="right")
    table.add_row("negative ELBO", _with_error(summary, "negative_elbo"))
    table.add_row(f"NLL, importance sampled with {particles} particles", _with_error(summary, "nll"))
    table.add_row("  Monte Carlo standard error of the NLL", _number(summary["nll_mc_se"], 3))
    table.add_row("rate (KL)", _number(summary["rate"]))
    table.add_row("distortion", _number(summary["distortion"]))
    table.add_row(f"effective particles of {particles}", _number(summary["ess"], 1))
    if "khat_limit" in summary:
        limit = _number(summary["khat_limit"])
        table.add_row(
            f"rows with k-hat above {limit} (their Monte Carlo error is not known)", f"{summary['unreliable_rows']:,}"
        )
    for name, words in (("independent", "independent columns, no latents"), ("normal", "one full normal")):
        if f"minus_{name}" in summary:
            worse = summary[f"minus_{name}"] <= 2 * summary[f"minus_{name}_se"]
            table.add_row(f"NLL of {words}", _number(summary[f"{name}_nll"]))
            table.add_row("  log evidence minus that", _with_error(summary, f"minus_{name}"), style="red" * worse)
    if "accuracy" in summary:
        share, error = (100 * summary[key] for key in ("accuracy", "accuracy_se"))
        table.add_row(f"label right, of {summary['labelled_rows']:,} rows, %", f"{_number(share)} ± {_number(error)}")
    if "auc" in summary:
        _outlier_rows(table, summary)
    return table


def _outlier_rows(table: Table, summary: Mapping[str, Any]) -> None:
    """How well the evidence, and simpler scores, tell the rows of a class that was held out."""
    table.caption = f"of inliers alone, but for AUCs; {table.caption}"
    table.add_section()
    table.add_row(f"{summary['outliers']:,} outliers: AUC of -log evidence", _with_error(summary, "auc", 3))
    for key in summary:
        if key.startswith("auc_") and f"{key}_se" in summary and not key.startswith("auc_minus_"):
            table.add_row(f"  AUC of {_BASELINES.get(key, key)}", _with_error(summary, key, 3))


_BASELINES = {
    "auc_reconstruction": "-E log p(x | z), the reconstruction",
    "auc_pca": "the distance to principal components",
    "auc_independent": "independent entries",
}


def _reconstruction_table(title: str, summary: Mapping[str, Any]) -> Table:
    """The numbers of a pair that has no evidence."""
    from rich.table import Table

    caption = "no evidence: a guide of points is not a density; ± standard error over rows"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("reconstruction")
    table.add_column("", justify="right")
    table.add_row("log p(x | f(x)), nats per row, no bound", _with_error(summary, "reconstruction_log_likelihood"))
    for key in summary:
        if key.startswith("error ") and not key.endswith("_se"):
            table.add_row(f"squared {key}, per entry", _with_error(summary, key))
    return table


def _joint_table(title: str, summary: Mapping[str, Any]) -> Table:
    """The numbers of a pair whose rows share latents: of all rows together, and of each given the others."""
    from rich.table import Table

    particles, rows = f"{summary['particles']:,}", f"{summary['rows']:,}"
    caption = f"of all {rows} training rows together, ± Monte Carlo standard error; elpd ± standard error over rows"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("nats")
    table.add_column("", justify="right")
    table.add_row("ELBO of all rows", _with_error(summary, "joint_elbo"))
    table.add_row(
        f"log evidence, importance sampled with {particles} particles", _with_error(summary, "joint_log_evidence")
    )
    table.add_row(f"effective particles of {particles}", _number(summary["ess"], 1))
    table.add_row(
        f"k-hat of the joint weights (believed below {_number(summary['khat_limit'])})", _number(summary["khat"])
    )
    table.add_row("expected log predictive density, leave one out (PSIS)", _with_error(summary, "elpd_loo"))
    table.add_row("  effective number of parameters", _number(summary["p_loo"], 1))
    table.add_row("  rows whose k-hat is above the limit", f"{summary['unreliable_rows']:,}")
    if "held_out" in summary:
        words = f"log predictive density of {summary['held_out_rows']:,} held-out rows, per row"
        table.add_row(words, _with_error(summary, "held_out"))
    return table


def _with_error(summary: Mapping[str, Any], key: str, digits: int = 2) -> str:
    return f"{_number(summary[key], digits)} ± {_number(summary[f'{key}_se'], digits)}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def as_json(value: Any) -> Any:
    """Plain JSON values: paths as text, numbers that are not finite as null.

    Example:
        >>> as_json({"a": float("nan"), "b": [Path("c")]})
        {'a': None, 'b': ['c']}
    """
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def update_evaluation(run: Path, key: str, judged: Judged) -> Path:
    """Put the summary into RUN/evaluation.json, under the name of the rows, and the rows into a table beside it.

    Keeps what else is there.
    """
    from ppl_vae.runs.files import read_evaluation
    from ppl_vae.saving.atomic import write_json

    before = read_evaluation(run)
    lasting = {name: value for name, value in before.get(key, {}).items() if name == "gap"}  # it takes minutes to find
    found = before | {key: lasting | as_json(judged.summary)}
    if judged.rows is not None:
        columns = {name: values.tolist() for name, values in judged.rows.columns().items()}
        of = "train" if "joint_elbo" in judged.summary else key
        write(rows_file(run, of), table_text({"row": list(range(len(next(iter(columns.values())))))} | columns))
    return write_json(run / "evaluation.json", found)


def rows_file(run: Path, key: str) -> Path:
    """Where the values of single rows are, such as RUN/evaluation-test.csv."""
    return run / f"evaluation-{re.sub(r'[^A-Za-z0-9_-]+', '-', key)}.csv"


def read_rows(run: Path, key: str, particles: int) -> Evaluation | None:
    """What `update_evaluation` wrote of single rows; nothing if it is not there or is no such table."""
    import torch

    from ppl_vae.evaluation import COLUMNS, Evaluation

    try:
        with rows_file(run, key).open(encoding="utf-8", newline="") as lines:
            table = list(csv.DictReader(lines))
        columns: dict[str, Any] = {n: torch.tensor([float(row[n]) for row in table]) for n in COLUMNS}
        return Evaluation(**columns, particles=particles)
    except (OSError, KeyError, ValueError):
        return None


def check_target(out: Path | None, usual: Path, endings: Sequence[str]) -> Path:
    """The file that a command is to write: what the user named, which is not there yet, or the usual one.

    The usual one may be there; what is written then gets a name with a number (`write_new`).

    Raises:
        UserError: the file has another ending, is there, or cannot be written.
    """
    if out is not None:
        out = out.expanduser()
        if out.suffix.lower() not in endings:
            raise unknown_name(f"ending of {out.name},", out.suffix or "(none)", endings)
        if out.exists():
            raise UserError(f"{out} exists already: choose another file with --out")
    folder = (usual if out is None else out).parent
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"{folder} is no folder that can be written: choose another file with --out")
    return usual if out is None else out


def column_names(name: str, count: int, known: Sequence[str] = ()) -> list[str]:
    """Column names of a field: its own, or name_0, name_1, ..."""
    return list(known) if len(known) == count else [f"{name}_{i}" for i in range(count)]


def table_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """Columns as comma-separated text, one line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def array_bytes(arrays: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of an .npz file."""
    import numpy as np

    file = io.BytesIO()
    plain: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    np.savez_compressed(file, **plain)
    return file.getvalue()


def write_rows(out: Path, arrays: Mapping[str, Tensor], columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write arrays to an .npz or columns to a .csv file, by the file's ending; returns which."""
    return write_new(out, table_text(columns) if out.suffix.lower() == ".csv" else array_bytes(arrays))
