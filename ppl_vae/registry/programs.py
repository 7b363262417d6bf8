"""Words for a model, a guide and a bound, and the objects that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ppl_vae.registry import catalog, construction, user_files
from ppl_vae.registry.words import split_options

if TYPE_CHECKING:
    from ppl_vae.data import Data

__all__ = ["NamedProgram", "ProgramWords", "build"]


@dataclass(frozen=True)
class NamedProgram:
    """A model or guide that was made from words, and how run.json records it if it is of a user's file."""

    value: Any
    name: str
    record: dict[str, Any] | None = None


@dataclass
class ProgramWords:
    """The words for a model and a guide, None for the model's own; files are run once, even if both are of one.

    Example:
        >>> words = ProgramWords("auto_encoder", None)
        >>> words.guide_word, words.usual("default_beta", 1.0)
        ('point', 1.0)
    """

    model: str
    guide: str | None
    loaded: dict[Path, ModuleType] = field(default_factory=dict)

    @property
    def guide_word(self) -> str:
        """The word for the guide: what was said, else what the model says; `mean_field` where it says nothing."""
        return self.guide or self.usual("default_guide", "mean_field")

    def usual(self, what: str, otherwise: Any) -> Any:
        """What the model says that it is trained with, in its class attribute `what`."""
        return getattr(self.target("models")[0], what, otherwise)

    def check(self) -> None:
        """Refuse unknown names, before anything slow is imported."""
        for kind, word in (("models", self.model), ("guides", self.guide)):
            if word is not None and not user_files.is_file(word):
                catalog.find(kind, word)

    def target(self, kind: str) -> tuple[Any, str, user_files.UserObject | None]:
        """The class or function, its name for people, and the user's object if it is one."""
        word = self.model if kind == "models" else self.guide_word
        if user_files.is_file(word):
            own = user_files.user_object(word, self.loaded)
            return own.value, str(own), own
        entry = catalog.find(kind, word)
        return entry.load(), entry.name, None


def build(words: ProgramWords, data: Data, options: Mapping[str, Any]) -> tuple[NamedProgram, NamedProgram]:
    """The pair, with the options (by argument name) that the user gave; `hidden` goes to whoever takes it.

    Raises:
        UserError: for an option that neither takes, and for what the constructors refuse.
    """
    target, name, own = words.target("models")
    takes, guide_takes = (
        construction.accepted(t) if isinstance(t, type) else {} for t in (target, words.target("guides")[0])
    )
    # Network widths mean both networks; they are an error only where nobody has a network.
    given = {k: v for k, v in options.items() if k != "hidden" or k in takes or k not in guide_takes}
    given |= split_options(words.model)[1]
    value, arguments = construction.construct(target, {"data": data}, given, name)
    known = {id(data): "data", id(data.schema): "data"}
    model = NamedProgram(value, name, _record(own, arguments, known))
    target, name, own = words.target("guides")
    given = {k: v for k, v in options.items() if k == "hidden" and k in guide_takes}
    given |= split_options(words.guide_word)[1]
    value, arguments = construction.construct(target, {"model": model.value, "data": data}, given, name)
    known[id(model.value)] = "model"
    return model, NamedProgram(value, name, _record(own, arguments, known))


def _record(
    own: user_files.UserObject | None, arguments: Mapping[str, Any], known: Mapping[int, str]
) -> dict[str, Any] | None:
    if own is None:
        return None
    from ppl_vae.saving.specs import describe, file_hash

    described = {k: describe(v, known) for k, v in arguments.items()}
    return {"file": own.path.name, "name": own.name, "sha256": file_hash(own.path), "arguments": described}
