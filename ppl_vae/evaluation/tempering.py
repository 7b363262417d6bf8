"""Draws that are moved from the guide to the posterior, where weights alone cannot take them there.

    f_b(u) = m(u)^(1 - b) p(u, data)^b,    0 = b_0 < ... < b_T = 1

A sequential Monte Carlo sampler: chains start as draws of m, the normal with the guide's mean and covariance (where a
latent is observed in some rows, of the guide itself); at every b they are weighed by f_b over the f
before, chosen by these weights, and moved by Hamiltonian Monte Carlo that leaves f_b as it is. The next b is as large
as half of the chains that count allow. At b = 1 moves go on, and where chains are after each of them is a draw. Momenta
are in units of the chains' own covariance; latents with a scale of their own are moved as they are and apart from it by
turns (`apart`). Chains are in ISLANDS that choose among their own alone: what the islands do not agree on is not known.

The product of the mean weights of an island is unbiased for p(data), but for what was adapted on the way.

Source: Del Moral, Doucet & Jasra 2006, JRSS B 68(3); Dau & Chopin 2022, JRSS B 84(1) (all moves are draws).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.errors import Finding, UserError
from ppl_vae.evaluation.apart import apart
from ppl_vae.evaluation.bridge import Bridge, Start
from ppl_vae.evaluation.transitions import next_step_size, transition
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure

__all__ = ["ORDER", "Moves", "climbed", "moved_draws", "why_not"]

CHAINS, ISLANDS = 1000, 4

LARGEST, MOST = 500, 2**23
"""Numbers that move together, and rows times chains, at most."""

KEPT = 0.5
"""The share of the chains that are to count at the next b."""

TEMPERATURES = 200
"""How many b there are at most."""

SETTLING, FORGOTTEN, STAYS, APART = (4, 8, 16, 32, 64), 0.2, 0.05, 8
"""The rounds at b = 1 after which it is asked whether they were enough: what chains remember, as a correlation, and how
far a mean or log deviation of all chains moves. Draws are an eighth of these rounds apart."""

ONE_BY_ONE = 300
"""Draws of a guide by which it is known, where programs run one at a time."""

ORDER = (
    "order components that can exchange their labels (pyro.distributions.constraints.ordered_vector); else "
    "fit(..., restarts=5) and compare the bounds"
)
"""What to do about a posterior of several parts."""

PARTS = 3
"""How many of SETTLING are waited for by chains in parts of the posterior between which none of them goes."""

LOST = 100.0
"""Deviations from the middle of the chains, beyond which a trajectory has left the posterior."""

TRIES = 40
"""How many parts of the chains are tried by themselves, at most, where a program raises for some of them."""

LENGTH, LONGER, STEPS = 1.5, 1.4, (2, 30)
"""Of a trajectory, in deviations; by how much it grows while chains do not forget; and its leapfrog steps."""

AGREED, STIFF = 1.03, 0.4
"""R-hat of the islands, and the share of moves that is accepted, by which draws are believed."""


@dataclass(frozen=True)
class Moves:
    """How chains came from the guide to the posterior: `rhat` [number] of the islands, in unconstrained numbers.

    `settling` says what the last rounds before the draws still changed.
    `log_evidence` in nats with its error from the islands. `names` are the latents that the numbers are of. `shape` is
    (rounds, chains) of the draws.
    """

    temperatures: int
    arrived: bool
    acceptance: float
    rhat: Float[Tensor, " number"]
    settling: _Settling
    names: tuple[str, ...]
    log_evidence: float
    log_evidence_se: float
    shape: tuple[int, int]
    start: Start = "guide"

    @property
    def believed(self) -> bool:
        """Whether chains arrived, moved and agree."""
        agreed = float(self.rhat.max()) < AGREED
        return self.arrived and self.acceptance > STIFF and self.settling.over and agreed

    def finding(self, why: str) -> Finding:
        """What is to be said of the draws; `why` the guide's own were not enough."""
        worst = int(self.rhat.argmax())
        site, most = self.names[worst], float(self.rhat[worst])
        moved = f"{why}: draws were moved from the {self.start} to the posterior over {self.temperatures} temperatures"
        if self.believed:
            return Finding(
                None,
                f"{moved}, and {ISLANDS} groups of chains agree (R-hat {most:.3f} at most)",
                "the ELBO, and what is drawn from the guide alone, are not mended by it: take a richer family",
                "warning",
            )
        if not self.arrived:
            said = f"but {TEMPERATURES} of them were not enough"
        elif self.acceptance <= STIFF:
            said = f"but only {self.acceptance:.0%} of the moves were accepted"
        elif not self.settling.over:
            site = self.names[
                int((self.settling.remembered / FORGOTTEN).maximum(self.settling.walked / STAYS).argmax())
            ]
            said = f"but {site} still moved when their time was over"
        else:
            said = f"but groups of chains do not agree on {site} (R-hat {most:.2f}, above {AGREED})"
        remedy = (
            "train longer, write the model with effects apart from their scale (non-centred), or take a richer family"
            if self.start == "guide"
            else ORDER
        )
        return Finding(site, f"{moved}, {said}: means and deviations are not to be believed", remedy, "warning")

    def ess(self, values: Tensor) -> float:
        """How many independent draws those of a number [round x chain] are worth, by what chains remember."""
        each = values.double().reshape(self.shape)
        centred = each - each.mean()
        variance = float(centred.square().mean())
        if not variance > 0:
            return float(len(values))
        total, rounds = 1.0, len(each)
        for lag in range(1, rounds):
            remembered = float((centred[lag:] * centred[:-lag]).mean()) / variance
            if remembered <= 0:
                break
            total += 2 * (1 - lag / rounds) * remembered
        return len(values) / total


def why_not(structure: Structure, rows: int) -> str:
    """Why chains cannot move the latents of all data together; nothing if they can."""
    if structure.scored or structure.points or structure.auxiliary - set(structure.latents):
        return "it has latents that no gradient moves"
    return "" if 200 * rows <= MOST else "the data are too many"


def moved_draws(
    pair: Pair,
    structure: Structure,
    batch: Batch,
    draws: int,
    rows: int,
    chains: int = CHAINS,
    start: Start = "guide",
) -> tuple[dict[str, Tensor], Moves]:
    """At least so many draws of every latent, [round x chain, plates, *event], all data as one unit.

    Chains come from the guide, or from the prior.

    Raises:
        UserError: for a guide whose density at given values cannot be had, or discrete latents without end.
        NotImplementedError: for more than LARGEST numbers.
    """
    bridge = Bridge(pair, structure, batch, start if structure.holes else "prior")
    if bridge.size > LARGEST:
        raise NotImplementedError(f"{bridge.size:,} numbers are more than {LARGEST}")
    chains = min(chains, MOST // rows) // ISLANDS * ISLANDS
    if start == "prior":
        bridge = bridge.mapped()
    elif not structure.holes:
        bridge = _near_guide(bridge, batch, chains)
    found = _Sampler(bridge, batch, chains)
    found.climb()
    patience = SETTLING if start == "guide" else SETTLING[:PARTS]
    kept = found.settled(-(-draws // chains), patience) if found.b == 1 else [found.u]
    u = torch.stack(kept)
    values = bridge.values(batch, u.flatten(0, 1))
    names = tuple(n for n, s in bridge.sites.items() for _ in range(s.width))
    logs = found.log_evidence.double()
    moves = Moves(
        found.temperatures,
        found.b == 1,
        found.acceptance,
        _rhat(u[:, :, 0].double()),
        found.settling,
        names,
        float(logs.logsumexp(0)) - math.log(ISLANDS),
        float((logs - logs.logsumexp(0)).exp().std() * ISLANDS**0.5),
        (len(kept), chains),
        start,
    )
    return values, moves


def climbed(bridge: Bridge, batch: Batch, chains: int) -> tuple[Tensor | None, float]:
    """Chains from the start of a bridge at its end, one move each at b = 1, and their log evidence in nats.

    None for chains that do not arrive.
    """
    found = _Sampler(bridge, batch, chains)
    found.climb()
    evidence = float(found.log_evidence.logsumexp(0)) - math.log(ISLANDS)
    return (found.u if found.b == 1 else None), evidence


def _near_guide(bridge: Bridge, batch: Batch, chains: int) -> Bridge:
    """The bridge that starts at the normal with the guide's mean and covariance, as draws of the guide have them."""
    count = chains if bridge.structure.broadcasts else min(chains, ONE_BY_ONE)
    return bridge.mapped().from_normal(*_units(bridge.drawn(batch, count, "guide")[:, 0]))


class _Sampler:
    """Chains on their way: u [chain, 1, d], both log densities [chain], the power b, log evidence [island]."""

    def __init__(self, bridge: Bridge, batch: Batch, chains: int) -> None:
        self.batch = batch
        self.u = bridge.drawn(batch, chains)
        other = apart(bridge, batch, self.u[: min(50, chains)])
        self.bridges = [bridge, *([] if other is None else [other])]
        self.sizes = [self.u.new_full((1,), bridge.size**-0.25) for _ in self.bridges]
        self.b, self.temperatures, self.acceptance, self.length = 0.0, 0, 1.0, LENGTH
        self.settling = _Settling(*torch.ones(2, bridge.size))
        self.log_evidence = torch.zeros(ISLANDS, dtype=torch.float64, device=self.u.device)
        bridge.densities(batch, self.u[:2], 1)  # which raises where it cannot be had at all
        self._look()

    def _look(self) -> None:
        if self.b == 1:
            return
        start, target = self._tried(self.u, lambda u: self.bridges[0].densities(self.batch, u, 1))
        self.apart = (target - start)[:, 0].double().nan_to_num(-math.inf, -math.inf, -math.inf)

    def climb(self) -> None:
        """From b = 0 to 1, or as far as TEMPERATURES go."""
        while self.b < 1 and self.temperatures < TEMPERATURES:
            ahead = self._ahead()
            logs = (ahead * self.apart).unflatten(0, (ISLANDS, -1))
            self.log_evidence += logs.logsumexp(1) - math.log(logs.shape[1])
            self.u = self.u[_chosen(logs)]
            self.b = min(1.0, self.b + ahead)
            self.temperatures += 1
            self.round()
            self._look()

    def settled(self, count: int, patience: tuple[int, ...] = SETTLING) -> list[Tensor]:
        """Where chains are at so many rounds at b = 1, once these change nothing any more.

        Rounds are doubled until over the second half of them chains forget where they were, and what they are together
        stays. Draws are then APART times closer.
        """
        self.bridges = [bridge.end() for bridge in self.bridges]
        rounds = 0
        for until in patience:
            seen = [self.u]
            for _ in range(until - rounds):
                self.round()
                seen.append(self.u)
            self.settling = _Settling.of(torch.stack(seen)[:, :, 0].double())
            rounds = until
            if self.settling.over:
                break
            self.length *= LONGER
        found, accepted = [], []
        for _ in range(count):
            for _ in range(max(1, rounds // APART)):
                self.round()
                accepted.append(self.acceptance)
            found.append(self.u)
        self.acceptance = sum(accepted) / len(accepted)
        return found

    def round(self) -> None:
        """A move of all chains in each of the coordinates."""
        accepted = []
        for i, bridge in enumerate(self.bridges):
            u = self.u if bridge is self.bridges[0] else self.bridges[0].exchanged(self.batch, self.u, bridge)
            u, rate = self._moved(bridge, u, self.sizes[i])
            self.sizes[i] = next_step_size(self.sizes[i], rate)
            self.u = u if bridge is self.bridges[0] else bridge.exchanged(self.batch, u, self.bridges[0])
            accepted.append(float(rate.mean()))
        self.acceptance = min(accepted)

    def _moved(self, bridge: Bridge, u: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        centre, factor = _units(u[:, 0])

        def density(v: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            lost = ~(v.abs() < LOST).all(-1)
            u = centre + v.masked_fill(lost[..., None], 0.0) @ factor.T
            start, target, gradient = self._tried(u, lambda some: bridge(self.batch, some, b, 1))
            return start, target.masked_fill(lost, -math.inf), gradient @ factor

        v = torch.linalg.solve_triangular(factor, (u[:, 0] - centre).T, upper=False).T.unsqueeze(1)
        steps = min(max(round(self.length / float(size)), STEPS[0]), STEPS[1])
        moved = transition(density, v, u.new_tensor(self.b), size, torch.ones_like(v[0]), steps)
        return centre + moved.u @ factor.T, moved.acceptance

    def _tried(
        self, u: Tensor, density: Callable[[Tensor], tuple[Tensor, ...]], left: list[None] | None = None
    ) -> tuple[Tensor, ...]:
        """Densities of chains; no numbers for those for which programs raise, such as a matrix without a factor.

        They are searched for by halves, TRIES times at most: then more chains stay where they are than have to, which
        depends on the others alone, so that the posterior stays as it is.
        """
        left = [None] * TRIES if left is None else left
        try:
            return density(u)
        except (UserError, RuntimeError, ValueError):
            if len(u) > 1 and len(left) > 1:
                del left[-2:]
                halves = [self._tried(some, density, left) for some in u.split(-(-len(u) // 2))]
                return tuple(torch.cat(column) for column in zip(*halves, strict=True))
            return tuple(torch.full_like(v, math.nan) for v in (u[..., 0], u[..., 0], u))

    def _ahead(self) -> float:
        """How far b may go on: to 1, or until KEPT of the chains count."""

        def counting(step: float) -> float:
            return float(1 / (step * self.apart).softmax(0).square().sum()) / len(self.apart)

        low, high = 0.0, 1.0 - self.b
        if counting(high) >= KEPT:
            return high
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if counting(middle) >= KEPT else (low, middle)
        return max(low, 1e-9)


def _chosen(logs: Float[Tensor, "island chain"]) -> Tensor:
    """The numbers of the chains that go on, with fixed numbers of each as far as can be (systematic)."""
    count = logs.shape[1]
    edges = logs.softmax(1).cumsum(1)
    places = (torch.arange(count, device=logs.device) + torch.rand(len(logs), 1, device=logs.device)) / count
    found = torch.searchsorted(edges, places.to(edges)).clamp(max=count - 1)
    return (found + count * torch.arange(len(logs), device=logs.device)[:, None]).flatten()


def _units(u: Float[Tensor, "chain d"]) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of the chains, correlations shrunk where there are few chains for them."""
    count, size = u.shape
    covariance = torch.atleast_2d(torch.cov(u.double().T))
    spread = covariance.diagonal().clamp(min=1e-16)
    own = size / (size + count / 2)
    shrunk = (1 - own) * covariance + own * torch.diag(spread) + torch.diag(1e-8 * spread)
    return u.mean(0), torch.linalg.cholesky(shrunk).to(u)


class _Settling(NamedTuple):
    """What some rounds did, for each number: what chains remember of the first in the last one, as a correlation, and
    how far a mean or a log deviation of them all moved, more than by chance.
    """

    remembered: Float[Tensor, " d"]
    walked: Float[Tensor, " d"]

    @classmethod
    def of(cls, u: Float[Tensor, "round chain d"]) -> _Settling:
        """Halves of the rounds are compared chain by chain, which tells how far they are apart by chance."""
        mean, sd = u.mean((0, 1)), u.std((0, 1)).clamp(min=1e-300)
        away = (u - mean) / sd
        first, last = away[0] - away[0].mean(0), away[-1] - away[-1].mean(0)
        size = (first.square().mean(0) * last.square().mean(0)).sqrt().clamp(min=1e-300)
        half = len(u) // 2
        surely = math.sqrt(2 * math.log(4 * u.shape[2])) / math.sqrt(u.shape[1])
        walked = []
        for each in (away, away.square() / 2):  # locations, and log deviations
            change = each[-half:].mean(0) - each[:half].mean(0)
            walked.append((change.mean(0).abs() - surely * change.std(0)).clamp(min=0))
        return cls((first * last).mean(0) / size, torch.maximum(*walked))

    @property
    def worst(self) -> int:
        """The number that changes most."""
        return int((self.remembered / FORGOTTEN).maximum(self.walked / STAYS).argmax())

    @property
    def over(self) -> bool:
        return float(self.remembered.max()) <= FORGOTTEN and float(self.walked.max()) <= STAYS


def _rhat(u: Float[Tensor, "round chain d"]) -> Float[Tensor, " d"]:
    """Of islands, each cut into its first and last rounds: how far their means are apart, in deviations."""
    rounds, _, size = u.shape
    half = max(1, rounds // 2)
    parts = [u[:half], u[rounds - half :]] if rounds > 1 else [u]
    cut = [p.unflatten(1, (ISLANDS, -1)).transpose(0, 1).reshape(ISLANDS, -1, size) for p in parts]
    each = torch.cat(cut)
    within = each.var(1).mean(0).clamp(min=1e-300)
    return (1 + each.mean(1).var(0) / within).sqrt()
