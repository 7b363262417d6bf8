"""Wrong arguments of public functions and classes: a right result, or one line in our words, and never for ever."""

import os
import pickle
import traceback
import warnings

import numpy as np
import pytest
import torch
from calls import called, calls, functions
from odd import Own, Slow, limited, sampled, single

from ppl_vae import UserError
from ppl_vae.errors import ProgramError, check_flag, check_several, shown, within_memory
from ppl_vae.errors._wording import SCREEN

pytestmark = pytest.mark.faults

SEED, COUNT, FEW = 19, 1500, 15


def outcome(case, seconds=60):
    """None for a result or a refusal in our words, else what came."""
    try:
        with warnings.catch_warnings(), limited(seconds):
            warnings.simplefilter("ignore")
            case.run()
    except UserError as error:
        text = str(error)
        if "\n" in text or not text.isprintable() or len(text) > SCREEN:
            return f"not a line: {text[:300]!r}"
    except Own:
        return None
    except Slow:
        return "it did not come back"
    except Exception as error:
        if case.call.name.endswith("__getitem__") and isinstance(error, IndexError):
            return None  # which ends a loop over rows
        if case.call.name.startswith("ppl_vae.sklearn.") and raised_by_sklearn(error):
            return None
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def raised_by_sklearn(error):
    """What scikit-learn refuses by itself, as all of its estimators do."""
    last = [frame.filename for frame in traceback.extract_tb(error.__traceback__)[-2:]]  # the last may be numpy's
    return isinstance(error, ValueError | TypeError) and any(f"{os.sep}sklearn{os.sep}utils{os.sep}" in f for f in last)


def wrong(cases):
    return [f"{case}: {found}" for case in cases if (found := outcome(case)) is not None]


def test_some_wrong_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert wrong(sampled(COUNT, SEED)[:FEW]) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_wrong_arguments(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = sampled(COUNT, SEED)
    assert len(cases) == COUNT
    assert wrong(cases[part::10]) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_right_calls_are_right_and_cover_what_is_public():
    import ppl_vae

    for call in calls():
        call.function(**call.arguments)
    made = {call.function.__name__ for call in calls()}
    public = {name for name in ppl_vae.__all__ if name[0].islower() and not name.startswith("__")}
    assert public <= made


MAY_BE_HUGE = ("epochs", "seed", "jobs")
"""Numbers that are no amount of work: patience ends epochs, and there are no more processes than cells."""


def huge():
    """A number beyond any memory or time in the place of each number of a public function."""
    for case in single(called(functions())):
        name, value = case.changes[0]
        if value == "10**12" and isinstance(case.call.arguments.get(name), int) and name not in MAY_BE_HUGE:
            yield case


def test_a_number_beyond_any_memory_or_time_is_refused_at_once():
    cases = list(huge())
    assert len(cases) > 50
    assert [f"{case}: {found}" for case in cases if (found := outcome(case, seconds=20)) is not None] == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * 1000, "'xxxx"),
        (np.zeros((4, 3)), "ndarray of shape (4, 3)"),
        (torch.zeros(2), "Tensor of shape (2,)"),
        ([1] * 1000, "[1, 1, 1, 1, 1, 1, ...]"),
        (torch.nn.Linear(2, 2), "Linear("),
        (0.1, "0.1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_came_is_shown_in_a_few_letters(value, words):
    assert shown(value).startswith(words)
    assert len(shown(value)) < 120


def test_a_message_is_one_line_whatever_is_in_it():
    text = str(UserError("a\n  b\x1b[31m" + "x" * 10_000))
    assert text.startswith("a b\\x1b[31mxx")
    assert len(text) == SCREEN


def test_errors_survive_the_way_between_processes():
    found = pickle.loads(pickle.dumps(ProgramError("z", "site 'z' is missing", "add it")))  # noqa: S301 - our own
    assert (found.site, str(found)) == ("z", "site 'z' is missing: add it")


@pytest.mark.parametrize("value", [1, 0, "True", None, np.array([True]), torch.tensor(1)])
def test_only_true_and_false_are_flags(value):
    assert check_flag("f", np.bool_(True)) is True
    with pytest.raises(UserError, match="f must be True or False, got"):
        check_flag("f", value)


@pytest.mark.parametrize("value", ["ab", b"ab", 3, {"a": 1}, int, None])
def test_a_word_is_not_several(value):
    assert check_several("s", np.array([1, 2]), "numbers") == (1, 2)
    with pytest.raises(UserError, match="s expects numbers, got"):
        check_several("s", value, "numbers")


def test_a_lack_of_memory_is_told_with_how_much_was_asked_for():
    told = r"draws needs more memory than there is \(\d[\d,]* GiB at once\)"
    with pytest.raises(UserError, match=told), within_memory("draws"):
        torch.zeros(10**14)
    with pytest.raises(ValueError, match="another"), within_memory("draws"):
        raise ValueError("another")
