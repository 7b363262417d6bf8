"""The posteriors with gold draws as NumPyro programs, for its own guides; the others are in `nuts.py`.

Sites that start with an underscore are no numbers of the answer; the order is the answer's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from posteriors.nuts import FLAT, MODELS


def flat(name, size):
    return numpyro.sample(name, dist.ImproperUniform(dist.constraints.real_vector, (), (size,)))


def regression(a, y, sigma=FLAT):
    beta = flat("beta", a.shape[1])
    numpyro.sample("y", dist.Normal(a @ beta, numpyro.sample("sigma", sigma)), obs=y)


def ark(d):
    k, y = d["K"], d["y"]
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([k]))
    lags = jnp.stack([y[k - i - 1 : len(y) - i - 1] for i in range(k)], 1)
    numpyro.sample("y", dist.Normal(alpha + lags @ beta, numpyro.sample("sigma", dist.HalfCauchy(2.5))), obs=y[k:])


def blr(d):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([d["X"].shape[1]]))
    numpyro.sample("y", dist.Normal(d["X"] @ beta, numpyro.sample("sigma", dist.HalfNormal(10))), obs=d["y"])


def diamonds(d):
    x = d["X"][:, 1:]
    b = numpyro.sample("b", dist.Normal(0, 1).expand([x.shape[1]]))
    intercept = numpyro.sample("Intercept", dist.StudentT(3, 8, 10))
    sigma = numpyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3, 0, 10)))
    numpyro.sample("y", dist.Normal(intercept + (x - x.mean(0)) @ b, sigma), obs=d["Y"])


def eight_schools(d):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([d["J"]]))  # written centred, as our program is
    numpyro.sample("y", dist.Normal(theta, d["sigma"]), obs=d["y"])


def gauss_mix(d):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    numpyro.factor("prior", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    each = jnp.stack([theta, 1 - theta])
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(each), dist.Normal(mu, sigma)), obs=d["y"])


def kernel(x, rho, alpha):
    return alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)


def gp_regr(d):
    rho, alpha = numpyro.sample("rho", dist.Gamma(25, 4)), numpyro.sample("alpha", dist.HalfNormal(2))
    noise = numpyro.sample("sigma", dist.HalfNormal(1)) * jnp.eye(len(d["x"]))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(d["x"])), kernel(d["x"], rho, alpha) + noise), obs=d["y"])


def gp_pois_regr(d):
    rho, alpha = numpyro.sample("rho", dist.Gamma(25, 4)), numpyro.sample("alpha", dist.HalfNormal(2))
    raw = numpyro.sample("_raw", dist.Normal(0, 1).expand([len(d["x"])]))
    factor = jnp.linalg.cholesky(kernel(d["x"], rho, alpha) + 1e-10 * jnp.eye(len(d["x"])))
    numpyro.sample("k", dist.Poisson(jnp.exp(numpyro.deterministic("f", factor @ raw))), obs=d["k"])


def hmm(d):
    theta = jnp.stack([numpyro.sample(n, dist.Dirichlet(jnp.ones(2))) for n in ("theta1", "theta2")])
    first, more = numpyro.sample("_first", FLAT), numpyro.sample("_more", FLAT)
    mu = numpyro.deterministic("mu", jnp.stack([first, first + more]))
    numpyro.factor("prior", dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu).sum())
    each = dist.Normal(mu, 1).log_prob(d["y"][:, None])

    def step(state, seen):
        return jax.nn.logsumexp(state[:, None] + jnp.log(theta), 0) + seen, None

    numpyro.factor("y", jax.nn.logsumexp(jax.lax.scan(step, each[0] - jnp.log(2), each[1:])[0]))


def kidscore(d):
    hs, iq = d["mom_hs"] * 1.0, d["mom_iq"]
    regression(jnp.stack([jnp.ones(len(iq)), hs, iq], 1), d["kid_score"], dist.HalfCauchy(2.5))


def kidscore_interaction(d):
    hs, iq = d["mom_hs"] * 1.0, d["mom_iq"]
    regression(jnp.stack([jnp.ones(len(iq)), hs, iq, hs * iq], 1), d["kid_score"], dist.HalfCauchy(2.5))


def kilpisjarvi(d):
    alpha = numpyro.sample("alpha", dist.Normal(d["pmualpha"], d["psalpha"]))
    beta = numpyro.sample("beta", dist.Normal(d["pmubeta"], d["psbeta"]))
    numpyro.sample("y", dist.Normal(alpha + beta * d["x"], numpyro.sample("sigma", FLAT)), obs=d["y"])


def logearn(d):
    h, m = d["height"] * 1.0, d["male"] * 1.0
    regression(jnp.stack([jnp.ones(len(h)), h, m, h * m], 1), jnp.log(d["earn"]))


def mesquite(d):
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    regression(jnp.stack([jnp.ones(d["N"]), *(d[n] * 1.0 for n in names)], 1), d["weight"])


def logvash(d):
    area = d["diam1"] * d["diam2"]
    logs = [jnp.log(v) for v in (area * d["canopy_height"], area, d["diam1"] / d["diam2"], d["total_height"])]
    regression(jnp.stack([jnp.ones(len(area)), *logs, d["group"] * 1.0], 1), jnp.log(d["weight"]))


def nes(d):
    ages = [(d["age_discrete"] == k) * 1.0 for k in (2, 3, 4)]
    columns = [jnp.ones(len(d["gender"])), d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"]]
    regression(jnp.stack(columns, 1), d["partyid7"])


ALL = MODELS | {
    "arK-arK": ark,
    "sblrc-blr": blr,
    "diamonds-diamonds": diamonds,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "low_dim_gauss_mix-low_dim_gauss_mix": gauss_mix,
    "gp_pois_regr-gp_regr": gp_regr,
    "gp_pois_regr-gp_pois_regr": gp_pois_regr,
    "hmm_example-hmm_example": hmm,
    "kidiq-kidscore_momhsiq": kidscore,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "earnings-logearn_interaction": logearn,
    "mesquite-mesquite": mesquite,
    "mesquite-logmesquite_logvash": logvash,
    "nes1980-nes": nes,
}

ORDERS = {"eight_schools-eight_schools_noncentered": ("theta", "mu", "tau")}
