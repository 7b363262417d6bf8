"""The semi-amortized guide: the encoder's answer, improved for the rows at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.autoguide.refining import Layers, refine
from ppl_vae.errors import UserError, check_number, check_whole
from ppl_vae.guides.mean_field import MeanField
from ppl_vae.programs.execution import isolated
from ppl_vae.programs.local_module import LocalModule
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.saving.recorded import Recorded

__all__ = ["Refined"]


class Refined(Recorded, LocalModule):
    """A generated guide whose parameters for the given rows are improved by gradient steps on their ELBO.

    Everything that the guide's last networks say about a row gets an offset of the row's own, which `steps` steps of
    Adam choose to raise E_q[log p(x, z) - log q(z | x)]; what is left of the gap is the family's, not the encoder's.
    The rows are drawn from afterwards, with other random numbers, so every bound stays one. Offsets of the rows that
    were seen last are kept. Deterministic for given rows; training goes through the refined guide with the
    offsets held fixed.

    Args:
        guide: a generated guide that has seen its data; without one, `MeanField(model, data)`.
        model: the model, if there is no guide, or if it is a function whose parameters were trained elsewhere.
        data: what `MeanField` needs if the model does not know its data.
        steps: gradient steps for each batch of rows.
        lr: Adam's step size at the start; it falls linearly to 0.
        particles: draws of each row in a step.

    Raises:
        UserError: for a guide that is not a generated one, or counts below 1.

    Source: Kim et al. 2018, arXiv 1802.02550; Cremer et al. 2018, arXiv 1801.03558.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("digits")
        >>> model = VAE(data, latent_dim=4, hidden=(16,))
        >>> guide = MeanField(model, hidden=(16,))
        >>> rows = data.test["x"][:5]
        >>> better = ppl_vae.evaluate(model, Refined(guide, steps=5, particles=4), rows, particles=50).elbo
        >>> bool((better > ppl_vae.evaluate(model, guide, rows, particles=50).elbo).all())
        True
    """

    def __init__(
        self,
        guide: GeneratedGuide | None = None,
        model: Callable[..., Any] | None = None,
        data: Any = None,
        *,
        steps: int = 50,
        lr: float = 0.05,
        particles: int = 16,
    ) -> None:
        super().__init__()
        if guide is None and model is not None:
            guide = MeanField(model, data)
        if not isinstance(guide, GeneratedGuide) or not guide.ready:
            raise UserError(
                f"Refined takes a generated guide that has seen its data, got {type(guide).__name__}: make it from the "
                "model, Refined(MeanField(model))"
            )
        self.steps, self.particles = check_whole("steps", steps), check_whole("particles", particles)
        self.lr = check_number("lr", lr, positive=True)
        self.guide = guide
        object.__setattr__(self, "model", guide.program if model is None else model)  # not a part of the guide
        self._last: tuple[list[Tensor], list[Tensor]] | None = None

    def forward(self, **fields: Tensor) -> dict[str, Tensor]:
        """Refine the guide for these rows, then draw every latent from it."""
        offsets = self._offsets(fields)
        with Layers(self.guide).applied([o.detach() for o in offsets]):
            return self.guide(**fields)

    def _offsets(self, fields: dict[str, Tensor]) -> list[Tensor]:
        pair = Pair(self.model, self.guide)
        # values are compared: fused optimizers change parameters without telling torch's version counter
        state = [*fields.values(), *pair.parameters()]
        if self._last is None or not _same(self._last[0], state):
            with isolated(), preserved_randomness(), torch.enable_grad():
                seed_draws(0)
                found = refine(pair, Layers(self.guide), fields, steps=self.steps, lr=self.lr, particles=self.particles)
                self._last = [t.detach().clone() for t in state], found
        return self._last[1]


def _same(before: list[Tensor], now: list[Tensor]) -> bool:
    """Whether two lists of tensors have the same values, missing entries included."""
    return len(before) == len(now) and all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in zip(before, now, strict=True)
    )
