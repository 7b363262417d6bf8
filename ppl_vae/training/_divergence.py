"""Say what went wrong when a training run stops being finite."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import ProgramError, UserError
from ppl_vae.programs.execution import run
from ppl_vae.programs.failures import our_error, reason_of, remedy_for
from ppl_vae.programs.program import Batch, Pair, Programs
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import Structure, sample_sites

__all__ = ["explain_divergence", "failed_step"]

_CAUSES = (
    "usual causes: a learning rate that is too large, unscaled input, exp of an unbounded scale, "
    "a likelihood whose scale can shrink to 0"
)


def explain_divergence(pair: Pair, structure: Structure, batch: Batch, epoch: int, step: int) -> str:
    """One line: the site that is not finite, the step, and the largest parameter, gradient and input."""
    site = _first_bad_site(pair, structure, batch)
    parameters = {n: p.detach() for n, p in pair.named_parameters()}
    gradients = {n: p.grad for n, p in pair.named_parameters() if p.grad is not None}
    inputs = {n: v for n, v in batch.items() if v.is_floating_point()}
    return (
        f"training diverged at epoch {epoch}, step {step}: {site} is not finite; "
        f"largest parameter {_largest(parameters)}, gradient {_largest(gradients)}, input {_largest(inputs)}; "
        f"the last good weights are kept; {_CAUSES}"
    )


def failed_step(error: Exception, batch: Batch, epoch: int, step: int) -> UserError:
    """The error of a training step, with the epoch and the step: that of a program by its site."""
    where = f"at epoch {epoch}, step {step}"
    ours = our_error(error)
    if isinstance(ours, ProgramError):
        return ProgramError(ours.site, f"{where} {ours.problem}", ours.remedy)
    if ours is not None:
        return ours
    shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in batch.items())
    problem = f"training fails {where} ({reason_of(error)}) on a batch with {shapes}"
    return ProgramError(None, problem, remedy_for(error))


def _first_bad_site(pair: Programs, structure: Structure, batch: Batch) -> str:
    with preserved_randomness(), torch.no_grad():
        try:
            traces = run(pair, structure, batch)
        except Exception as error:
            return f"a distribution's parameter ({reason_of(error)[:300]})"
        for role, trace in (("guide", traces.guide), ("model", traces.model)):
            for name, site in sample_sites(trace).items():
                if not bool(torch.isfinite(site["fn"].log_prob(site["value"])).all()):
                    return f"site {name!r} of the {role}"
    return "the objective"


def _largest(tensors: dict[str, Tensor]) -> str:
    sizes = {name: float(t.nan_to_num(torch.inf).abs().max()) for name, t in tensors.items() if t.numel()}
    if not sizes:
        return "none"
    name = max(sizes, key=lambda n: sizes[n])
    return f"{sizes[name]:.3g} ({name})"
