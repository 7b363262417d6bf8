"""The table of likelihoods: each with the field that it is built for."""

from __future__ import annotations

from typing import Any

from ppl_vae.data import Field
from ppl_vae.likelihoods import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

LIKELIHOODS: dict[str, tuple[Any, Field]] = {
    "Bernoulli": (Bernoulli(), Field("x", "binary", (3,))),
    "Categorical": (Categorical(), Field("x", "categorical", (2, 3), 5)),
    "Categorical of counts": (Categorical(), Field("x", "count", (3,), 4)),
    "Categorical of bits": (Categorical(), Field("x", "binary", (3,))),
    "Normal, learned scale": (Normal(), Field("x", "real", (3,))),
    "Normal, fixed scale": (Normal(scale=0.3), Field("x", "positive", (2,))),
    "Normal, per-row scale": (Normal(per_row=True), Field("x", "real", (3,))),
    "Normal of counts": (Normal(), Field("x", "count", (), 9)),
    "Laplace": (Laplace(), Field("x", "real", (2, 2))),
    "Laplace, per-row scale": (Laplace(per_row=True), Field("x", "real", (3,))),
    "StudentT": (StudentT(), Field("x", "real", (3,))),
    "StudentT, fixed df": (StudentT(df=4.0, per_row=True), Field("x", "real", ())),
    "LogNormal": (LogNormal(), Field("x", "positive", (3,))),
    "LogNormal, per-row scale": (LogNormal(per_row=True), Field("x", "real", ())),
    "ContinuousBernoulli": (ContinuousBernoulli(), Field("x", "unit", (2, 3))),
    "Beta": (Beta(), Field("x", "unit", (3,))),
    "Ordinal": (Ordinal(), Field("x", "categorical", (3,), 5)),
    "Ordinal of two": (Ordinal(), Field("x", "count", (), 2)),
    "Binomial": (Binomial(), Field("x", "count", (3,), 9)),
    "Binomial of levels": (Binomial(12), Field("x", "categorical", (2, 2), 9)),
    "Poisson": (Poisson(), Field("x", "count", (3,), 9)),
    "NegativeBinomial": (NegativeBinomial(), Field("x", "count", (3,), 9)),
    "ZeroInflatedPoisson": (ZeroInflatedPoisson(), Field("x", "count", (3,), 9)),
    "ZeroInflatedNegativeBinomial": (ZeroInflatedNegativeBinomial(), Field("x", "count", (), 9)),
    "DiscretisedLogistic": (DiscretisedLogistic(), Field("x", "categorical", (2, 2), 17)),
    "DiscretisedLogistic, mixture of bytes": (DiscretisedLogistic(3), Field("x", "count", (2, 2), 256)),
}
