"""Which tests are marked `live_keys`, by the keys they see change what a running service does."""

import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from pytest import Mark, MarkDecorator

MARK = "live_keys"
_TESTS = Path(__file__).parents[1]
_NOT_RUN = frozenset({"skip", "skipif", "xfail"})


def marked_tests() -> dict[str, list[str]]:
    """Key → the tests that name it, as they would be collected; one that is not sure to run does not count.

    The modules are imported and asked, so that a mark counts however its keys are written down; only those that have one.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(_TESTS.rglob("test_*.py")):
        if f"mark.{MARK}(" not in file.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(".".join(file.relative_to(_TESTS.parent).with_suffix("").parts))
        for name, marks in _marks_of_tests(module):
            for key in keys_of(marks):
                found[key].append(f"{file.relative_to(_TESTS.parent)}::{name}")
    return dict(found)


def keys_of(marks: Iterable[Mark]) -> set[str]:
    """The keys that a test with these marks sees; none when it need not run."""
    marks = list(marks)
    if any(mark.name in _NOT_RUN for mark in marks):
        return set()
    return {key for mark in marks if mark.name == MARK for key in mark.args}


def _marks_of_tests(module: ModuleType) -> Iterator[tuple[str, list[Mark]]]:
    of_module = _as_marks(getattr(module, "pytestmark", []))
    for name, test in vars(module).items():
        # A test that is imported from elsewhere is that module's.
        if name.startswith("test_") and callable(test) and test.__module__ == module.__name__:
            yield name, [*of_module, *_as_marks(getattr(test, "pytestmark", []))]


def _as_marks(given: object) -> list[Mark]:
    each = given if isinstance(given, list) else [given]
    return [mark.mark if isinstance(mark, MarkDecorator) else mark for mark in each]
