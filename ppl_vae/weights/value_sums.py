"""Sums over the values of discrete latents, which Pyro's enumeration put on dims of their own, left of the plates.

Every sum is Pyro's: its tensor contraction sums the dims out, inner plates included. A dim has a letter (a symbol),
as in an einsum, because two programs may have one value on different dims.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from opt_einsum import contract, shared_intermediates
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from ppl_vae.distributions import without_mask
from ppl_vae.errors import ProgramError
from ppl_vae.programs.structure import frames
from ppl_vae.weights.factors import Factor, Factors

__all__ = ["Term", "ValueSums"]

Term = tuple[str, str, Tensor]
"""The part of the weight that it counts in, the site that it is told under, and the log, without enumeration dims."""


class ValueSums:
    """The factors of a run with the values of its discrete latents summed out.

    Raises:
        ProgramError: for a statement outside of a plate that depends on values inside of it.
    """

    def __init__(self, factors: Factors) -> None:
        self.of, self.run, self.structure = factors, factors.run, factors.structure
        self.run.guide.symbolize_dims()
        self.run.model.symbolize_dims(self.run.guide.plate_to_symbol)
        self.dim_of = {**self.run.guide.symbol_to_dim, **self.run.model.symbol_to_dim}
        names = self.structure.summed_guide | self.structure.summed_model
        there = sorted(names & (factors.guide_sites.keys() | factors.model_sites.keys()))
        self._around = {self._symbol(self.summed_site(n)): (n, frames(self.summed_site(n))) for n in there}
        # a flat prior's zeros are in single precision whatever the data are, and torch sums no products of two kinds
        self._kind = functools.reduce(torch.promote_types, (f.log.dtype for f in factors.all))
        for factor in factors.all:
            self._refuse_outside(factor.name, self.pack(factor), self._plates(factor.site))

    def expectation(self) -> Iterator[Term]:
        """E over the guide's classifiers of every factor; latents of the model alone are summed out first."""
        # a shorter series has fewer steps than the program that was read
        alone = {self._symbol(self.of.model_sites[n]) for n in self.structure.summed_model & self.of.model_sites.keys()}
        terms = []
        for group, dims in self.components(self.of.all, alone):
            part = "likelihood" if any(f.part == "likelihood" for f in group) else "prior"
            terms += [(part, group[0].name, log) for log in self.sum_out(group, dims)]
        for factor in self.of.all:
            log = self.pack(factor)
            if not alone & set(log._pyro_dims):  # type: ignore[attr-defined]
                terms.append((factor.part, factor.name, log))
        classifiers = self._classifiers()
        return ((part, name, self._expect(log, classifiers)) for part, name, log in terms)

    def marginal(self, beta: float | Tensor = 1.0) -> Iterator[Term]:
        """log of the sum over all discrete values of p / q, where q is the density of the drawn latents alone."""
        factors = self.joint()
        summed = set(self.symbols(factors).values())
        for group, dims in self.components(factors, summed):
            pure = all(f.part == "prior" for f in group)
            # beta is on what is no likelihood; a sum of priors alone is 1 whatever they are
            tempered = [f if pure or f.part == "likelihood" else f._replace(log=beta * f.log) for f in group]
            part = "prior" if pure else "likelihood"
            for log in self.sum_out(tempered, dims):
                yield part, group[0].name, self.unpack(log)
        for factor in factors:
            if not summed & set(self.pack(factor)._pyro_dims):  # type: ignore[attr-defined]
                yield factor.part, factor.name, factor.log

    def joint(self) -> list[Factor]:
        """The factors of p / q of the drawn latents alone: without the classifiers' own."""
        summed = self.structure.summed_guide | self.structure.summed_model
        kept = [f for f in self.of.all if f.part != "guide" or f.name not in self.structure.summed_guide]
        return [self._unmasked(f) if f.name in summed else f for f in kept]

    def symbols(self, factors: Sequence[Factor]) -> dict[str, str]:
        """The letter of the dim that each summed latent of these factors has its values on."""
        summed = self.structure.summed_guide | self.structure.summed_model
        return {name: self._symbol(self.summed_site(name)) for name in sorted(summed & {f.name for f in factors})}

    def dim(self, name: str) -> int:
        """The dim that the values of a summed latent are on, counted from the right of its batch shape."""
        return self.dim_of[self._symbol(self.summed_site(name))]

    def summed_site(self, name: str) -> dict[str, Any]:
        """The statement that lists a latent's values: the guide's, if the guide has one."""
        return self.of.guide_sites[name] if name in self.structure.summed_guide else self.of.model_sites[name]

    def shape_of(self, factor: Factor) -> tuple[int, ...]:
        """The shape of a summed latent's own values, [..., particle, plates ...], others' values left out."""
        shape = [1] * max(factor.log.dim(), -self.dim(factor.name))
        shape[self.dim(factor.name)] = self.summed_site(factor.name)["value"].shape[0]
        for frame in frames(factor.site):
            shape[int(frame.dim or 0)] = frame.size
        return tuple(shape)

    def pack(self, factor: Factor) -> Tensor:
        """A factor's log with a letter for every dim, in `_pyro_dims`, as Pyro's contraction takes it."""
        try:
            return packed.pack(factor.log.to(self._kind), factor.site["infer"]["_dim_to_symbol"])
        except ValueError as error:  # of a dim that this statement does not know: another one's values, or no plate's
            raise ProgramError(
                factor.name,
                f"site {factor.name!r} has a log-probability of shape {tuple(factor.log.shape)}, with dims that are "
                "neither its plates nor values of discrete latents that it depends on",
                "declare event dims with .to_event(), or write the guide of its latents by hand",
            ) from error

    def unpack(self, log: Tensor) -> Tensor:
        """Letters back to dims: plates where they are in the model, summed values left of them."""
        return packed.unpack(log, self.dim_of)

    def components(self, factors: Sequence[Factor], summed: set[str]) -> list[tuple[list[Factor], set[str]]]:
        """Groups of factors that share summed dims, each with those dims."""
        groups: list[tuple[list[Factor], set[str]]] = []
        for factor in [*factors, *self._held(summed)]:
            dims = summed & set(self.pack(factor)._pyro_dims)  # type: ignore[attr-defined]
            if not dims:
                continue
            touching = [g for g in groups if g[1] & dims]
            groups = [g for g in groups if not g[1] & dims]
            members = [f for g in touching for f in g[0]]
            groups.append(([*members, factor], dims.union(*(g[1] for g in touching))))
        return groups

    # -- what is summed, and where --------------------------------------------------------------------------

    def _plates(self, site: dict[str, Any]) -> frozenset[str]:
        return frozenset(self.run.model.plate_to_symbol[f.name] for f in frames(site))

    @staticmethod
    def _plate_names(site: dict[str, Any]) -> set[str]:
        return {frame.name for frame in frames(site)}

    def _symbol(self, site: dict[str, Any]) -> str:
        return site["infer"]["_enumerate_symbol"]

    def _refuse_outside(self, what: str, log: Tensor, around: frozenset[str]) -> None:
        """What is outside of a plate and depends on values inside of it depends on all of them at once.

        Summed values are on one dim for all elements of a plate: it would see the same value in each.
        """
        for symbol in self._around.keys() & {*log._pyro_dims}:  # type: ignore[attr-defined]
            name, own = self._around[symbol]
            outside = [f.name for f in own if self.run.model.plate_to_symbol[f.name] not in around]
            if outside:
                plates = ", ".join(map(repr, outside))
                raise ProgramError(
                    what,
                    f"site {what!r} is outside of plate {plates}, but depends on the discrete latent {name!r} inside "
                    "of it, whose values are summed out element by element",
                    f"put {what!r} into the plate, or let {name!r} be seen by statements inside of it alone",
                )

    def _unmasked(self, factor: Factor) -> Factor:
        """The prior of a summed latent without the model's mask: a sum over K factors of 1 would be K."""
        if factor.name not in self.structure.masked or factor.part != "prior":
            return factor
        site = factor.site
        log_p = scale_and_mask(without_mask(site["fn"]).log_prob(site["value"]), self.of.scale(site))
        if factor.name in self.run.observed:
            log_p = torch.where(self.run.observed[factor.name][1], torch.zeros_like(log_p), log_p)
        return factor._replace(log=log_p)

    def _held(self, summed: set[str]) -> list[Factor]:
        """Factors 0 or -inf that hold a summed site at its value in the rows in which it was observed."""
        factors = []
        for name, (value, seen) in self.run.observed.items():
            site = self.of.model_sites[name]
            if site["infer"].get("_enumerate_symbol") in summed:
                match = _matches(site, value)
                log = torch.zeros((), device=value.device, dtype=self.of.all[0].log.dtype)
                log = torch.where(seen & ~match, -torch.inf, log)
                factors.append(Factor("prior", name, site, log))
        return factors

    def sum_out(self, group: Sequence[Factor], dims: set[str]) -> list[Tensor]:
        """log sum over the values on these dims of exp(the sum of a group's logs); one a set of plates around it.

        Factors go by their plates: of a value outside of a plate and factors inside of it, the contraction multiplies
        these over the plate before it sums the value out.
        """
        scale = self._common_scale(group)
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for factor in group:
            log = self.pack(factor)
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
        """The scale of all that one sum over values touches: it is that of the logarithm of the sum, outside of it.

        A plate that shows a part of its items scales what is in it. A factor to a power inside of the sum would have
        a mean above the evidence.
        """
        if not (self.of.scaled and self.structure.scaled) and not self.structure.inner_subsample:
            return 1.0
        scales = [self.of.scale(f.site) for f in group]
        if any(isinstance(s, Tensor) and s.dim() for s in scales) or len({float(s) for s in scales}) > 1:
            sites = ", ".join(sorted({f.name for f in group}))
            around = {n for f in group for n in self._plate_names(f.site) & self.structure.inner_subsample}
            if around:
                plates = ", ".join(map(repr, sorted(around)))
                raise ProgramError(
                    group[0].name,
                    f"sites {sites} share a sum over discrete values, of which some are in plate {plates}, which shows "
                    "a part of its items: the sum would have no bound",
                    f"show all items of plate {plates}, or draw the discrete latent in the guide",
                )
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
                site = self.of.guide_sites[name]
                q = without_mask(site["fn"]).log_prob(site["value"]).exp()  # a value is drawn, masked or not
                if name in self.run.observed:
                    value, seen = self.run.observed[name]
                    q = torch.where(seen, _matches(site, value).to(q.dtype), q)
                found[self._symbol(site)] = packed.pack(q, site["infer"]["_dim_to_symbol"])
        return found

    def _expect(self, log: Tensor, classifiers: OrderedDict[str, Tensor]) -> Tensor:
        """E_q of a packed cost over the discrete values that it depends on, and over their ancestors.

        The sum of cost q(a) q(b | a) over a, b is one einsum. A classifier that no factor here needs sums to 1.
        """
        needed = set(log._pyro_dims)  # type: ignore[attr-defined]
        operands = [log]
        for symbol, q in reversed(classifiers.items()):
            if symbol in needed:
                operands.append(q)
                needed |= set(q._pyro_dims)  # type: ignore[attr-defined]
        if len(operands) == 1:
            return self.unpack(log)
        kind = functools.reduce(torch.promote_types, (o.dtype for o in operands))  # a guide in float32, rows in float64
        operands = [_as(o, kind) for o in operands]
        output = "".join(sorted(needed - classifiers.keys()))
        equation = ",".join(o._pyro_dims for o in operands) + "->" + output  # type: ignore[attr-defined]
        expected = contract(equation, *operands, backend="torch")
        expected._pyro_dims = output
        return self.unpack(expected)


def _as(packed_tensor: Tensor, kind: torch.dtype) -> Tensor:
    if packed_tensor.dtype == kind:
        return packed_tensor
    cast = packed_tensor.to(kind)
    cast._pyro_dims = packed_tensor._pyro_dims  # type: ignore[attr-defined]
    return cast


def _matches(site: dict[str, Any], value: Tensor) -> Tensor:
    """Which of a site's listed values equal the observed one: enumeration dim, then batch dims."""
    equal = site["value"] == value
    return equal.flatten(-site["fn"].event_dim).all(-1) if site["fn"].event_dim else equal
