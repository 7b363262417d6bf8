"""The log factors of one run, site by site: log p of every site of the model, -log q of every site of the guide.

What they add up to for particles and units is said in `weights.reduction`, what is summed out over discrete values in
`weights.value_sums`, what counts of a latent that the model masks in `weights.masks`.
"""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.distributions import without_mask
from ppl_vae.errors import UserError
from ppl_vae.programs.density import is_point_mass
from ppl_vae.programs.execution import PairTrace
from ppl_vae.programs.missing import can_enumerate
from ppl_vae.programs.structure import sample_sites
from ppl_vae.weights.masks import counting

__all__ = ["Factor", "Factors"]


class Factor(NamedTuple):
    """log p, or -log q, of one site, with all its dims. `part` is "likelihood", "prior", "guide" or "global"."""

    part: str
    name: str
    site: dict[str, Any]
    log: Tensor


class Factors:
    """The factors of a run, in `all`, and what else a reduction reads of it.

    `score` is log q of the sites that have no reparameterised draw, without scales, `labels` log q of the labels that
    were observed, `drawn_as` the name under which the rate of a site is told.
    """

    def __init__(self, run: PairTrace, analytic_kl: bool = False, *, scaled: bool = False) -> None:
        self.run, self.structure, self.particles = run, run.structure, run.particles
        self.guide_sites = sample_sites(run.guide)
        self.model_sites = sample_sites(run.model)
        self.counting = counting(self.model_sites, self.structure.masked)
        self.scaled = scaled  # by the programs' own poutine.scale: what is maximised may be, what is reported is not
        skip = self.structure.summed_guide | self.structure.scored
        scores = {} if run.scores is None else sample_sites(run.scores)
        self.scores = {name: site for name, site in scores.items() if name not in skip}
        self.kl = self._analytic_kl() if analytic_kl else {}
        self.score: list[tuple[str, Tensor]] = []
        self.labels: dict[str, Tensor] = {}
        # sites that are pieces of one draw of the guide have one rate together: theirs alone mean nothing
        self.drawn_as = {name: site["infer"].get("joint", name) for name, site in self.guide_sites.items()}
        self.all = [f for name, site in self.model_sites.items() for f in self._of_model(name, site)]
        self.all += [f for name in self.structure.latents for f in self._of_guide(name)]

    def priors(self) -> Factors:
        """The factors of the latents alone; a label that was observed is given, and no part of them."""
        kept = copy(self)
        kept.all = [f for f in self.all if f.part == "prior"]
        return kept

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

    def _as_observed(self, site: dict[str, Any], scale: Any = None) -> Tensor:
        """log p where a value was observed: what the model masks there counts nothing, as at any observation."""
        scale = self.scale(site) if scale is None else scale
        return scale_and_mask(site["fn"].log_prob(site["value"]), scale, site["mask"])

    def _of_guide(self, name: str) -> list[Factor]:
        site = self.guide_sites.get(name)
        if site is None:
            return []
        if name in self.kl:  # log q is in the KL, but what else depends on the draw has its score all the same
            self._note_score(name, site)
            return []
        if name not in self.model_sites and name not in self.structure.auxiliary:
            return []  # the model of this batch has no such site (a shorter series): nothing depends on its draw
        log_q = self._log_prob(name, site)
        if name in self.run.observed:
            self._note_label(name, site)
        if name in self.scores:  # leave out the gradient through q's parameters at a fixed draw
            score = self._score(name)
            log_q = log_q - (score - score.detach())
        log_q = self._where_latent(name, log_q)
        self._note_score(name, site)
        part = "global" if name in self.structure.global_latents else "guide"
        return [Factor(part, name, site, -log_q)]

    def _note_score(self, name: str, site: dict[str, Any]) -> None:
        """log q of a draw without gradient: without scale, which the weights have. d s E_q[f] = E_q[s f d log q]."""
        if name in self.structure.scored - self.structure.global_latents:  # a shared one has no score: it is refused
            self.score.append((name, self._where_latent(name, self._log_prob(name, site, 1.0))))

    def _where_latent(self, name: str, log_q: Tensor) -> Tensor:
        """log q counts only in the rows in which the site is latent."""
        if name not in self.run.observed:
            return log_q
        return torch.where(self.run.observed[name][1], torch.zeros_like(log_q), log_q)

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

    def _log_prob(self, name: str, site: dict[str, Any], scale: Any = None) -> Tensor:
        if name not in self.structure.masked:
            return self._as_observed(site, scale)
        log = without_mask(site["fn"]).log_prob(site["value"])
        return scale_and_mask(log, self.scale(site) if scale is None else scale, self.counting[name])

    def scale(self, site: dict[str, Any]) -> Any:
        """The scale that the program itself puts on a site, without N/B of the rows' plate, which a bound puts on.

        An inner plate that shows a part of its elements multiplies by (all) / (shown); the rows' plate does too, and
        with `scaled`, where the site's own scale holds everything, that one is divided out again.
        """
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
                if kl is not None and _same_scale(self.scale(p), self.scale(q)):
                    found[name] = scale_and_mask(kl, self.scale(p))
            before.add(name)
        return found


def _kl_divergence(q: Any, p: Any) -> Tensor | None:
    if is_point_mass(q):
        return None  # Pyro's leaves out log_density, by which a point has its penalties
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _same_scale(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, float) and isinstance(b, float) and a == b)
