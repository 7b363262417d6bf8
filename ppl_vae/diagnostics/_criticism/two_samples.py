"""Whether samples of a model can be told from held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics._common.features import matrices
from ppl_vae.diagnostics._common.multiple_tests import holm
from ppl_vae.diagnostics._criticism.distances import TwoSampleTest, classifier_two_sample, mmd, sliced_wasserstein
from ppl_vae.diagnostics._criticism.held_out import held_out
from ppl_vae.diagnostics._criticism.replicas import FromPrior
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import UserError, check_several, unknown_name
from ppl_vae.evaluation.passes import judging
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TESTS", "TwoSample", "two_sample"]

TESTS = ("mmd", "c2st", "sliced_wasserstein")

LEVEL = 0.05


@dataclass(frozen=True, repr=False)
class TwoSample(Displayed):
    """What `two_sample` found: a test by name ("mmd", "c2st", "sliced_wasserstein").

    `rows` held-out rows were compared with as many samples, in the `fields` that the model generates, as `features`
    numbers each. `missing` says whether rows had missing entries, which the samples were then given too. `adjusted`
    are the p-values corrected for the number of tests (Holm).

    Example:
        >>> import torch
        >>> test = TwoSampleTest(0.7, 0.01, torch.full((9,), 0.5))
        >>> found = TwoSample({"c2st": test}, rows=100, features=4, fields=("x",))
        >>> found.p_value, found.summary()["c2st_p"]
        (0.01, 0.01)
    """

    tests: Mapping[str, TwoSampleTest]
    rows: int
    features: int
    fields: tuple[str, ...]
    missing: bool = False

    @property
    def adjusted(self) -> dict[str, float]:
        """p-values of all tests together, by name."""
        return dict(zip(self.tests, holm([t.p_value for t in self.tests.values()]), strict=True))

    @property
    def p_value(self) -> float:
        """Of the hypothesis that samples and rows are of one distribution."""
        return min(self.adjusted.values())

    def summary(self) -> dict[str, Any]:
        """Plain numbers: every statistic, its p-value and the corrected one."""
        found: dict[str, Any] = {"rows": self.rows, "features": self.features, "fields": list(self.fields)}
        found |= {"missing": self.missing, "p_value": self.p_value}
        for name, test in self.tests.items():
            found |= {name: test.statistic, f"{name}_p": test.p_value, f"{name}_p_adjusted": self.adjusted[name]}
        return found

    @property
    def verdict(self) -> str:
        """Whether samples can be told from rows, and by how much."""
        told = [name for name, p in self.adjusted.items() if p < LEVEL]
        right = ""
        if "c2st" in self.tests:
            right = f" A classifier that is shown a row and a sample picks the sample {self._share()} of the time."
        if not told:
            return (
                f"Samples cannot be told from {self.rows:,} held-out rows (p = {self.p_value:.2g}, corrected for "
                f"{len(self.tests)} tests).{right} More rows would find smaller differences."
            )
        return (
            f"Samples can be told from held-out rows by {', '.join(told)} (p = {self.p_value:.2g}, corrected for "
            f"{len(self.tests)} tests).{right} `predictive_check` says in what they differ; try a likelihood with the "
            "right noise, a prior that is learned (mixture, flow, VampPrior), or more latents."
        )

    def _share(self) -> str:
        return f"{100 * self.tests['c2st'].statistic:.0f} %"

    def figure(self) -> Figure:
        """Every statistic beside its distribution under the null."""
        from ppl_vae.diagnostics._criticism.plot_two_sample import figure

        return figure(self)


@takes_results
@exclusive
@shows_progress
def two_sample(
    model: Callable[..., Any],
    data: Any,
    tests: Sequence[str] = TESTS,
    *,
    samples: int = 1000,
    permutations: int = 500,
    seed: int = 0,
    progress: Any = "auto",
) -> TwoSample:
    """Compare samples of a model with held-out rows: MMD, a classifier, sliced Wasserstein, each with a p-value.

    Samples are draws x ~ p(x | z), z ~ p(z), never means E[x | z]: means of a decoder look smoother than any row, and a
    model is its draws. Each row has a sample of its own, with the row's conditions (a label that the model is given)
    and the row's missing entries, and what is swapped under the null is the two of a pair; so the tests keep their
    level with conditions and with missing entries that are so for reasons that have nothing to do with their values.
    All fields that the model generates are compared together: numbers are standardised (pictures as a whole),
    categories one-hot, missing entries at the mean with an indicator. Rows that are known to be outliers are left out.

    Args:
        model: p(z) p(x | z); no guide is needed.
        data: rows it was not trained on: a data set (its test split), a split, a dict of arrays, or one array.
        tests: names of tests, see `ppl_vae.diagnostics.mmd`, `classifier_two_sample` and `sliced_wasserstein`.
        samples: rows at most; of more, as many are chosen at random.
        permutations: of each test; the smallest p-value is 1 / (1 + permutations).
        seed: of samples, choices and permutations; the global generators are left alone.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for an unknown test, fewer than four rows, or latents shared by all rows.
        NoDensity: for a model with an improper prior.

    Example:
        >>> import torch
        >>> from ppl_vae.programs.toy import model
        >>> rows = torch.randn(100, generator=torch.manual_seed(0))
        >>> two_sample(model, 2**0.5 * rows).p_value > 0.05, two_sample(model, 3 * rows).p_value < 0.05
        (True, True)
    """
    names = [tests] if isinstance(tests, str) else list(check_several("tests", tests, f"some of {', '.join(TESTS)}"))
    for name in names:
        if not isinstance(name, str) or name not in TESTS:
            raise unknown_name("test", name, TESTS)
    pair = Pair(model, _no_guide)
    if not names:
        raise UserError(f"tests expects some of {', '.join(TESTS)}, got none")
    split, _ = held_out(model, _no_guide, data, samples, seed, fewest=4)
    with judging(pair, seed):
        replicas = FromPrior(pair.model, split.to(pair.device))
        rows, made = replicas.observed, next(replicas.draws(1))
    seen, drawn = (m.cpu() for m in matrices(replicas.fields, rows, made))
    missing = any(bool(missing_in(f.kind, rows[f.name]).any()) for f in replicas.fields)
    run = {
        "mmd": lambda: mmd(seen, drawn, permutations=permutations, paired=True, seed=seed),
        "c2st": lambda: classifier_two_sample(seen, drawn, paired=True, seed=seed),
        "sliced_wasserstein": lambda: sliced_wasserstein(
            seen, drawn, permutations=permutations, paired=True, seed=seed
        ),
    }
    found = {name: run[name]() for name in tracked(names, "testing")}
    return TwoSample(found, len(seen), seen.shape[1], tuple(f.name for f in replicas.fields), missing)


def _no_guide(**fields: Any) -> None:
    """Samples of a model ask for no guide."""
