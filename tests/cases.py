"""THE tables: problems with known answers, bounds, guides, models. Every property test runs over them.

A problem has a handful of rows with a closed-form log evidence. `Problem.tiled(R)` repeats the rows R times:
rows are independent given the model, so one pass gives R independent replicates of every row's bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import guides
from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.bounds import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi
from ppl_vae.data import Field
from ppl_vae.guides import (
    CNF,
    IAF,
    MAF,
    NAF,
    Coupling,
    FullRank,
    Householder,
    LowRank,
    MeanField,
    Planar,
    Radial,
    Spline,
    Sylvester,
)
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
from ppl_vae.models import (
    CVAE,
    GMVAE,
    M1,
    M1M2,
    M2,
    VAE,
    AutoEncoder,
    Hierarchical,
    InformationBottleneck,
    Regression,
)
from ppl_vae.priors import (
    CouplingFlowPrior,
    Diagonal,
    Exemplar,
    FlowPrior,
    LabelConditional,
    Mixture,
    Prior,
    SplineFlowPrior,
    StandardNormal,
    VampPrior,
)
from ppl_vae.registry import catalog

F64 = torch.float64
Program = Callable[..., Any]


def t(*values: Any) -> Tensor:
    return torch.tensor(*values, dtype=F64)


@dataclass(frozen=True)
class Problem:
    """A model, a guide that is not exact, its rows, and log p(x) of each row in nats.

    `exact` is a guide equal to the posterior, where there is one; `elbo` the guide's ELBO in closed form.
    """

    name: str
    model: Program
    guide: Program
    batch: dict[str, Tensor]
    log_evidence: Tensor
    exact: Program | None = None
    elbo: Tensor | None = None
    tags: frozenset[str] = field(default_factory=frozenset)

    def tiled(self, times: int) -> dict[str, Tensor]:
        return {n: v.repeat((times,) + (1,) * (v.dim() - 1)) for n, v in self.batch.items()}

    def __str__(self) -> str:
        return self.name


# -- linear-Gaussian (probabilistic PCA) ---------------------------------------------------------------------

W = t([[1.0, 0.5, -0.3, 0.2], [0.1, -0.8, 0.6, 0.9]])  # [latent, entry]
SIGMA, OFFSET = 0.7, t([0.3, -0.2, 0.0, 0.5])
X = t([[0.5, -1.0, 0.2, 1.5], [2.0, 0.3, -0.7, 0.1], [-1.2, 1.1, 0.4, -0.6]])


def linear_gaussian(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W + OFFSET, SIGMA).to_event(1), obs=x)


PRECISION = torch.eye(2, dtype=F64) + W @ W.T / SIGMA**2
COVARIANCE = torch.linalg.inv(PRECISION)


def posterior_mean(x: Tensor) -> Tensor:
    return (x - OFFSET) @ W.T @ COVARIANCE / SIGMA**2


def linear_gaussian_exact(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(posterior_mean(x), COVARIANCE))


SCALES = t([0.9, 0.5])


def linear_gaussian_off(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * posterior_mean(x) + 0.1, SCALES).to_event(1))


def gaussian_evidence(x: Tensor) -> Tensor:
    covariance = W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64)
    return dist.MultivariateNormal(OFFSET, covariance).log_prob(x)


def gaussian_elbo(x: Tensor, mean: Tensor, scales: Tensor) -> Tensor:
    """log evidence - KL(N(mean, diag) || posterior), the closed form of a mean-field ELBO."""
    gap = mean - posterior_mean(x)
    quadratic = torch.einsum("bi,ij,bj->b", gap, PRECISION, gap)
    trace = (PRECISION.diagonal() * scales**2).sum()
    log_det = torch.logdet(COVARIANCE) - 2 * scales.log().sum()
    return gaussian_evidence(x) - 0.5 * (trace + quadratic - len(scales) + log_det)


X_HOLES = torch.where(torch.tensor([[False, True, False, False], [False] * 4, [True, True, False, True]]), torch.nan, X)


def linear_gaussian_holes(x=None):
    mean = 0.5 * posterior_mean(torch.nan_to_num(x))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(mean, 0.8).to_event(1))


def gaussian_evidence_holes(x: Tensor) -> Tensor:
    covariance = W.T @ W + SIGMA**2 * torch.eye(4, dtype=F64)
    rows = []
    for row in x:
        seen = ~torch.isnan(row)
        rows.append(dist.MultivariateNormal(OFFSET[seen], covariance[seen][:, seen]).log_prob(row[seen]))
    return torch.stack(rows)


# -- mixture with a label, with and without style, labels in some rows ----------------------------------------

WEIGHTS, CENTRES = t([0.2, 0.3, 0.5]), t([-1.0, 0.4, 2.0])
XM = t([-0.6, 0.1, 1.9, 0.9, 3.0])
YM = torch.tensor([-1, 0, 2, -1, 1])


def mixture(x=None, y=None):
    with pyro.plate("rows", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y)
        pyro.sample("x", dist.Normal(CENTRES[y], 0.8), obs=x)


def mixture_classifier(x=None):
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Categorical(logits=torch.stack([-x, 0.3 * x, x], -1)))


def nothing(x=None):
    return None


def styled(x=None, y=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y)
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z + CENTRES[y], 0.6), obs=x)


def styled_guide(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([-x, 0.3 * x, x], -1)))
        pyro.sample("z", dist.Normal(0.6 * (x - CENTRES[y]), 0.6))


def styled_collapsed(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x, 1.0))


def labelled_evidence(x: Tensor, y: Tensor, scale: float) -> Tensor:
    joint = WEIGHTS.log() + dist.Normal(CENTRES, scale).log_prob(x.unsqueeze(-1))
    known = joint.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(y >= 0, known, joint.logsumexp(-1))


UNLABELLED = torch.full_like(YM, -1)

# -- two discrete latents that depend on each other, one inside an inner plate of repeated measurements --------

TRANSITION = t([[0.7, 0.3], [0.2, 0.8]])


def chain(x=None):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Categorical(t([0.4, 0.6])))
        b = pyro.sample("b", dist.Categorical(TRANSITION[a]))
        pyro.sample("x", dist.Normal(CENTRES[b] + 0.5 * a, 1.0), obs=x)


def chain_guide(x=None):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Categorical(logits=torch.stack([-x, x], -1)))
        pyro.sample("b", dist.Categorical(logits=torch.stack(torch.broadcast_tensors(1.0 * a, 0.5 * x), -1)))


def chain_evidence(x: Tensor) -> Tensor:
    total = []
    for a in (0, 1):
        for b in (0, 1):
            prior = math.log((0.4, 0.6)[a]) + TRANSITION[a, b].log()
            total.append(prior + dist.Normal(CENTRES[b] + 0.5 * a, 1.0).log_prob(x))
    return torch.stack(total).logsumexp(0)


XR = t([[0.2, 1.4, -0.5], [1.0, 0.7, 2.2], [-1.0, -0.2, 0.3], [0.0, 0.1, 0.4]])


def repeated(x=None):
    """A latent z for each row, a discrete outlier flag for each of its measurements."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            flag = pyro.sample("flag", dist.Bernoulli(t(0.2)))
            pyro.sample("x", dist.Normal(z, 0.5 + 2.0 * flag), obs=x.T)


def repeated_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x.mean(-1), 0.6))


def repeated_evidence(x: Tensor) -> Tensor:
    """Sum over the flags of three measurements; z is then Gaussian."""
    total = []
    for flags in torch.cartesian_prod(*[t([0.0, 1.0])] * 3):
        covariance = torch.diag((0.5 + 2.0 * flags) ** 2) + 1.0
        log_prior = dist.Bernoulli(t(0.2)).log_prob(flags).sum()
        total.append(log_prior + dist.MultivariateNormal(torch.zeros(3, dtype=F64), covariance).log_prob(x))
    return torch.stack(total).logsumexp(0)


# -- constrained supports and a count without end -------------------------------------------------------------


def beta_binomial(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Beta(t(2.0), t(3.0)))
        pyro.sample("x", dist.Binomial(10, z), obs=x)


def beta_binomial_exact(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Beta(2.0 + x, 13.0 - x))


def beta_binomial_off(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Beta(1.5 + 0.6 * x, 8.0 - 0.6 * x))


def gamma_poisson(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(t(3.0), t(1.5)))
        pyro.sample("x", dist.Poisson(z), obs=x)


def gamma_poisson_exact(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(3.0 + x, 2.5 * torch.ones_like(x)))


def gamma_poisson_off(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(2.5 + 0.8 * x, 2.2 * torch.ones_like(x)))


def counted(x=None):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Poisson(t(2.0)))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def counted_guide(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Poisson(torch.nn.functional.softplus(x) + 0.5))


def counted_evidence(x: Tensor) -> Tensor:
    c = torch.arange(60, dtype=F64)
    return (dist.Poisson(t(2.0)).log_prob(c) + dist.Normal(c, 1.0).log_prob(x.unsqueeze(-1))).logsumexp(-1)


COUNTS = t([0.0, 3.0, 7.0, 10.0])
XC = t([0.3, 2.2, 4.1])

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
)

# -- bounds: name -> constructor from the number of particles --------------------------------------------------

LOWER_BOUNDS: dict[str, Callable[[int], Any]] = {
    "ELBO": lambda k: ELBO(k),
    "ELBO, analytic KL": lambda k: ELBO(k, analytic_kl=True),
    "ELBO, stl": lambda k: ELBO(k, estimator="stl"),
    "IWAE": lambda k: IWAE(k),
    "IWAE, dreg": lambda k: IWAE(k, estimator="dreg"),
    "Renyi(0)": lambda k: Renyi(0.0, k),
    "Renyi(0.5)": lambda k: Renyi(0.5, k),
    "Renyi(2)": lambda k: Renyi(2.0, k),
    "MIWAE": lambda k: MIWAE(2, k // 2),
    "MIWAE, dreg": lambda k: MIWAE(2, k // 2, estimator="dreg"),
    "PIWAE": lambda k: PIWAE(2, k // 2),
    "CIWAE": lambda k: CIWAE(0.5, k),
    "TVO": lambda k: TVO(5, k),
}
UPPER_BOUNDS: dict[str, Callable[[int], Any]] = {"CUBO": lambda k: CUBO(2.0, k)}
BOUNDS = LOWER_BOUNDS | UPPER_BOUNDS


def is_defined(bound: Any, problem: Problem) -> bool:
    """Whether a bound is defined for a problem; where not, it has to refuse it (tested too)."""
    discrete = problem.name in {
        "mixture, classifier",
        "mixture, some labels",
        "style and label",
        "style, some labels",
        "chain, classifiers",
    }
    if isinstance(bound, PIWAE) and ("scored" in problem.tags or discrete):
        return False
    return not (bound.estimator == "dreg" and discrete)


# -- latents shared by all rows: a normal hierarchy with a global mean ------------------------------------------

XH = t([0.5, -0.3, 1.2, 2.0, 0.1, -1.0, 0.7])
GLOBAL = {"loc": t(0.3), "scale": t(0.4), "slope": t(0.5), "width": t(0.8)}


def hierarchy(x=None):
    mean = pyro.sample("mean", dist.Normal(t(0.0), 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def hierarchy_guide(x=None):
    pyro.sample("mean", dist.Normal(GLOBAL["loc"], GLOBAL["scale"]))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(GLOBAL["slope"] * x, GLOBAL["width"]))


def hierarchy_evidence(x: Tensor) -> Tensor:
    """log p of all rows together."""
    covariance = 4.0 + torch.eye(len(x), dtype=F64) * 1.25
    return dist.MultivariateNormal(torch.zeros(len(x), dtype=F64), covariance).log_prob(x)


def hierarchy_elbo(x: Tensor) -> Tensor:
    """The ELBO of all rows in closed form."""
    m, s, a, v = (GLOBAL[k] for k in ("loc", "scale", "slope", "width"))
    half = 0.5 * math.log(2 * math.pi)
    shared = -half - math.log(2.0) - (m**2 + s**2) / 8 + half + s.log() + 0.5
    prior = -half - ((a * x - m) ** 2 + v**2 + s**2) / 2
    likelihood = -half - math.log(0.5) - ((x - a * x) ** 2 + v**2) / (2 * 0.25)
    entropy = half + v.log() + 0.5
    return shared + (prior + likelihood + entropy).sum()


# -- likelihoods: name -> (likelihood, the field it is built for) ------------------------------------------------

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

# -- priors: name -> constructor; those that are p(z | y) by themselves ---------------------------------------------

PRIORS: dict[str, Callable[[], Prior]] = {
    "StandardNormal": StandardNormal,
    "Diagonal": Diagonal,
    "Mixture": lambda: Mixture(4),
    "VampPrior": lambda: VampPrior(6),
    "Exemplar": lambda: Exemplar(10),
    "FlowPrior": lambda: FlowPrior(2, (8,)),
    "SplineFlowPrior": lambda: SplineFlowPrior(2, (8,), bins=4),
    "CouplingFlowPrior": lambda: CouplingFlowPrior(2, (8,)),
}
CONDITIONAL_PRIORS: dict[str, Callable[[], Prior]] = {"LabelConditional": lambda: LabelConditional(3)}

# -- models: name -> constructor from a data set -----------------------------------------------------------------

MODELS: dict[str, Callable[[Any], Any]] = {
    "VAE": lambda data: VAE(data, latent_dim=3, hidden=(8,)),
    "VAE, no hidden layer": lambda data: VAE(data, latent_dim=2, hidden=()),
    "Hierarchical": lambda data: Hierarchical(data, latent_dims=(3, 2), hidden=(8,)),
    "Hierarchical, three layers": lambda data: Hierarchical(data, latent_dims=(3, 2, 1), hidden=(8,)),
    "GMVAE": lambda data: GMVAE(data, clusters=3, latent_dim=3, hidden=(8,)),
    "M2": lambda data: M2(data, latent_dim=3, hidden=(8,)),
    "M2, LabelConditional": lambda data: M2(data, prior=LabelConditional(10), latent_dim=3, hidden=(8,)),
    "M1": lambda data: M1(data, latent_dim=3, hidden=(8,)),
    "M1M2": lambda data: M1M2(data, latent_dims=(3, 2), hidden=(8,)),
    "AutoEncoder": lambda data: AutoEncoder(data, latent_dim=3, hidden=(8,)),
    "VAE, tanh": lambda data: VAE(data, latent_dim=3, hidden=(8, 8), activation="tanh"),
    "InformationBottleneck": lambda data: InformationBottleneck(data, latent_dim=3),
    "Regression": lambda data: Regression(data, latent_dim=3, hidden=(8,)),
    "CVAE": lambda data: CVAE(data, latent_dim=3, hidden=(8,)),
    "CVAE, learned prior": lambda data: CVAE(data, latent_dim=3, hidden=(8,), learned_prior=True),
    "CVAE, LabelConditional": lambda data: CVAE(data, latent_dim=3, hidden=(8,), prior=LabelConditional(10)),
}


def simulated(model: Any, data: Any, n: int) -> dict[str, Tensor]:
    """n rows of a model by field name; a conditional model is given the conditions of the first test rows."""
    made = model(n=n, **{name: data.test[name][:n] for name in getattr(model, "needs", ())})
    if isinstance(made, dict):
        return made
    return {next(f.name for f in data.schema if f.shape == made.shape[1:]): made}


def own_guide(model: Any) -> GeneratedGuide:
    """The guide that a model is trained with when none is named."""
    return catalog.find("guides", catalog.default_of(type(model).__name__, "default_guide", "mean_field")).load()(
        model, hidden=(8,)
    )


# -- guides: name -> class, run over programs with latents of every kind -------------------------------------------

GUIDES: dict[str, Callable[..., GeneratedGuide]] = {
    "MeanField": MeanField,
    "MeanField, independent": partial(MeanField, conditioning="independent"),
    "LowRank": LowRank,
    "FullRank": FullRank,
    "Householder": Householder,
    "Planar": partial(Planar, flows=2),
    "Radial": partial(Radial, flows=2),
    "Sylvester, householder": partial(Sylvester, flows=2),
    "Sylvester, orthogonal": partial(Sylvester, flows=2, basis="orthogonal", rank=2),
    "Sylvester, triangular": partial(Sylvester, flows=2, basis="triangular"),
    "IAF": partial(IAF, flows=2, width=8),
    "MAF": partial(MAF, flows=2, width=8),
    "Coupling": partial(Coupling, flows=2, width=8),
    "Spline": partial(Spline, bins=4, width=8),
    "Spline, coupling": partial(Spline, bins=4, width=8, coupling=True),
    "NAF": partial(NAF, flows=1, width=8, signal=4),
    "CNF": partial(CNF, width=8, tolerance=1e-6),
    "Mixture": partial(guides.Mixture, components=2),
}
WITHOUT_INVERSE = {n for n in GUIDES if n.startswith(("Planar", "Radial", "Sylvester"))}


def of_latent(prior: Callable[[], Any], mean: Callable[[Tensor], Tensor]) -> Program:
    """A model with one latent z of the given prior and three measurements around a function of it."""

    def model(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(mean(z).unsqueeze(-1).expand(*mean(z).shape, 3), 1.0).to_event(1), obs=x)

    return model


def two_layers(x=None):
    with pyro.plate("rows", len(x)):
        top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(top.sum(-1), top[..., 0].exp()))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x)


def label_and_style(x=None, y=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(4)), obs=y)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = z + 1.0 * y
        pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, 3), 1.0).to_event(1), obs=x)


def one_hot_label(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(torch.ones(4)))
        flag = pyro.sample("flag", dist.Bernoulli(0.3))
        mean = y @ torch.arange(4.0) + flag
        pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, 3), 1.0).to_event(1), obs=x)


def with_globals(x=None):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    loading = pyro.sample("loading", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * loading, scale.unsqueeze(-1)).to_event(1), obs=x)


def measured(mean: Tensor, x: Tensor) -> None:
    """Three measurements around a number."""
    pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, 3), 1.0).to_event(1), obs=x)


def label_then_two(x=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
        scale = pyro.sample("scale", dist.Gamma(2.0 + y, 1.0))
        shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        measured(scale.log() + shift.sum(-1), x)


def latent_then_label(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([z, torch.zeros_like(z), -z], -1)))
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        measured(z + y + w[..., 0], x)


def within_rows(x=None):
    """A latent for each row and one for each of its measurements."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            u = pyro.sample("u", dist.Gamma(2.0, 1.0))
            flag = pyro.sample("flag", dist.Bernoulli(0.2))
            pyro.sample("x", dist.Normal(z + u.log(), 1.0 + flag), obs=x.T)


def flags_within_rows(x=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("measurement", 3, dim=-2):
            flag = pyro.sample("flag", dist.Bernoulli(0.2))
            pyro.sample("x", dist.Normal(z, 0.5 + 2.0 * flag), obs=x.T)


def alike_measurements(x=None):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("measurement", 3, dim=-1):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def items(x=None):
    """Each measurement has a difficulty of its own, shared by all rows."""
    item = pyro.plate("item", 3, dim=-2)
    with item:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with item:
            pyro.sample("x", dist.Normal(z - difficulty, 1.0), obs=x.T)


def two_fields(x=None, count=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        measured(z.sum(-1), x)
        pyro.sample("count", dist.Poisson(z[..., 0].exp()), obs=count)


def fields_of(model: Program, rows: int = 6) -> dict[str, Tensor]:
    """Rows of every field that a program of the table observes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float32).to(torch.get_default_dtype())
    count = torch.arange(rows).to(x.dtype) % 4
    return {"x": x} | ({"count": count} if model is two_fields else {})


PROGRAMS: dict[str, Program] = {
    "real": of_latent(lambda: dist.Normal(0.0, 1.0), lambda z: z),
    "vector": of_latent(lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), lambda z: z.sum(-1)),
    "matrix": of_latent(lambda: dist.Normal(torch.zeros(2, 3), 1.0).to_event(2), lambda z: z.sum((-1, -2))),
    "positive": of_latent(lambda: dist.Gamma(2.0, 1.0), lambda z: z.log()),
    "positive vector": of_latent(lambda: dist.Gamma(2.0, torch.ones(2)).to_event(1), lambda z: z.log().sum(-1)),
    "unit interval": of_latent(lambda: dist.Beta(2.0, 2.0), lambda z: z),
    "simplex": of_latent(lambda: dist.Dirichlet(torch.ones(4)), lambda z: z[..., 0]),
    "interval": of_latent(lambda: dist.Uniform(-2.0, 5.0), lambda z: z),
    "correlations": of_latent(lambda: dist.LKJCholesky(3, 1.0), lambda z: z[..., 2, 0]),
    "two layers": two_layers,
    "label and style": label_and_style,
    "one-hot label and flag": one_hot_label,
    "shared by all rows": with_globals,
    "ordered": of_latent(
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
        ),
        lambda z: z[..., 1],
    ),
    "label, then two": label_then_two,
    "latent, then label": latent_then_label,
    "within rows": within_rows,
    "flags within rows": flags_within_rows,
    "alike measurements": alike_measurements,
    "items": items,
    "two fields": two_fields,
}
