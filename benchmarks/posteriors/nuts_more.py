"""The answers to the further posteriors: NumPyro's NUTS, once, kept in `more.json`, as `nuts.py` does for the first.

Four chains of 1,000 warm-up steps and 2,500 draws.

JAX_ENABLE_X64=1 python -m benchmarks.posteriors.nuts_more [NAME ...]      (pip install numpyro)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from benchmarks.posteriors._more_data import ALL
from benchmarks.posteriors.nuts import answered, effects

ANSWERS = Path(__file__).parent / "more.json"
sample = numpyro.sample


def pumps(d):
    alpha, beta = sample("alpha", dist.Exponential(1.0)), sample("beta", dist.Gamma(0.1, 1.0))
    theta = sample("theta", dist.Gamma(alpha, beta).expand([10]))
    sample("x", dist.Poisson(theta * d["t"]), obs=d["x"])


def dugongs(d):
    alpha, beta = sample("alpha", dist.Normal(0, 1000)), sample("beta", dist.Normal(0, 1000))
    lam, tau = sample("lam", dist.Uniform(0.5, 1.0)), sample("tau", dist.Gamma(0.0001, 0.0001))
    sample("y", dist.Normal(alpha - beta * lam ** d["x"], tau**-0.5), obs=d["y"])


def stacks(d):
    beta0, beta = sample("beta0", dist.Normal(0, 100)), sample("beta", dist.Normal(0, 100).expand([3]))
    scale = sample("scale", dist.HalfCauchy(5))
    sample("y", dist.Laplace(beta0 + d["x"] @ beta, scale), obs=d["y"])


def beetles(d):
    alpha, beta = sample("alpha", dist.Normal(0, 100)), sample("beta", dist.Normal(0, 100))
    p = 1 - jnp.exp(-jnp.exp(alpha + beta * (d["dose"] - 1.8)))
    sample("r", dist.Binomial(d["n"], probs=jnp.clip(p, 1e-7, 1 - 1e-7)), obs=d["r"])


def salm(d):
    alpha, beta, gamma = (sample(n, dist.Normal(0, 100)) for n in ("alpha", "beta", "gamma"))
    sigma = sample("sigma", dist.HalfCauchy(1))
    lam = effects("lam", 18, 0.0, sigma)
    sample(
        "y", dist.Poisson(jnp.exp(alpha + beta * jnp.log(d["dose"] + 10) + gamma * d["dose"] / 1000 + lam)), obs=d["y"]
    )


def air(d):
    a, b = sample("a", dist.Normal(0, 32)), sample("b", dist.Normal(0, 32))
    x = effects("x", 3, 4.48 + 0.76 * d["z"], 9.0)
    sample("y", dist.Binomial(d["n"], logits=a + b * x / 100), obs=d["y"])


def blocker(d):
    centre, sigma = sample("d", dist.Normal(0, 10)), sample("sigma", dist.HalfCauchy(1))
    mu = sample("mu", dist.Normal(0, 10).expand([22]))
    delta = effects("delta", 22, centre, sigma)
    sample("rc", dist.Binomial(d["nc"], logits=mu), obs=d["rc"])
    sample("rt", dist.Binomial(d["nt"], logits=mu + delta), obs=d["rt"])


def tumors(d):
    phi, kappa = sample("phi", dist.Uniform(0, 1)), sample("kappa", dist.Pareto(1.0, 1.5))
    theta = sample("theta", dist.Beta(phi * kappa, (1 - phi) * kappa).expand([71]))
    sample("y", dist.Binomial(d["n"], probs=theta), obs=d["y"])


def leukemia(d):
    shape, b0, b1 = (
        sample("shape", dist.Gamma(1.0, 0.1)),
        sample("b0", dist.Normal(0, 10)),
        sample("b1", dist.Normal(0, 10)),
    )
    log_scale = b0 + b1 * d["treated"]
    z = shape * (jnp.log(d["t"]) - log_scale)
    numpyro.factor("t", (d["died"] * (jnp.log(shape) - log_scale + (shape - 1) / shape * z) - jnp.exp(z)).sum())


def coal(d):
    early, late = sample("early", dist.Exponential(0.3)), sample("late", dist.Exponential(0.3))
    y, t = d["y"], jnp.arange(111)
    rate = jnp.where(t[None] < t[:, None], early, late)
    numpyro.factor("y", jax.nn.logsumexp(dist.Poisson(rate).log_prob(y).sum(1)) - jnp.log(111))


def garch(d):
    mu, a0 = sample("mu", dist.Normal(0, 10)), sample("alpha0", dist.HalfNormal(5))
    a1 = sample("alpha1", dist.Uniform(0, 1))
    b1 = sample("beta1", dist.Uniform(0, 1 - a1))
    step = lambda s, y: ((a0 + a1 * (y - mu) ** 2 + b1 * s**2) ** 0.5,) * 2  # noqa: E731
    s = jax.lax.scan(step, d["sigma1"], d["y"][:-1])[1]
    sample("y", dist.Normal(mu, jnp.append(d["sigma1"], s)), obs=d["y"])


def arma(d):
    mu, phi, theta = (
        sample("mu", dist.Normal(0, 10)),
        sample("phi", dist.Normal(0, 2)),
        sample("theta", dist.Normal(0, 2)),
    )
    sigma, y = sample("sigma", dist.HalfCauchy(2.5)), d["y"]
    first = y[0] - (mu + phi * mu)

    def step(before, pair):
        error = pair[1] - (mu + phi * pair[0] + theta * before)
        return error, error

    errors = jax.lax.scan(step, first, jnp.stack([y[:-1], y[1:]], 1))[1]
    numpyro.factor("y", dist.Normal(0, sigma).log_prob(jnp.append(first, errors)).sum())


def wells(d):
    b = sample("b", dist.Normal(0, 2.5).expand([4]))
    logits = b[0] + b[1] * d["dist"] + b[2] * d["arsenic"] + b[3] * d["dist"] * d["arsenic"]
    sample("switched", dist.Bernoulli(logits=logits), obs=d["switched"])


def choices(d):
    a, b = sample("a", dist.Normal(0, 1).expand([3])), sample("b", dist.Normal(0, 1).expand([3, 3]))
    sample("y", dist.Categorical(logits=a + d["x"] @ b.T), obs=d["y"])


def counts(d):
    a, b = sample("a", dist.Normal(0, 5)), sample("b", dist.Normal(0, 2.5).expand([2]))
    size = sample("size", dist.Exponential(0.1))
    sample("y", dist.NegativeBinomial2(jnp.exp(a + d["x"] @ b), size), obs=d["y"])


def ordinal(d):
    b = sample("b", dist.Normal(0, 2.5).expand([2]))
    c = sample("c", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
    numpyro.factor("prior", dist.Normal(0, 5).log_prob(c).sum())
    below = dist.Normal(0, 1).cdf(c - (d["x"] @ b)[:, None])
    edges = jnp.concatenate([jnp.zeros((150, 1)), below, jnp.ones((150, 1))], 1)
    sample("y", dist.Categorical(probs=jnp.clip(jnp.diff(edges, axis=1), 1e-9)), obs=d["y"])


def horseshoe(d):
    tau, lam = sample("_tau", dist.HalfCauchy(1)), sample("_lam", dist.HalfCauchy(1).expand([10]))
    beta = effects("beta", 10, 0.0, tau * lam)
    numpyro.deterministic("log_tau", jnp.log(tau))
    numpyro.deterministic("log_lam", jnp.log(lam))
    sample("y", dist.Normal(d["x"] @ beta, sample("sigma", dist.HalfNormal(2))), obs=d["y"])


def cafes(d):
    a, b = sample("a", dist.Normal(5, 2)), sample("b", dist.Normal(-1, 0.5))
    sd, sigma = sample("sd", dist.Exponential(1.0).expand([2])), sample("sigma", dist.Exponential(1.0))
    factor = sample("L", dist.LKJCholesky(2, 2.0))
    raw = sample("_each", dist.Normal(0, 1).expand([20, 2]))
    each = numpyro.deterministic("each", jnp.stack([a, b]) + raw @ (sd[:, None] * factor).T)
    sample("wait", dist.Normal(each[d["cafe"], 0] + each[d["cafe"], 1] * d["afternoon"], sigma), obs=d["wait"])


def crossed(d):
    mu, s1, s2 = (
        sample("mu", dist.Normal(0, 100)),
        sample("sd_rater", dist.HalfCauchy(5)),
        sample("sd_item", dist.HalfCauchy(5)),
    )
    rater, item = effects("rater", 6, 0.0, s1), effects("item", 24, 0.0, s2)
    sample("y", dist.Normal(mu + rater[d["rater"]] + item[d["item"]], sample("sigma", dist.HalfCauchy(5))), obs=d["y"])


def gp_class(d):
    rho, alpha = sample("rho", dist.InverseGamma(5.0, 5.0)), sample("alpha", dist.HalfNormal(3))
    z = sample("_z", dist.Normal(0, 1).expand([30]))
    k = alpha**2 * jnp.exp(-((d["x"][:, None] - d["x"]) ** 2) / (2 * rho**2)) + 1e-4 * jnp.eye(30)
    f = numpyro.deterministic("f", jnp.linalg.cholesky(k) @ z)
    sample("y", dist.Bernoulli(logits=f), obs=d["y"])


def mix_collapse(d):
    mu = sample("_mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    numpyro.factor("prior", dist.Normal(0, 2).log_prob(mu).sum())
    sigma, theta = sample("_sigma", dist.HalfNormal(2).expand([2])), sample("_theta", dist.Beta(5, 5))
    weights = jnp.stack([theta, 1 - theta])
    sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, sigma)), obs=d["y"])
    flip = sample("_flip", dist.Normal(0, 1)) > 0  # both labellings have the same mass
    numpyro.deterministic("mu", jnp.where(flip, mu[::-1], mu))
    numpyro.deterministic("sigma", jnp.where(flip, sigma[::-1], sigma))
    numpyro.deterministic("theta", jnp.where(flip, 1 - theta, theta))


def zip_counts(d):
    a, b = sample("a", dist.Normal(0, 2.5)), sample("b", dist.Normal(0, 2.5))
    zero = sample("zero", dist.Beta(1.0, 1.0))
    sample("y", dist.ZeroInflatedPoisson(zero, jnp.exp(a + b * d["x"])), obs=d["y"])


def volatility(d):
    mu, phi = sample("mu", dist.Normal(0, 5)), sample("phi", dist.Uniform(-1, 1))
    sigma, z = sample("sigma", dist.HalfCauchy(2.5)), sample("_z", dist.Normal(0, 1).expand([100]))
    first = sigma * z[0] / jnp.sqrt(1 - phi**2)
    rest = jax.lax.scan(lambda h, e: (phi * h + sigma * e,) * 2, first, z[1:])[1]
    h = numpyro.deterministic("h", mu + jnp.append(first, rest))
    sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=d["y"])


def students(d):
    a, b = sample("a", dist.Normal(0, 10)), sample("b", dist.Normal(0, 10))
    sigma, nu = sample("sigma", dist.HalfCauchy(2.5)), sample("nu", dist.Gamma(2.0, 0.1))
    sample("y", dist.StudentT(nu, a + b * d["x"], sigma), obs=d["y"])


def main():
    for name in sys.argv[1:] or ALL:
        raw = ALL[name]()
        found = answered(globals()[name], raw, warmup=1000, draws=2500)
        kept = json.loads(ANSWERS.read_text()) if ANSWERS.exists() else {}
        kept[name] = {"model": "", "data": raw, **found}
        ANSWERS.write_text(json.dumps(kept))
        print(name, {k: found[k] for k in ("rhat", "ess", "divergences")}, flush=True)


if __name__ == "__main__":
    main()
