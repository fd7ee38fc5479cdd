"""The generated file documents every key and is itself a valid configuration."""

import re
from pathlib import Path

from lmx_supervisor.config.annotated import annotated_config
from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.config.load import Origin, load_config
from lmx_supervisor.config.schema import Config


def test_the_file_as_it_is_changes_nothing(tmp_path: Path) -> None:
    """`lmx config init` alone leaves every value at its default."""
    (tmp_path / "config.yaml").write_text(annotated_config(), encoding="utf-8")
    loaded = load_config(file=None, flags={}, environ={}, home=tmp_path)
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {Origin.DEFAULT}


def test_every_key_can_be_uncommented(tmp_path: Path) -> None:
    """With every key's line activated the file still loads, to the very same configuration, and every key comes from it."""
    active = re.sub(r"^  # ([\w.]+): (?=[\"\[{\d-]|null|true|false)", r"  \1: ", annotated_config(), flags=re.MULTILINE)
    (tmp_path / "config.yaml").write_text(active, encoding="utf-8")
    loaded = load_config(file=None, flags={}, environ={}, home=tmp_path)
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {Origin.FILE}


def test_every_key_says_what_it_does() -> None:
    """No key reaches an operator without a sentence of its own."""
    assert [key.dotted for key in all_keys().values() if not key.comment] == []


def test_comments_come_with_bounds_and_default() -> None:
    """An entry reads: what it is for, what it may be, what it is now."""
    entry = "  # Sequences a worker decodes together. (a whole number, at least 1 and at most 64)\n  # slots: 4\n"
    assert entry in annotated_config()
