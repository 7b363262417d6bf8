"""scikit-learn's conventions: a grid search for the number of latents, and a classifier of few labels.

    python examples/scikit_learn.py

The first table has two factors, which the held-out log density finds; the second is two moons of which six rows have
a label, the others None.
"""

import numpy as np
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ppl_vae.sklearn import SemiSupervisedVAEClassifier, VAETransformer

TRUTH = {"factors": 2}


def factors(rows=300, seed=0):
    random = np.random.RandomState(seed)
    loadings = random.randn(TRUTH["factors"], 6)
    return random.randn(rows, TRUTH["factors"]) @ loadings + 0.4 * random.randn(rows, 6)


def moons(rows=500, labels=6, seed=0):
    X, side = make_moons(2 * rows, noise=0.08, random_state=seed)
    names = np.array(["upper", "lower"], dtype=object)[side]
    some = names[:rows].copy()
    for side in ("upper", "lower"):
        some[np.flatnonzero(some == side)[labels // 2 :]] = None
    return X[:rows], some, X[rows:], names[rows:]


def count_factors():
    vae = VAETransformer(hidden=(), guide="full_rank", lr=0.03, epochs=30, score_particles=200, random_state=0)
    search = GridSearchCV(vae, {"latent_dim": [1, 2, 4]}, cv=2).fit(factors())
    for options, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        print(f"{options['latent_dim']} latents: {score:7.3f} nats per held-out row")
    print(f"factors: simulated {TRUTH['factors']}, recovered {search.best_params_['latent_dim']}")
    return search


def classify():
    X, some, new, names = moons()
    labelled = some != None  # noqa: E711
    alone = LogisticRegression().fit(X[labelled], some[labelled])
    vae = SemiSupervisedVAEClassifier(latent_dim=2, hidden=(64,), lr=5e-3, epochs=80, random_state=0)
    both = make_pipeline(StandardScaler(), vae).fit(X, some)
    print(f"{labelled.sum()} labels alone: {alone.score(new, names):.3f} right")
    print(f"and {len(X) - labelled.sum()} rows without: {both.score(new, names):.3f} right")
    return alone.score(new, names), both.score(new, names)


def main():
    search = count_factors()
    scores = classify()
    return search, scores


if __name__ == "__main__":
    main()
