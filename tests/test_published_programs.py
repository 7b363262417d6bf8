"""Programs as their authors publish them (Pyro's and NumPyro's examples, Stan's case studies): our ELBO is Pyro's.

Each is run with Pyro's own `AutoNormal`, its parameters frozen, under one seed; discrete latents are summed out in the
model. Then a guide is generated from the model: its weights are finite, or the program is refused in one line.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import AutoReparam, LocScaleReparam, TransformReparam
from pyro.nn import PyroModule, PyroSample
from torch.distributions.constraints import positive

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO
from ppl_vae.data import as_one_unit
from ppl_vae.guides import MeanField

F64 = torch.float64
T, N = 8, 12


def number(*values):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=F64)


def randn(*shape):
    return torch.randn(*shape, dtype=F64, generator=torch.manual_seed(sum(shape)))


def normal(loc=0.0, scale=1.0):
    return dist.Normal(torch.as_tensor(loc, dtype=F64), torch.as_tensor(scale, dtype=F64))


X, COUNTS, FLAGS = randn(N), (randn(N).abs() * 3).round(), (randn(N) > 0).double()
GROUP = torch.arange(N) % 3


def censored_survival(t, seen):
    """Stan's user guide: Weibull times, the censored ones by their survival function."""
    shape, scale = (
        pyro.sample("shape", dist.Gamma(number(2.0), 1.0)),
        pyro.sample("scale", dist.Gamma(number(2.0), 1.0)),
    )
    with pyro.plate("data", len(t)):
        with poutine.mask(mask=seen):
            pyro.sample("t", dist.Weibull(scale, shape), obs=t)
        pyro.factor("alive", torch.where(seen, number(0.0), -((t / scale) ** shape)))


def capture_recapture(y):
    """Cormack-Jolly-Seber, Pyro examples/capture_recapture: alive or not, summed out along the occasions."""
    phi, rho = pyro.sample("phi", dist.Beta(number(1.0), 1.0)), pyro.sample("rho", dist.Beta(number(1.0), 1.0))
    with pyro.plate("animals", len(y), dim=-1):
        z, first = torch.ones(len(y), dtype=F64), torch.zeros(len(y), dtype=torch.bool)
        for t in pyro.markov(range(4)):
            with poutine.mask(mask=first):
                z = pyro.sample(f"z_{t}", dist.Bernoulli(phi * z), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=y[:, t])
            first = first | y[:, t].bool()


def hidden_markov(y):
    """Pyro examples/hmm: one series, its states summed out."""
    with pyro.plate("states", 3):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(3, dtype=F64)))
        loc = pyro.sample("loc", normal(0.0, 3.0))
    x = 0
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(rows[x]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(loc[x], number(1.0)), obs=y[t])


def topics(words):
    """Pyro examples/lda, its topic of every word summed out."""
    with pyro.plate("topics", 3):
        topic = pyro.sample("topic", dist.Dirichlet(torch.ones(5, dtype=F64)))
    with pyro.plate("documents", words.shape[1], dim=-1):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(3, dtype=F64)))
        with pyro.plate("words", words.shape[0], dim=-2):
            z = pyro.sample("z", dist.Categorical(theta), infer={"enumerate": "parallel"})
            pyro.sample("w", dist.Categorical(topic[z]), obs=words)


def buy_till_you_die(count, last, end):
    """Pareto / negative binomial: a customer's likelihood by hand, as in PyMC-Marketing."""
    r, alpha = pyro.sample("r", dist.Gamma(number(2.0), 2.0)), pyro.sample("alpha", dist.Gamma(number(2.0), 2.0))
    with pyro.plate("customers", len(count)):
        rate, death = pyro.sample("rate", dist.Gamma(r, alpha)), pyro.sample("death", dist.Gamma(number(2.0), 2.0))
        ended = death * torch.exp(-(rate + death) * last) + rate * torch.exp(-(rate + death) * end)
        pyro.factor("bought", count * rate.log() + (ended / (rate + death)).log())


def two_levels(y):
    """Gelman and Hill: logistic regression with groups in regions."""
    sigma = pyro.sample("sigma", dist.HalfNormal(number(1.0)))
    with pyro.plate("regions", 2):
        region = pyro.sample("region", normal())
    with pyro.plate("groups", 3):
        group = pyro.sample("group", dist.Normal(region[..., torch.tensor([0, 0, 1])], sigma))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=group[..., GROUP[: len(y)]]), obs=y)


def measurement_error(x, y):
    """Stan's user guide: the true predictor is latent."""
    a, b = pyro.sample("a", normal()), pyro.sample("b", normal())
    with pyro.plate("data", len(x)):
        true = pyro.sample("true", normal())
        pyro.sample("x", dist.Normal(true, number(0.5)), obs=x)
        pyro.sample("y", dist.Normal(a + b * true, number(0.7)), obs=y)


def change_point(y):
    """Stan's user guide, coal mining: the year of the change summed out by hand."""
    early, late = (
        pyro.sample("early", dist.Exponential(number(1.0))),
        pyro.sample("late", dist.Exponential(number(1.0))),
    )
    t = torch.arange(len(y))
    rate = torch.where(t < t[:, None], early.unsqueeze(-1).unsqueeze(-1), late.unsqueeze(-1).unsqueeze(-1))
    pyro.factor("years", (dist.Poisson(rate).log_prob(y).sum(-1) - number(float(len(y))).log()).logsumexp(-1))


def zero_inflated(y):
    gate, rate = pyro.sample("gate", dist.Beta(number(1.0), 1.0)), pyro.sample("rate", dist.Gamma(number(2.0), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=gate), obs=y)


def mixed_membership(y):
    """Grade of membership: answers of a person come from classes of its own mixture."""
    with pyro.plate("classes", 2, dim=-2), pyro.plate("questions", 4, dim=-1):
        yes = pyro.sample("yes", dist.Beta(number(1.0), 1.0))
    with pyro.plate("people", len(y), dim=-2):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2, dtype=F64)))
        with pyro.plate("answers", 4, dim=-1):
            z = pyro.sample("z", dist.Categorical(share), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Bernoulli(yes[z, torch.arange(4)]), obs=y)


def gaussian_process(x, y):
    """Stan's user guide: latent values by the Cholesky factor of their covariance; all data are one unit."""
    length, height = (
        pyro.sample("length", dist.Gamma(number(4.0), 4.0)),
        pyro.sample("height", dist.HalfNormal(number(1.0))),
    )
    eta = pyro.sample("eta", dist.Normal(torch.zeros(len(x), dtype=F64), number(1.0)).to_event(1))
    apart = (x[:, None] - x).square()
    k = height**2 * torch.exp(-apart / (2 * length**2)) + 1e-6 * torch.eye(len(x), dtype=F64)
    pyro.sample("y", dist.Poisson((torch.linalg.cholesky(k) @ eta).exp()).to_event(1), obs=y)


def autoregression(y):
    """AR(2) of one series."""
    a = pyro.sample("a", normal(torch.zeros(2, dtype=F64), 0.5).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(number(1.0)))
    mean = a[..., :1] * y[1:-1] + a[..., 1:] * y[:-2]
    pyro.sample("y", dist.Normal(mean, s.unsqueeze(-1)).to_event(1), obs=y[2:])


def stochastic_volatility(y):
    """NumPyro examples/stochastic_volatility."""
    sigma, nu = pyro.sample("sigma", dist.Exponential(number(5.0))), pyro.sample("nu", dist.Exponential(number(0.1)))
    steps = pyro.sample("steps", normal(torch.zeros(len(y), dtype=F64)).to_event(1))
    level = (sigma.unsqueeze(-1) * steps).cumsum(-1)
    pyro.sample("y", dist.StudentT(nu.unsqueeze(-1), 0.0, level.exp()).to_event(1), obs=y)


def item_response(y):
    with pyro.plate("items", 4, dim=-1):
        a, b = pyro.sample("a", dist.LogNormal(number(0.0), 0.5)), pyro.sample("b", normal())
    with pyro.plate("people", len(y), dim=-2):
        ability = pyro.sample("ability", normal())
        with pyro.plate("answers", 4, dim=-1):
            pyro.sample("y", dist.Bernoulli(logits=a * (ability - b)), obs=y)


def bradley_terry(first, second, won):
    with pyro.plate("players", 4):
        skill = pyro.sample("skill", normal())
    with pyro.plate("games", len(won)):
        pyro.sample("won", dist.Bernoulli(logits=skill[..., first] - skill[..., second]), obs=won)


def dirichlet_multinomial(y):
    alpha = pyro.sample("alpha", dist.Gamma(number(2.0), 1.0))
    with pyro.plate("data", len(y)):
        share = pyro.sample("share", dist.Dirichlet(alpha * torch.ones(3, dtype=F64)))
        pyro.sample("y", dist.Multinomial(probs=share, validate_args=False), obs=y)


def plackett_luce(ranks):
    """A ranking's likelihood by hand: the best of those that are left, one after another."""
    with pyro.plate("things", 4):
        worth = pyro.sample("worth", normal())
    with pyro.plate("data", len(ranks)):
        w = worth[..., ranks]
        left = w.flip(-1).logcumsumexp(-1).flip(-1)
        pyro.factor("order", (w - left).sum(-1))


def splines(x, y):
    """A regression on knots with a random walk as prior of their coefficients (McElreath's cherry blossoms)."""
    tau = pyro.sample("tau", dist.HalfNormal(number(1.0)))
    steps = pyro.sample("steps", normal(torch.zeros(5, dtype=F64)).to_event(1))
    basis = (1 - (x[:, None] - torch.linspace(-2, 2, 5, dtype=F64)).abs()).clamp(min=0)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(basis @ (tau * steps.cumsum(-1)), number(0.5)), obs=y)


def factorisation(user, item, rating):
    with pyro.plate("users", 4):
        u = pyro.sample("u", normal(torch.zeros(2, dtype=F64)).to_event(1))
    with pyro.plate("items", 3):
        v = pyro.sample("v", normal(torch.zeros(2, dtype=F64)).to_event(1))
    with pyro.plate("data", len(rating)):
        pyro.sample("rating", dist.Normal((u[user] * v[item]).sum(-1), number(0.5)), obs=rating)


def raters(y):
    """Dawid and Skene, NumPyro examples/annotation."""
    with pyro.plate("raters", 3, dim=-2), pyro.plate("classes", 2, dim=-1):
        beta = pyro.sample("beta", dist.Dirichlet(number(1.0, 2.0)))
    pi = pyro.sample("pi", dist.Dirichlet(torch.ones(2, dtype=F64)))
    with pyro.plate("items", len(y), dim=-2):
        c = pyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
        with pyro.plate("positions", 3, dim=-1):
            pyro.sample("y", dist.Categorical(beta[torch.arange(3), c]), obs=y)


def occupancy(y):
    """Stan case study: a site is occupied or not, visits see it or not."""
    psi, p = pyro.sample("psi", dist.Beta(number(1.0), 1.0)), pyro.sample("p", dist.Beta(number(1.0), 1.0))
    with pyro.plate("sites", len(y), dim=-2):
        z = pyro.sample("z", dist.Bernoulli(psi), infer={"enumerate": "parallel"})
        with pyro.plate("visits", 4, dim=-1):
            pyro.sample("y", dist.Bernoulli(p * z), obs=y)


def mixture(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, dtype=F64)))
    scale = pyro.sample("scale", dist.LogNormal(number(0.0), 1.0))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", normal(0.0, 5.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc[k], scale), obs=x)


def robust_regression(x, y):
    b = pyro.sample("b", normal(torch.zeros(2, dtype=F64)).to_event(1))
    nu, s = pyro.sample("nu", dist.Gamma(number(2.0), 0.1)), pyro.sample("s", dist.HalfCauchy(number(1.0)))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.StudentT(nu, b[..., 0] + b[..., 1] * x, s), obs=y)


def horseshoe(x, y):
    tau = pyro.sample("tau", dist.HalfCauchy(number(1.0)))
    with pyro.plate("coefficients", 3):
        lam = pyro.sample("lam", dist.HalfCauchy(number(1.0)))
        z = pyro.sample("z", normal())
    beta = pyro.deterministic("beta", tau * lam * z)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, number(1.0)), obs=y)


def ordinal(x, y):
    b = pyro.sample("b", normal())
    cuts = pyro.sample(
        "cuts",
        dist.TransformedDistribution(normal(torch.zeros(2, dtype=F64)).to_event(1), dist.transforms.OrderedTransform()),
    )
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.OrderedLogistic(b * x, cuts), obs=y)


def lotka_volterra(y):
    """An ODE by Euler steps, one series of two species."""
    theta = pyro.sample("theta", dist.LogNormal(torch.full((4,), -1.0, dtype=F64), 0.3).to_event(1))
    a, b, c, d = theta.unbind(-1)
    u, v, states = y[0, 0], y[0, 1], []
    for _ in range(len(y)):
        u, v = u + 0.1 * (a - b * v) * u, v + 0.1 * (d * u - c) * v
        states.append(torch.stack([u, v], -1))
    with pyro.plate("time", len(y), dim=-2), pyro.plate("species", 2, dim=-1):
        pyro.sample("y", dist.LogNormal(torch.stack(states, -2).log(), number(0.3)), obs=y)


def epidemic(y):
    """SIR in its expectation, negative binomial cases."""
    beta, size = (
        pyro.sample("beta", dist.LogNormal(number(0.0), 0.5)),
        pyro.sample("size", dist.Gamma(number(4.0), 1.0)),
    )
    s, i, cases = number(100.0), number(2.0), []
    for _ in range(len(y)):
        new = s * -torch.expm1(-beta * i / 100)
        s, i = s - new, i + new - 0.3 * i
        cases.append(new)
    mean = torch.stack(cases, -1)
    pyro.sample(
        "y", dist.NegativeBinomial(size.unsqueeze(-1), logits=(mean / size.unsqueeze(-1)).log()).to_event(1), obs=y
    )


def spike_and_slab(x, y):
    with pyro.plate("coefficients", 3, dim=-1):
        slab = pyro.sample("slab", normal())
        within = pyro.sample("within", dist.RelaxedBernoulliStraightThrough(number(0.5), probs=number(0.5)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ (slab * within), number(1.0)), obs=y)


WIDE = randn(N, 3)


def regularised_horseshoe(x, y):
    """Piironen and Vehtari 2017."""
    tau = pyro.sample("tau", dist.HalfCauchy(number(0.1)))
    slab = pyro.sample("slab", dist.InverseGamma(number(2.0), 8.0))
    with pyro.plate("columns", x.shape[-1]):
        local = pyro.sample("local", dist.HalfCauchy(number(1.0)))
        width = slab.sqrt() * local / (slab + tau**2 * local**2).sqrt()
        beta = pyro.sample("beta", dist.Normal(number(0.0), tau * width))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def mixture_of_experts(x, y):
    """Jacobs et al. 1991: regressions, of which a gate that sees x chooses one."""
    with pyro.plate("experts", 2):
        slope, gate = pyro.sample("slope", normal(0.0, 2.0)), pyro.sample("gate", normal())
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(logits=x[:, None] * gate), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(slope[k] * x, number(0.5)), obs=y)


def change_point_of_one_unit(y):
    """PyMC's coal mining, the year a latent that is summed out, its observations in a loop."""
    early, late = (
        pyro.sample("early", dist.Exponential(number(1.0))),
        pyro.sample("late", dist.Exponential(number(1.0))),
    )
    year = pyro.sample("year", dist.Categorical(torch.ones(len(y), dtype=F64)), infer={"enumerate": "parallel"})
    for t in range(len(y)):
        pyro.sample(f"y_{t}", dist.Poisson(torch.where(t < year, early, late)), obs=y[t])


def graded_response(y):
    """Samejima 1969: ordered answers to items, each with thresholds of its own."""
    with pyro.plate("items", y.shape[-1]):
        slope = pyro.sample("slope", dist.LogNormal(number(0.0), 0.5))
        ordered = [dist.transforms.OrderedTransform()]
        cut = pyro.sample("cut", dist.TransformedDistribution(normal(torch.zeros(2), 1.5).to_event(1), ordered))
    with pyro.plate("data", len(y)):
        trait = pyro.sample("trait", normal())
        pyro.sample("y", dist.OrderedLogistic(slope * trait.unsqueeze(-1), cut).to_event(1), obs=y)


def hidden_semi_markov(y):
    """A state stays for 1 to 3 steps, by a counter beside it that runs down."""
    with pyro.plate("states", 2):
        loc = pyro.sample("loc", normal(0.0, 2.0))
        stay = pyro.sample("stay", dist.Dirichlet(torch.ones(3, dtype=F64)))
    state, left = torch.tensor(0), torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        over, values = (left == 0).unsqueeze(-1), torch.arange(2)
        moved = torch.where(over, state.unsqueeze(-1) != values, state.unsqueeze(-1) == values).double()
        runs = torch.nn.functional.one_hot((left - 1).clamp(min=0), 3).double()
        state = pyro.sample(f"state_{t}", dist.Categorical(moved), infer={"enumerate": "parallel"})
        lengths = torch.where(over, stay[state], runs)
        left = pyro.sample(f"left_{t}", dist.Categorical(lengths), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(loc[state], number(1.0)), obs=y[t])


def zero_inflated_negative_binomial(x, y):
    """Counts with more zeros and more spread than a Poisson's."""
    level, size = pyro.sample("level", normal()), pyro.sample("size", dist.Gamma(number(2.0), 1.0))
    gate = pyro.sample("gate", normal())
    with pyro.plate("data", len(x)):
        fn = dist.ZeroInflatedNegativeBinomial(size, logits=level + 0.2 * x, gate_logits=gate + 0 * x)
        pyro.sample("y", fn, obs=y)


def augmented_capture(y):
    """Royle, Dorazio and Link 2007: rows that were never seen may be animals or not."""
    share, seen = pyro.sample("share", dist.Beta(number(1.0), 1.0)), pyro.sample("seen", dist.Beta(number(1.0), 1.0))
    with pyro.plate("animals", len(y)):
        real = pyro.sample("real", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        chance = (real * seen).unsqueeze(-1)
        pyro.sample("y", dist.Bernoulli(chance.expand(*chance.shape[:-1], y.shape[-1])).to_event(1), obs=y)


def covariance(x):
    """Pyro's LKJ example, as it stands there."""
    width = pyro.sample("width", dist.HalfCauchy(torch.ones(x.shape[1], dtype=F64)).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(x.shape[1], torch.ones((), dtype=F64)))
    scaled = torch.mm(torch.diag(width.sqrt()), factor)
    with pyro.plate("observations", len(x)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(x.shape[1], dtype=F64), scale_tril=scaled), obs=x)


def mixture_as_a_distribution(x):
    """The label is inside of the likelihood."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=F64)))
    loc = pyro.sample("loc", normal(torch.zeros(3), 2.0).to_event(1))
    width = pyro.sample("width", dist.HalfNormal(number(1.0)))
    with pyro.plate("data", len(x)):
        parts = dist.Normal(loc, width.unsqueeze(-1))
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


def epidemic_in_steps(y):
    """SIR step by step, as in Pyro's contrib.epidemiology, the new cases relaxed to a continuous draw."""
    basic, told = (
        pyro.sample("basic", dist.LogNormal(number(0.0), 1.0)),
        pyro.sample("told", dist.Beta(number(2.0), 2.0)),
    )
    well, ill = number(20.0), number(2.0)
    for t in range(len(y)):
        expected = well * (1 - (-basic / 7 * ill / 22).exp())
        new = pyro.sample(f"new_{t}", dist.LogNormal(expected.log(), number(0.3)))
        well, ill = (well - new).clamp(min=0.1), ill * 6 / 7 + new
        pyro.sample(f"y_{t}", dist.NegativeBinomial(number(10.0), logits=(told * new / 10).log()), obs=y[t])


def gaussian_process_marginal(x, y):
    """Pyro's contrib.gp: hyperparameters with priors, the field integrated out."""
    length, noise = (pyro.sample(n, dist.LogNormal(number(0.0), 1.0)) for n in ("length", "noise"))
    kernel = (-0.5 * ((x[:, None] - x) / length[..., None, None]) ** 2).exp()
    kernel = kernel + noise[..., None, None] * torch.eye(len(x), dtype=F64)
    fn = dist.MultivariateNormal(torch.zeros(len(x), dtype=F64), scale_tril=torch.linalg.cholesky(kernel))
    pyro.sample("y", fn, obs=y)


class Network(PyroModule):
    """Neal 1996, as in Pyro's tutorial: weights are random variables by `PyroSample`."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = PyroModule[torch.nn.Linear](3, 4), PyroModule[torch.nn.Linear](4, 1)
        for layer in (self.hidden, self.out):
            layer.weight = PyroSample(normal(torch.zeros(layer.weight.shape)).to_event(2))
            layer.bias = PyroSample(normal(torch.zeros(layer.bias.shape)).to_event(1))

    def forward(self, x, y):
        mean = self.out(torch.tanh(self.hidden(x))).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, number(1.0)), obs=y)


def random_module(x, y):
    """The idiom before `PyroSample`."""
    prior = {"weight": normal(torch.zeros(1, 3)).to_event(2), "bias": normal(torch.zeros(1)).to_event(1)}
    mean = pyro.random_module("net", LINEAR, prior)()(x).squeeze(-1)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(mean, number(1.0)), obs=y)


LINEAR = torch.nn.Linear(3, 1).double()


def hierarchy(x, y=None):
    """What Pyro's handlers are put around."""
    slope, width = pyro.sample("slope", normal()), pyro.sample("width", dist.LogNormal(number(0.0), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(slope * x, width))
        return pyro.sample("y", dist.Normal(z, number(1.0)), obs=y)


def with_parameters(x, y):
    slope, width = pyro.param("slope", number(0.5)), pyro.param("width", number(1.0), constraint=positive)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(slope * x, width), obs=y)


def log_normal_slope(x, y):
    parts = [dist.transforms.AffineTransform(number(1.0), 2.0), dist.transforms.ExpTransform()]
    slope = pyro.sample("slope", dist.TransformedDistribution(normal(), parts))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(slope * x, number(1.0)), obs=y)


XY = {"x": X, "y": X.flip(0)}
HANDLED = {
    "condition": (poutine.condition(hierarchy, data={"y": X.flip(0)}), {"x": X}),
    "condition a latent": (poutine.condition(hierarchy, data={"slope": number(0.3)}), XY),
    "do": (poutine.do(hierarchy, data={"slope": number(0.3)}), XY),
    "infer_config": (poutine.infer_config(hierarchy, lambda site: {"note": site["name"]}), XY),
    "lift": (poutine.lift(with_parameters, prior={"slope": normal(), "width": dist.LogNormal(number(0.0), 1.0)}), XY),
    "lift one": (poutine.lift(with_parameters, prior={"slope": normal()}), XY),
    "LocScaleReparam": (poutine.reparam(hierarchy, config={"z": LocScaleReparam(0.0), "slope": LocScaleReparam()}), XY),
    "TransformReparam": (poutine.reparam(log_normal_slope, config={"slope": TransformReparam()}), XY),
    "AutoReparam": (poutine.reparam(hierarchy, config=AutoReparam()), XY),
    "config_enumerate twice": (config_enumerate(config_enumerate(mixture, "parallel"), "parallel"), {"x": X}),
}

PROGRAMS = [
    (censored_survival, {"t": X.abs() + 0.1, "seen": FLAGS.bool()}),
    (capture_recapture, {"y": (randn(N, 4) > 0).double()}),
    (hidden_markov, {"y": randn(T)}),
    (topics, {"words": torch.arange(24).reshape(4, 6) % 5}),
    (buy_till_you_die, {"count": COUNTS, "last": X.abs(), "end": X.abs() + 1}),
    (two_levels, {"y": FLAGS}),
    (measurement_error, {"x": X, "y": X.flip(0)}),
    (change_point, {"y": COUNTS}),
    (zero_inflated, {"y": COUNTS}),
    (mixed_membership, {"y": (randn(5, 4) > 0).double()}),
    (gaussian_process, {"x": X, "y": COUNTS}),
    (autoregression, {"y": X}),
    (stochastic_volatility, {"y": X}),
    (item_response, {"y": (randn(5, 4) > 0).double()}),
    (bradley_terry, {"first": torch.arange(N) % 4, "second": (torch.arange(N) + 1) % 4, "won": FLAGS}),
    (dirichlet_multinomial, {"y": COUNTS[:, None] + torch.arange(3, dtype=F64)}),
    (plackett_luce, {"ranks": torch.stack([torch.randperm(4, generator=torch.manual_seed(i)) for i in range(N)])}),
    (splines, {"x": X, "y": X.flip(0)}),
    (factorisation, {"user": torch.arange(N) % 4, "item": torch.arange(N) % 3, "rating": X}),
    (raters, {"y": torch.arange(15).reshape(5, 3) % 2}),
    (occupancy, {"y": (randn(5, 4) > 0).double()}),
    (mixture, {"x": X}),
    (robust_regression, {"x": X, "y": X.flip(0)}),
    (horseshoe, {"x": WIDE, "y": X}),
    (ordinal, {"x": X, "y": torch.arange(N) % 3}),
    (lotka_volterra, {"y": randn(T, 2).abs() + 0.5}),
    (epidemic, {"y": COUNTS}),
    (spike_and_slab, {"x": WIDE, "y": X}),
    (regularised_horseshoe, {"x": WIDE, "y": X}),
    (mixture_of_experts, XY),
    (change_point_of_one_unit, {"y": COUNTS[:6]}),
    (graded_response, {"y": torch.arange(20).reshape(5, 4) % 3}),
    (hidden_semi_markov, {"y": X[:6]}),
    (zero_inflated_negative_binomial, {"x": X, "y": COUNTS}),
    (augmented_capture, {"y": (randn(5, 4) > 0).double()}),
    (covariance, {"x": WIDE}),
    (mixture_as_a_distribution, {"x": X}),
    (epidemic_in_steps, {"y": COUNTS[:6]}),
    (gaussian_process_marginal, XY),
    (Network(), {"x": WIDE, "y": X}),
    (random_module, {"x": WIDE, "y": X}),
    *(pytest.param(*pair, id=name) for name, pair in HANDLED.items()),
]


def one_line(error):
    """What a refusal has to be."""
    assert "\n" not in str(error), error
    return str(error)


def finite_latents(model, fields):
    trace = poutine.trace(model).get_trace(**fields)
    return [n for n, s in trace.nodes.items() if s["type"] == "sample" and s["infer"].get("enumerate")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "fields"), PROGRAMS, ids=lambda v: getattr(v, "__name__", ""))
def test_our_elbo_is_pyros(model, fields):
    torch.manual_seed(0)
    pyro.clear_param_store()
    summed = finite_latents(model, fields)
    guide = AutoNormal(poutine.block(model, hide=summed), init_scale=0.2)
    guide(**fields)
    guide.double()
    values = []
    for bound in (ELBO(), TraceEnum_ELBO(max_plate_nesting=2) if summed else Trace_ELBO()):
        torch.manual_seed(3)
        try:
            values.append(bound.loss(model, guide, **fields))
        except UserError as error:
            pytest.skip(f"refused: {one_line(error)}")
    assert values[0] == pytest.approx(values[1], rel=1e-8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "fields"), PROGRAMS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_generated_guide_weighs_it_or_it_is_refused(model, fields):
    torch.manual_seed(0)
    for data in (fields, as_one_unit(fields)):
        try:
            guide = MeanField(model, data, hidden=(4,)).double()
            batch = data.batch() if data is not fields else fields
            w = ppl_vae.log_weights(model, guide, batch, particles=2)
        except UserError as error:
            one_line(error)
            continue
        assert bool(torch.isfinite(w.log_weight).all())
        return
    raise AssertionError("refused both by rows and as one unit")
