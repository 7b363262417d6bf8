"""The cards at the top of a report: its numbers, or how to get them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from ppl_vae.evaluation.baselines import worthless
from ppl_vae.reporting.view import View
from ppl_vae.runs.folder import Run

__all__ = ["NO_DENSITY", "Card", "headline", "number", "validated", "without_evidence"]


NO_DENSITY = "No evidence: a deterministic autoencoder is not a density."

Card = tuple[str, str, str]


def number(value: Any, digits: int = 2) -> str | None:
    """A number as a reader expects it, thousands apart and with a true minus; None if it is not finite.

    Example:
        >>> number(12345.678), number(0.0012), number(None)
        ('12,345.68', '0.0012', None)
    """
    if value is None or not math.isfinite(value):
        return None
    small = 0 < abs(value) < 10.0**-digits
    text = f"{value:.2g}" if small else f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def headline(run: Run, evaluation: Mapping[str, float | int] | None) -> list[Card]:
    """The cards at the top: held-out bound and evidence, rate and distortion; or how to get them."""
    if evaluation is None:
        return _not_evaluated(run)
    if "joint_elbo" in evaluation:
        return _of_all_rows(evaluation)
    rows, particles = number(evaluation.get("rows")), number(evaluation.get("particles"))
    nll = (
        f"Importance-sampled \N{MINUS SIGN}log p(x) per row from {particles} draws of z, "
        "tighter than the ELBO; lower is better."
    )
    if (mc := number(evaluation.get("nll_mc_se"), 3)) is not None:
        nll += f" ± is the standard error over rows; the draws add a Monte Carlo error of {mc}."
    if (ess := evaluation.get("ess")) is not None and math.isfinite(ess):
        nll += f" Effective draws: {number(float(ess), 0)}."
    return [
        (
            "Negative ELBO, nats",
            _with_error(evaluation, "negative_elbo"),
            "An upper bound on \N{MINUS SIGN}log p(x) per row, which training lowers; lower is better. "
            f"Mean ± standard error over {rows} held-out rows.",
        ),
        ("NLL, nats", _with_error(evaluation, "nll"), nll),
        (
            "Rate, nats",
            _with_error(evaluation, "rate"),
            "KL(q(z|x) ‖ p(z)) per row: how much the latents tell about a row. Near 0, they are ignored.",
        ),
        (
            "Distortion, nats",
            _with_error(evaluation, "distortion"),
            "\N{MINUS SIGN}E log p(x|z) per row: what is left to say once z is known. "
            "Rate and distortion add up to the negative ELBO.",
        ),
        *_baselines(evaluation),
    ]


def _of_all_rows(evaluation: Mapping[str, float | int]) -> list[Card]:
    """The cards of a pair whose rows share latents, so that all rows have one evidence."""
    rows, particles = number(evaluation.get("rows")), number(evaluation.get("particles"))
    limit = number(evaluation.get("khat_limit"))
    held = evaluation.get("held_out_rows")
    cards = [
        (
            "ELBO of all rows, nats",
            _with_error(evaluation, "joint_elbo"),
            f"A lower bound on log p of all {rows} training rows together, which training raises.",
        ),
        (
            "Log evidence, nats",
            _with_error(evaluation, "joint_log_evidence"),
            f"log p of all {rows} training rows, by importance sampling with {particles} draws of the latents that "
            "they share; ± is the Monte Carlo standard error.",
        ),
        (
            "k-hat",
            number(evaluation.get("khat")) or "not finite",
            f"How heavy the tail of the joint weights is. Below {limit} the posterior of the shared latents can be "
            "believed once it is corrected by the weights; above, it cannot.",
        ),
        (
            "elpd, leave one out",
            _with_error(evaluation, "elpd_loo"),
            "Sum over training rows of log p(row | the other rows), by PSIS; ± is the standard error over rows.",
        ),
    ]
    if held is not None:
        words = f"Mean over {number(held)} held-out rows of their log posterior predictive density; higher is better."
        cards[3] = ("Held-out rows, nats per row", _with_error(evaluation, "held_out"), words)
    return cards


def _baselines(evaluation: Mapping[str, float | int]) -> list[Card]:
    """What the latents are worth: the evidence beside densities that have none."""
    if "minus_independent" not in evaluation:
        return []
    words = (
        "log p(x) minus that of independent columns with the same likelihoods and no latents, paired by row; a model "
        "that is not above them tells nothing."
    )
    if (worse := worthless(evaluation)) is not None:
        words += f" Here {worse}."
    return [("Above independent columns, nats", _with_error(evaluation, "minus_independent"), words)]


def without_evidence(evaluation: Mapping[str, float | int] | None, view: View) -> list[Card]:
    """The cards of a pair whose guide draws points: that there is no evidence, and how well rows come back."""
    why = (
        f"{NO_DENSITY} It has no p(z), so nothing says how probable a row is."
        if view.flat
        else ("No evidence: the guide gives a point for each row, no density of latents, and so no bound.")
    )
    cards = [("Evidence", "none", why)]
    if evaluation is None or "reconstruction_log_likelihood" not in evaluation:
        return cards
    words = "How well rows come back from their codes; no log p(x), and no bound of it. Higher is better. "
    words += f"Mean ± standard error over {number(evaluation.get('rows'))} held-out rows."
    cards.append(("log p(x|f(x)), nats", _with_error(evaluation, "reconstruction_log_likelihood"), words))
    errors = [key for key in evaluation if key.startswith("error ") and not key.endswith("_se")]
    said = "Squared difference between an entry and E[x|f(x)] (of a category: whether it is wrong), per row."
    return cards + [(f"{key.capitalize()}", _with_error(evaluation, key), said) for key in errors[:2]]


def _with_error(evaluation: Mapping[str, float | int], key: str) -> str:
    value, se = number(evaluation.get(key)), number(evaluation.get(f"{key}_se"))
    if value is None:
        return "not finite"
    return f"{value} ± {se}" if se is not None else value


def _not_evaluated(run: Run) -> list[Card]:
    command = f"ppl-vae evaluate {shlex.quote(str(run.path))}"
    cards = [("Held-out evidence", "not evaluated", f"To estimate it, run: {command}")]
    best = run.info.get("best", {})
    if (value := number(best.get("bound"))) is not None:
        where = "validation" if validated(run) else "training"
        whose = "the mean of the last weights was kept" if best.get("averaged") else "whose weights were kept"
        words = f"Per row, at epoch {best.get('epoch')}, {whose}. Higher is better."
        cards.append((f"Best {where} bound, nats", value, words))
    return cards


def validated(run: Run) -> bool:
    """Whether a run had validation rows."""
    return any(record.get("validation") is not None for record in run.history)
