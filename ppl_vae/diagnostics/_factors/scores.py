"""Scores of disentanglement from latents [row, latent] and factors as whole numbers [row, factor].

Each as `disentanglement_lib` computes it (Locatello et al. 2019, arXiv 1811.12359), of posterior means.
"""

from __future__ import annotations

import numpy as np

from ppl_vae.diagnostics._factors.information import Codes, Floats

__all__ = ["beta_vae", "completeness", "disentanglement", "factor_vae", "importances", "mig", "modularity", "sap"]

PRUNED = 0.05
"""A latent whose standard deviation over rows is less is not asked by the FactorVAE score: it is not in use."""


def mig(information: Floats, entropy: Floats) -> float:
    """Mutual information gap: how much more the best latent tells of a factor than the second, of its entropy.

    Source: Chen et al. 2018, arXiv 1802.04942.

    Example:
        >>> mig(np.eye(3), np.ones(3))
        1.0
    """
    best = np.sort(information, 0)[::-1]
    second = best[1] if len(best) > 1 else 0.0
    return float(((best[0] - second) / entropy).mean())


def modularity(information: Floats) -> float:
    """How far each latent tells of one factor alone, over latents; one that tells nothing counts 0.

    Source: Ridgeway & Mozer 2018, arXiv 1802.05312.

    Example:
        >>> modularity(np.eye(2)), modularity(np.ones((2, 2)))
        (1.0, 0.0)
    """
    squares = information**2
    largest = squares.max(1)
    factors = squares.shape[1]
    if factors < 2:
        return float("nan")
    rest = (squares.sum(1) - largest) / np.where(largest > 0, largest * (factors - 1), 1.0)
    return float(np.where(largest > 0, 1 - rest, 0.0).mean())


def sap(train: Floats, y_train: Codes, test: Floats, y_test: Codes) -> float:
    """Separated attribute predictability: how much better the best latent alone classifies than the second.

    Source: Kumar et al. 2018, arXiv 1711.00848; linear support vectors, as there.
    """
    from sklearn.svm import LinearSVC

    right = np.zeros((train.shape[1], y_train.shape[1]))
    for i in range(train.shape[1]):
        for j in range(y_train.shape[1]):
            machine = LinearSVC(C=0.01, class_weight="balanced", dual="auto", random_state=0)
            machine.fit(train[:, i : i + 1], y_train[:, j])
            right[i, j] = np.mean(machine.predict(test[:, i : i + 1]) == y_test[:, j])
    best = np.sort(right, 0)[::-1]
    return float((best[0] - (best[1] if len(best) > 1 else 0.0)).mean())


# -- DCI ---------------------------------------------------------------------------------------------------


def importances(
    train: Floats, y_train: Codes, test: Floats, y_test: Codes, trees: str, seed: int
) -> tuple[Floats, float]:
    """How much each latent is used to tell each factor, [latent, factor], and the share of test rows told right.

    Args:
        train, y_train, test, y_test: rows.
        trees: "boosted" as in published tables (100 trees for each level), or "forest", much faster.
        seed: of the trees.
    """
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

    found, right = np.zeros((train.shape[1], y_train.shape[1])), []
    for j in range(y_train.shape[1]):
        if trees == "boosted":
            model = GradientBoostingClassifier(random_state=seed % 2**32)
        else:
            model = RandomForestClassifier(20, min_samples_leaf=3, max_features=None, random_state=seed % 2**32)
        model.fit(train, y_train[:, j])
        found[:, j] = np.abs(model.feature_importances_)
        right.append(np.mean(model.predict(test) == y_test[:, j]))
    return found, float(np.mean(right))


def disentanglement(importance: Floats) -> float:
    """D of DCI: how far each latent is used for one factor alone, weighted by its use.

    Source: Eastwood & Williams 2018.

    Example:
        >>> round(disentanglement(np.eye(2)), 6), round(disentanglement(np.ones((2, 2))), 6)
        (1.0, 0.0)
    """
    return _one_sided(importance)


def completeness(importance: Floats) -> float:
    """C of DCI: how far each factor is told by one latent alone, weighted by its use."""
    return _one_sided(importance.T)


def _one_sided(importance: Floats) -> float:
    """1 - entropy of each row's shares in units of log of their number, weighted by the row's share of all."""
    if importance.shape[1] < 2:
        return float("nan")
    shares = importance + 1e-11
    shares = shares / shares.sum(1, keepdims=True)
    each = 1 + (shares * np.log(shares)).sum(1) / np.log(importance.shape[1])
    use = importance.sum(1)
    weights = use / use.sum() if use.sum() > 0 else np.full(len(use), 1 / len(use))
    return float((each * weights).sum())


# -- scores by groups that share a factor ------------------------------------------------------------------


def factor_vae(
    latents: Floats, codes: Codes, generator: np.random.Generator, *, group: int = 64, votes: tuple[int, int]
) -> float:
    """The FactorVAE score: among rows that share one factor, which latent varies least tells which factor it is.

    Votes of groups of rows; each latent stands for the factor that it was chosen for most, counted on other votes.

    Source: Kim & Mnih 2018, arXiv 1802.05983.
    """
    variances = latents.var(0, ddof=1)
    used = np.flatnonzero(np.sqrt(variances) >= PRUNED)
    if not len(used):
        return 0.0
    scaled = latents[:, used] / np.sqrt(variances[used])
    groups = _Groups(codes)
    counted = []
    for count in votes:
        table = np.zeros((len(used), codes.shape[1]))
        for _ in range(count):
            factor = int(generator.integers(codes.shape[1]))
            rows = groups.sharing(factor, group, generator)
            table[scaled[rows].var(0, ddof=1).argmin(), factor] += 1
        counted.append(table)
    stands_for = counted[0].argmax(1)
    return float(counted[1][np.arange(len(used)), stands_for].sum() / counted[1].sum())


def beta_vae(
    latents: Floats, codes: Codes, generator: np.random.Generator, *, group: int = 64, votes: tuple[int, int]
) -> float:
    """The beta-VAE score: how often a linear classifier tells from mean distances of pairs which factor they share.

    Source: Higgins et al. 2017 (ICLR).
    """
    from sklearn.linear_model import LogisticRegression

    groups, parts = _Groups(codes), []
    for count in votes:
        points, labels = np.zeros((count, latents.shape[1])), generator.integers(codes.shape[1], size=count)
        for k, factor in enumerate(labels):
            first, second = groups.pairs(int(factor), group, generator)
            points[k] = np.abs(latents[first] - latents[second]).mean(0)
        parts.append((points, labels))
    model = LogisticRegression(max_iter=2000).fit(*parts[0])
    return float(np.mean(model.predict(parts[1][0]) == parts[1][1]))


class _Groups:
    """Rows by the level of each factor: groups of given rows share a factor, as far as there are rows."""

    def __init__(self, codes: Codes) -> None:
        self.levels = [np.unique(column, return_inverse=True)[1] for column in codes.T]
        self.order = [np.argsort(column, kind="stable") for column in codes.T]
        self.counts = [np.bincount(column) for column in self.levels]
        self.starts = [np.cumsum(count) - count for count in self.counts]

    def sharing(self, factor: int, size: int, generator: np.random.Generator) -> Codes:
        """Rows with one value of a factor, that of a random row."""
        first = generator.integers(len(self.order[factor]))
        return self._alike(factor, np.full(size, first), generator)

    def pairs(self, factor: int, size: int, generator: np.random.Generator) -> tuple[Codes, Codes]:
        """Random rows, and for each another random one that has the same value of a factor."""
        first = generator.integers(len(self.order[factor]), size=size)
        return first, self._alike(factor, first, generator)

    def _alike(self, factor: int, rows: Codes, generator: np.random.Generator) -> Codes:
        level = self.levels[factor][rows]
        place = (generator.random(len(rows)) * self.counts[factor][level]).astype("int64")
        found: Codes = self.order[factor][self.starts[factor][level] + place]
        return found
