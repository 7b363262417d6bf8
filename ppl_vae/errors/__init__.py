"""What goes wrong for a user, in one sentence: what was expected, where, what came, and the remedy."""

from ppl_vae.errors._checks import (
    check_choice,
    check_flag,
    check_known,
    check_number,
    check_several,
    check_whole,
    made_by,
    told_by,
)
from ppl_vae.errors._classes import (
    Finding,
    NoDensity,
    ProgramError,
    StreamWarning,
    UnsavedWarning,
    UserError,
    absent_field,
    unknown_name,
)
from ppl_vae.errors._memory import is_memory, within_memory
from ppl_vae.errors._wording import escaped, harmless, on_command_line, one_line, one_unit_words, option, shown, spelled

__all__ = [
    "Finding",
    "NoDensity",
    "ProgramError",
    "StreamWarning",
    "UnsavedWarning",
    "UserError",
    "absent_field",
    "check_choice",
    "check_flag",
    "check_known",
    "check_number",
    "check_several",
    "check_whole",
    "escaped",
    "harmless",
    "is_memory",
    "made_by",
    "on_command_line",
    "one_line",
    "one_unit_words",
    "option",
    "shown",
    "spelled",
    "told_by",
    "unknown_name",
    "within_memory",
]

for _class in (Finding, NoDensity, ProgramError, StreamWarning, UnsavedWarning, UserError):
    _class.__module__ = __name__  # where they are imported from, and what a traceback says
