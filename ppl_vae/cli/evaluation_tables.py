"""Tables of held-out numbers, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["evaluation_table", "gap_table", "title_of"]


def title_of(summary: Mapping[str, Any], name: str) -> str:
    """What the numbers of a summary are of, in words.

    Example:
        >>> title_of({"rows": 1200}, "test"), title_of({"rows": 1, "of": "all data"}, "flu.csv")
        ('1,200 rows: test', 'all data as one unit: flu.csv')
    """
    return f"{summary.get('of', '')} as one unit: {name}" if "of" in summary else f"{summary['rows']:,} rows: {name}"


def gap_table(summary: Mapping[str, Any]) -> Table:
    """ELBO, refined ELBO, log evidence and the two gaps between them, in nats per row."""
    from rich.table import Table

    from ppl_vae.evaluation.words import number, with_error

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
        table.add_row(words, with_error(summary, key), f"± {number(summary[f'{key}_mc_se'], 3)}")
    return table


def evaluation_table(title: str, summary: Mapping[str, Any]) -> Table:
    """The held-out numbers of a run, in nats per row."""
    from rich.table import Table

    from ppl_vae.evaluation.words import evidence_lines, number

    if "joint_elbo" in summary:
        return _joint_table(title, summary)
    if "particles" not in summary:
        return _reconstruction_table(title, summary)
    unit = summary.get("of")
    caption = None if unit else "± standard error over rows"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column(f"nats of {unit}" if unit else "nats per row")
    table.add_column("", justify="right")
    for line in evidence_lines(summary):
        table.add_row(line.words, line.value, style="red" * line.bad)
    if "accuracy" in summary:
        share, error = (100 * summary[key] for key in ("accuracy", "accuracy_se"))
        table.add_row(f"label right, of {summary['labelled_rows']:,} rows, %", f"{number(share)} ± {number(error)}")
    if "auc" in summary:
        _outlier_rows(table, summary)
    return table


def _outlier_rows(table: Table, summary: Mapping[str, Any]) -> None:
    """How well the evidence, and simpler scores, tell the rows of a class that was held out."""
    from ppl_vae.evaluation.words import with_error

    table.caption = f"of inliers alone, but for AUCs; {table.caption}"
    table.add_section()
    table.add_row(f"{summary['outliers']:,} outliers: AUC of -log evidence", with_error(summary, "auc", 3))
    for key in summary:
        if key.startswith("auc_") and f"{key}_se" in summary and not key.startswith("auc_minus_"):
            table.add_row(f"  AUC of {_BASELINES.get(key, key)}", with_error(summary, key, 3))


_BASELINES = {
    "auc_reconstruction": "-E log p(x | z), the reconstruction",
    "auc_pca": "the distance to principal components",
    "auc_independent": "independent entries",
}


def _reconstruction_table(title: str, summary: Mapping[str, Any]) -> Table:
    """The numbers of a pair that has no evidence."""
    from rich.table import Table

    from ppl_vae.evaluation.words import with_error

    caption = "no evidence: a guide of points is not a density; ± standard error over rows"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("reconstruction")
    table.add_column("", justify="right")
    table.add_row("log p(x | f(x)), nats per row, no bound", with_error(summary, "reconstruction_log_likelihood"))
    for key in summary:
        if key.startswith("error ") and not key.endswith("_se"):
            table.add_row(f"squared {key}, per entry", with_error(summary, key))
    return table


def _joint_table(title: str, summary: Mapping[str, Any]) -> Table:
    """The numbers of a pair whose rows share latents: of all rows together, and of each given the others."""
    from rich.table import Table

    from ppl_vae.evaluation.words import number, with_error

    particles, rows = f"{summary['particles']:,}", f"{summary['rows']:,}"
    caption = f"of all {rows} training rows together, ± Monte Carlo standard error; elpd ± standard error over rows"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("nats")
    table.add_column("", justify="right")
    table.add_row("ELBO of all rows", with_error(summary, "joint_elbo"))
    table.add_row(
        f"log evidence, importance sampled with {particles} particles", with_error(summary, "joint_log_evidence")
    )
    table.add_row(f"effective sample size (of {particles} particles)", number(summary["ess"], 1))
    table.add_row(
        f"k-hat of the joint weights (believed below {number(summary['khat_limit'])})", number(summary["khat"])
    )
    table.add_row("expected log predictive density, leave one out (PSIS)", with_error(summary, "elpd_loo"))
    table.add_row("  effective number of parameters", number(summary["p_loo"], 1))
    table.add_row("  rows whose k-hat is above the limit", f"{summary['unreliable_rows']:,}")
    if "held_out" in summary:
        words = f"log predictive density of {summary['held_out_rows']:,} held-out rows, per row"
        table.add_row(words, with_error(summary, "held_out"))
    return table
