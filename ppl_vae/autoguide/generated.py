"""A guide generated from a model: every local latent is amortized through an encoder of the observed fields.

The model is run once; its latent sites, supports, plates and dependencies are read; the guide draws the same sites,
each from features of the row and of the latents drawn before it on which its posterior depends (see
`ppl_vae.autoguide.inversion`). Latents outside the data plate, shared by all rows, get ordinary variational parameters.
"""

from __future__ import annotations

import inspect
import numbers
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.autoguide.inversion import Block, faithful_blocks
from ppl_vae.autoguide.reading import Reading, read_model
from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.autoguide.sites import Site, sample_together
from ppl_vae.data import Schema, as_split
from ppl_vae.data.example import example
from ppl_vae.errors import UserError, check_whole, unknown_name
from ppl_vae.nn.encoders import FieldEncoder, adapted
from ppl_vae.nn.heads import DiagonalNormal, is_normal
from ppl_vae.nn.networks import concatenate, hidden_layer, widths
from ppl_vae.programs.local_module import LocalModule
from ppl_vae.programs.program import Program
from ppl_vae.saving.recorded import Recorded

__all__ = ["GeneratedGuide"]

SHARED_AS_FEATURES = 32
"""Latents shared by all rows are features of the rows' own latents if they have at most this many numbers."""


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
        encoder: any module from the dict of observed fields, or from the only one, to features [B, F]; by default
            a `ppl_vae.nn.encoders.FieldEncoder`.
        noise: deviation of the noise that this default encoder adds to standardised entries in training mode; with few
            labels (M2) it may help the classifier, which reads the same features.
        conditioning: "structured" conditions every latent on the earlier ones that its posterior depends on,
            "independent" on none.
        init_scale: posterior scale (unconstrained) at which training starts.
        shared_rank: latents shared by all rows are independent normals (0), or a normal of this rank plus diagonal.
        families: a family of its own for some sites, by name: a guide class (`IAF`), one with options
            (`IAF(flows=2)`), or a callable from (features, size) to a module. A label's gives its logits.
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
        encoder: nn.Module | None = None,
        noise: float = 0.0,
        conditioning: Literal["structured", "independent"] = "structured",
        init_scale: float = 1.0,
        shared_rank: int = 0,
        families: Mapping[str, Any] | None = None,
        **sites: Any,
    ) -> None:
        super().__init__()
        for name, default in self.options.items():
            setattr(self, name, _checked(name, sites.pop(name, default), default))
        if conditioning not in ("structured", "independent"):
            raise unknown_name("conditioning", conditioning, ("structured", "independent"))
        if not init_scale > 0:
            raise UserError(f"init_scale must be positive, got {init_scale}")
        if shared_rank < 0:
            raise UserError(f"shared_rank must not be negative, got {shared_rank}")
        self.hidden, self.activation, self.conditioning = widths(hidden), activation, conditioning
        if encoder is not None and noise:
            raise UserError("noise is of the default encoder, and encoder= was given one: FieldEncoder(..., noise=)")
        self.init_scale, self.shared_rank, self.noise = float(init_scale), shared_rank, float(noise)
        object.__setattr__(self, "families", {**(families or {}), **sites})  # not submodules: they only make some
        if encoder is not None:
            self.encoder = encoder
        if model is None:
            return
        # Not a submodule: the model's parameters are the model's.
        object.__setattr__(self, "program", Program(model, "model"))
        known = data if data is not None else getattr(model, "data", None) or getattr(model, "schema", None)
        if known is not None:
            self.setup(known)

    program: Program
    sites: dict[str, Site]
    families: dict[str, Any]

    @abstractmethod
    def family(self, features: int, size: int) -> nn.Module:
        """A module from features [..., F] to a distribution with event shape [size], batch shape [...]."""

    # -- reading the model -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the model has been read and the networks exist."""
        return hasattr(self, "heads")

    def setup(self, data: Any) -> None:
        """Read the model on a few rows and create the networks, standardised by the training rows."""
        split = None if isinstance(data, Schema) else as_split(data, "train")
        schema = data if split is None else split.schema
        batch = example(schema, split)
        model = read_model(self.program, batch)
        for name in self.families:
            if name not in model.local:
                options = [*inspect.signature(type(self)).parameters, *model.local]
                raise unknown_name("latent site or option", name, options)
        self.plate, self.dim, self.sites = model.plate, model.dim, model.local
        fields = [schema[name] for name in model.observed]
        if hasattr(self, "encoder"):
            self.encoder = adapted(self.encoder, {f.name: batch[f.name] for f in fields})
        else:
            self.encoder = FieldEncoder(
                fields, split, self.hidden, self.activation, repeated=model.repeated, noise=self.noise
            )
        few = sum(s.width for s in model.shared.values()) <= SHARED_AS_FEATURES
        self.given_sites = {**model.local, **(model.shared if few else {})}
        self.blocks = self._blocks(model)
        self.mixers = nn.ModuleList([self._mixer(block) for block in self.blocks])
        self.heads = nn.ModuleList([self._head(block) for block in self.blocks])
        self.shared = SharedPosterior([*model.shared.values()], self.shared_rank)
        for part in self.program.modules():
            attach = getattr(part, "attach", None)  # of a prior that is made of the guide's encoder
            if callable(attach):
                attach(self, fields, split)

    def normal_head(self, name: str) -> nn.Module | None:
        """The module from encoder features [..., F] to a site's normal over R^d, if that is what it is; else None."""
        for block, head in zip(self.blocks, self.heads, strict=True):
            if block.sites == (name,) and not block.given and isinstance(head, DiagonalNormal):
                return head if self.sites[name].is_real and not self.sites[name].plates else None
        return None

    def _blocks(self, model: Reading) -> tuple[Block, ...]:
        labels = [n for n, s in model.local.items() if s.classified]
        late = [n for n in labels if model.local[n].plates]
        blocks = faithful_blocks(
            [n for n in model.local if n not in labels],
            [n for n in labels if n not in late],
            late,
            model.parents,
            joint=lambda name: self.joint and name not in self.families,
            known=[n for n in model.shared if n in self.given_sites],
            order=model.order,
            touching=model.touching,
        )
        return blocks if self.conditioning == "structured" else tuple(Block(b.sites) for b in blocks)

    def _width(self, block: Block) -> int:
        row = int(self.encoder.size) if block.row else 0  # type: ignore[arg-type]
        return row + sum(self.given_sites[n].width for n in block.given)

    def _mixes(self, block: Block) -> bool:
        return bool(block.given and self.hidden)

    def _mixer(self, block: Block) -> nn.Module:
        """What a label or another latent says depends on the row; a head that is linear in both only adds them up."""
        if not self._mixes(block):
            return nn.Identity()
        return nn.Sequential(*hidden_layer(self._width(block), self.hidden[-1], self.activation))

    def _head(self, block: Block) -> nn.Module:
        features = self._width(block) if not self._mixes(block) else self.hidden[-1]
        size = sum(self.sites[n].width for n in block.sites)
        if block.sites[0] in self.families:
            return _family(block.sites[0], self.families[block.sites[0]])(features, size)
        return nn.Linear(features, size) if self.sites[block.sites[0]].classified else self.family(features, size)

    # -- the program -----------------------------------------------------------------------------------------

    def forward(self, *args: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Draw every latent of the model for the rows of a batch; returns the draws by site name."""
        fields = self._fields(args, fields)
        row = self._encoded(fields)
        entered: dict[str, Any] = {}
        values = self.shared(entered)
        with pyro.plate(self.plate, len(next(iter(fields.values()))), dim=self.dim):
            for block, mixer, head in zip(self.blocks, self.mixers, self.heads, strict=True):
                values |= self._draw(block, head(mixer(self._features(row, block, values))), entered)
        return values

    def log_prob(self, values: Mapping[str, Tensor], **fields: Tensor) -> Tensor:
        """log q(z | x) of given values of all latents of the rows, in nats, [B] (of those in plates, summed).

        Args:
            values: by site name, the latents of the rows, and those shared by all rows that they depend on.
            **fields: the observed fields of the rows.

        Raises:
            NoInverse: for a family whose density of values that it did not draw cannot be had.
        """
        row = self._encoded(self._fields((), fields))
        total = row.new_zeros(())
        for block, mixer, head in zip(self.blocks, self.mixers, self.heads, strict=True):
            total = total + self._log_density(block, head(mixer(self._features(row, block, values))), values)
        return total

    def _fields(self, args: Sequence[Tensor], fields: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.ready:
            name = type(self).__name__
            raise UserError(f"{name} has not seen data yet: give it some, {name}(model, data)")
        return dict(zip(self.program.arguments, args, strict=False)) | fields

    def _encoded(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Features with the rows at the data plate's dim, [B, 1 ..., F]."""
        features = self.encoder(fields)
        return features.reshape(features.shape[:1] + (1,) * (-1 - self.dim) + features.shape[1:])

    def _features(self, row: Tensor, block: Block, values: Mapping[str, Tensor]) -> Tensor:
        given = [self.given_sites[n].features(values[n]) for n in block.given]
        return concatenate([row, *given] if block.row else given)

    def _draw(self, block: Block, head: Any, entered: dict[str, Any]) -> dict[str, Tensor]:
        site = self.sites[block.sites[0]]
        if not site.classified and (
            len(block.sites) > 1 or (site.plates and not is_normal(head) and not isinstance(head, dist.Delta))
        ):
            return sample_together(block.name, head, [self.sites[n] for n in block.sites], entered)
        posterior = site.classifier(head) if site.classified else site.constrained(head)
        with site.inside(entered):
            return {site.name: pyro.sample(site.name, posterior)}

    def _log_density(self, block: Block, head: Any, values: Mapping[str, Tensor]) -> Tensor:
        sites = [self.sites[n] for n in block.sites]
        if sites[0].classified:
            log_q = sites[0].classifier(head).log_prob(values[sites[0].name])
            return sites[0].gathered(log_q.unsqueeze(-1)).sum(-1).reshape(-1)
        parts = [site.vector(values[site.name]) for site in sites]
        log_q = head.log_prob(concatenate([vector for vector, _ in parts]))
        return (log_q - sum(stretch for _, stretch in parts)).reshape(-1)


def _checked(name: str, value: Any, default: Any) -> Any:
    """An option of a family, of the type of its default; counts are at least 1, others positive (or 0)."""
    if type(default) is int:
        return check_whole(name, value)
    if isinstance(default, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise UserError(f"{name} must be of type {type(default).__name__}, got {value!r}")
    if isinstance(value, float) and value == default == 0:
        return value
    if isinstance(value, float) and not value > 0:
        raise UserError(f"{name} must be {'positive' if default else 'at least 0'}, got {value}")
    return value


def _family(name: str, value: Any) -> Callable[[int, int], nn.Module]:
    """The family that a user named for a site: a guide class, one with options, or a callable."""
    if isinstance(value, type) and issubclass(value, GeneratedGuide):
        value = value()
    if isinstance(value, GeneratedGuide):
        return value.family
    if callable(value):
        return value
    raise UserError(
        f"the family of {name!r} must be a guide class, one with options such as IAF(flows=2), or a callable from "
        f"(features, size) to a module, got {type(value).__name__}"
    )
