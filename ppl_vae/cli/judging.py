"""The held-out numbers of a pair, as the commands find them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_vae.cli.output import note
from ppl_vae.errors import NoDensity, UserError

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.evaluation import Evaluation, JointEvaluation

__all__ = ["Judged", "judge", "judge_gap"]


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
