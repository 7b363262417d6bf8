"""The training rows themselves as prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from ppl_vae.data import Field, Split
from ppl_vae.priors.base import at_least_one
from ppl_vae.priors.encoded import EncodedPrior
from ppl_vae.priors.normal_mixture import NormalMixture

__all__ = ["Exemplar"]

ROWS_AT_ONCE = 5000


class Exemplar(EncodedPrior):
    """A normal around the encoded mean of every training row, log p(z) = log (1/N) sum_n N(z; m(x_n), s^2 I) nats.

    Evaluated (in eval mode, or without gradients: validation, evidence, simulation) it is this one density of all N
    training rows. In a training pass it is another one: the sum runs over `components` rows drawn anew, whose log
    is in expectation too small, and leaves out the rows equal to the one that z is for, so that no row is its own
    explanation. A row is known by its values: one that is binarised anew at every use is not recognised, nor
    are rows of an encoder that is no module; a row is then left in with probability components / N.
    The means are kept in the run folder, the rows are not. They come from the guide as for `VampPrior`.

    Shapes: z [d], m [N, d]; s is one learned number.

    Args:
        components: training rows in a training pass.
        site: the name of the latent site that this is the prior of.

    Raises:
        UserError: if components is less than 1, or the prior is used before it has met a guide.

    Source: Norouzi et al. 2020, arXiv 2004.04795.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), prior=Exemplar(100), latent_dim=4)
        >>> guide = MeanField(model)
        >>> model.eval().prior().components[0].shape
        torch.Size([1000, 4])
    """

    centres: Tensor

    def __init__(self, components: int = 500, *, site: str = "z") -> None:
        super().__init__(site)
        at_least_one(self, components=components)
        self.components = components
        self._names: tuple[str, ...] = ()
        self._batch: dict[str, Tensor] = {}
        self._state: Tensor | None = None

    def take(self, fields: Sequence[Field], train: Split | None) -> None:
        """Keep the rows (not in the state) and room for their means (in the state, for a run folder)."""
        self.log_scale = nn.Parameter(torch.zeros(()))
        rows = 1 if train is None else len(train)
        self.register_buffer("centres", torch.zeros(rows, self.latent_dim))
        self._names = () if train is None else tuple(f.name for f in fields)
        for name in self._names:
            self.register_buffer(f"rows_{name}", train[name] if train else None, persistent=False)
        encoder = self._encoder
        if self._names and isinstance(encoder, nn.Module):
            encoder.register_forward_pre_hook(self._note)

    @property
    def _encoder(self) -> Callable[..., Any] | None:
        return self.networks[0] if self.networks else None

    def density(self) -> NormalMixture:
        """All exemplars, or in a training pass some of them without those that are the row itself."""
        if self._names and self.training and torch.is_grad_enabled():
            return self._for_training()
        self._refresh()
        return NormalMixture(self.centres.new_zeros(len(self.centres)), self.centres, self.log_scale.exp())

    # -- a training pass -------------------------------------------------------------------------------------

    def _note(self, encoder: nn.Module, arguments: tuple[Any, ...]) -> None:
        """The rows that the guide encodes are those that the model is asked about next."""
        self._batch = dict(arguments[0]) if self.training and torch.is_grad_enabled() else {}

    def _for_training(self) -> NormalMixture:
        batch, total = self._batch, len(self.centres)
        index = torch.randperm(total, device=self.centres.device)[: self.components]
        rows = {name: self._rows(name)[index] for name in self._names}
        loc = self.posterior(rows)[0]
        self._batch = {}  # encoding the exemplars was noted as well
        logits = loc.new_zeros(len(loc))
        if batch and any(p.dim == -1 and p.size == len(next(iter(batch.values()))) for p in get_plates()):
            same = _equal(batch, rows)
            alone = same.all(-1, keepdim=True)  # nothing would be left
            logits = torch.where(same & ~alone, -torch.inf, logits)
        return NormalMixture(logits, loc, self.log_scale.exp())

    def _rows(self, name: str) -> Tensor:
        return self.get_buffer(f"rows_{name}")

    # -- the evaluated density -------------------------------------------------------------------------------

    @torch.no_grad()
    def _refresh(self) -> None:
        """Encode all rows again if the encoder has changed."""
        if not self._names:
            return
        parts = [m for m in self.networks or () if isinstance(m, nn.Module)]
        tensors = [t for m in parts for t in (*m.parameters(), *m.buffers())]
        # Values are compared: fused optimizers change parameters without counting it in their version.
        state = torch.cat([t.double().reshape(-1) for t in tensors]) if tensors else None
        if state is None or self._state is None or not torch.equal(state, self._state):
            rows = {name: self._rows(name).split(ROWS_AT_ONCE) for name in self._names}
            pieces = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
            self.centres = torch.cat([self.posterior(piece)[0] for piece in pieces])
            self._batch, self._state = {}, state

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.networks is not None:
            self._refresh()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}centres")
        if saved is not None and not self._names:  # rebuilt from a run folder: as many as there were
            self.centres = saved.to(self.centres)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _equal(batch: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Tensor:
    """Which rows of a batch are which exemplars, [B, M]; missing entries are equal to each other."""
    same = []
    for name, exemplars in rows.items():
        a, b = (torch.nan_to_num(v, nan=-1e30).reshape(len(v), 1, -1) for v in (batch[name], exemplars))
        same.append((a == b.transpose(0, 1)).all(-1))
    return torch.stack(same).all(0)
