"""What each latent dimension of a trained pair tells about a row, and where the rows lie among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.checks.analysis import analyse
from ppl_vae.distributions import is_discrete, is_real, unwrapped
from ppl_vae.errors import UserError, check_whole
from ppl_vae.nn.experts import of_all_given
from ppl_vae.prediction.coding import encode
from ppl_vae.programs.density import is_improper
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import TraceSites, frames, sample_sites

__all__ = ["ACTIVE", "Latents", "TraceSites", "continuous_latents", "draw_pair", "information"]

ACTIVE = 0.01
"""A latent whose information is not above this is inactive (Burda et al. 2016, arXiv 1509.00519)."""


@dataclass(frozen=True)
class Latents:
    """One continuous latent site, its event flattened: what the guide makes of the rows of a batch.

    Attributes:
        site: its name.
        event_shape: of one row.
        mean: posterior means, [row, latent].
        information: [latent], in nats if `exact`: see `information`.
        exact: whether it is the analytic KL to the prior, not the variance of the posterior mean.
        centre: mean of the prior, [latent]; of the rows' posterior means where the prior is improper.
        spread: standard deviation of the prior, or of these, [latent].
        real: whether the support is all of R, so that any value may be tried.
        proper: whether the prior is a distribution; else information is the variance of the posterior mean as a share
            of that of the widest latent.
    """

    site: str
    event_shape: torch.Size
    mean: Tensor
    information: Tensor
    exact: bool
    centre: Tensor
    spread: Tensor
    real: bool
    proper: bool = True

    @property
    def ranked(self) -> list[int]:
        """The latents that carry information, most first."""
        order = torch.argsort(self.information, descending=True, stable=True).tolist()
        return [i for i in order if self.information[i] > ACTIVE]

    def shaped(self, values: Tensor) -> Tensor:
        """Values [row, latent] as the site has them, [row, *event]."""
        return values.reshape(len(values), *self.event_shape)


def information(pair: Pair, batch: Batch, *, site: str | None = None) -> Tensor:
    """What each dimension of a continuous latent site tells about a row, [latent], averaged over the rows.

    KL(q(z_i | x) || p(z_i)) in nats where both are normal and independent over i. Otherwise the variance over
    rows of the posterior mean, divided by the prior's: 0 for a latent that ignores x, near 1 for one that x
    determines (the activity of Burda et al. 2016, arXiv 1509.00519).

    Args:
        pair: the trained programs.
        batch: rows, by field name.
        site: the latent site; by default the first continuous one of the model.

    Raises:
        UserError: if there is no such site.

    Example:
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)
        >>> def guide(x=None):
        ...     loc = torch.stack([x / 2, torch.zeros_like(x)], -1)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(loc, torch.tensor([0.5**0.5, 1.0])).to_event(1))
        >>> information(Pair(model, guide), {"x": torch.tensor([-1.0, 1.0])})
        tensor([0.2216, 0.0000])
    """
    found = {latents.site: latents for latents in continuous_latents(pair, batch)}
    if not found or (site is not None and site not in found):
        wanted = "a continuous latent site" if site is None else f"a continuous latent site {site!r}"
        raise UserError(f"expected {wanted} in the data plate, got {', '.join(found) or 'none'}")
    return found[site if site is not None else next(iter(found))].information


def draw_pair(pair: Pair, batch: Batch, seed: int = 0) -> tuple[TraceSites, TraceSites]:
    """The sample sites of the guide, and of the model replayed on its draws, for one draw of every latent.

    Missing entries are skipped, and a label that is present in some rows only keeps its value there.
    """
    with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
        seed_draws(check_whole("seed", seed, 0))
        with of_all_given():
            guide = traced(Holes(None, batch=batch)(pair.guide), batch)
        drawn = Trace()
        for name, site in sample_sites(guide).items():
            if not site["is_observed"]:
                drawn.add_node(name, **site)
        holes = Holes(None, list(drawn.nodes), batch)
        model = traced(poutine.replay(holes(pair.model), trace=drawn), batch)
    return sample_sites(guide), sample_sites(model)


def continuous_latents(pair: Pair, batch: Batch, *, seed: int = 0) -> list[Latents]:
    """Every continuous latent site of the rows (not those shared by all rows), in the order of the model.

    Raises:
        UserError: for a pair that breaks the contract.
    """
    few = {name: values[:4] for name, values in batch.items()}
    structure = analyse(pair, few)
    guide, model = draw_pair(pair, batch, seed)
    local = set(structure.latents) - structure.global_latents
    names = [
        name
        for name, site in model.items()
        if name in local and not is_discrete(site["fn"]) and len(frames(guide[name])) == 1
    ]
    means = encode(pair.guide, batch, seed=seed) if names else {}
    return [_latents(name, guide[name]["fn"], model[name]["fn"], means[name]) for name in names]


def _latents(name: str, q: Any, p: Any, mean: Tensor) -> Latents:
    flat = mean.reshape(len(mean), -1)
    if is_improper(p):
        spread = flat.std(0, correction=0)
        share = (spread / spread.max().clamp(min=1e-12)).square()
        return Latents(name, mean.shape[1:], flat, share, False, flat.mean(0), spread, is_real(p.support), False)
    centre, spread = _moments(p, flat)
    kl = _kl_per_dimension(q, p, flat.shape)
    activity = flat.var(0, correction=0) / spread.square().clamp(min=1e-12)
    return Latents(
        site=name,
        event_shape=mean.shape[1:],
        mean=flat,
        information=activity if kl is None else kl.mean(0),
        exact=kl is not None,
        centre=centre,
        spread=spread,
        real=is_real(p.support),
    )


def _kl_per_dimension(q: Any, p: Any, shape: torch.Size) -> Tensor | None:
    """KL(q || p) of each row and dimension, [row, latent], where both are independent normals."""
    q, p = unwrapped(q), unwrapped(p)
    if not (isinstance(q, dist.Normal) and isinstance(p, dist.Normal)):
        return None
    kl = kl_divergence(q, p)
    return kl.reshape(len(kl), -1) if kl.numel() == shape.numel() else None


def _moments(p: Any, flat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension under the prior, over all rows: exact, or from draws."""
    bare = unwrapped(p)
    if isinstance(bare, dist.Normal):
        rows = [v.expand(bare.batch_shape).reshape(-1, flat.shape[1]) for v in (bare.loc, bare.scale)]
        return rows[0].mean(0), rows[1].mean(0)
    with preserved_randomness(), torch.no_grad():
        seed_draws(0)
        draws = p.sample((max(1, 4000 // max(len(flat), 1)),)).reshape(-1, flat.shape[1])
    return draws.mean(0), draws.std(0)
