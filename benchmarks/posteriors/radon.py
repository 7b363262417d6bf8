"""radon_mn-radon_variable_intercept_slope_noncentered: a line for each of 85 counties, written non-centred."""

import pyro
import pyro.distributions as dist
import torch

NAME = "radon_mn-radon_variable_intercept_slope_noncentered"


def data(d):
    county, floor = torch.tensor(d["county_idx"]) - 1, torch.tensor(d["floor_measure"]).float()
    return {"county": county, "floor": floor, "r": torch.tensor(d["log_radon"])}


def model(county, floor, r=None):
    sigma_y, sigma_alpha, sigma_beta = (
        pyro.sample(name, dist.HalfNormal(1.0)) for name in ("sigma_y", "sigma_alpha", "sigma_beta")
    )
    mu_alpha, mu_beta = (pyro.sample(name, dist.Normal(0.0, 10.0)) for name in ("mu_alpha", "mu_beta"))
    with pyro.plate("counties", 85):
        alpha = mu_alpha + sigma_alpha * pyro.sample("alpha_raw", dist.Normal(0.0, 1.0))
        beta = mu_beta + sigma_beta * pyro.sample("beta_raw", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(county)):
        pyro.sample("r", dist.Normal(alpha[..., county] + floor * beta[..., county], sigma_y), obs=r)


def frame(found, fields):
    effects = {
        n: found[f"mu_{n}"][:, None] + found[f"sigma_{n}"][:, None] * found[f"{n}_raw"] for n in ("alpha", "beta")
    }
    return {n: found[n] for n in found.draws if not n.endswith("_raw")} | effects
