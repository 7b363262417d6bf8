"""The table of problems with known answers."""

from __future__ import annotations

import pyro.distributions as dist

from cases.belonging import (
    LENGTH,
    XG,
    XL,
    groups,
    groups_evidence,
    groups_guide,
    series,
    series_evidence,
    series_guide,
)
from cases.counts import (
    COUNTS,
    XC,
    beta_binomial,
    beta_binomial_exact,
    beta_binomial_off,
    counted,
    counted_evidence,
    counted_guide,
    gamma_poisson,
    gamma_poisson_exact,
    gamma_poisson_off,
)
from cases.gaussian import (
    SCALES,
    X_HOLES,
    X,
    gaussian_elbo,
    gaussian_evidence,
    gaussian_evidence_holes,
    linear_gaussian,
    linear_gaussian_exact,
    linear_gaussian_holes,
    linear_gaussian_off,
    posterior_mean,
)
from cases.labels import (
    UNLABELLED,
    XM,
    XR,
    YM,
    chain,
    chain_evidence,
    chain_guide,
    labelled_evidence,
    mixture,
    mixture_classifier,
    nothing,
    repeated,
    repeated_evidence,
    repeated_guide,
    styled,
    styled_collapsed,
    styled_guide,
)
from cases.problem import Problem, t

PROBLEMS = (
    Problem(
        "linear-Gaussian",
        linear_gaussian,
        linear_gaussian_off,
        {"x": X},
        gaussian_evidence(X),
        exact=linear_gaussian_exact,
        elbo=gaussian_elbo(X, 0.8 * posterior_mean(X) + 0.1, SCALES),
        tags=frozenset({"gaussian"}),
    ),
    Problem(
        "linear-Gaussian with holes",
        linear_gaussian,
        linear_gaussian_holes,
        {"x": X_HOLES},
        gaussian_evidence_holes(X_HOLES),
    ),
    Problem("mixture, classifier", mixture, mixture_classifier, {"x": XM}, labelled_evidence(XM, UNLABELLED, 0.8)),
    Problem(
        "mixture, collapsed",
        mixture,
        nothing,
        {"x": XM},
        labelled_evidence(XM, UNLABELLED, 0.8),
        exact=nothing,
    ),
    Problem(
        "mixture, some labels",
        mixture,
        mixture_classifier,
        {"x": XM, "y": YM},
        labelled_evidence(XM, YM, 0.8),
    ),
    Problem("style and label", styled, styled_guide, {"x": XM}, labelled_evidence(XM, UNLABELLED, 1.36**0.5)),
    Problem("style, some labels", styled, styled_guide, {"x": XM, "y": YM}, labelled_evidence(XM, YM, 1.36**0.5)),
    Problem(
        "style, label collapsed",
        styled,
        styled_collapsed,
        {"x": XM, "y": YM},
        labelled_evidence(XM, YM, 1.36**0.5),
    ),
    Problem("chain, classifiers", chain, chain_guide, {"x": XM}, chain_evidence(XM)),
    Problem("chain, collapsed", chain, nothing, {"x": XM}, chain_evidence(XM), exact=nothing),
    Problem("repeated measurements", repeated, repeated_guide, {"x": XR}, repeated_evidence(XR)),
    Problem(
        "Beta-Binomial",
        beta_binomial,
        beta_binomial_off,
        {"x": COUNTS},
        dist.BetaBinomial(t(2.0), t(3.0), 10).log_prob(COUNTS),
        exact=beta_binomial_exact,
    ),
    Problem(
        "Gamma-Poisson",
        gamma_poisson,
        gamma_poisson_off,
        {"x": COUNTS},
        dist.GammaPoisson(t(3.0), t(1.5)).log_prob(COUNTS),
        exact=gamma_poisson_exact,
    ),
    Problem(
        "count without end",
        counted,
        counted_guide,
        {"x": XC},
        counted_evidence(XC),
        tags=frozenset({"scored"}),
    ),
    Problem(
        "series of unequal length",
        series,
        series_guide,
        {"x": XL, "length": LENGTH},
        series_evidence(XL, LENGTH),
        tags=frozenset({"gaussian"}),
    ),
    Problem(
        "groups of unequal size", groups, groups_guide, {"x": XG}, groups_evidence(XG), tags=frozenset({"gaussian"})
    ),
)
