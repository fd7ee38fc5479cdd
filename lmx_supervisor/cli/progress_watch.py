"""Showing on stderr how far something on the server is: one bar for a terminal, a line now and then for a log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lmx_supervisor.cli.terminal import remark

_LINE_EVERY_PERCENT = 10.0


class Watch(Protocol):
    """Where it is shown."""

    def show(self, percent: float, how_far: str, stage: object) -> None:
        """Tell the user where it is; another `stage` is worth a line of a log, whatever the percentage."""


@contextmanager
def watch(name: str) -> Iterator[Watch]:
    """Show what is called `name`; a bar is gone at the end of the block."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    look = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[how_far]}"))
    with Progress(*look, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task(name, total=100, how_far=""))


class _Lines:
    """For a log: a line whenever something worth one has changed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown: tuple[object, ...] = ()

    def show(self, percent: float, how_far: str, stage: object) -> None:
        step = (stage, percent // _LINE_EVERY_PERCENT)
        if step != self._shown:
            self._shown = step
            remark(f"{self._name}: {how_far}")


class _Bar:
    """For a terminal: one bar."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def show(self, percent: float, how_far: str, _: object) -> None:
        self._progress.update(self._task, completed=percent, how_far=how_far)
