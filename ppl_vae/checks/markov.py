"""`pyro.markov` says how far back a chain looks; a statement that looks farther would see other values.

Values that are summed out stand on a dim of their own. In a markov context the dim of a step that is over is given to a
later step, so a statement that uses the forgotten value would be weighed with the later one, without a word. Pyro keeps
the ids of the values that each statement may see, and its dependencies tell which it does see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ppl_vae.errors import ProgramError
from ppl_vae.programs.dependencies import Guessed
from ppl_vae.programs.hidden import all_dependencies
from ppl_vae.programs.structure import TraceSites

__all__ = ["ForgottenStep", "refuse_forgotten"]


class ForgottenStep(ProgramError):
    """A statement looks farther back than its markov context remembers."""


def refuse_forgotten(
    programs: Mapping[str, tuple[Callable[..., Any], TraceSites]], batch: Mapping[str, Any], summed: Collection[str]
) -> None:
    """Raise for a statement that depends on a summed value which its markov context has forgotten.

    Args:
        programs: by role the program and its sites in one run, in which the `summed` latents are enumerated.
        batch: what the programs are called with.
        summed: the latents whose values are summed out.
    """
    for role, (program, sites) in programs.items():
        if not any(site["infer"].get("_markov_scope") is not None for site in sites.values()):
            continue
        parents = all_dependencies(program, batch, [*sites], {*summed} & sites.keys())
        if isinstance(parents, Guessed):
            continue
        for name, site in sites.items():
            for above in sorted(parents[name] & {*summed} & sites.keys()):
                if not _sees(site, sites[above]):
                    raise ForgottenStep(
                        name,
                        f"site {name!r} of the {role} depends on {above!r}, which pyro.markov has forgotten there: "
                        "its values would be taken for those of a later step (Enumeration dim conflict)",
                        "let pyro.markov remember more steps in both programs, pyro.markov(..., history=2), or more",
                    )


def _sees(site: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    """Whether a statement knows the dim of a value as that of this value."""
    dim = above["infer"].get("_enumerate_dim")
    if dim is None or above["value"].shape[dim - above["fn"].event_dim] == 1:
        return True  # drawn, not summed out; or of one value
    return above["infer"]["_dim_to_id"][dim] in site["infer"].get("_dim_to_id", {}).values()
