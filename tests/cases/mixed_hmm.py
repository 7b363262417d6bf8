"""The mixed hidden Markov model of Pyro's examples (harbour seals), as its author builds it, in fewer words.

What differs between sexes ("group") and animals ("individual") is a level of the transitions, finite, normal or none.
Steps may be zero, angles are directions, dive activity a share that may be zero. Animals are rows at dim -2, sexes a
plate at dim -1. Sources: McClintock et al. 2013, Ecology 94; McClintock & Michelot 2018, arXiv 1710.03786.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex
from torch import Tensor

STATES, LEVELS = 3, 2
ZERO = 1e-6


def seals(animals: int = 3, steps: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """What was measured of each animal of both sexes, [animal, sex, step], and when; the last animal is not there."""
    generator = torch.Generator().manual_seed(seed)
    shape = (animals, 2, steps)
    length = torch.randint(2, steps + 1, shape[:2], generator=generator)
    length[0, 0], length[-1, -1] = steps, 0
    there = torch.arange(steps) < length.unsqueeze(-1)
    step, dive, zero = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    angle = 4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2
    step, dive = (torch.where(there & (zero > 0.2), 0.1 + 0.8 * v, ZERO) for v in (step, dive))
    return {"step": step, "angle": angle, "dive": dive, "there": there.double()}


def parameters(seed: int = 1) -> dict[str, Tensor]:
    """Of everything, by name."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "of_sex": normal(LEVELS).softmax(-1),
        "of_animal": normal(2, LEVELS).softmax(-1),
        "sex_level": normal(LEVELS, STATES**2),
        "animal_level": normal(2, LEVELS, STATES**2),
        "step_zero": normal(STATES, 2),
        "dive_zero": normal(STATES, 2),
        **{n: normal(STATES).exp() for n in ("step_a", "step_b", "angle_loc", "angle_k", "dive_a", "dive_b")},
    }


def measured(p: dict[str, Tensor], y: Tensor, batch: dict[str, Tensor], t: int) -> dict[str, tuple[object, Tensor]]:
    """Distribution and value of everything that is measured at a step, given the state."""
    step, dive = batch["step"][..., t], batch["dive"][..., t]
    zero = {"step": step == ZERO, "dive": dive == ZERO}
    positive = {
        "step": dist.Gamma(Vindex(p["step_a"])[..., y], Vindex(p["step_b"])[..., y]),
        "dive": dist.Beta(Vindex(p["dive_a"])[..., y], Vindex(p["dive_b"])[..., y]),
    }
    found: dict[str, tuple[object, Tensor]] = {
        "angle": (
            dist.VonMises(Vindex(p["angle_loc"])[..., y], Vindex(p["angle_k"])[..., y]),
            batch["angle"][..., t],
        )
    }
    for name, fn in positive.items():
        whether = dist.Categorical(logits=Vindex(p[f"{name}_zero"])[..., y, :])
        found[f"{name}_zero"] = (whether, zero[name].long())
        value = torch.tensor(ZERO, dtype=torch.float64)
        found[name] = (dist.MaskedMixture(zero[name], fn, dist.Delta(value)), batch[name][..., t])
    return found


def mixed(sexes: str | None, animals: str | None) -> Callable[..., None]:
    """The model with levels of either kind: "discrete", "continuous" or None."""

    @config_enumerate
    def model(step, angle, dive, there):
        p, batch = parameters(), {"step": step, "angle": angle, "dive": dive}
        seen, unit = there.bool(), torch.zeros(STATES**2, dtype=torch.float64)
        gamma: Tensor = unit
        with pyro.plate("sexes", step.shape[1], dim=-1):
            if sexes == "discrete":
                gamma = gamma + Vindex(p["sex_level"])[..., pyro.sample("e_sex", dist.Categorical(p["of_sex"])), :]
            elif sexes == "continuous":
                gamma = gamma + pyro.sample("eps_sex", dist.Normal(unit, 1.0).to_event(1))
            with pyro.plate("animals", len(step), dim=-2), poutine.mask(mask=seen.any(-1)):
                if animals == "discrete":
                    e = pyro.sample("e_animal", dist.Categorical(p["of_animal"]))
                    gamma = gamma + Vindex(p["animal_level"])[..., torch.arange(2), e, :]
                elif animals == "continuous":
                    gamma = gamma + pyro.sample("eps_animal", dist.Normal(unit, 1.0).to_event(1))
                y = torch.tensor(0)
                for t in pyro.markov(range(step.shape[-1])):
                    with poutine.mask(mask=seen[..., t]):
                        moves = gamma.reshape(*gamma.shape[:-1], STATES, STATES)
                        y = pyro.sample(f"y_{t}", dist.Categorical(logits=Vindex(moves)[..., y, :]))
                        for name, (fn, value) in measured(p, y, batch, t).items():
                            pyro.sample(f"{name}_{t}", fn, obs=value)

    return model


def forward(gamma: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """log p of each animal and sex by the forward algorithm, given levels [..., animal, sex, states * states]."""
    p, seen = parameters(), batch["there"].bool()
    moves = gamma.reshape(*gamma.shape[:-1], STATES, STATES).log_softmax(-1)
    states = torch.arange(STATES)
    state, total = None, torch.zeros(gamma.shape[:-1], dtype=torch.float64)
    rows = {n: v.unsqueeze(-2) for n, v in batch.items()}  # [animal, sex, state, step]
    for t in range(batch["step"].shape[-1]):
        said = sum(fn.log_prob(value) for fn, value in measured(p, states, rows, t).values())  # type: ignore[attr-defined]
        before = moves[..., 0, :] if state is None else (state.unsqueeze(-1) + moves).logsumexp(-2)
        now = before + said
        on = seen[..., t]
        total = total + torch.where(on, now.logsumexp(-1), 0.0)
        now = now - now.logsumexp(-1, keepdim=True)
        state = torch.where(on.unsqueeze(-1), now, torch.zeros_like(now) - torch.log(torch.tensor(float(STATES))))
    return total


def evidence(sexes: bool, animals: bool, batch: dict[str, Tensor]) -> Tensor:
    """log p of everything with finite levels or none, by the forward algorithm and sums over levels."""
    p = parameters()
    of_sex = p["sex_level"] if sexes else torch.zeros(1, STATES**2, dtype=torch.float64)
    of_animal = p["animal_level"] if animals else torch.zeros(2, 1, STATES**2, dtype=torch.float64)
    weights = p["of_animal"].log() if animals else torch.zeros(2, 1, dtype=torch.float64)
    of_sexes = p["of_sex"].log() if sexes else torch.zeros(1, dtype=torch.float64)
    count, there = len(batch["step"]), batch["there"].bool().any(-1)
    each = []
    for level in of_sex:
        inner = []
        for k in range(of_animal.shape[1]):
            gamma = (level + of_animal[:, k]).expand(count, 2, STATES**2)
            inner.append(weights[:, k] + forward(gamma, batch))
        summed = torch.where(there, torch.stack(inner).logsumexp(0), 0.0)
        each.append(summed.sum(0))  # of each sex
    return (of_sexes.unsqueeze(-1) + torch.stack(each)).logsumexp(0).sum()
