"""Likelihoods p(x | z): small modules from decoder features to a normalised distribution over one field."""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.likelihoods.base import Likelihood as Likelihood
    from ppl_vae.likelihoods.base import fitting as fitting
    from ppl_vae.likelihoods.binary import Bernoulli as Bernoulli
    from ppl_vae.likelihoods.categorical import Categorical as Categorical
    from ppl_vae.likelihoods.categorical import Ordinal as Ordinal
    from ppl_vae.likelihoods.columns import Columns as Columns
    from ppl_vae.likelihoods.counts import Binomial as Binomial
    from ppl_vae.likelihoods.counts import NegativeBinomial as NegativeBinomial
    from ppl_vae.likelihoods.counts import Poisson as Poisson
    from ppl_vae.likelihoods.defaults import column_likelihood as column_likelihood
    from ppl_vae.likelihoods.defaults import default_likelihood as default_likelihood
    from ppl_vae.likelihoods.discretised import DiscretisedLogistic as DiscretisedLogistic
    from ppl_vae.likelihoods.location import Laplace as Laplace
    from ppl_vae.likelihoods.location import LogNormal as LogNormal
    from ppl_vae.likelihoods.location import Normal as Normal
    from ppl_vae.likelihoods.location import StudentT as StudentT
    from ppl_vae.likelihoods.unit import Beta as Beta
    from ppl_vae.likelihoods.unit import ContinuousBernoulli as ContinuousBernoulli
    from ppl_vae.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial
    from ppl_vae.likelihoods.zero_inflated import ZeroInflatedPoisson as ZeroInflatedPoisson

NAMES = {
    "bernoulli": "ppl_vae.likelihoods.binary:Bernoulli",
    "beta": "ppl_vae.likelihoods.unit:Beta",
    "binomial": "ppl_vae.likelihoods.counts:Binomial",
    "categorical": "ppl_vae.likelihoods.categorical:Categorical",
    "columns": "ppl_vae.likelihoods.columns:Columns",
    "continuous_bernoulli": "ppl_vae.likelihoods.unit:ContinuousBernoulli",
    "discretised_logistic": "ppl_vae.likelihoods.discretised:DiscretisedLogistic",
    "laplace": "ppl_vae.likelihoods.location:Laplace",
    "log_normal": "ppl_vae.likelihoods.location:LogNormal",
    "negative_binomial": "ppl_vae.likelihoods.counts:NegativeBinomial",
    "normal": "ppl_vae.likelihoods.location:Normal",
    "ordinal": "ppl_vae.likelihoods.categorical:Ordinal",
    "poisson": "ppl_vae.likelihoods.counts:Poisson",
    "student_t": "ppl_vae.likelihoods.location:StudentT",
    "zero_inflated_negative_binomial": "ppl_vae.likelihoods.zero_inflated:ZeroInflatedNegativeBinomial",
    "zero_inflated_poisson": "ppl_vae.likelihoods.zero_inflated:ZeroInflatedPoisson",
}
"""The words for `--likelihood` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(
    __name__,
    [
        *NAMES.values(),
        "ppl_vae.likelihoods.base:Likelihood",
        "ppl_vae.likelihoods.defaults:column_likelihood",
        "ppl_vae.likelihoods.defaults:default_likelihood",
        "ppl_vae.likelihoods.base:fitting",
    ],
)
