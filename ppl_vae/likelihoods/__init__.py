"""Likelihoods p(x | z): small modules from decoder features to a normalised distribution over one field."""

from ppl_vae.likelihoods.base import Likelihood, fitting
from ppl_vae.likelihoods.binary import Bernoulli
from ppl_vae.likelihoods.categorical import Categorical, Ordinal
from ppl_vae.likelihoods.columns import Columns
from ppl_vae.likelihoods.counts import Binomial, NegativeBinomial, Poisson
from ppl_vae.likelihoods.defaults import column_likelihood, default_likelihood
from ppl_vae.likelihoods.discretised import DiscretisedLogistic
from ppl_vae.likelihoods.location import Laplace, LogNormal, Normal, StudentT
from ppl_vae.likelihoods.unit import Beta, ContinuousBernoulli
from ppl_vae.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "column_likelihood",
    "default_likelihood",
    "fitting",
]
