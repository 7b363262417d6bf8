"""The held-out numbers of a pair, as the commands find them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_vae.cli.output import note
from ppl_vae.errors import NoDensity

if TYPE_CHECKING:
    from ppl_vae.data import Split
    from ppl_vae.diagnostics import Certified
    from ppl_vae.evaluation import Evaluation, JointEvaluation

__all__ = ["Judged", "judge", "judge_gap"]


class Judged(NamedTuple):
    """The held-out numbers of a pair, and those of every row where it has an evidence.

    Where all rows share latents, `rows` is of the training rows, which are weighed together.
    """

    summary: dict[str, Any]
    rows: Evaluation | JointEvaluation | None


def judge(
    model: Any,
    guide: Any,
    rows: Split,
    particles: int,
    seed: int,
    train: Split | None = None,
    *,
    certified: Certified | None = None,
) -> Judged:
    """The held-out numbers of a pair: its evidence, or, with a line that says why, how well rows come back.

    Where some rows are outliers, the summary is that of the others, and AUCs say how well the evidence tells them;
    simpler scores that they are compared with are made from training rows. Where all rows share latents, the training
    rows are weighed together, and the others are judged by the posterior that these leave.
    """
    import ppl_vae
    from ppl_vae.evaluation import evaluate_rows
    from ppl_vae.evaluation.baselines import against, beside, worthless
    from ppl_vae.evaluation.joint_evaluation import evaluate_jointly
    from ppl_vae.evaluation.joint_weights import shares_latents
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
    usual = found = replace(found, certified=certified)
    if rows.outliers is not None:
        from ppl_vae.diagnostics import anomalies_of, of_rows

        apart = anomalies_of(found, model, rows, train).summary()
        apart = {key: value for key, value in apart.items() if key == "outliers" or key.startswith("auc")}
        usual = of_rows(found, (~rows.outliers).nonzero()[:, 0])
    if rows.is_one_unit:
        apart |= {"of": "all data"}
    elif train is not None and len(usual.log_evidence) == len(inliers):
        apart |= against(usual.certain()[0], beside(pair, inliers, train))
        if (words := worthless(apart)) is not None:
            note(f"warning: {words}")
    return Judged(usual.summary() | label_scores(model, guide, inliers) | apart | {"seed": seed}, found)


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
