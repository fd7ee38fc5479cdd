"""The page about scripted models."""

import re
from pathlib import Path
from typing import get_args

from lmx_worker.backends.scripted import script
from lmx_worker.backends.scripted.script import ProcessFault, Trigger, WireLie, read_script

PAGE = Path(__file__).parents[5] / "docs" / "scripted-models.md"


def test_every_example_is_a_script(tmp_path: Path) -> None:
    """Each YAML block of the page is accepted as it stands."""
    examples = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)

    assert len(examples) >= 5
    for example in examples:
        path = tmp_path / "m.script.yaml"
        path.write_text(example)
        read_script(path)


def test_every_fault_is_described() -> None:
    """The page and the language's docstring name every trigger and every fault."""
    assert script.__doc__ is not None
    words = {*get_args(Trigger), *get_args(ProcessFault), *get_args(WireLie), "fail_request"}

    assert words <= set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert words <= set(re.findall(r"\w+", script.__doc__))
