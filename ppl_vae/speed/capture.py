"""A function of a pair as one flat graph of tensor operations: run once on tensors without values, then replayed.

Running a Pyro program costs Python; a network's arithmetic costs less. `capture` notes every operation that a call
performs, gradients and random draws included. The graph performs the same operations in the same order, so it gives
the eager numbers bit for bit, and each call draws afresh.
"""

from __future__ import annotations

import linecache
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, fx, nn

from ppl_vae.errors import UserError
from ppl_vae.programs.execution import LastSite
from ppl_vae.programs.modes import kept_buffers
from ppl_vae.programs.randomness import preserved_randomness

__all__ = ["Graph", "Uncapturable", "capture", "silenced", "unlisted"]

Place = tuple[dict[str, Any], str]
"""Where a tensor is looked up: a module's parameters or buffers, and its name."""

_aten = torch.ops.aten
_ALIASES = (_aten.detach.default, _aten.alias.default)
_VIEWS = (_aten.view.default, _aten.expand.default, _aten.permute.default, _aten.squeeze.dim)


class Uncapturable(UserError):
    """A program that cannot be captured, with the site after which it stops being one, and why."""

    def __init__(self, site: str | None, reason: str) -> None:
        self.site, self.reason = site, reason
        where = f"after site {site!r}" if site else "before the first site"
        super().__init__(f"the programs cannot be captured {where}: {reason}")


class Graph:
    """A captured function: call it with tensors of the shapes that it was captured with; gives a list of tensors.

    Parameters, buffers and any other tensors that the function touched are looked up at every call: none of their
    values is a part of the graph.
    """

    def __init__(self, module: fx.GraphModule, state: Sequence[Place], run: Callable[..., Any] | None = None) -> None:
        self.module, self.state = module, state
        self._run: Callable[..., Any] = run or module.forward

    def arguments(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs and the tensors that the graph looks up."""
        return [*inputs, *[home[name] for home, name in self.state]]

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run all operations."""
        return list(self._run(*self.arguments(inputs)))

    def replaced(self, run: Callable[..., Any]) -> Graph:
        """The same graph, run by a compiled function."""
        return Graph(self.module, self.state, run)


@contextmanager
def unlisted() -> Iterator[None]:
    """Inside, graphs are made without leaving their text behind.

    Torch keeps the text of every version of every graph for the life of the process, for the lines of tracebacks.
    """
    before = set(linecache.cache)
    try:
        yield
    finally:
        for name in [n for n in linecache.cache if n.startswith("<eval_with_key>") and n not in before]:
            linecache.cache.pop(name, None)
            fx.graph_module._loader.eval_cache.pop(name, None)


@unlisted()
def capture(modules: nn.Module, function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> Graph:
    """Capture what a function does with inputs of these shapes and with the tensors of some modules.

    The function runs once, on tensors that have shapes and no values. The state of the random generators is left as
    it was.

    Args:
        modules: whose parameters and buffers the graph looks up by name, as one may be replaced by another tensor.
        function: from tensors to a list of tensors; it may take gradients with `torch.autograd.grad`.
        inputs: example inputs; only their shapes, types and devices count.

    Raises:
        Uncapturable: if it looks at values, by the site after which it does so and the line.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> graph = capture(layer, lambda x: [layer(x) + torch.randn(x.shape[0], 1)], [torch.zeros(3, 2)])
        >>> graph(torch.ones(3, 2))[0].shape
        torch.Size([3, 1])
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    last = LastSite()
    # "fake": tensors with shapes and without values. On real ones a branch on a value would be taken silently, and
    # the graph be right for that value alone; on fake ones it raises. Parameters are no inputs, so that programs need
    # not be called in another way (`functional_call`): they may be real, and are found in the graph by `_lift`.
    traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
    try:
        with _tracing(modules), last:
            module = traced(*(v.detach() for v in inputs))
    except Exception as error:  # whatever a program may raise when its tensors have no values
        raise Uncapturable(last.name, _reason(error)) from error
    state = _lift(module, modules)
    _simplify(module)
    return Graph(module, state)


@contextmanager
def _tracing(modules: nn.Module) -> Iterator[None]:
    quiet = silenced("torch._subclasses.fake_tensor")
    # a counter without dims is moved even by tracing
    with quiet, preserved_randomness(), pyro.validation_enabled(False), kept_buffers(modules):
        yield


@contextmanager
def silenced(name: str) -> Iterator[None]:
    """Without the remarks of one of torch's loggers: what is worth saying is said in an error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _lift(module: fx.GraphModule, modules: nn.Module) -> list[Place]:
    """Make inputs of the tensors that were found outside; those of modules are known by their place, not as objects."""
    # By place, since a parameter may be another tensor at the next call (after `.to`, or loaded weights), and by id, as
    # tensors compare value by value. Both private tables: `named_parameters` leaves out a tensor's second name.
    homes: dict[int, Place] = {}
    for part in modules.modules():
        for home in (part._parameters, part._buffers):
            homes |= {id(value): (home, name) for name, value in home.items() if value is not None}
    state: list[Place] = []
    found: dict[int, fx.Node] = {}
    first = next(n for n in module.graph.nodes if n.op != "placeholder")
    for node in [n for n in module.graph.nodes if n.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if all(user.target is _aten.lift_fresh_copy.default for user in node.users):
            continue  # a number written in the program: `torch.tensor(2.0)` stays a constant of the graph
        if id(value) not in found:
            with module.graph.inserting_before(first):
                found[id(value)] = module.graph.placeholder(f"state_{len(found)}")
            found[id(value)].meta = dict(node.meta)  # its shape, which `_layout` and the compiler read
            state.append(homes.get(id(value), ({"tensor": value}, "tensor")))
        node.replace_all_uses_with(found[id(value)])
        module.graph.erase_node(node)
    return state


def _simplify(module: fx.GraphModule) -> None:
    """Leave out what computes nothing: unused results, other names of a tensor, views that are what they view.

    Draws stay, used or not: the next one has to be the one that the eager step makes.
    """
    module.graph.set_codegen(fx.graph.CodeGen())  # plain arguments, plain results
    module.graph.eliminate_dead_code(lambda node: node.is_impure())
    for node in list(module.graph.nodes):
        # `detach` is an alias here: the gradients are operations of this graph already, nothing differentiates it again
        same = node.target in _ALIASES or (node.target in _VIEWS and _layout(node) == _layout(node.args[0]))
        if same:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


def _layout(node: Any) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return node  # unlike any other
    numbers = (*value.shape, *value.stride(), value.storage_offset())
    if not all(isinstance(n, int) for n in numbers):
        return node  # its size depends on values
    return value.dim(), numbers, value.dtype


def _reason(error: BaseException) -> str:
    """What went wrong in one line, and the line of a program at which it did."""
    while isinstance(error, UserError) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split("Trace Shapes")[0].split("\n\n")[0].split())[:160]
    value = ("data-dependent", "data dependent", "DataDependent", "Dynamic", "guard on")
    if any(word in f"{type(error).__name__} {text}" for word in value):
        text = "Python looks at the value of a tensor"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    return f"{text} ({'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno})" if frames else text


def _is_library(path: str) -> bool:
    return any(f"/{name}/" in path for name in ("torch", "pyro", "ppl_vae/speed")) or path.startswith("<")
