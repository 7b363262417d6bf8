"""The lines under the numbers of a report: what of the run can be believed, and where the reason is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ppl_vae.evaluation.baselines import BEATEN, worthless
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._diagnosed import verdicts_of
from ppl_vae.reporting._html import Section, Verdict
from ppl_vae.reporting.view import View
from ppl_vae.runs.folder import Run
from ppl_vae.runs.result import unfinished

__all__ = ["BASELINES", "TRAINED", "TRUST", "baselines", "verdicts", "verdicts_of_unit"]

TRAINED, TRUST, BASELINES = "Training curve", "Where to believe the guide", "Beside simple densities"

SOME = 0.05
"""Above this share of rows with a large k-hat the error of the mean evidence is not believed."""

Numbers = Mapping[str, float | int] | None


def verdicts(run: Run, view: View, evaluation: Numbers, shared: Sequence[Verdict] = ()) -> list[Verdict]:
    """A line for the evidence, the latents, what they are worth, the training, and every diagnosis that was made."""
    latents = [*_worth(evaluation), *shared, *_use(view)]
    return [*_evidence(evaluation), *latents, *_training(run), *verdicts_of(run.path), *_said(run)]


def verdicts_of_unit(run: Run, evaluation: Numbers, posterior: Sequence[Verdict]) -> list[Verdict]:
    """The same of a run whose data are one unit: there is one weight, and no rows that say when to stop."""
    found: list[Verdict] = []
    if evaluation is not None and math.isfinite(khat := float(evaluation.get("khat_max", math.nan))):
        good, limit = khat <= float(evaluation["khat_limit"]), number(evaluation["khat_limit"])
        words = f"The evidence: k-hat of all data together is {number(khat)}, {'below' if good else 'above'} {limit}"
        words += "." if good else ": it is a lower bound, and its error is not known."
        found.append(Verdict("believed" if good else "not", words, "Posterior"))
    best, epochs = run.info.get("best", {}).get("epoch"), run.info.get("settings", {}).get("epochs")
    more = unfinished(run.history, best, epochs)
    words = f"Training: the bound was best at epoch {best} of {len(run.history)}; no data are held out."
    if more is not None:
        words = f"Training is {more.problem}: {more.remedy}."
    training = Verdict("read" if more is None else "doubtful", words, TRAINED)
    return [*found, *posterior, training, *verdicts_of(run.path), *_said(run)]


def _said(run: Run) -> list[Verdict]:
    said = [words for words in run.info.get("findings", ()) if "not finished" not in words]  # which training says
    return [Verdict("doubtful", f"The linter: {words}", "What was trained") for words in said]


def _evidence(evaluation: Numbers) -> list[Verdict]:
    if evaluation is None or "khat_limit" not in evaluation:
        return []
    limit = number(evaluation["khat_limit"])
    if "khat" in evaluation:  # one weight for all rows
        good = float(evaluation["khat"]) <= float(evaluation["khat_limit"])
        words = f"The evidence of all rows: k-hat {number(evaluation['khat'])}, {'below' if good else 'above'} {limit}."
        return [Verdict("believed" if good else "not", words, "What all rows share")]
    bad, rows = int(evaluation.get("unreliable_rows", 0)), int(evaluation["rows"])
    if not bad:
        return [Verdict("believed", f"The evidence and its error: k-hat is below {limit} in all {rows:,} rows.", TRUST)]
    words = f"The evidence: k-hat is above {limit} in {bad:,} of {rows:,} rows, where log p(x) is likely too low"
    if bad <= SOME * rows:
        return [Verdict("doubtful", f"{words}.", TRUST)]
    return [Verdict("not", f"{words} by an amount that its error does not tell. The mean is a lower bound.", TRUST)]


def _worth(evaluation: Numbers) -> list[Verdict]:
    if evaluation is None or "minus_independent" not in evaluation:
        return []
    if (worse := worthless(evaluation)) is not None:
        return [Verdict("not", f"{worse[0].upper()}{worse[1:]}.", BASELINES)]
    for name, what in _JOINT.items():
        gain, error = evaluation.get(f"minus_{name}"), evaluation.get(f"minus_{name}_se")
        if gain is not None and error is not None and gain < -BEATEN * error:
            words = f"The model: {what} is better by {number(-gain)} ± {number(error)} nats a row, with nothing latent."
            return [Verdict("doubtful", words, BASELINES)]
    worth = _told(evaluation, "minus_independent")
    return [Verdict("believed", f"The latents are worth {worth} nats a row.", BASELINES)]


def _use(view: View) -> list[Verdict]:
    known = [s for s in view.latents if s.proper]
    if not known:
        return []
    used, every = sum(len(s.ranked) for s in known), sum(len(s.information) for s in known)
    if used:
        return [Verdict("believed", f"{used} of {every} latents tell something about a row.", "What each latent does")]
    return [Verdict("not", "The latents: all have collapsed to the prior.", "What each latent does")]


def _training(run: Run) -> list[Verdict]:
    best = run.info.get("best", {}).get("epoch")
    more = unfinished(run.history, best, run.info.get("settings", {}).get("epochs"))
    if more is not None:
        return [Verdict("doubtful", f"Training is {more.problem}: {more.remedy}.", TRAINED)]
    if not any(record.get("validation") is not None for record in run.history):
        return [Verdict("doubtful", "Training: no validation rows say when to stop.", TRAINED)]
    words = f"Training: epoch {best} of {len(run.history)} was best on validation rows."
    return [Verdict("believed", words, TRAINED)]


_JOINT = {"normal": "one full normal", "copula": "a Gaussian copula of these columns"}


def baselines(evaluation: Numbers) -> list[Section]:
    """The evidence beside that of densities without latents; nothing where none was fitted."""
    if evaluation is None or "minus_independent" not in evaluation:
        return []
    words = {"independent": "independent columns, each at its best fit"} | _JOINT
    rows: list[list[object]] = [["this model", _told(evaluation, "nll"), None]]
    for name, what in words.items():
        if f"minus_{name}" in evaluation:
            nll = number(evaluation.get(f"{name}_nll"))
            rows.append([what, nll, _told(evaluation, f"minus_{name}")])
    text = (
        "Densities of the training rows that have no latents, told of the same held-out rows. The last column is the "
        "log evidence of the model minus theirs, paired by row, with its standard error; above 0 the model is better."
    )
    header = ("density", "NLL, nats per row", "the model's gain, nats per row")
    return [Section(BASELINES, text, (header, rows))]


def _told(evaluation: Mapping[str, float | int], key: str) -> str | None:
    value, error = number(evaluation.get(key)), number(evaluation.get(f"{key}_se"))
    return f"{value} ± {error}" if value and error else value
