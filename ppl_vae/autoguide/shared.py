"""The posterior of latents shared by all rows: ordinary variational parameters, nothing amortized."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.autoguide.drawing import GuideRun, draw, unpack
from ppl_vae.autoguide.families import LARGE
from ppl_vae.autoguide.inversion import Block
from ppl_vae.autoguide.sites import Site
from ppl_vae.autoguide.whitening import moved, takes_covariance
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.nn.heads import is_normal
from ppl_vae.programs.program import Program

__all__ = ["Marginal", "SharedPosterior"]


class SharedPosterior(nn.Module):
    """q(v) of all shared latents on their unconstrained space: one distribution over R^d for each block of sites.

    A block's family is that of a row, but without features: what it says depends on nothing. It is a family of e, and
    the latents are v = c + S e, with a centre and a unit S that `fit` finds before it trains (`begin`): a matrix for
    families that take a covariance, else one scale for each number. Blocks are independent of one another.
    `guide.shared.sample((n,))` draws all sites together, `guide.shared["name"]` is the posterior of one of them on its
    own, where the family has it in closed form; else its draws.

    Args:
        sites: the shared latents, in the model's order.
        blocks: which of them are drawn together.
        make: from a block to its family's module, from no features [0] to a distribution over R^d.
        start: where q starts, by site, [numbers of the site].
        program: the model, which is asked for supports that move with other latents.
        batch: rows to run it on then; the supports of shared latents do not depend on them.
    """

    centre: Tensor
    started: Tensor
    program: Program

    def __init__(
        self,
        sites: Sequence[Site],
        blocks: Sequence[Block],
        make: Callable[[Block], nn.Module],
        start: Mapping[str, Tensor],
        program: Program,
        batch: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.sites = {s.name: s for s in sites}
        self.blocks = tuple(blocks)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # layers of no features are biases
            self.heads = nn.ModuleList([make(block) for block in blocks])
        starts = [start[name] for block in blocks for name in block.sites]
        self.register_buffer("centre", torch.cat(starts) if starts else torch.zeros(0))
        self.register_buffer("started", torch.tensor(False))  # whether somebody has found centre and units
        for module in self.heads.modules():  # a part of the state here, since it is another one once `begin` was called
            if isinstance(getattr(module, "scale", None), float):
                scale = torch.tensor(vars(module).pop("scale"))
                module.register_buffer("scale", scale)
        for place, head in enumerate(self.heads):
            width = self.widths[place]
            full = width <= LARGE and takes_covariance(head(torch.zeros(0)))
            self.register_buffer(f"unit_{place}", torch.eye(width) if full else torch.ones(width))
        self._instead: Callable[[int], Any] | None = None
        object.__setattr__(self, "program", program)  # not a part of the guide
        self.batch = dict(batch)

    def __getitem__(self, name: str) -> dist.Distribution:
        """The marginal posterior of a shared latent."""
        if name not in self.sites:
            raise unknown_name("latent shared by all rows", name, self.sites)
        place = next(i for i, block in enumerate(self.blocks) if name in block.sites)
        before = self.blocks[place].sites[: self.blocks[place].sites.index(name)]
        start = sum(self.sites[n].width for n in before)
        site = self.sites[name]
        found = None if site.moving else _marginal(self._base(place), slice(start, start + site.width), site)
        return Marginal(self, name) if found is None else site.constrained(found)

    def sample(self, sample_shape: Sequence[int] = ()) -> dict[str, Tensor]:
        """Draws of all sites together, by name, [*sample_shape, plates, *event].

        Raises:
            UserError: for a sample shape that is not one of sizes.
        """
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            if not any(site.moving for site in self.sites.values()):
                return self._drawn(shape)
            each = [self._drawn(torch.Size()) for _ in range(shape.numel())]
        return {n: torch.stack([e[n] for e in each]).reshape(shape + each[0][n].shape) for n in self.sites}

    def forward(self, run: GuideRun) -> None:
        """Draw every shared latent in a run of the guide."""
        for place, block in enumerate(self.blocks):
            draw(block.name, block.sites, self._base(place), run)

    def _drawn(self, shape: torch.Size) -> dict[str, Tensor]:
        run = GuideRun(self.program, self.sites, {n: v.to(self.centre.device) for n, v in self.batch.items()})
        depth = max((-p.dim for s in self.sites.values() for p in s.plates), default=0)
        for place, block in enumerate(self.blocks):
            vector = self._base(place).sample(shape)
            unpack(block.sites, vector.reshape(shape + (1,) * depth + vector.shape[-1:]), run)
        return {name: self._of_site(run.values[name], len(shape), site) for name, site in self.sites.items()}

    def _of_site(self, value: Tensor, dims: int, site: Site) -> Tensor:
        """Without the dims of size one that stand for plates which are not around the site."""
        own = max((-p.dim for p in site.plates), default=0)
        edge = value.dim() - len(site.event_shape)
        return value.reshape(value.shape[:dims] + value.shape[edge - own :])

    # -- units -----------------------------------------------------------------------------------------------

    @property
    def widths(self) -> list[int]:
        """How many numbers each block has."""
        return [sum(self.sites[n].width for n in b.sites) for b in self.blocks]

    def unit(self, place: int) -> Tensor:
        """S of a block: [d], or lower triangular [d, d]."""
        return self.get_buffer(f"unit_{place}")

    def begin(self, centre: Tensor, units: Sequence[Tensor]) -> None:
        """Let every block start at N(c, S S'): e ~ N(0, I), or near it where a family cannot be that."""
        with torch.no_grad():
            self.centre.copy_(centre)
            self.started.fill_(True)
            for place, unit in enumerate(units):
                self.unit(place).copy_(unit)
                head = self.heads[place]
                fn = head(self.centre.new_zeros(0))
                if is_normal(fn) or isinstance(fn, dist.MultivariateNormal):
                    for parameter in head.parameters():
                        parameter.zero_()
                for module in head.modules():
                    if isinstance(scale := getattr(module, "scale", None), Tensor):
                        starts = getattr(module, "starts", None)
                        if isinstance(starts, Tensor):  # of components, which stay as far apart
                            starts.div_(scale)
                        scale.fill_(1.0)

    @contextmanager
    def instead(self, base: Callable[[int], Any]) -> Iterator[None]:
        """Draw the blocks from other distributions for the time being: `base` gives that of a block by its number."""
        self._instead = base
        try:
            yield
        finally:
            self._instead = None

    def _base(self, place: int) -> Any:
        """The distribution of a block's vector, in the model's own unconstrained numbers."""
        if self._instead is not None:
            return self._instead(place)
        centre = self.centre.split(self.widths)[place]
        return moved(self.heads[place](self.centre.new_zeros(0)), centre, self.unit(place))


class Marginal(dist.TorchDistribution):
    """The posterior of one shared latent of which only draws are to be had.

    Raises:
        UserError: when its density is asked for.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.dependent

    def __init__(self, shared: SharedPosterior, name: str) -> None:
        self.shared, self.name = shared, name
        site = shared.sites[name]
        depth = max((-p.dim for p in site.plates), default=0)
        batch = [1] * depth
        for plate in site.plates:
            batch[plate.dim] = plate.size
        super().__init__(torch.Size(batch), site.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of all shared latents, of which these are the ones of this site."""
        return self.shared.sample(sample_shape)[self.name]

    def log_prob(self, value: Tensor) -> Tensor:
        """Raises: the family has no marginal density."""
        raise UserError(
            f"the posterior of {self.name!r} alone has no density in closed form under this family: draw from it, "
            f"guide.shared[{self.name!r}].sample((1000,)), or use MeanField, FullRank or LowRank for it"
        )


def _marginal(fn: Any, part: slice, site: Site) -> Any | None:
    """The marginal of a site's numbers in a vector, if it is had in closed form."""
    if isinstance(fn, dist.Delta):
        return dist.Delta(fn.v[part], fn.log_density * 0, event_dim=1)
    if is_normal(fn):
        return dist.Normal(fn.base_dist.loc[part], fn.base_dist.scale[part]).to_event(1)
    if not isinstance(fn, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return None
    if site.size == 1:  # the elements of plates are apart: each has a marginal of its own
        return dist.Normal(fn.loc[part], fn.variance[part].sqrt()).to_event(1)
    return None if site.plates else dist.MultivariateNormal(fn.loc[part], fn.covariance_matrix[part, part])
