"""runtime-state.json: its documented fields, the way there and back, and every way it can be broken."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.core.exit_reason import ExitReason, Verdict
from lmx_supervisor.core.lasting import QuarantinedModel
from lmx_supervisor.core.load_profile import LoadProfile, ProfileLayers
from lmx_supervisor.core.startup import LastRun
from lmx_supervisor.core.trial import WantedModel
from lmx_supervisor.runtime.atomic_file import read_document, write_document
from lmx_supervisor.runtime.state_file import (
    FILE_NAME,
    RuntimeState,
    SavedQuarantine,
    last_run,
    plain_spec,
    quarantine_known,
    saved_model,
    saved_quarantine,
)

# No field at its default: what the file forgets would show.
SPEC = ModelSpec(
    model_id="org/m",
    path="/models/m.gguf",
    format=ModelFormat.GGUF,
    context_length=8192,
    slots=3,
    prefill_chunk_tokens=17,
    kv_bits=8,
    gpu_layers=5,
    threads=2,
    prefix_cache=False,
)
PROFILE = ProfileLayers(explicit=LoadProfile(slots=3), tuned=LoadProfile(threads=2), preset=LoadProfile(kv_bits=8))
QUARANTINED = QuarantinedModel(
    SPEC, "llamacpp", "d1", "crash_loop:3", 3, Verdict(ExitReason.NATIVE_CRASH, "native code crashed", "boot-7")
)
RUNBOOK_FIELDS = {"loaded_models", "last_clean_shutdown", "pid", "saved_at", "startup_count", "last_startup_at"}


def write(home: Path, state: RuntimeState) -> Path:
    """Write as the service does."""
    write_document(home / FILE_NAME, state)
    return home / FILE_NAME


def test_everything_survives_the_way_there_and_back(tmp_path: Path) -> None:
    """A model is loaded as it was, a quarantine is the event it was."""
    state = RuntimeState(
        loaded_models=("org/m",),
        models=(saved_model(WantedModel(SPEC, "llamacpp", 5.0, PROFILE)),),
        quarantine=(saved_quarantine(QUARANTINED, 5.0),),
        recent_starts=(1.0, 2.5),
    )
    write(tmp_path, state)
    back = read_document(tmp_path / FILE_NAME, RuntimeState).document

    assert back == state
    assert type(plain_spec(back.models[0].spec)) is ModelSpec
    assert plain_spec(back.models[0].spec) == SPEC
    known = quarantine_known(back.quarantine[0])
    assert (known.spec, known.digest, known.reason, known.consecutive_failures) == (SPEC, "d1", "crash_loop:3", 3)
    assert known.last_exit == QUARANTINED.last_exit


def test_operators_find_the_runbooks_fields_at_the_top_and_specs_with_names(tmp_path: Path) -> None:
    """`json.tool` and the runbook's one-liners work on it; it is private."""
    path = write(tmp_path, RuntimeState(models=(saved_model(WantedModel(SPEC, "llamacpp")),)))
    document = json.loads(path.read_text())

    assert set(document) >= RUNBOOK_FIELDS
    assert document["models"][0]["spec"]["context_length"] == 8192
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_predecessors_file_is_understood(tmp_path: Path) -> None:
    """Its fields have no schema and no specifications; the models' names are enough to bring them back."""
    old = {"loaded_models": ["a", "b", "a"], "last_clean_shutdown": False, "pid": 1, "saved_at": 1.5, "startup_count": 2}
    (tmp_path / FILE_NAME).write_text(json.dumps(old))

    state = read_document(tmp_path / FILE_NAME, RuntimeState).document

    assert last_run(state) == LastRun(clean=False, recent_starts=(), loaded_models=("a", "b"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"loaded_models": ["a"',
        b"\x00\xff not json",
        b'{"schema": 2}',
        b'{"schema": 1, "loaded_models": 7}',
        b'{"recent_starts": [NaN]}',
        b"[]",
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_set_aside_and_the_start_is_fresh(tmp_path: Path, content: bytes) -> None:
    """The evidence stays under another name, and what remains is a clean slate."""
    (tmp_path / FILE_NAME).write_bytes(content)

    found = read_document(tmp_path / FILE_NAME, RuntimeState)

    assert (found.document, last_run(found.document)) == (None, LastRun())
    assert found.problem
    assert found.set_aside is not None
    assert found.set_aside.name.startswith(f"{FILE_NAME}.corrupt-")
    assert found.set_aside.read_bytes() == content
    assert not (tmp_path / FILE_NAME).exists()


def test_a_directory_or_a_strangers_file_is_set_aside_too(tmp_path: Path) -> None:
    """Neither is read, neither stops the start."""
    (tmp_path / FILE_NAME).mkdir()
    assert read_document(tmp_path / FILE_NAME, RuntimeState).set_aside is not None
    if os.geteuid() == 0:
        path = write(tmp_path, RuntimeState())
        os.chown(path, 12345, -1)
        assert "belongs to user 12345" in (read_document(path, RuntimeState).problem or "")


def test_an_exit_reason_of_another_version_keeps_its_text() -> None:
    """A reason that this version does not know does not make the quarantine unreadable."""
    saved = msgspec.structs.replace(saved_quarantine(QUARANTINED, 1.0), last_exit_reason="struck_by_lightning")

    assert quarantine_known(saved).last_exit == Verdict(ExitReason.UNEXPECTED_EXIT, "native code crashed", "boot-7")


def test_a_quarantine_without_a_last_exit_is_possible() -> None:
    """An older or edited file may lack it."""
    saved = msgspec.structs.replace(saved_quarantine(QUARANTINED, 1.0), last_exit_reason=None, last_exit_text=None)

    assert isinstance(saved, SavedQuarantine)
    assert quarantine_known(saved).last_exit is None
