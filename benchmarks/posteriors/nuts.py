"""The answers to the posteriors without gold draws: NumPyro's NUTS, once, kept in `gold.json` beside the others.

Four chains of 2,000 warm-up steps and 5,000 draws, float64, acceptance 0.95. Group effects are written apart from
their scale, which changes no posterior. Kept: means, deviations, correlations, the largest R-hat, the smallest ESS.

    JAX_ENABLE_X64=1 python -m benchmarks.posteriors.nuts no_gold.json [NAME ...]      (pip install numpyro)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

GOLD = Path(__file__).parent / "gold.json"
FLAT = dist.ImproperUniform(dist.constraints.positive, (), ())


def effects(name, size, loc, scale):
    raw = numpyro.sample(f"_{name}", dist.Normal(0, 1).expand([size]))
    return numpyro.deterministic(name, loc + scale * raw)


def rats(d):
    sigma, sigma_alpha, sigma_beta = (numpyro.sample(n, FLAT) for n in ("sigma_y", "sigma_alpha", "sigma_beta"))
    mu_alpha, mu_beta = (numpyro.sample(n, dist.Normal(0, 100)) for n in ("mu_alpha", "mu_beta"))
    alpha, beta = effects("alpha", d["N"], mu_alpha, sigma_alpha), effects("beta", d["N"], mu_beta, sigma_beta)
    numpyro.sample("y", dist.Normal(alpha[d["rat"] - 1] + beta[d["rat"] - 1] * (d["x"] - d["xbar"]), sigma), obs=d["y"])


def seeds(d):
    a = [numpyro.sample(n, dist.Normal(0, 1000)) for n in ("alpha0", "alpha1", "alpha2", "alpha12")]
    tau = numpyro.sample("_tau", dist.Gamma(0.001, 0.001))
    b = effects("b", d["I"], 0.0, numpyro.deterministic("sigma", tau**-0.5))
    logits = a[0] + a[1] * d["x1"] + a[2] * d["x2"] + a[3] * d["x1"] * d["x2"] + b
    numpyro.sample("n", dist.Binomial(d["N"], logits=logits), obs=d["n"])


def surgical(d):
    mu, square = numpyro.sample("mu", dist.Normal(0, 1000)), numpyro.sample("_square", dist.InverseGamma(0.001, 0.001))
    b = effects("b", d["N"], mu, numpyro.deterministic("sigma", square**0.5))
    numpyro.sample("r", dist.Binomial(d["n"], logits=b), obs=d["r"])


def glmm_poisson(d):
    alpha = numpyro.sample("alpha", dist.Uniform(-20, 20))
    beta = [numpyro.sample(f"beta{i}", dist.Uniform(-10, 10)) for i in (1, 2, 3)]
    eps = effects("eps", d["n"], 0.0, numpyro.sample("sigma", dist.Uniform(0, 5)))
    level = alpha + sum(b * d["year"] ** (i + 1) for i, b in enumerate(beta)) + eps
    numpyro.sample("C", dist.Poisson(jnp.exp(level)), obs=d["C"])


def irt_2pl(d):
    st, sa, sb = (numpyro.sample(n, dist.HalfCauchy(2)) for n in ("sigma_theta", "sigma_a", "sigma_b"))
    theta, log_a = effects("theta", d["J"], 0.0, st), effects("_log_a", d["I"], 0.0, sa)
    a = numpyro.deterministic("a", jnp.exp(log_a))
    b = effects("b", d["I"], numpyro.sample("mu_b", dist.Normal(0, 5)), sb)
    numpyro.sample("y", dist.Bernoulli(logits=a[:, None] * (theta[None] - b[:, None])), obs=d["y"])


def radon(d):
    sigma, sigma_alpha, sigma_beta = (
        numpyro.sample(n, dist.HalfNormal(1)) for n in ("sigma_y", "sigma_alpha", "sigma_beta")
    )
    mu_alpha, mu_beta = (numpyro.sample(n, dist.Normal(0, 10)) for n in ("mu_alpha", "mu_beta"))
    alpha, beta = effects("alpha", d["J"], mu_alpha, sigma_alpha), effects("beta", d["J"], mu_beta, sigma_beta)
    county = d["county_idx"] - 1
    numpyro.sample("y", dist.Normal(alpha[county] + d["floor_measure"] * beta[county], sigma), obs=d["log_radon"])


def dogs(d):
    mu = numpyro.sample("mu", dist.Logistic(0, 1).expand([2]))
    scale = numpyro.sample("scale", dist.HalfNormal(1).expand([2]))
    factor = numpyro.sample("L", dist.LKJCholesky(2, 2.0))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([d["n_dogs"], 2]))
    rates = jax.nn.sigmoid(mu + scale * (z @ factor.T))
    before = jnp.cumsum(d["y"], 1) - d["y"]  # shocks: trials that the dog did not avoid
    avoided = jnp.arange(d["n_trials"]) - before
    log_p = before * jnp.log(rates[:, :1]) + avoided * jnp.log(rates[:, 1:])
    numpyro.sample("y", dist.Bernoulli(probs=jnp.exp(log_p).clip(1e-12, 1 - 1e-12)), obs=d["y"])


def pilots(d):
    mu_a, mu_b = (numpyro.sample(n, dist.Normal(0, 1)) for n in ("mu_a", "mu_b"))
    sa, sb, sy = (numpyro.sample(n, dist.Uniform(0, 100)) for n in ("sigma_a", "sigma_b", "sigma_y"))
    a, b = effects("a", d["n_groups"], 10 * mu_a, sa), effects("b", d["n_scenarios"], 10 * mu_b, sb)
    numpyro.sample("y", dist.Normal(a[d["group_id"] - 1] + b[d["scenario_id"] - 1], sy), obs=d["y"])


MODELS = {
    "rats_data-rats_model": rats,
    "seeds_data-seeds_model": seeds,
    "surgical_data-surgical_model": surgical,
    "GLMM_Poisson_data-GLMM_Poisson_model": glmm_poisson,
    "irt_2pl-irt_2pl": irt_2pl,
    "radon_mn-radon_variable_intercept_slope_noncentered": radon,
    "dogs-dogs_nonhierarchical": dogs,
    "pilots-pilots": pilots,
}


def scalars(draws):
    """Every number by name, [draw], as the benchmark names them."""
    for name, value in draws.items():
        if not name.startswith("_"):
            for index in np.ndindex(value.shape[1:]):
                yield name + (f"[{', '.join(map(str, index))}]" if index else ""), value[(slice(None), *index)]


def answered(model, raw, seed=0, warmup=2000, draws=5000):
    data = {n: np.asarray(v) if isinstance(v, list) else v for n, v in raw.items()}
    mcmc = MCMC(
        NUTS(model, target_accept_prob=0.95), num_warmup=warmup, num_samples=draws, num_chains=4,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.PRNGKey(seed), data)
    draws = {n: np.asarray(v) for n, v in mcmc.get_samples().items()}
    found = {n: v for n, v in scalars(draws) if v.std() > 0}
    each = {n: v for n, v in mcmc.get_samples(group_by_chain=True).items() if not n.startswith("_") and n != "L"}
    worst = numpyro.diagnostics.summary(each, group_by_chain=True)
    table = np.stack(list(found.values()), 1)
    return {
        "parameters": list(found),
        "mean": table.mean(0).tolist(),
        "sd": table.std(0).tolist(),
        "correlation": np.corrcoef(table.T).round(4).tolist(),
        "rhat": max(float(np.max(s["r_hat"])) for s in worst.values()),
        "ess": min(float(np.min(s["n_eff"])) for s in worst.values()),
        "divergences": int(mcmc.get_extra_fields().get("diverging", np.zeros(1)).sum()),
        "seed": seed,
    }


def main():
    file, *names = sys.argv[1:]
    tasks = json.loads(Path(file).read_text())
    for name in names or MODELS:
        found = answered(MODELS[name], tasks[name]["data"])
        kept = json.loads(GOLD.read_text())
        kept[name] = {"model": tasks[name]["model"], "data": tasks[name]["data"], **found}
        GOLD.write_text(json.dumps(kept))
        print(name, {k: found[k] for k in ("rhat", "ess", "divergences")}, flush=True)


if __name__ == "__main__":
    main()
