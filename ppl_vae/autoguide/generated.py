"""A guide generated from a model: every local latent is amortized through an encoder of the observed fields.

The model is run once; its latent sites, supports, plates and dependencies are read; the guide draws the same sites,
each from features of the row and of the latents drawn before it on which its posterior depends (see
`ppl_vae.autoguide.inversion`). Latents outside the data plate, shared by all rows, get ordinary variational parameters,
of the same family.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.autoguide.blocks import Plan, shared_features
from ppl_vae.autoguide.drawing import Run, draw
from ppl_vae.autoguide.families import LARGE, START, Family, family_of, low_rank, made_at
from ppl_vae.autoguide.inversion import Block, fields_of
from ppl_vae.autoguide.reading import Reading, check_order, read_rows
from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.autoguide.sites import Site
from ppl_vae.autoguide.stepping import (
    draw_steps,
    laid_out,
    placed,
    steps_density,
)
from ppl_vae.data import Field, Schema, Split
from ppl_vae.distributions import is_cut
from ppl_vae.errors import UserError, check_choice, check_number, check_several, check_whole, shown, unknown_name
from ppl_vae.nn.encoders import FieldEncoder, encoder_of
from ppl_vae.nn.experts import EXPERTS, ExpertHead, Experts, FieldByField
from ppl_vae.nn.following import Following
from ppl_vae.nn.heads import DiagonalNormal, NormalHead
from ppl_vae.nn.networks import Mixer, concatenate, hidden_layer, widths
from ppl_vae.nn.recurrent import RecurrentEncoder
from ppl_vae.nn.sets import SetEncoder
from ppl_vae.programs.local_module import LocalModule
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.saving.recorded import Recorded

__all__ = ["GeneratedGuide"]

MOST = 2**16
"""Of an option that counts layers, components or widths: more would fill any memory, one module after the other."""


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Pyro modules have a metaclass of their own; this one also honours abstract methods."""


class GeneratedGuide(Recorded, LocalModule, metaclass=_AbstractPyroModule):
    """q(z | x) for any model, with one abstract method: `family`, from features to a distribution over R^d.

    Args:
        model: the generative program. A model of this package knows its data; for any other callable give
            `data`, or let `ppl_vae.fit` do so. Without a model this is a family for one site of another guide.
        data: a data set, a split, a dict of arrays, one array (field `x`), or a schema.
        hidden: widths of the encoder's hidden layers; where a latent is conditioned on others, these and the row go
            through one more layer of the last width.
        activation: of the hidden layers, see `ppl_vae.nn.networks.MLP`.
        encoder: any module from the dict of observed fields, or from the only one, to features [B, F]; a dict of
            modules by field, each from its rows to features; or a function of (fields, train) that makes a module. By
            default a `ppl_vae.nn.encoders.FieldEncoder`.
        experts: how the posterior is put together from one encoder for each field, so that any of them may be missing
            in any row: "product", "mixture" or "mopoe" (`ppl_vae.nn.experts`); a latent that is tied to one field alone
            sees that field. By default one encoder sees all fields, with masks where training rows had holes.
        noise: deviation of the noise that this default encoder adds to standardised entries in training mode; with few
            labels (M2) it may help the classifier, which reads the same features.
        conditioning: "structured" conditions every latent on the earlier ones that its posterior depends on,
            "independent" on none.
        init_scale: posterior scale (unconstrained) at which training starts, of the latents of rows.
        shared: the family of the latents shared by all rows, given as for `families`; by default this guide's own, and
            over more than 500 numbers, such as a network's weights, `LowRank(rank=10)` in place of a joint one.
        shared_rank: short for `shared=LowRank(rank=shared_rank)`.
        families: a family of its own for some sites, by name: a guide class (`IAF`), one with options
            (`IAF(flows=2)`), or a callable from (features, size) to a module. A label's gives its logits.
        collapse: names of finite latents that the guide does not draw and the model sums out; `*` stands for any
            letters. Latents that the model marks with `infer={"enumerate": "parallel"}` are, and labels whose joint
            values would be too many to list.
        **sites: the same, for site names that are not names of arguments: `MeanField(model, z=IAF)`.

    Raises:
        UserError: for a site that this guide cannot represent (naming it), or when used before it has data.
    """

    follows_masks: ClassVar[bool] = True
    """Whether the latents that the model masks are left to the model's mask: the engine then masks both densities."""

    joint: ClassVar[bool] = True
    """Whether one distribution covers all continuous latents of a row together."""

    options: ClassVar[dict[str, Any]] = {}
    """The family's own options with their defaults: what a subclass declares as `flows: int = 3`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: vars(cls)[name] for name in vars(cls).get("__annotations__", {}) if name in vars(cls)}
        cls.options = cls.options | own
        inherited = list(inspect.signature(GeneratedGuide.__init__).parameters.values())[1:]
        named = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in cls.options.items()]
        cls.__signature__ = inspect.Signature([*inherited[:-1], *named, inherited[-1]])

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        data: Any = None,
        *,
        hidden: Sequence[int] = (256,),
        activation: str = "gated",
        encoder: Any = None,
        experts: Experts | None = None,
        noise: float = 0.0,
        conditioning: Literal["structured", "independent"] = "structured",
        init_scale: float = 1.0,
        shared: Any = None,
        shared_rank: int = 0,
        families: Mapping[str, Any] | None = None,
        collapse: str | Sequence[str] = (),
        **sites: Any,
    ) -> None:
        super().__init__()
        for name, default in self.options.items():
            setattr(self, name, _checked(name, sites.pop(name, default), default))
        check_choice("conditioning", conditioning, ("structured", "independent"))
        init_scale, noise = check_number("init_scale", init_scale, positive=True), check_number("noise", noise)
        shared_rank = check_whole("shared_rank", shared_rank, 0)
        if shared_rank and shared is not None:
            raise UserError("shared_rank is short for shared=LowRank(rank=...): give one of the two")
        self.hidden, self.activation, self.conditioning = widths(hidden), activation, conditioning
        if encoder is not None and noise and not isinstance(encoder, Mapping):
            raise UserError("noise is of the default encoder, and encoder= was given one: FieldEncoder(..., noise=)")
        if experts is not None:
            check_choice("experts", experts, EXPERTS)
        if experts is not None and encoder is not None and not isinstance(encoder, Mapping):
            raise UserError("experts= makes an encoder for each field: give encoder= as a dict of modules by field")
        self.experts = experts
        self.init_scale, self.shared_rank, self.noise = init_scale, shared_rank, noise
        if not (families is None or (isinstance(families, Mapping) and all(isinstance(n, str) for n in families))):
            raise UserError(f"families expects families by the names of sites, got {shown(families)}")
        # not submodules: they only make some
        object.__setattr__(self, "families", {**(families or {}), **sites})
        object.__setattr__(self, "shared_family", None if shared is None else family_of("shared", shared))
        several = [collapse] if isinstance(collapse, str) else collapse
        self.collapse = check_several("collapse", several, "names of discrete latents, or patterns")
        if isinstance(encoder, nn.Module):
            self.encoder = encoder
        object.__setattr__(self, "asked_encoder", encoder)
        if model is None:
            return
        # Not a submodule: the model's parameters are the model's.
        object.__setattr__(self, "program", Program(model, "model"))
        known = data if data is not None else getattr(model, "data", None) or getattr(model, "schema", None)
        if known is not None:
            self.setup(known)

    _instead: Callable[[int], Any] | None = None
    begun: bool = False
    """Whether it begins at the posterior of the model that the model begins at, so that no warm-up is needed."""

    program: Program
    asked_encoder: Any
    known: Schema
    sites: dict[str, Site]
    families: dict[str, Any]
    shared_family: Family | None

    @abstractmethod
    def family(self, features: int, size: int) -> nn.Module:
        """A module from features [..., F] to a distribution with event shape [size], batch shape [...]."""

    def following(self, features: int, lags: int, size: int) -> nn.Module:
        """A module for all steps of a chain: from their features to the distribution of each, given those before it."""
        hidden = self.hidden[-1] if self.hidden else None
        return Following(self.family, features, lags * size, size, hidden, self.activation)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The latents of the rows in the order in which they are drawn, then those that the model sums out."""
        return (*self.drawn, *(Block((name,), row=False, summed=True) for name in self.summed))

    # -- reading the model -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the model has been read and the networks exist."""
        return hasattr(self, "heads")

    def setup(self, data: Any) -> None:
        """Read the model on a few rows and create the networks, standardised by the training rows."""
        schema, split, batch, model = read_rows(self.program, data, self.collapse)
        object.__setattr__(self, "known", schema)
        for name in self.families:
            if name not in model.local and name not in model.shared:
                options = [*inspect.signature(type(self)).parameters, *model.local, *model.shared]
                raise unknown_name("latent site or option", name, options)
        object.__setattr__(self, "families", {n: family_of(n, f) for n, f in self.families.items()})
        plan = self._plan()
        self.drawn, model = plan.for_rows(model)
        together = sum(model.shared[n].width for n in model.shared if n not in self.families)
        self.for_shared = self._family_for_shared(together)
        shared = plan.for_shared(model, self.for_shared.joint)
        check_order([*(b.sites for b in shared), *(step for b in self.drawn for step in b.steps or (b.sites,))], model)
        self.plates, self.dim, self.subsample_size = model.plates, model.dim, model.subsample_size
        self.sites, self.summed = model.local, tuple(model.summed)
        self.given_sites = {**model.local, **{n: model.shared[n] for n in shared_features(model)}}
        fields = [schema[name] for name in model.observed]
        if self.experts is not None:
            self.encoder = self._field_by_field(schema, split, model)
        elif self.asked_encoder is not None:
            own: dict[str, Any] = {"hidden": self.hidden, "activation": self.activation, "noise": self.noise}
            self.encoder = encoder_of(self.asked_encoder, fields, split, batch, repeated=model.repeated, **own)
        elif any(block.row for block in self.drawn):
            self.encoder = self._encoder(fields, split, model)
        self.mixers = nn.ModuleList([self._mixer(block) for block in self.drawn])
        heads = enumerate(self.drawn)
        self.heads = nn.ModuleList([self._expert(i, b) if self._sees_fields(b) else self._head(b) for i, b in heads])
        self._share(model, shared, batch)
        if split is not None:
            self._start(split)
        for part in self.program.modules():
            attach = getattr(part, "attach", None)  # of a prior that is made of the guide's encoder
            if callable(attach):
                attach(self, fields, split)

    def _encoder(self, fields: Sequence[Field], split: Split | None, model: Reading) -> FieldEncoder:
        options: dict[str, Any] = {"hidden": self.hidden, "activation": self.activation, "noise": self.noise}
        if model.members is not None:
            of_members = any(block.each for block in self.drawn)
            return SetEncoder(fields, split, model.members.timing, of_members=of_members, **options)
        if model.timing is None:
            beside = bool(getattr(self.program.public, "linear", False))
            return FieldEncoder(fields, split, repeated=model.repeated, beside=beside, **options)
        of_rows = any(block.row and not block.steps for block in self.drawn)
        return RecurrentEncoder(fields, split, model.timing, of_rows=of_rows, **options)

    def _field_by_field(self, schema: Schema, split: Split | None, model: Reading) -> FieldByField:
        """An encoder for each field that is observed, and in `self.tied` the fields of each block of latents."""
        if model.timing is not None or any(block.steps for block in self.drawn):
            raise UserError("experts= are of rows with several fields, and here rows are sequences: leave it out")
        names = [name for name in model.observed if name in model.parents]
        if context := [name for name in model.observed if name not in model.parents]:
            raise UserError(
                f"experts= see fields that the model observes, and {context[0]!r} is a condition: leave experts out"
            )
        options: dict[str, Any] = {"hidden": self.hidden, "activation": self.activation, "noise": self.noise}
        tied = fields_of(self.drawn, model.parents, [*model.local, *model.summed], names, known=model.shared)
        self.tied = [tuple(names.index(name) for name in of_block) for of_block in tied]
        fields = [schema[name] for name in names]
        return FieldByField(fields, split, repeated=model.repeated, own=self.asked_encoder, **options)

    def normal_head(self, name: str) -> nn.Module | None:
        """The module from encoder features [..., F] to a site's normal over R^d, if that is what it is; else None."""
        for block, head in zip(self.drawn, self.heads, strict=True):
            if (
                block.sites == (name,)
                and not (block.steps or block.each or block.given)
                and isinstance(head, DiagonalNormal)
            ):
                return head if self.sites[name].is_real and not self.sites[name].plates else None
        return None

    def _start(self, split: Split) -> None:
        """Begin where the model does, if it says where its latents are on the first rows and the family is normal."""
        for name, (codes, spread) in getattr(self.program.public, "begun", {}).items():
            head = next((h for b, h in zip(self.drawn, self.heads, strict=True) if b.sites == (name,)), None)
            if isinstance(head, NormalHead) and type(self.encoder) is FieldEncoder and len(codes) <= len(split):
                self.encoder.eval()
                with torch.no_grad(), preserved_randomness():
                    inputs = self.encoder.read(split.batch(slice(0, len(codes))))
                self.encoder.train()
                self.begun = head.start_at(inputs, codes, spread)

    # -- latents shared by all rows ---------------------------------------------------------------------------

    def _plan(self) -> Plan:
        return Plan(
            frozenset(self.families),
            joint=self.joint and self.experts is None,
            structured=self.conditioning == "structured",
            own_encoder=self.asked_encoder is not None or self.experts is not None,
        )

    def _share(self, model: Reading, blocks: tuple[Block, ...], batch: Mapping[str, Tensor]) -> None:
        sites = model.shared
        self.shared = SharedPosterior(
            [*sites.values()],
            blocks,
            lambda block: self._shared_head(block, sum(sites[n].width for n in block.sites)),
            model.start,
            self.program,
            batch,
        )

    def _family_for_shared(self, width: int) -> Family:
        if self.shared_family is not None:
            return self.shared_family
        if self.shared_rank or (self.joint and width > LARGE):
            return low_rank(self.shared_rank, width)
        return Family(type(self).__name__, self.family, self.joint)

    def _shared_head(self, block: Block, size: int) -> nn.Module:
        make = self.families.get(block.sites[0], self.for_shared).make
        with made_at(START, make):
            return make(0, size)

    def _width(self, block: Block) -> int:
        row = int(self.encoder.step_size if block.steps or block.each else self.encoder.size) if block.row else 0  # type: ignore[arg-type]
        return row + sum(self.given_sites[n].width for n in block.given)

    def _sees_fields(self, block: Block) -> bool:
        return self.experts is not None and block.row

    def _mixes(self, block: Block) -> bool:
        return bool(block.given and self.hidden) and not self._sees_fields(block)

    def _mixer(self, block: Block) -> nn.Module:
        """What a label or another latent says depends on the row; a head that is linear in both only adds them up."""
        if not self._mixes(block):
            return _Concatenation()
        return Mixer(self._width(block), self.hidden[-1], self.activation)

    def _head(self, block: Block) -> nn.Module:
        features = self._width(block) if not self._mixes(block) else self.hidden[-1]
        if block.steps:
            return self.following(features, block.lags, sum(self.sites[n].width for n in block.steps[0]))
        head = self._of_features(block, features)
        beside = getattr(self.encoder, "beside", 0) if block.row and not self._mixes(block) and not block.given else 0
        if isinstance(head, NormalHead) and beside:
            head.set_beside(beside)
        return head

    def _of_features(self, block: Block, features: int) -> nn.Module:
        size = sum(self.sites[n].width for n in block.sites)
        if block.sites[0] in self.families:
            return self.families[block.sites[0]].make(features, size)
        return nn.Linear(features, size) if self.sites[block.sites[0]].classified else self.family(features, size)

    def _expert(self, number: int, block: Block) -> nn.Module:
        """A head for each field that these latents are tied to, put together; all of them if they are tied to none."""
        if self.experts is None or not isinstance(self.encoder, FieldByField):
            raise TypeError("experts are of an encoder field by field")
        given = sum(self.given_sites[n].width for n in block.given)
        mixes = bool(block.given and self.hidden)

        def make(features: int) -> nn.Module:
            if not mixes:
                return self._of_features(block, features)
            mixer = hidden_layer(features, self.hidden[-1], self.activation)
            return nn.Sequential(*mixer, self._of_features(block, self.hidden[-1]))

        fields = self.tied[number] or range(len(self.encoder.sizes))
        logits = self.sites[block.sites[0]].classified is not None and block.sites[0] not in self.families
        return ExpertHead(
            self.experts, fields, self.encoder.sizes, given, make, logits=logits, name=", ".join(block.sites)
        )

    # -- the program -----------------------------------------------------------------------------------------

    def forward(self, *args: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Draw every latent of the model for the rows of a batch; returns the draws by site name."""
        run = self._run(self._fields(args, fields))
        self.shared(run)
        if self.drawn:
            run.entered |= {name: self._plate(name, run.fields) for name in self.plates}
            if self._instead is not None:
                for place, block in enumerate(self.drawn):
                    draw(block.name, block.sites, self._instead(place), run)
                return run.values
            rows = run.entered[self.plates[0]].indices if self.subsample_size else None
            for block, head, features in self._each(run, rows):
                if block.steps:
                    draw_steps(block, head, features, run)
                else:
                    self._draw(block, head(features), run)
        return run.values

    def _draw(self, block: Block, head: Any, run: Run) -> None:
        draw(block.name, block.sites, head, run)

    @contextmanager
    def instead(self, shared: Callable[[int], Any], rows: Callable[[int], Any] | None = None) -> Iterator[None]:
        """Draw blocks from other distributions for the time being, given by their number: the shared ones, all others.

        That is how the model is asked for its density at chosen points, and how a start is tried.
        """
        self._instead = rows
        try:
            with self.shared.instead(shared):
                yield
        finally:
            self._instead = None

    def log_prob(self, values: Mapping[str, Tensor], **fields: Tensor) -> Tensor:
        """log q(z | x) of given values of all latents of the rows, in nats, [B] (of those in plates, summed).

        Args:
            values: by site name, the latents of the rows, and those shared by all rows that they depend on.
            **fields: the observed fields of the rows.

        Raises:
            NoInverse: for a family whose density of values that it did not draw cannot be had.
        """
        run = self._run(self._fields((), fields))
        run.values.update(values)
        total = self.shared.centre.new_zeros(())
        for block, head, features in self._each(run):
            if block.steps:
                total = total + steps_density(block, head, features, run)
            else:
                total = total + self._density(block, head(features), run)
        return total

    def _run(self, fields: Mapping[str, Tensor]) -> Run:
        return Run(self.program, {**self.shared.sites, **self.sites}, fields)

    def _plate(self, name: str, fields: Mapping[str, Tensor]) -> Any:
        rows = len(next(iter(fields.values())))
        return pyro.plate(name, rows, subsample_size=self.subsample_size, dim=self.dim)

    def _fields(self, args: Sequence[Tensor], fields: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.ready:
            name = type(self).__name__
            raise UserError(f"{name} has not seen data yet: give it some, {name}(model, data)")
        return dict(zip(self.program.arguments, args, strict=False)) | fields

    def _each(self, run: Run, rows: Tensor | None = None) -> Iterator[tuple[Block, nn.Module, Tensor]]:
        """The blocks with their heads and features, each once the latents before it have been drawn."""
        row, steps = self._encoded(run.fields, rows)
        for block, mixer, head in zip(self.drawn, self.mixers, self.heads, strict=True):
            given = [run.features(name) for name in block.given] if block.steps or block.each else []
            if steps is not None and block.steps:
                features = placed(steps, self.dim, given)
            elif steps is not None and block.each:
                features = [laid_out(steps, self.dim, self.sites[block.sites[0]].over[0].dim), *given]
            else:
                features = self._features(row, block, run)
            yield block, head, mixer(features)

    def _encoded(self, fields: Mapping[str, Tensor], rows: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Features with the rows at the data plate's dim, [B, 1 ..., F], and those of steps or members [T, B, G].

        They are of some `rows`, if the model draws them.
        """
        if not any(block.row for block in self.drawn):
            return None, None
        steps = None
        if any(block.steps or block.each for block in self.drawn):
            features, steps = self.encoder.of_steps(fields)  # type: ignore[operator]
        else:
            features = self.encoder(fields)
        if rows is not None:
            features, steps = features[rows], None if steps is None else steps[:, rows]
        return features.reshape(features.shape[:1] + (1,) * (-1 - self.dim) + features.shape[1:]), steps

    def _features(self, row: Tensor | None, block: Block, run: Run) -> list[Tensor]:
        given = [run.features(name) for name in block.given]
        return [row, *given] if row is not None and block.row else given

    def _density(self, block: Block, head: Any, run: Run) -> Tensor:
        sites = [run.site(n) for n in block.sites]
        if sites[0].classified:
            log_q = sites[0].classifier(head).log_prob(run.values[sites[0].name])
            return _of_rows(sites[0], sites[0].gathered(log_q.unsqueeze(-1)).sum(-1))
        parts = [site.vector(run.values[site.name]) for site in sites]
        log_q = head.log_prob(concatenate([vector for vector, _ in parts]))
        return _of_rows(sites[0], log_q - sum(stretch for _, stretch in parts))

    def extra_repr(self) -> str:
        """What is decided for latents shared by all rows, and which latents the model sums out."""
        if not self.ready:
            return ""
        said = [f"shared: {', '.join(self.shared.sites)} by {self.for_shared.name}"] if self.shared.sites else []
        said += [f"summed out in the model: {', '.join(self.summed)}"] if self.summed else []
        cut = [n for n, s in {**self.shared.sites, **self.sites}.items() if is_cut(s.support)]
        said += [f"angles, cut at pi: {', '.join(cut)}"] if cut else []
        return "; ".join(said)


def _of_rows(site: Site, log: Tensor) -> Tensor:
    """A log-density with the members of each row summed, [B]."""
    for plate in site.over:
        log = log.sum(plate.dim, keepdim=True)
    return log.reshape(-1)


class _Concatenation(nn.Module):
    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        return concatenate(parts)


def _checked(name: str, value: Any, default: Any) -> Any:
    """An option of a family, of the type of its default; counts are at least 1, others positive (or 0)."""
    if type(default) is int:
        number = check_whole(name, value)
        if number > MOST:
            raise UserError(f"{name} are layers or widths of networks, {MOST:,} at most, got {number:,}")
        return number
    if isinstance(default, float):
        return float(check_number(name, value, positive=default > 0))
    if type(value) is not type(default):
        raise UserError(f"{name} must be of type {type(default).__name__}, got {shown(value)}")
    return value
