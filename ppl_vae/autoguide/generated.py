"""A guide generated from a model: every local latent is amortized through an encoder of the observed fields.

The model is run once; its latent sites, supports, plates and dependencies are read; the guide draws the same sites,
each from features of the row and of the latents drawn before it on which its posterior depends (see
`ppl_vae.autoguide.inversion`). Latents outside the data plate, shared by all rows, get ordinary variational parameters,
of the same family.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.autoguide.amortized import AmortizedProgram
from ppl_vae.autoguide.blocks import Plan, shared_features
from ppl_vae.autoguide.families import LARGE, START, Family, family_of, low_rank, made_at
from ppl_vae.autoguide.inversion import Block
from ppl_vae.autoguide.networks import BlockNetworks, EncoderChoice, fields_of_blocks
from ppl_vae.autoguide.reading import Reading, check_order, read_rows
from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.data import Schema, Split
from ppl_vae.distributions import is_cut
from ppl_vae.errors import UserError, check_choice, check_number, check_several, check_whole, shown, unknown_name
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.nn.experts import EXPERTS, Experts
from ppl_vae.nn.following import Following
from ppl_vae.nn.heads import DiagonalNormal, NormalHead
from ppl_vae.nn.networks import widths
from ppl_vae.programs.program import Program
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.saving.recorded import Recorded

__all__ = ["GeneratedGuide"]

MOST = 2**16
"""Of an option that counts layers, components or widths: more would fill any memory, one module after the other."""


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Pyro modules have a metaclass of their own; this one also honours abstract methods."""


class GeneratedGuide(Recorded, AmortizedProgram, metaclass=_AbstractPyroModule):
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
        hide: in training, every field of a row is hidden from the encoder with this probability, of a model of several
            fields (`ppl_vae.nn.hiding.Hiding`): any may then be missing later, even if no training row lacks it.
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
        hide: float = 0.0,
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
        if encoder is not None and hide and not isinstance(encoder, Mapping):
            raise UserError("hide is of the default encoder, and encoder= was given one: FieldEncoder(..., hide=)")
        if experts is not None:
            check_choice("experts", experts, EXPERTS)
        if experts is not None and encoder is not None and not isinstance(encoder, Mapping):
            raise UserError("experts= makes an encoder for each field: give encoder= as a dict of modules by field")
        self.experts = experts
        self.init_scale, self.shared_rank, self.noise = init_scale, shared_rank, noise
        self.hide = check_number("hide", hide)
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

    begun: bool = False
    """Whether it begins at the posterior of the model that the model begins at, so that no warm-up is needed."""

    asked_encoder: Any
    known: Schema
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
        encoder = self._encoder_choice().made(self.drawn, schema, split, batch, model)
        if encoder is not None:
            self.encoder = encoder
        self.tied = fields_of_blocks(self.drawn, model) if self.experts is not None else []
        made = self._networks()
        self.mixers = nn.ModuleList([made.mixer(block) for block in self.drawn])
        self.heads = nn.ModuleList([made.head(i, block) for i, block in enumerate(self.drawn)])
        self._share(model, shared, batch)
        if split is not None:
            self._start(split)
        for part in self.program.modules():
            attach = getattr(part, "attach", None)  # of a prior that is made of the guide's encoder
            if callable(attach):
                attach(self, [schema[name] for name in model.observed], split)

    def _encoder_choice(self) -> EncoderChoice:
        beside = bool(getattr(self.program.public, "linear", False))
        options = {"hidden": self.hidden, "activation": self.activation, "noise": self.noise}
        reads = getattr(self.program.public, "reads", None) or {}
        return EncoderChoice(self.asked_encoder, reads, self.experts is not None, beside, self.hide, options)

    def _networks(self) -> BlockNetworks:
        return BlockNetworks(
            family=self.family,
            families=self.families,
            following=self.following,
            hidden=self.hidden,
            activation=self.activation,
            experts=self.experts,
            tied=self.tied,
            encoder=getattr(self, "encoder", None),
            sites=self.given_sites,
        )

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

    def extra_repr(self) -> str:
        """What is decided for latents shared by all rows, and which latents the model sums out."""
        if not self.ready:
            return ""
        said = [f"shared: {', '.join(self.shared.sites)} by {self.for_shared.name}"] if self.shared.sites else []
        said += [f"summed out in the model: {', '.join(self.summed)}"] if self.summed else []
        cut = [n for n, s in {**self.shared.sites, **self.sites}.items() if is_cut(s.support)]
        said += [f"angles, cut at pi: {', '.join(cut)}"] if cut else []
        return "; ".join(said)


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
