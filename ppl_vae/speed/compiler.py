"""TorchInductor, asked to make a captured graph fast, and what that costs."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.speed.capture import Graph, silenced, unlisted
from ppl_vae.speed.factoring import factored

__all__ = ["CannotCompile", "compiled", "seconds_to_compile"]

FIRST_EVER, BASE, PER_NODE = 20.0, 5.0, 0.08
"""Seconds: once on a machine (headers), for every graph, and for each of its operations."""

CACHED_BASE, CACHED_PER_NODE = 2.0, 0.005
"""The same for a graph that was compiled before on this machine, whose code is on disk."""

OPTIONS = {"fallback_random": True}
"""Random numbers come from torch's own generators, in the eager step's order."""


KEPT = 32
"""Compiled graphs that are kept for pairs of the same shapes: seeds of a comparison, folds, one more `evaluate`."""

_kept: OrderedDict[tuple[Any, ...], Callable[..., Any]] = OrderedDict()

CUDA_OPTIONS = {"triton.cudagraphs": True}
"""On a GPU the compiled graph is recorded once and launched as one; its draws are fresh at every launch."""


class CannotCompile(UserError):
    """There is no working compiler, or it refused a graph."""


@unlisted()
def compiled(graph: Graph, inputs: Sequence[Tensor]) -> Graph:
    """The same graph, compiled. The code is kept on disk, in TorchInductor's cache, for the next run.

    Raises:
        CannotCompile: if this machine has no compiler, or it fails.
    """
    # running means and the like must not move while code is built: the trial run is given copies of what it looks up
    state = [v.detach().clone() if v.is_contiguous() else v.detach() for v in graph.arguments(())]
    arguments = [*(v.detach() for v in inputs), *state]
    key = _key(graph, arguments)
    if key in _kept:
        _kept.move_to_end(key)
        return graph.replaced(_kept[key])
    with silenced("torch.utils.cpp_extension"), warnings.catch_warnings(), preserved_randomness(), torch.no_grad():
        warnings.simplefilter("ignore")  # the compiler's remarks about itself
        _look_for_compiler(arguments[0].device)
        try:
            options = OPTIONS | (CUDA_OPTIONS if arguments[0].device.type == "cuda" else {})
            run = torch._inductor.compile(factored(graph.module), [*arguments], options=options)
            run(*arguments)  # some code is built when it is first run
        except Exception as error:  # the compiler's own errors have no common class
            raise CannotCompile(f"TorchInductor fails ({' '.join(str(error).split())[:160]})") from error
    mark = _mark(graph)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        pass  # then the next run takes it for new
    if arguments[0].device.type == "cuda":  # its launches are recorded with memory of their own
        return graph.replaced(_launched(run))
    _kept[key] = run
    if len(_kept) > KEPT:
        _kept.popitem(last=False)
    return graph.replaced(run)


def _key(graph: Graph, arguments: Sequence[Tensor]) -> tuple[Any, ...]:
    """What the code of a graph depends on: its operations, the numbers written in it, how its tensors lie in memory.

    No value of a parameter is a part of a graph, so that another pair of the same shapes can use the same code. Torch
    keeps the code of every compilation for the life of the process, and would write the same code again.
    """
    constants = [getattr(graph.module, str(n.target)) for n in graph.module.graph.nodes if n.op == "get_attr"]
    written = tuple((str(c.dtype), tuple(c.shape), str(c.tolist())) for c in constants)
    lie = tuple((v.shape, v.stride(), v.storage_offset(), v.dtype, str(v.device)) for v in arguments)
    return graph.module.code, written, lie, torch.get_num_threads(), str(OPTIONS)


def _launched(run: Callable[..., Any]) -> Callable[..., Any]:
    """A recorded graph writes its results into the same memory again: numbers that are kept are copied out.

    Larger results (gradients) are used before the next launch.
    """

    def launch(*arguments: Tensor) -> list[Any]:
        torch.compiler.cudagraph_mark_step_begin()
        return [v.clone() if isinstance(v, Tensor) and v.dim() < 2 else v for v in run(*arguments)]

    return launch


def seconds_to_compile(graph: Graph) -> float:
    """About how long compiling a graph is going to take, without asking the compiler."""
    size = len(graph.module.graph.nodes)
    if _mark(graph).exists():
        return CACHED_BASE + CACHED_PER_NODE * size
    return BASE + PER_NODE * size + (0.0 if _mark(graph).parent.exists() else FIRST_EVER)


def _mark(graph: Graph) -> Path:
    """An empty file beside TorchInductor's cache that says that this graph is in there."""
    home = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{tempfile.gettempdir()}/torchinductor_{_user()}"
    shapes = [(v.shape, v.dtype, str(v.device)) for v in graph.arguments(())]
    text = f"{torch.__version__} {torch.get_num_threads()} {shapes} {graph.module.code}"
    return Path(home) / "ppl_vae" / hashlib.sha256(text.encode()).hexdigest()[:32]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _look_for_compiler(device: torch.device) -> None:
    """A missing compiler is told from a graph that it refuses."""
    if device.type == "cpu":
        from torch._inductor import exc
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except exc.InvalidCxxCompiler as error:
            raise CannotCompile("there is no C++ compiler on this machine (install g++, or set CXX)") from error
    else:
        from torch.utils._triton import has_triton

        if not has_triton():
            raise CannotCompile("there is no Triton on this machine (install triton)")
