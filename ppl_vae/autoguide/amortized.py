"""The program of an amortized guide: block after block is drawn, given features of the row and of what came before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.autoguide.drawing import GuideRun, draw
from ppl_vae.autoguide.inversion import Block
from ppl_vae.autoguide.shared import SharedPosterior
from ppl_vae.autoguide.sites import Site
from ppl_vae.autoguide.stepping import draw_steps, laid_out, placed, steps_density
from ppl_vae.errors import UserError
from ppl_vae.nn.networks import concatenate
from ppl_vae.programs.local_module import LocalModule
from ppl_vae.programs.program import Program

__all__ = ["AmortizedProgram"]


class AmortizedProgram(LocalModule):
    """q(z | x) = q(shared) prod_b q(block b | features of the row, latents before it), for networks that are there.

    The latents of the rows are drawn in blocks (`drawn`), each by a mixer and a head. How they are chosen and made is
    the subject of `ppl_vae.autoguide.generated`.
    """

    program: Program
    shared: SharedPosterior
    sites: dict[str, Site]
    drawn: tuple[Block, ...]
    encoder: nn.Module
    mixers: nn.ModuleList
    heads: nn.ModuleList
    plates: tuple[str, ...]
    dim: int
    subsample_size: int | None
    _instead: Callable[[int], Any] | None = None

    @property
    def ready(self) -> bool:
        """Whether the model has been read and the networks exist."""
        return hasattr(self, "heads")

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

    def _draw(self, block: Block, head: Any, run: GuideRun) -> None:
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

    def _run(self, fields: Mapping[str, Tensor]) -> GuideRun:
        return GuideRun(self.program, {**self.shared.sites, **self.sites}, fields)

    def _plate(self, name: str, fields: Mapping[str, Tensor]) -> Any:
        rows = len(next(iter(fields.values())))
        return pyro.plate(name, rows, subsample_size=self.subsample_size, dim=self.dim)

    def _fields(self, args: Sequence[Tensor], fields: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.ready:
            name = type(self).__name__
            raise UserError(f"{name} has not seen data yet: give it some, {name}(model, data)")
        return dict(zip(self.program.arguments, args, strict=False)) | fields

    def _each(self, run: GuideRun, rows: Tensor | None = None) -> Iterator[tuple[Block, nn.Module, Tensor]]:
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

    def _features(self, row: Tensor | None, block: Block, run: GuideRun) -> list[Tensor]:
        given = [run.features(name) for name in block.given]
        return [row, *given] if row is not None and block.row else given

    def _density(self, block: Block, head: Any, run: GuideRun) -> Tensor:
        sites = [run.site(n) for n in block.sites]
        if sites[0].classified:
            log_q = sites[0].classifier(head).log_prob(run.values[sites[0].name])
            return _of_rows(sites[0], sites[0].gathered(log_q.unsqueeze(-1)).sum(-1))
        parts = [site.vector(run.values[site.name]) for site in sites]
        log_q = head.log_prob(concatenate([vector for vector, _ in parts]))
        return _of_rows(sites[0], log_q - sum(stretch for _, stretch in parts))


def _of_rows(site: Site, log: Tensor) -> Tensor:
    """A log-density with the members of each row summed, [B]."""
    for plate in site.over:
        log = log.sum(plate.dim, keepdim=True)
    return log.reshape(-1)
