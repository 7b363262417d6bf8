"""Writes a model and its guide at random, as text that a user might have written."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from random_pairs.draws import F64

__all__ = ["PARTICLES", "Plate", "Site", "Style", "Writer"]

PARTICLES = 3
VALUES = 64
"""Assignments of the discrete values of one row, at most."""

ROWS = ("data", "more")
"""Names of plates that go over the rows."""

DISCRETE = {"Categorical": 3, "OneHotCategorical": 3, "Bernoulli": 2, "Binomial": 3}
LATENT = ["Normal", "Normal", "Vector", "Gamma", "Beta", *DISCRETE]
OBSERVED = ["Normal", "Normal", "Vector", "Bernoulli", "Categorical"]


@dataclass(frozen=True)
class Plate:
    """A plate at a dim; several may be at one."""

    name: str
    size: int
    dim: int
    whole: int | None = None
    """The items of which these are a choice."""

    @property
    def of_rows(self) -> bool:
        return self.name in ROWS


@dataclass
class Site:
    """One statement: its distribution's kind, the plates around it (outermost first), the sites it depends on."""

    name: str
    kind: str
    plates: tuple[Plate, ...]
    observed: bool
    mask: str | None
    scale: float | None
    holes: bool = False
    parents: list[Site] = field(default_factory=list)
    weights: tuple[float, ...] = ()
    in_guide: bool = True
    guide_masked: bool = True
    guide_parents: list[Site] = field(default_factory=list)
    guide_eta: str = ""
    step: int | None = None
    """Of a chain, each step of which sees the one before it (`pyro.markov`)."""

    @property
    def discrete(self) -> bool:
        return self.kind in DISCRETE

    @property
    def is_local(self) -> bool:
        return any(p.of_rows for p in self.plates)

    @property
    def has_data(self) -> bool:
        return self.observed and self.is_local and self.kind != "Factor"

    @property
    def is_label(self) -> bool:
        """Whether the model observes it in some rows, and sums it out in others."""
        return self.observed and self.holes and self.discrete

    @property
    def per_row(self) -> int:
        """The number of values of one row."""
        count = 1
        for plate in self.plates:
            count *= plate.size if not plate.of_rows else 1
        return count

    @property
    def has_mask_field(self) -> bool:
        return self.mask in ("poutine.mask", ".mask")


@dataclass(frozen=True)
class Style:
    """How a pair is written: as it is, with the masks that the guide forgets; or with masks on the latents of `masked`,
    in both programs, and on no others. With its `poutine.scale`, or without. With `entries` latents have these masks,
    in both."""

    masked: frozenset[str] | None = None
    scales: bool = True
    entries: dict[str, Tensor] | None = None

    def shows(self, site: Site) -> bool:
        """Whether the mask of a site is written down."""
        return site.observed or self.masked is None or site.name in self.masked


class Writer:
    """Draws the sites of a pair at random; `text` writes them down.

    With `more` there are chains, factors, flat priors, plates of which some items are chosen, and a second plate of the
    rows, too.
    """

    def __init__(self, seed: int, *, more: bool = False) -> None:
        self.random = random.Random(seed)
        self.rows = self.random.choice([2, 3, 4])
        self.plates = self._plates()
        self.data = next(p for p in self.plates if p.name == "data")
        self.depth = max(-p.dim for p in self.plates)
        self.sites = self._sites()
        if more:
            self._more()
        self.drawn = [s for s in self.sites if not s.observed and s.in_guide]
        for i, site in enumerate(self.drawn):
            site.guide_parents = [s for s in self.drawn[:i] if self.chance(0.3) and _may_follow(s, site)]
            site.guide_eta = _predictor(site, site.guide_parents)
            if site.is_local and self.chance(0.7):
                site.guide_eta += f" + 0.3 * at(known({self.fields()[0]}), {self.data.dim})"

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    # -- what the programs are made of -------------------------------------------------------------------------------

    def _plates(self) -> list[Plate]:
        others = self.random.choice([0, 0, 1, 1, 1, 2, 2])
        dims = [-1, -2, -3][: others + 1]
        plates = [Plate("data", self.rows, self.random.choice(dims))]
        for name in "ab"[:others]:
            beside = self.chance(0.3)  # at the dim of the rows, and so never around the same statement
            free = [d for d in dims if d not in [p.dim for p in plates]]
            size = self.rows if self.chance(0.4) else self.random.choice([2, 3])
            plates.append(Plate(name, size, plates[0].dim if beside else self.random.choice(free)))
        self.random.shuffle(plates)  # the order in which they are entered
        return plates

    def _sites(self) -> list[Site]:
        count = self.random.randint(2, 6)
        observed = max(1, min(count - 1, self.random.choice([1, 1, 2])))
        sites: list[Site] = []
        values = 1
        for i in range(count):
            site = self._latent(f"z{i}") if i < count - observed else self._observed(f"x{i}", i == count - observed)
            possible = [s for s in sites if not s.observed and _may_follow(s, site)]
            site.parents = [s for s in possible if self.chance(0.6)]
            if site.observed and not site.parents:
                site.parents = possible[-1:]
            if site.discrete and (site.holes or not site.observed):
                if values * DISCRETE[site.kind] ** site.per_row > VALUES:
                    site.kind, site.holes, site.in_guide = "Normal", False, True
                else:
                    values *= DISCRETE[site.kind] ** site.per_row
            site.weights = tuple(round(self.random.uniform(-1, 1), 2) or 0.5 for _ in range(4))
            sites.append(site)
        return sites

    def _around(self, rows: float) -> tuple[Plate, ...]:
        chosen = [self.data] if self.chance(rows) else []
        for plate in self.plates:
            if plate not in chosen and self.chance(0.45) and all(plate.dim != p.dim for p in chosen):
                chosen.append(plate)
        return tuple(p for p in self.plates if p in chosen)

    def _latent(self, name: str) -> Site:
        site = self._site(name, self.random.choice(LATENT), self._around(0.65), observed=False)
        site.guide_masked = not self.chance(0.25)
        site.in_guide = not (site.discrete and self.chance(0.5 if site.is_local else 0.1))
        return site

    def _observed(self, name: str, first: bool) -> Site:
        site = self._site(name, self.random.choice(OBSERVED), self._around(1.0 if first else 0.9), observed=True)
        site.holes = site.is_local and self.chance(0.3)
        return site

    def _site(self, name: str, kind: str, plates: tuple[Plate, ...], *, observed: bool) -> Site:
        site = Site(name, kind, plates, observed, None, 0.5 if self.chance(0.05) else None)
        if self.chance(0.2 if observed else 0.3):
            ways = ["False", *(["poutine.mask", ".mask"] * 2 if site.is_local else [])]
            site.mask = self.random.choice(ways)
        return site

    # -- of more kinds -----------------------------------------------------------------------------------------------

    def _more(self) -> None:
        """What the first programs have not: one or two of the kinds."""
        kinds = [self._chain, self._factor, self._flat, self._second_plate, self._chosen_items]
        for add in self.random.sample(kinds, self.random.choice([1, 2])):
            add()

    def _chain(self) -> None:
        """Steps, each a latent that sees the one before, and what is observed of it."""
        around, length = (self.data, *self._others()), self.random.choice([2, 3])
        around = tuple(p for p in self.plates if p in around)
        kind = self.random.choice(["Normal", "Normal", "Bernoulli", "Categorical"])
        chain = [self._of_chain(f"c{t}", kind, around, t) for t in range(length)]
        if kind in DISCRETE and DISCRETE[kind] ** (length * chain[0].per_row) * self._values() > VALUES:
            for site in chain:
                site.kind = "Normal"
        in_guide = kind not in DISCRETE or chain[0].kind == "Normal" or self.chance(0.5)
        for t, site in enumerate(chain):
            seen = self._of_chain(f"y{t}", "Normal", around, t)
            site.parents, site.in_guide = chain[t - 1 : t] if t else [], in_guide
            seen.observed, seen.parents, seen.holes = True, [site], t > 0 and self.chance(0.3)
            self.sites += [site, seen]

    def _of_chain(self, name: str, kind: str, around: tuple[Plate, ...], step: int) -> Site:
        weights = tuple(round(self.random.uniform(-1, 1), 2) or 0.5 for _ in range(4))
        return Site(name, kind, around, False, None, None, weights=weights, step=step)

    def _others(self) -> list[Plate]:
        return [p for p in self.plates if not p.of_rows and p.dim != self.data.dim and self.chance(0.3)]

    def _values(self) -> int:
        """The assignments of the discrete values of one row that there are already."""
        count = 1
        for site in self.sites:
            if site.discrete and (site.holes or not site.observed):
                count *= DISCRETE[site.kind] ** site.per_row
        return count

    def _factor(self) -> None:
        """A number that is added to the log-probability, of the rows or of all of them."""
        site = self._site("f", "Factor", self._around(0.8), observed=True)
        site.mask = None if site.mask == ".mask" else site.mask
        site.parents = [s for s in self.sites if not s.observed and s.step is None and _may_follow(s, site)]
        site.weights = tuple(round(self.random.uniform(-1, 1), 2) or 0.5 for _ in range(4))
        self.sites.append(site)

    def _flat(self) -> None:
        """A continuous latent of which the model says nothing."""
        normal = [s for s in self.sites if s.kind == "Normal" and not s.observed]
        for site in normal[:1]:
            site.kind, site.parents, site.mask = "Flat", [], None

    def _second_plate(self) -> None:
        """Some sites move into another plate over the rows."""
        more = Plate("more", self.rows, self.data.dim)
        moved = [s for s in self.sites if s.is_local and s.step is None and s.name != self.fields()[0]]
        chosen = [s for s in moved if self.chance(0.5)]
        self.plates.append(more)
        for site in chosen:
            site.plates = tuple(more if p is self.data else p for p in site.plates)
        for site in self.sites:
            site.parents = [s for s in site.parents if _may_follow(s, site)]

    def _chosen_items(self) -> None:
        """A plate has some of its items: they stand for all."""
        if any(s.discrete and (s.holes or not s.observed) for s in self.sites):
            return  # a factor to the power of a scale inside of a sum over values is nobody's number
        for place, plate in enumerate(self.plates):
            if not plate.of_rows:
                some = replace(plate, whole=2 * plate.size)
                self.plates[place] = some
                for site in self.sites:
                    site.plates = tuple(some if p is plate else p for p in site.plates)
                return

    # -- as text -----------------------------------------------------------------------------------------------------

    def text(self, style: Style) -> str:
        """The source of both programs."""
        return f"{self._model(style)}\n\n\n{self._guide(style)}\n"

    def masked(self) -> list[str]:
        """The masked latents that the guide draws."""
        return [s.name for s in self.drawn if s.mask]

    def fields(self) -> list[str]:
        """The data of the rows."""
        return [s.name for s in self.sites if s.has_data]

    def _model(self, style: Style) -> str:
        masks = [f"m_{s.name}" for s in self.sites if s.has_mask_field]
        lines = [f"def model({', '.join(self.fields() + masks)}):", *self._plate_lines(self.sites)]
        depth = 0
        for site in self.sites:
            fn = f"{site.kind}({_predictor(site, site.parents)})"
            obs = self._placed(site, site.name) if site.has_data else _constant(site)
            depth = self._stepped(lines, site, depth)
            given = f", obs={obs}" if site.observed and site.kind != "Factor" else ""
            lines += _deeper(self._statement(site, fn, given, style), depth)
        return "\n".join(lines)

    def _stepped(self, lines: list[str], site: Site, depth: int) -> int:
        """Go into the next step of a chain; the contexts around this site."""
        wanted = 0 if site.step is None else site.step + 1
        for inner in range(depth, wanted):
            lines.append("    " * (inner + 1) + "with steps:")
        return wanted

    def _guide(self, style: Style) -> str:
        masks = [f"m_{s.name}" for s in self.drawn if s.has_mask_field]
        noise = [f"e_{s.name}" for s in self.drawn if s.is_local]
        lines = [f"def guide({', '.join([self.fields()[0], *masks, *noise])}):", *self._plate_lines(self.drawn)]
        depth = 0
        for site in self.drawn:
            forgets = style.masked is None and not site.guide_masked
            fn = f"{site.kind}({site.guide_eta}, noise(e_{site.name}, rows={site.is_local}))"
            depth = self._stepped(lines, site, depth)
            own = replace(style, masked=frozenset()) if forgets else style
            lines += _deeper(self._statement(site, fn, "", own), depth)
        return "\n".join(lines + (["    pass"] if len(lines) == 1 else []))

    def _plate_lines(self, sites: list[Site]) -> list[str]:
        used = [p for p in self.plates if any(p in s.plates for s in sites)]
        sizes = {p: f"len({self.fields()[0]})" if p.of_rows else str(p.size) for p in used}
        sizes |= {p: f"{p.whole}, subsample=torch.arange({p.size})" for p in used if p.whole}
        steps = ["    steps = pyro.markov()"] if any(s.step is not None for s in sites) else []
        return [*steps, *(f"    plate_{p.name} = pyro.plate({p.name!r}, {sizes[p]}, dim={p.dim})" for p in used)]

    def _placed(self, site: Site, name: str) -> str:
        return f"at({name}, {', '.join(map(str, self.dims(site)))})"

    def dims(self, site: Site) -> list[int]:
        """The dims to which the dims of a field, rows first, belong."""
        return [self.data.dim, *(p.dim for p in site.plates if not p.of_rows)]

    def _statement(self, site: Site, fn: str, obs: str, style: Style) -> list[str]:
        lines, indent = [], "    "
        for plate in site.plates:
            lines.append(f"{indent}with plate_{plate.name}:")
            indent += "    "
        if site.scale is not None and style.scales:
            lines.append(f"{indent}with poutine.scale(scale={site.scale}):")
            indent += "    "
        if style.entries is not None and site.name in style.entries:
            lines.append(f"{indent}with poutine.mask(mask=entries[{site.name!r}]):")
            indent += "    "
        elif site.mask is not None and style.shows(site):
            mask = "False" if site.mask == "False" else self._placed(site, f"m_{site.name}")
            if site.mask == ".mask":
                fn += f".mask({mask})"
            else:
                lines.append(f"{indent}with poutine.mask(mask={mask}):")
                indent += "    "
        if site.kind == "Factor":
            return [*lines, f"{indent}pyro.factor({site.name!r}, {fn})"]
        value = "" if site.observed else f"{site.name} = "
        return [*lines, f"{indent}{value}pyro.sample({site.name!r}, {fn}{obs})"]

    # -- data --------------------------------------------------------------------------------------------------------

    def batch(self) -> dict[str, Tensor]:
        """Observations `x_`, masks `m_` and noise `e_` of every site that has such, with the rows first."""
        generator = torch.Generator().manual_seed(self.random.randrange(10**6))
        found: dict[str, Tensor] = {}
        for site in self.sites:
            shape = (self.rows, *(p.size for p in site.plates if not p.of_rows)) if site.is_local else ()
            if site.has_data:
                found[site.name] = _observations(site, shape, generator)
            if site.has_mask_field:
                found[f"m_{site.name}"] = torch.rand(shape, generator=generator) < 0.6
            if site in self.drawn:
                found[f"e_{site.name}"] = self._noise(site, generator)
        return found

    def _noise(self, site: Site, generator: torch.Generator) -> Tensor:
        sizes = {p.dim: p.size for p in site.plates}
        shape = [PARTICLES, *(sizes.get(d, 1) for d in range(-self.depth, 0)), *([2] if site.kind == "Vector" else [])]
        noise = torch.rand(shape, generator=generator, dtype=F64).clamp(0.02, 0.98)
        noise = noise if site.discrete else torch.distributions.Normal(0.0, 1.0).icdf(noise)
        return noise.movedim(1 + self.depth + self.data.dim, 0) if site.is_local else noise


def _may_follow(parent: Site, child: Site) -> bool:
    """What is not around the child is averaged over: not the rows, and no discrete values."""
    outside = [p for p in parent.plates if p not in child.plates]
    return not outside or (not parent.discrete and not any(p.of_rows for p in outside))


def _deeper(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def _predictor(site: Site, parents: list[Site]) -> str:
    terms = [str(site.weights[0])]
    for i, parent in enumerate(parents):
        value = {"Vector": f"{parent.name}.sum(-1)", "OneHotCategorical": f"levels({parent.name})"}.get(
            parent.kind, parent.name
        )
        value = value if parent.discrete else f"torch.tanh({value})"
        for plate in parent.plates:
            value = value if plate in site.plates else f"across({value}, {plate.dim})"
        terms.append(f"{site.weights[1 + i % 3]} * {value}")
    return " + ".join(terms)


def _constant(site: Site) -> str:
    sizes = {p.dim: p.size for p in site.plates}
    shape = [sizes.get(d, 1) for d in range(min(sizes, default=0), 0)]
    if site.kind == "Vector":
        return f"torch.full({[*shape, 2]}, 0.3, dtype=torch.float64)"
    return f"torch.ones({shape}, dtype=torch.{'long' if site.kind == 'Categorical' else 'float64'})"


def _observations(site: Site, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if site.discrete:
        value = torch.randint(0, DISCRETE[site.kind], shape, generator=generator)
        value = value if site.kind == "Categorical" else value.to(F64)
    else:
        value = torch.randn(*shape, *([2] if site.kind == "Vector" else []), generator=generator, dtype=F64)
    if site.holes:
        value[torch.rand(value.shape, generator=generator) < 0.35] = -1 if site.discrete else torch.nan
    return value
