"""Loading with llama.cpp: what a good file reports, and that bad files are errors instead of crashes."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_worker.backends.base import Backend, LoadError
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from lmx_worker.backends.llamacpp.gguf_header import check_gguf, model_files
from lmx_worker.backends.llamacpp.native_log import NativeLog
from tests.support.llamacpp_models import CONTEXT_LENGTH, SLOTS, spec_of, write_header_only_gguf
from tests.support.mlx_models import smollm2_gguf


def refusal(path: Path) -> LoadError:
    """How the backend refuses a file."""
    with pytest.raises(LoadError) as caught:
        LlamaCppBackend().load(spec_of(path), lambda *_: None)
    return caught.value


def test_it_is_a_backend() -> None:
    """The class has every method the engine calls."""
    assert isinstance(LlamaCppBackend(), Backend)


def test_importing_the_module_is_cheap() -> None:
    """The native library and Jinja are imported by `import_libraries`, not before."""
    code = "import sys, lmx_worker.backends.llamacpp.backend; print({'llama_cpp', 'numpy', 'jinja2'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_text_modules_need_no_backend_library() -> None:
    """Text machinery is shared, so it must not bring in a backend's library."""
    code = "import sys, lmx_worker.text.output, lmx_worker.text.chat;print({'llama_cpp', 'mlx', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.real
def test_load_reports_facts_and_bytes() -> None:
    """Progress counts the file's bytes up to all of them, and the facts are the model's own."""
    seen: list[tuple[str, int, int]] = []
    backend = LlamaCppBackend()
    version = backend.import_libraries()
    facts = backend.load(spec_of(smollm2_gguf()), lambda *progress: seen.append(progress))
    size = smollm2_gguf().stat().st_size
    assert seen[-1] == ("weights", size, size)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert (facts.backend, facts.backend_version, facts.architecture) == ("llamacpp", version, "llama")
    assert (facts.context_length, facts.train_context_length, facts.slots) == (CONTEXT_LENGTH, 8192, SLOTS)
    assert (facts.vocabulary_size, facts.parameters) == (49152, 134_515_008)
    assert facts.has_chat_template
    backend.close()
    backend.close()


@pytest.mark.real
def test_a_context_is_never_longer_than_the_training() -> None:
    """An order beyond what the model was trained for is capped, and says so in the facts."""
    backend = LlamaCppBackend()
    spec = ModelSpec(model_id="m", path=str(smollm2_gguf()), format=ModelFormat.GGUF, context_length=100_000, slots=1)
    assert backend.load(spec, lambda *_: None).context_length == 8192
    backend.close()


@pytest.mark.real
def test_unknown_kv_bits_are_refused() -> None:
    """A key/value width that llama.cpp lacks is named."""
    spec = ModelSpec(model_id="m", path=str(smollm2_gguf()), format=ModelFormat.GGUF, kv_bits=7)
    with pytest.raises(LoadError, match="kv_bits 7"):
        LlamaCppBackend().load(spec, lambda *_: None)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    """A path without a file."""
    assert refusal(tmp_path / "no.gguf").code == ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", ErrorCode.MODEL_INCOMPLETE),
        (b"this is no model", ErrorCode.MODEL_PROBE_FAILED),
        (b"GGUF", ErrorCode.MODEL_INCOMPLETE),
        (b"GGUF" + struct.pack("<I", 99), ErrorCode.MODEL_PROBE_FAILED),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), ErrorCode.MODEL_PROBE_FAILED),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), ErrorCode.MODEL_INCOMPLETE),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63), ErrorCode.MODEL_INCOMPLETE),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 77), ErrorCode.MODEL_PROBE_FAILED),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q1sI", 1, b"t", 9), ErrorCode.MODEL_PROBE_FAILED),
    ],
)
def test_what_is_no_gguf_is_refused_before_native_code(tmp_path: Path, content: bytes, code: ErrorCode) -> None:
    """Garbage, lies and stumps are told apart by the header alone."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == code
    assert str(path) in str(error)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A directory is no GGUF file."""
    assert refusal(tmp_path).code == ErrorCode.MODEL_PROBE_FAILED


@pytest.mark.parametrize("kept_ratio", [0.001, 0.01, 0.5, 0.999999])
def test_a_cut_off_download_is_incomplete(tmp_path: Path, kept_ratio: float) -> None:
    """Wherever a real file is cut off, in its header or its tensors, it is reported as incomplete."""
    path = tmp_path / "cut.gguf"
    size = smollm2_gguf().stat().st_size
    with smollm2_gguf().open("rb") as source:
        path.write_bytes(source.read(min(int(size * kept_ratio), size - 1)))
    assert refusal(path).code == ErrorCode.MODEL_INCOMPLETE


def test_the_demo_model_is_whole() -> None:
    """A good file passes the check, and its last tensor ends within it."""
    header = check_gguf(smollm2_gguf())
    assert header.architecture == "llama"
    assert 0.99 < header.needed_bytes / header.file_bytes <= 1


def test_all_parts_of_a_split_model_must_be_there(tmp_path: Path) -> None:
    """A split model is its parts, found by their names; a missing one is named."""
    first = tmp_path / "big-00001-of-00002.gguf"
    second = tmp_path / "big-00002-of-00002.gguf"
    first.touch()
    with pytest.raises(LoadError, match="big-00002-of-00002") as caught:
        model_files(first)
    assert caught.value.code == ErrorCode.MODEL_INCOMPLETE
    second.touch()
    assert model_files(first) == [first, second]


@pytest.mark.real
def test_an_unknown_architecture_is_said_to_be_that(tmp_path: Path) -> None:
    """A well-formed file for which llama.cpp has no code is not called broken."""
    error = refusal(write_header_only_gguf(tmp_path / "new.gguf", "fantasy"))
    assert error.code == ErrorCode.MODEL_UNSUPPORTED_ARCH
    assert "fantasy" in str(error)


@pytest.mark.real
def test_llama_cpps_own_reason_is_passed_on(tmp_path: Path) -> None:
    """A file that only llama.cpp can judge is refused in llama.cpp's words."""
    error = refusal(write_header_only_gguf(tmp_path / "hollow.gguf", "llama"))
    assert error.code == ErrorCode.MODEL_PROBE_FAILED
    assert "llama.context_length" in str(error)


def test_the_native_log_keeps_errors_and_shows_problems(capsys: pytest.CaptureFixture[str]) -> None:
    """Chatter is dropped, warnings are shown, errors are shown and remembered; a continuation belongs to what it continues."""
    log = NativeLog()
    log.write(2, b"chatter\n")
    log.write(5, b"more chatter\n")
    log.write(3, b"a warning\n")
    log.write(4, b"first \xff\n")
    log.write(4, b"second\n")
    assert capsys.readouterr().err == "a warning\nfirst \ufffd\nsecond\n"
    assert (log.first_error(), log.last_error()) == ("first \ufffd", "second")
    log.clear()
    assert log.first_error() is None
