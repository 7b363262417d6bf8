"""The log factors of one run, site by site, and their reduction to particles and units (rows, or all data as one).

Every sum over discrete values is Pyro's: its enumeration put the values on dims of their own, its tensor
contraction sums them out, inner plates included.
What counts of a latent that the model masks is said in `weights.masks`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from opt_einsum import contract, shared_intermediates
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.distributions import without_mask
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.programs.density import is_point_mass
from ppl_vae.programs.execution import PairTrace
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import Structure, frames, sample_sites
from ppl_vae.weights.masks import counting

__all__ = ["Factor", "Factors", "WeightParts", "by_row"]


class Factor(NamedTuple):
    """log p, or -log q, of one site, with all its dims. `part` is "likelihood", "prior", "guide" or "global"."""

    part: str
    name: str
    site: dict[str, Any]
    log: Tensor


class WeightParts(NamedTuple):
    """What a reduction gives: the log weight's parts [particle, row] and the rate of every latent site."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor
    log_global: Tensor | None
    score: Tensor | None
    by_site: dict[str, Tensor]
    labels: dict[str, Tensor]


class Factors:
    """The factors of a run; `plain`, `expectation` and `marginal` reduce them to parts [particle, row]."""

    def __init__(self, run: PairTrace, analytic_kl: bool = False, *, scaled: bool = False) -> None:
        self.run, self.structure, self.particles = run, run.structure, run.particles
        self.guide_sites = sample_sites(run.guide)
        self.model_sites = sample_sites(run.model)
        self.scaled = scaled  # by the programs' own poutine.scale: what is maximised may be, what is reported is not
        self.rows = _rows(self.structure, self.model_sites)
        skip = self.structure.summed_guide | self.structure.scored
        scores = {} if run.scores is None else sample_sites(run.scores)
        self.scores = {name: site for name, site in scores.items() if name not in skip}
        self.kl = self._analytic_kl() if analytic_kl else {}
        self.score: list[tuple[str, Tensor]] = []
        self.labels: dict[str, Tensor] = {}
        # sites that are pieces of one draw of the guide have one rate together: theirs alone mean nothing
        self.drawn_as = {name: site["infer"].get("joint", name) for name, site in self.guide_sites.items()}
        self.factors = [f for name, site in self.model_sites.items() for f in self._of_model(name, site)]
        self.factors += [f for name in self.structure.latents for f in self._of_guide(name)]

    # -- factors, with their plate and enumeration dims ------------------------------------------------------

    def _of_model(self, name: str, site: dict[str, Any]) -> list[Factor]:
        if name in self.structure.absent:
            return []
        if name in self.kl:
            return [Factor("guide", name, site, -self.kl[name])]
        log_p = self._log_prob(name, site)
        if name in self.run.observed:
            seen, zero = self.run.observed[name][1], torch.zeros_like(log_p)
            return [
                Factor("likelihood", name, site, torch.where(seen, self._as_observed(site), zero)),
                Factor("prior", name, site, torch.where(seen, zero, log_p)),
            ]
        if name in self.structure.global_latents:
            return [Factor("global", name, site, log_p)]
        part = "likelihood" if site["is_observed"] else "prior"
        return [Factor(part if self.structure.is_local(site) else "global", name, site, log_p)]

    def _as_observed(self, site: dict[str, Any]) -> Tensor:
        """log p where a value was observed: what the model masks there counts nothing, as at any observation."""
        return scale_and_mask(site["fn"].log_prob(site["value"]), self._scale(site), site["mask"])

    def _of_guide(self, name: str) -> list[Factor]:
        site = self.guide_sites.get(name)
        if name in self.kl or site is None:
            return []
        if name not in self.model_sites and name not in self.structure.auxiliary:
            return []  # the model of this batch has no such site (a shorter series): nothing depends on its draw
        log_q = self._log_prob(name, site)
        if name in self.run.observed:
            self._note_label(name, site)
        if name in self.scores:  # leave out the gradient through q's parameters at a fixed draw
            score = self._score(name)
            log_q = log_q - (score - score.detach())
        if name in self.run.observed:  # log q counts only in the rows in which the site is latent
            log_q = torch.where(self.run.observed[name][1], torch.zeros_like(log_q), log_q)
        if (
            name in self.structure.scored - self.structure.global_latents
        ):  # of those no bound has a gradient: see refuse
            self.score.append((name, log_q))
        part = "global" if name in self.structure.global_latents else "guide"
        return [Factor(part, name, site, -log_q)]

    def _note_label(self, name: str, site: dict[str, Any]) -> None:
        """log q of the labels that were observed: what a classifier is trained on, and no part of any bound."""
        if not can_enumerate(site["fn"]):
            return
        value, seen = self.run.observed[name]
        log_q = site["fn"].log_prob(torch.where(value < 0, torch.zeros_like(value), value))
        if log_q.dim() <= self.structure.nesting + (self.particles > 1):  # else it depends on another label's values
            self.labels[name] = torch.where(seen, log_q, torch.zeros_like(log_q))

    def _score(self, name: str) -> Tensor:
        try:
            return self._log_prob(name, self.scores[name])
        except (NotImplementedError, KeyError) as error:  # torch's and Pyro's way of having no inverse
            raise UserError(
                f"site {name!r} has a {type(self.scores[name]['fn']).__name__} with a transform that has no inverse, "
                "so that log q of a value that it did not just draw cannot be had: use the reparameterised estimator, "
                "or an invertible flow"
            ) from error

    def _log_prob(self, name: str, site: dict[str, Any]) -> Tensor:
        if name not in self.structure.masked:
            return self._as_observed(site)
        log = without_mask(site["fn"]).log_prob(site["value"])
        return scale_and_mask(log, self._scale(site), counting(name, self.model_sites, self.structure.masked))

    def _scale(self, site: dict[str, Any]) -> Any:
        """The scale that the program itself puts on a site, without N/B of the rows' plate, which a bound puts on."""
        if self.scaled:
            scale = site["scale"]
            for frame in site["cond_indep_stack"]:
                if frame.name in self.structure.row_plates and frame.full_size not in (None, frame.size):
                    scale = scale * frame.size / frame.full_size
        else:
            scale = 1.0
            for frame in site["cond_indep_stack"]:
                if frame.name not in self.structure.row_plates and frame.full_size not in (None, frame.size):
                    scale = scale * frame.full_size / frame.size
        return 1.0 if isinstance(scale, float) and abs(scale - 1.0) < 1e-12 else scale

    def _analytic_kl(self) -> dict[str, Tensor]:
        """KL(q || p) of each local site for which it is exact given the latents drawn before it."""
        found: dict[str, Tensor] = {}
        if self.structure.summed_model:
            return found
        order = [n for n in self.model_sites if n in self.structure.latents]
        skip = self.structure.summed_guide | self.structure.global_latents | self.run.observed.keys()
        skip |= self.structure.masked.keys()
        before: set[str] = set()
        for name in self.structure.latents:
            upstream = set(order[: order.index(name)]) if name in order else {name}
            if upstream <= before and name in order and name not in skip:
                q, p = self.guide_sites[name], self.model_sites[name]
                kl = _kl_divergence(q["fn"], p["fn"]) if p["mask"] is None and q["mask"] is None else None
                if kl is not None and _same_scale(self._scale(p), self._scale(q)):
                    found[name] = scale_and_mask(kl, self._scale(p))
            before.add(name)
        return found

    # -- reductions ------------------------------------------------------------------------------------------

    def plain(self) -> WeightParts:
        """Without summed latents: add up every site's factor."""
        return self._collect((f.part, f.name, self._reduce(f.part, f.name, f.log)) for f in self.factors)

    def expectation(self) -> WeightParts:
        """Each part as its expectation under the guide's classifiers; latents of the model alone summed out."""
        self._name_dims()
        alone = {self._symbol(self.model_sites[n]) for n in self.structure.summed_model}
        terms = []
        for group, dims in self._components(alone):
            part = "likelihood" if any(f.part == "likelihood" for f in group) else "prior"
            terms += [(part, group[0].name, log) for log in self._sum_out(group, dims)]
        for factor in self.factors:
            log = self._pack(factor)
            if not alone & set(log._pyro_dims):  # type: ignore[attr-defined]
                terms.append((factor.part, factor.name, log))
        classifiers = self._classifiers()
        return self._collect((p, n, self._reduce(p, n, self._expect(log, classifiers))) for p, n, log in terms)

    def marginal(self, beta: float | Tensor = 1.0) -> WeightParts:
        """log of the sum over all discrete values of p / q, where q is the density of the drawn latents alone."""
        summed = set(self._symbols_of_joint().values())
        terms = []
        for group, dims in self._components(summed):
            pure = all(f.part == "prior" for f in group)
            tempered = [f if pure or f.part == "likelihood" else f._replace(log=beta * f.log) for f in group]
            part = "prior" if pure else "likelihood"
            terms += [(part, group[0].name, self._unpack(log)) for log in self._sum_out(tempered, dims)]
        for factor in self.factors:
            if not summed & set(self._pack(factor)._pyro_dims):  # type: ignore[attr-defined]
                terms.append((factor.part, factor.name, factor.log))
        return self._collect((p, n, self._reduce(p, n, log)) for p, n, log in terms)

    def _summed_site(self, name: str) -> dict[str, Any]:
        return self.guide_sites[name] if name in self.structure.summed_guide else self.model_sites[name]

    def _symbols_of_joint(self) -> dict[str, str]:
        """The dims of p / q of the drawn latents alone, by summed site; the classifiers' factors are dropped."""
        self._name_dims()
        summed = self.structure.summed_guide | self.structure.summed_model
        here = [f for f in self.factors if f.part != "guide" or f.name not in self.structure.summed_guide]
        self.factors = [self._unmasked(f) if f.name in summed else f for f in here]
        there = {f.name for f in here}
        return {name: self._symbol(self._summed_site(name)) for name in sorted(summed & there)}

    def _unmasked(self, factor: Factor) -> Factor:
        """The prior of a summed latent without the model's mask: a sum over K factors of 1 would be K."""
        if factor.name not in self.structure.masked or factor.part != "prior":
            return factor
        log_p = scale_and_mask(without_mask(factor.site["fn"]).log_prob(factor.site["value"]), self._scale(factor.site))
        if factor.name in self.run.observed:
            log_p = torch.where(self.run.observed[factor.name][1], torch.zeros_like(log_p), log_p)
        return factor._replace(log=log_p)

    def _collect(self, terms: Iterable[tuple[str, str, Tensor]]) -> WeightParts:
        sums: dict[str, Tensor] = {}
        by_site: dict[str, Tensor] = {}
        for part, name, log in terms:
            sums[part] = sums[part] + log if part in sums else log
            if part in ("prior", "guide"):
                name = self.drawn_as.get(name, name)
                by_site[name] = by_site[name] - log if name in by_site else -log
        some = next((v for p, v in sums.items() if p != "global"), None)
        if some is None and not self.structure.is_one_unit:
            raise UserError("the pair has no factor inside its data plate: put the rows' statements into it")
        zero = torch.zeros(self.particles, 1) if some is None else torch.zeros_like(some)
        score = [self._reduce("guide", name, self._over_values(log_q)) for name, log_q in self.score]
        return WeightParts(
            log_likelihood=sums.get("likelihood", zero),
            log_prior=sums.get("prior", zero),
            log_guide=-sums.get("guide", zero),
            log_global=sums.get("global"),
            score=torch.stack(score).sum(0) if score else None,
            by_site=by_site,
            labels={name: self._reduce("guide", name, log_q) for name, log_q in self.labels.items()},
        )

    def _over_values(self, log_q: Tensor) -> Tensor:
        """log q of draws made for every value of a summed latent: they are draws of their own, so scores add up."""
        depth = self.structure.nesting + (self.particles > 1)
        return log_q.sum(tuple(range(log_q.dim() - depth))) if log_q.dim() > depth else log_q

    def _reduce(self, part: str, name: str, log: Tensor) -> Tensor:
        """Sum out inner plates: [particle, row]; a global factor over all its plates: [particle]."""
        if part == "global":
            depth = self.structure.nesting + 1
            log = _padded(name, log, depth)
            return log.sum(tuple(range(1, depth))).expand(self.particles)
        return by_row(self.structure, name, log).expand(self.particles, self.rows)

    # -- sums over discrete values ---------------------------------------------------------------------------

    def _name_dims(self) -> None:
        self.run.guide.symbolize_dims()
        self.run.model.symbolize_dims(self.run.guide.plate_to_symbol)
        self.dim_of = {**self.run.guide.symbol_to_dim, **self.run.model.symbol_to_dim}
        self._refuse_values_outside()

    def _refuse_values_outside(self) -> None:
        for factor in self.factors:
            self._refuse_outside(factor.name, self._pack(factor), self._plates(factor.site))

    def _refuse_outside(self, what: str, log: Tensor, around: frozenset[str]) -> None:
        """What is outside of a plate and depends on values inside of it depends on all of them at once.

        Summed values are on one dim for all elements of a plate: it would see the same value in each.
        """
        names = self.structure.summed_guide | self.structure.summed_model
        for name in names & (self.guide_sites.keys() | self.model_sites.keys()):
            site = self._summed_site(name)
            outside = [f.name for f in frames(site) if self.run.model.plate_to_symbol[f.name] not in around]
            if outside and self._symbol(site) in log._pyro_dims:  # type: ignore[attr-defined]
                plates = ", ".join(map(repr, outside))
                raise ProgramError(
                    what,
                    f"site {what!r} is outside of plate {plates}, but depends on the discrete latent {name!r} inside "
                    "of it, whose values are summed out element by element",
                    f"put {what!r} into the plate, or let {name!r} be seen by statements inside of it alone",
                )

    def _plates(self, site: dict[str, Any]) -> frozenset[str]:
        return frozenset(self.run.model.plate_to_symbol[f.name] for f in frames(site))

    def _symbol(self, site: dict[str, Any]) -> str:
        return site["infer"]["_enumerate_symbol"]

    def _pack(self, factor: Factor) -> Tensor:
        return packed.pack(factor.log, factor.site["infer"]["_dim_to_symbol"])

    def _unpack(self, log: Tensor) -> Tensor:
        return packed.unpack(log, self.dim_of)

    def _components(self, summed: set[str]) -> list[tuple[list[Factor], set[str]]]:
        """Groups of factors that share summed dims, each with those dims."""
        groups: list[tuple[list[Factor], set[str]]] = []
        for factor in [*self.factors, *self._held(summed)]:
            dims = summed & set(self._pack(factor)._pyro_dims)  # type: ignore[attr-defined]
            if not dims:
                continue
            touching = [g for g in groups if g[1] & dims]
            groups = [g for g in groups if not g[1] & dims]
            members = [f for g in touching for f in g[0]]
            groups.append(([*members, factor], dims.union(*(g[1] for g in touching))))
        return groups

    def _held(self, summed: set[str]) -> list[Factor]:
        """Factors 0 or -inf that hold a summed site at its value in the rows in which it was observed."""
        factors = []
        for name, (value, seen) in self.run.observed.items():
            site = self.model_sites[name]
            if site["infer"].get("_enumerate_symbol") in summed:
                match = _matches(site, value)
                log = torch.zeros((), device=value.device, dtype=self.factors[0].log.dtype)
                log = torch.where(seen & ~match, -torch.inf, log)
                factors.append(Factor("prior", name, site, log))
        return factors

    def _sum_out(self, group: Sequence[Factor], dims: set[str]) -> list[Tensor]:
        scale = self._common_scale(group)
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for factor in group:
            log = self._pack(factor)
            tree.setdefault(self._plates(factor.site), []).append(
                log if scale == 1.0 else packed.scale_and_mask(log, 1.0 / scale)
            )
        with shared_intermediates() as cache:
            contracted = contract_tensor_tree(tree, set(dims), cache=cache)
        logs = []
        for around, terms in contracted.items():
            for log in terms:
                self._refuse_outside(group[0].name, log, around)
                logs.append(log)
        return logs if scale == 1.0 else [packed.scale_and_mask(log, scale) for log in logs]

    def _common_scale(self, group: Sequence[Factor]) -> Any:
        """The scale of all that one sum over values touches: it is that of the logarithm of the sum, outside of it."""
        if not self.scaled or not self.structure.scaled:
            return 1.0
        scales = [self._scale(f.site) for f in group]
        if any(isinstance(s, Tensor) and s.dim() for s in scales) or len({float(s) for s in scales}) > 1:
            sites = ", ".join(sorted({f.name for f in group}))
            raise ProgramError(
                group[0].name,
                f"sites {sites}, which share a sum over discrete values, have scales of their own "
                "(Expected all enumerated sample sites to share a common poutine.scale)",
                "put one poutine.scale around all of them, or none",
            )
        return scales[0]

    def _classifiers(self) -> OrderedDict[str, Tensor]:
        """q of every summed guide site (1 at the observed value in rows that have one), by its symbol."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        for name in self.structure.latents:
            if name in self.structure.summed_guide:
                site = self.guide_sites[name]
                q = without_mask(site["fn"]).log_prob(site["value"]).exp()  # a value is drawn, masked or not
                if name in self.run.observed:
                    value, seen = self.run.observed[name]
                    q = torch.where(seen, _matches(site, value).to(q.dtype), q)
                found[self._symbol(site)] = packed.pack(q, site["infer"]["_dim_to_symbol"])
        return found

    def _expect(self, log: Tensor, classifiers: OrderedDict[str, Tensor]) -> Tensor:
        """E_q of a packed cost over the discrete values that it depends on, and over their ancestors."""
        needed = set(log._pyro_dims)  # type: ignore[attr-defined]
        operands = [log]
        for symbol, q in reversed(classifiers.items()):
            if symbol in needed:
                operands.append(q)
                needed |= set(q._pyro_dims)  # type: ignore[attr-defined]
        if len(operands) == 1:
            return self._unpack(log)
        output = "".join(sorted(needed - classifiers.keys()))
        equation = ",".join(o._pyro_dims for o in operands) + "->" + output  # type: ignore[attr-defined]
        expected = contract(equation, *operands, backend="torch")
        expected._pyro_dims = output
        return self._unpack(expected)


def by_row(structure: Structure, name: str, log: Tensor) -> Tensor:
    """A site's log-probability summed over its plates inside of a unit: [particle or 1, row or 1]."""
    depth = structure.nesting + 1
    log = _padded(name, log, depth)
    if structure.is_one_unit:
        return log.flatten(1).sum(1, keepdim=True) if depth > 1 else log.unsqueeze(-1)
    log = log.movedim(structure.dim, -1)
    return log.sum(tuple(range(1, depth - 1))) if depth > 2 else log


def _padded(name: str, log: Tensor, depth: int) -> Tensor:
    if log.dim() > depth:
        raise UserError(
            f"site {name!r} has a log-probability of shape {tuple(log.shape)}, with more dims than its "
            "plates have: declare event dims with .to_event()"
        )
    return log.reshape((1,) * (depth - log.dim()) + tuple(log.shape))


def _rows(structure: Structure, sites: dict[str, dict[str, Any]]) -> int:
    """How many units this run has: the size of the rows' plate, or, for a plate without a size, of what is in it."""
    if structure.is_one_unit:
        return 1
    around = [(site, frame) for site in sites.values() if (frame := structure.row_frame(site)) is not None]
    if sized := next((frame.size for _, frame in around if frame.size >= 0), None):
        return sized
    shapes = [s["fn"].batch_shape for s, _ in around]
    return max((shape[structure.dim] for shape in shapes if len(shape) >= -structure.dim), default=1)


def _matches(site: dict[str, Any], value: Tensor) -> Tensor:
    """Which of a site's listed values equal the observed one: enumeration dim, then batch dims."""
    equal = site["value"] == value
    return equal.flatten(-site["fn"].event_dim).all(-1) if site["fn"].event_dim else equal


def _kl_divergence(q: Any, p: Any) -> Tensor | None:
    if is_point_mass(q):
        return None  # Pyro's leaves out log_density, by which a point has its penalties
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _same_scale(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, float) and isinstance(b, float) and a == b)
