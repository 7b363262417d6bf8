"""The contract of the two programs: a model or guide as a module that owns its parameters.

A program is a callable that contains Pyro statements (docs/programs.md says which). `Program` gives it what the engine
needs: parameters that belong to it alone (never to the global store), and data fields passed by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger, unwrap
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppl_vae.errors import ProgramError, UserError
from ppl_vae.programs.failures import PASSING, failed
from ppl_vae.programs.local_module import asks_store, make_local
from ppl_vae.programs.variables import variables_of

__all__ = ["Pair", "Program", "Programs", "prepare", "signature_of"]

Batch = Mapping[str, Tensor]


class Program(nn.Module):
    """A model or guide as a `torch.nn.Module`: call it with the fields of a batch, by name.

    `pyro.param`, `pyro.module` and `PyroModule` statements inside it read and create parameters of this
    object (or of its partner in a `Pair`), so two pairs in one process never share any, whatever names they use;
    the global parameter store is neither read nor written. Fields that the callable does not ask for are left out.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x=None):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> program = Program(model)
        >>> program(x=torch.zeros(3), y=torch.zeros(3))
        >>> [name for name, _ in program.named_parameters()]
        ['own.loc']
    """

    def __init__(self, program: Callable[..., Any], role: str = "program") -> None:
        super().__init__()
        if isinstance(program, Program):
            program = program.program
        if not callable(program):
            raise UserError(f"a {role} is a callable with Pyro statements, got {type(program).__name__}")
        self.role = role
        self.own = _OwnParameters()
        if isinstance(program, nn.Module):
            self.body = program
            make_local(program)
        else:
            self._adopt_pyro_modules(program)
        object.__setattr__(self, "program", program)
        self.arguments, self.takes_any = _arguments(program)
        self.takes_list = _takes_list(program)

    program: Callable[..., Any]

    def _adopt_pyro_modules(self, program: Callable[..., Any]) -> None:
        """The Pyro modules in a function's closure are its own, as Pyro registers them by themselves."""
        found = [thing for _, thing in variables_of(program) if isinstance(thing, PyroModule)]
        inner = {id(part) for module in found for part in module.modules() if part is not module}
        self.adopted = nn.ModuleList([module for module in found if id(module) not in inner])
        for module in self.adopted:
            make_local(module)

    @property
    def public(self) -> Callable[..., Any]:
        """What a user gets back: the callable itself, or this program if it holds parameters that were trained."""
        return self if any(True for _ in self.own.parameters()) else self.program

    def select(self, batch: Batch) -> dict[str, Tensor]:
        """The fields of a batch that this program asks for, by argument name.

        A program with one required argument of another name (`def model(data)`) is given field `x`.

        Raises:
            UserError: for a field that the batch does not have, or a program of `*args`, which have no names.
        """
        if self.takes_any:
            return dict(batch)
        chosen = {name: batch[name] for name in self.arguments if name in batch}
        if not chosen and batch and self.takes_list:
            raise UserError(
                f"the {self.role} takes *args, which no field has the name of: write its arguments out, named after "
                f"the fields of the data ({', '.join(batch)})"
            )
        required = [n for n, needed in self.arguments.items() if needed and n not in batch]
        if not chosen and len(required) == 1 and "x" in batch:
            return {required[0]: batch["x"]}
        if required:
            raise UserError(
                f"the {self.role} needs field {required[0]!r}, but the data has {', '.join(batch) or 'none'}: "
                "name the fields after the arguments"
            )
        return chosen

    def forward(self, **fields: Any) -> Any:
        """Run the program; its Pyro sample statements reach the handlers around this call.

        Raises:
            ProgramError: for whatever the program raises, with the last site it came to and a remedy.
        """
        wanted = self.select(fields)
        answers = _AnswerParams(self.own)
        with pyro.settings.context(module_local_params=True), _HideParams(), answers:
            try:
                return self.program(**wanted)
            except PASSING:
                raise
            except Exception as error:  # whatever a user's code may raise
                raise failed(self.role, answers.site, wanted, error, answers.plates) from error


def signature_of(program: Callable[..., Any]) -> inspect.Signature:
    """The arguments of a program, whichever of Pyro's handlers are around it.

    Example:
        >>> from pyro import poutine
        >>> signature_of(poutine.scale(lambda x=None: None, scale=0.5))
        <Signature (x=None)>
    """
    program = unwrap(program)
    return inspect.signature(program.forward if isinstance(program, nn.Module) else program)


def _arguments(program: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Argument names of a program with whether each is required; and whether it takes any name.

    A module with `**fields` may say in its attribute `observes` which names these are, and in `needs` which of them
    it cannot do without.
    """
    found: dict[str, bool] = {}
    takes_any = False
    for parameter in signature_of(program).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            found[parameter.name] = parameter.default is parameter.empty
    names: Any = getattr(program, "observes", None)
    if takes_any and names is not None:
        return found | dict.fromkeys(names, False) | dict.fromkeys(getattr(program, "needs", ()), True), False
    return found, takes_any


def _takes_list(program: Callable[..., Any]) -> bool:
    """Whether a program takes its arguments by place alone, as `*args`."""
    return any(p.kind is p.VAR_POSITIONAL for p in signature_of(program).parameters.values())


class _HideParams(Messenger):
    """Keep parameter statements from handlers outside: a program's parameters are its own business."""

    answers_params = True

    def _pyro_param(self, msg: Message) -> None:
        msg["stop"] = True


class _OwnParameters(nn.Module):
    """The parameters that `pyro.param` and `pyro.module` statements of one program created."""

    def __init__(self) -> None:
        super().__init__()
        self.constraint: dict[str, constraints.Constraint] = {}
        self.partner: list[_OwnParameters] = []  # in a list: the other program's parameters are not a part of this one

    def get(self, name: str, initial: list[Any], constraint: constraints.Constraint) -> Tensor:
        """The constrained value of a parameter, created from its initial value at first use."""
        key = name.replace(".", "/")  # torch forbids dots in parameter names
        if key not in self._parameters:
            if not self._adopt(key, initial):
                self._create(name, key, initial, constraint)
        elif initial and isinstance(initial[0], nn.Parameter) and initial[0] is not self._parameters[key]:
            raise ProgramError(
                name,
                f"two modules register the parameter {name!r} under one name, and the second would never train",
                "give every pyro.module its own name, and make modules outside of the program",
            )
        return transform_to(self.constraint[key])(self._parameters[key])

    def _adopt(self, key: str, initial: list[Any]) -> bool:
        """Model and guide that name one parameter share it, as they do in Pyro; other pairs have their own."""
        if initial and isinstance(initial[0], nn.Parameter):
            return False  # the parameter of a network is itself, whatever else has its name
        for partner in self.partner:
            if key in partner._parameters:
                self.register_parameter(key, partner._parameters[key])
                self.constraint[key] = partner.constraint[key]
                return True
        return False

    def _create(self, name: str, key: str, initial: list[Any], constraint: constraints.Constraint) -> None:
        if not initial:
            raise UserError(f"pyro.param({name!r}) has no initial value: give one at its first use")
        self.constraint[key] = constraint
        value = initial[0]() if callable(initial[0]) else initial[0]
        if isinstance(value, nn.Parameter) and constraint is constraints.real:
            # pyro.module hands over the parameters of a network: register the very same objects
            self.register_parameter(key, value)
            return
        with torch.no_grad():
            unconstrained = transform_to(constraint).inv(value.detach()).clone()
        self.register_parameter(key, nn.Parameter(unconstrained.contiguous()))


class _AnswerParams(Messenger):
    """Answers parameter statements from a program's own parameters instead of the global store.

    `site` is the last sample statement that the program came to, `plates` are the sizes of those that it made.
    """

    answers_params = True
    hides_modules = True  # `_HideParams` is around it

    def __init__(self, own: _OwnParameters) -> None:
        super().__init__()
        self.own = own
        self.site: str | None = None
        self.plates: dict[str, int] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):  # a plate is no site of the program
            self.plates[str(msg["name"])] = msg["fn"].size
        else:
            self.site = str(msg["name"])

    def _pyro_param(self, msg: Message) -> None:
        if not asks_store(msg):
            return
        name, *initial = msg["args"]
        constraint = msg["kwargs"].get("constraint", constraints.real)
        msg["value"], msg["done"] = self.own.get(name, initial, constraint), True


def prepare(program: Any, data: Any) -> None:
    """Show data to a program that is made from it, such as a generated guide, and has not seen any yet.

    Example:
        >>> prepare(lambda x=None: None, None)
    """
    if not getattr(program, "ready", True):
        program.setup(data)


@runtime_checkable
class Programs(Protocol):
    """What the engine runs: a model and a guide that are called with the fields of a batch, by name."""

    model: Any
    guide: Any


class Pair(nn.Module):
    """A model and its guide as one module, so that an optimizer, a device or a file sees all parameters at once.

    Example:
        >>> pair = Pair(lambda x=None: None, lambda x=None: None)
        >>> len(list(pair.parameters()))
        0
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model if isinstance(model, Program) else Program(model, "model")
        self.guide = guide if isinstance(guide, Program) else Program(guide, "guide")
        self.model.own.partner, self.guide.own.partner = [self.guide.own], [self.model.own]

    @property
    def device(self) -> torch.device:
        """The device of the first parameter; the CPU if there is none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))
