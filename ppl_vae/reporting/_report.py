"""The report of a result or of a run in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppl_vae.data import Data, Split, is_unit
from ppl_vae.data.dataset import assemble
from ppl_vae.errors import NoDensity, UserError, check_whole
from ppl_vae.evaluation import evaluate
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.reporting._page import write_report
from ppl_vae.reporting.view import held_out
from ppl_vae.runs import Result, Run, open_run

__all__ = ["report"]


def report(
    result: Result | Run | str | Path,
    folder: str | Path | None = None,
    data: Any = None,
    *,
    particles: int = 1000,
    seed: int = 0,
    open: bool = False,
) -> Path:
    """Evaluate a trained pair on held-out rows and write its report: one page that needs nothing else.

    Args:
        result: what `fit` returned, which is saved first; a run, or its folder.
        folder: where a result is saved; a run has its own.
        data: the data of the run, loaded again where they are not given.
        particles: draws of the latents of each row, for the evidence.
        seed: of all draws.
        open: show the page in a browser.

    Returns:
        The path of report.html.

    Raises:
        UserError: for a result without a folder, another thing, or rows that do not fit.

    Example:
        >>> import tempfile, torch, ppl_vae
        >>> data = ppl_vae.load(torch.randn(60, 3))
        >>> result = ppl_vae.fit(ppl_vae.VAE(data, latent_dim=2, hidden=(8,)), data, epochs=1)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     report(result, place + "/run", particles=10).name
        'report.html'
    """
    particles = check_whole("particles", particles)
    run = _run(result, folder)
    data = data if data is not None else getattr(result, "data", None)
    data = _data_set(run, run.data() if data is None or callable(data) else data)
    found = None
    try:
        rows = data if is_unit(data) else held_out(data)
        found = evaluate(run.model, run.guide, rows, particles=particles, seed=seed)
    except NoDensity:
        pass  # points: the report says that there is no evidence
    summary = None if found is None else found.summary()
    page = write_report(run, data, summary, found, seed=seed)
    if open:
        show(page)
    return page


def _data_set(run: Run, data: Any) -> Any:
    """Data as they are loaded, or rows in memory as the training rows of a data set."""
    if is_unit(data) or isinstance(data, Data | Split):
        return data
    rows = rows_of(run.model, run.guide, data)
    return assemble("array", rows.schema, {"train": rows.fields}, frozenset(), {"name": "array"})


def show(page: Path) -> bool:
    """Open a page in the browser of whoever sits here; whether there was one."""
    import webbrowser

    return webbrowser.open(page.resolve().as_uri())


def _run(result: Any, folder: str | Path | None) -> Run:
    if isinstance(result, str | Path):
        result = open_run(result)
    if isinstance(result, Run):
        if folder is not None:
            raise UserError(f"a run has its folder, {result.path}, where the report goes: leave folder out")
        return result
    if not isinstance(result, Result):
        raise UserError(f"report expects a result of fit, a run or its folder, got {type(result).__name__}")
    if folder is None:
        raise UserError('a result is saved before its report is written: say where, report(result, "runs/mine")')
    return open_run(result.save(folder), result.model, result.guide)
