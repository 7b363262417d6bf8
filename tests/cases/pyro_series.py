"""The hidden Markov and capture-recapture programs of Pyro's examples, as their authors build them, in fewer words.

Tables of probabilities are shared by all rows, series are rows at dim -2, tones a plate at dim -1, rows end by a mask,
and the loop ends with the longest row of the batch. Source: Obermeyer et al. 2019, arXiv 1902.03210; Kery 2011.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

STATES, TONES = 4, 3
PARALLEL = {"enumerate": "parallel"}


def songs(rows: int = 6, steps: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Tones that sound or not, [row, step, tone], and how long each row is; the last three are short."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, steps + 1, (rows,), generator=generator)
    lengths[0], lengths[-3:] = steps, torch.tensor([2, 3, 3])
    sounds = torch.bernoulli(torch.full((rows, steps, TONES), 0.4), generator=generator)
    return {"sequences": sounds, "lengths": lengths}


def _stay(states: int) -> Tensor:
    return 0.9 * torch.eye(states) + 0.1


def _tables(transitions: int, *emission: int, by: int = 0):
    """Transition probabilities of a chain, and how probable a tone is by what it depends on."""
    moves = dist.Dirichlet(_stay(transitions))
    moves = moves.expand_by([by]).to_event(2) if by else moves.to_event(1)
    shape = [*emission, TONES]
    return pyro.sample("probs_x", moves), pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand(shape).to_event(len(shape)))


def one_by_one(sequences, lengths):
    """Model 0: a loop over rows, each as long as it is; all data are one unit."""
    probs_x, probs_y = _tables(STATES, STATES)
    tones = pyro.plate("tones", TONES, dim=-1)
    for i in pyro.plate("sequences", len(sequences)):
        x = 0
        for t in pyro.markov(range(lengths[i])):
            x = pyro.sample(f"x_{i}_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
            with tones:
                pyro.sample(f"y_{i}_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[i, t])


def vectorised(sequences, lengths, batch_size=None, include_prior=True):
    """Model 1."""
    with poutine.mask(mask=include_prior):
        probs_x, probs_y = _tables(STATES, STATES)
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), batch_size, dim=-2) as batch:
        lengths, x = lengths[batch], 0
        for t in pyro.markov(range(lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                with tones:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[batch, t])


def autoregressive(sequences, lengths, include_prior=True):
    """Model 2: a tone depends on whether it sounded before."""
    with poutine.mask(mask=include_prior):
        probs_x, probs_y = _tables(STATES, STATES, 2)
    tones_plate = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x, y = 0, 0
        for t in pyro.markov(range(lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                with tones_plate as tones:
                    y = pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x, y, tones]), obs=sequences[:, t]).long()


def factorial(sequences, lengths, include_prior=True):
    """Model 3: two chains side by side."""
    with poutine.mask(mask=include_prior):
        probs_w = pyro.sample("probs_w", dist.Dirichlet(_stay(2)).to_event(1))
        probs_x, probs_y = _tables(2, 2, 2)
    tones_plate = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        w, x = 0, 0
        for t in pyro.markov(range(lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=PARALLEL)
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                with tones_plate as tones:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w, x, tones]), obs=sequences[:, t])


def dynamic(sequences, lengths, include_prior=True):
    """Model 4: the second chain depends on the first."""
    with poutine.mask(mask=include_prior):
        probs_w = pyro.sample("probs_w", dist.Dirichlet(_stay(2)).to_event(1))
        probs_x, probs_y = _tables(2, 2, 2, by=2)
    tones_plate = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        w = x = torch.tensor(0)
        for t in pyro.markov(range(lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=PARALLEL)
                x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(probs_x)[w, x]), infer=PARALLEL)
                with tones_plate as tones:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w, x, tones]), obs=sequences[:, t])


class Neural(nn.Module):
    """Model 5: a network from the state and the tones before to the tones; a plate of tones for every step."""

    def __init__(self):
        super().__init__()
        self.of_state, self.of_tones = nn.Linear(STATES, 6), nn.Linear(2 * TONES, 6)
        self.conv, self.logits = nn.Conv1d(1, 2, 3, padding=1), nn.Linear(6, TONES)

    def tones(self, x, y):
        one_hot = y.new_zeros(x.shape[:-1] + (STATES,)).scatter_(-1, x, 1)
        near = self.conv(y.reshape(-1, 1, TONES)).relu().reshape(y.shape[:-1] + (-1,))
        return self.logits((self.of_state(one_hot) + self.of_tones(near)).relu())

    def forward(self, sequences, lengths, include_prior=True):
        pyro.module("neural tones", self)
        with poutine.mask(mask=include_prior):
            probs_x = pyro.sample("probs_x", dist.Dirichlet(_stay(STATES)).to_event(1))
        with pyro.plate("sequences", len(sequences), dim=-2):
            x, y = 0, torch.zeros(TONES)
            for t in pyro.markov(range(lengths.max())):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                    with pyro.plate(f"tones_{t}", TONES, dim=-1):
                        y = pyro.sample(f"y_{t}", dist.Bernoulli(logits=self.tones(x, y)), obs=sequences[:, t])


def second_order(sequences, lengths, include_prior=False):
    """Model 6: probabilities are parameters, and a state looks two steps back."""
    simplex = dist.constraints.simplex
    probs_x = pyro.param("second order x", torch.rand(STATES, STATES, STATES), constraint=simplex)
    unit = dist.constraints.unit_interval
    probs_y = pyro.param("second order y", torch.rand(STATES, TONES), constraint=unit)
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        now, before = torch.tensor(0), torch.tensor(0)
        for t in pyro.markov(range(lengths.max()), history=2):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                moves = dist.Categorical(Vindex(probs_x)[before, now])
                before, now = now, pyro.sample(f"x_{t}", moves, infer=PARALLEL)
                with tones:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[now.squeeze(-1)]), obs=sequences[:, t])


HIDDEN_MARKOV = {
    "vectorised": vectorised,
    "autoregressive": autoregressive,
    "factorial": factorial,
    "dynamic": dynamic,
    "neural": Neural(),
    "second order": second_order,
}


def captures(rows: int = 12, steps: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Who of the animals was caught when, and of which sex they are."""
    generator = torch.Generator().manual_seed(seed)
    alive = torch.bernoulli(torch.full((rows, steps), 0.8), generator=generator).cumprod(1)
    caught = alive * torch.bernoulli(torch.full((rows, steps), 0.6), generator=generator)
    caught[:3, 0], caught[0, -1] = 0, 1
    return {"capture_history": caught, "sex": (torch.arange(rows) % 2).float()}


def _step(t, z, phi, rho, seen, capture_history):
    """Alive with probability phi if alive before, caught with rho if alive; nothing counts before the first capture."""
    with poutine.mask(mask=seen):
        z = pyro.sample(f"z_{t}", dist.Bernoulli(seen.float() * phi * z + (1 - seen.float())), infer=PARALLEL)
        pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
    return z


def constant(capture_history, sex):
    """Model 1."""
    animals, steps = capture_history.shape
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    with pyro.plate("animals", animals, dim=-1):
        z, seen = torch.ones(animals), torch.zeros(animals).bool()
        for t in pyro.markov(range(steps)):
            z = _step(t, z, phi, rho, seen, capture_history)
            seen |= capture_history[:, t].bool()


def by_sex(capture_history, sex):
    """Model 4."""
    animals, steps = capture_history.shape
    male, female = (pyro.sample(f"phi_{s}", dist.Uniform(0.0, 1.0)) for s in ("male", "female"))
    phi = sex * male + (1.0 - sex) * female
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    with pyro.plate("animals", animals, dim=-1):
        z, seen = torch.ones(animals), torch.zeros(animals).bool()
        for t in pyro.markov(range(steps)):
            z = _step(t, z, phi, rho, seen, capture_history)
            seen |= capture_history[:, t].bool()


def in_time(capture_history, sex):
    """Model 2: survival of every period, shared by all animals, whose plate is entered at every step."""
    animals, steps = capture_history.shape
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    z, seen = torch.ones(animals), torch.zeros(animals).bool()
    plate = pyro.plate("animals", animals, dim=-1)
    for t in pyro.markov(range(steps)):
        phi = pyro.sample(f"phi_{t}", dist.Uniform(0.0, 1.0)) if t > 0 else 1.0
        with plate:
            z = _step(t, z, phi, rho, seen, capture_history)
        seen |= capture_history[:, t].bool()


def random_effects(capture_history, sex):
    """Model 3."""
    animals, steps = capture_history.shape
    mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
    centre = mean.log() - torch.log1p(-mean)
    spread = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    z, seen = torch.ones(animals), torch.zeros(animals).bool()
    plate = pyro.plate("animals", animals, dim=-1)
    for t in pyro.markov(range(steps)):
        logit = pyro.sample(f"phi_logit_{t}", dist.Normal(centre, spread)) if t > 0 else torch.tensor(0.0)
        with plate:
            z = _step(t, z, logit.sigmoid(), rho, seen, capture_history)
        seen |= capture_history[:, t].bool()


def sex_and_time(capture_history, sex):
    """Model 5."""
    animals, steps = capture_history.shape
    beta = sex * pyro.sample("phi_beta", dist.Normal(0.0, 10.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    z, seen = torch.ones(animals), torch.zeros(animals).bool()
    plate = pyro.plate("animals", animals, dim=-1)
    for t in pyro.markov(range(steps)):
        gamma = pyro.sample(f"phi_gamma_{t}", dist.Normal(0.0, 10.0)) if t > 0 else 0.0
        with plate:
            z = _step(t, z, torch.sigmoid(beta + gamma), rho, seen, capture_history)
        seen |= capture_history[:, t].bool()


CAPTURES = {
    "constant": constant,
    "in time": in_time,
    "random effects": random_effects,
    "by sex": by_sex,
    "sex and time": sex_and_time,
}
