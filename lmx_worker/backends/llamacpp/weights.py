"""The model in memory: weights, vocabulary and what the file says about itself. Owns the native model handle."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ComputeSharing
from lmx_worker.backends.base import LoadError, LoadProgressCallback
from lmx_worker.backends.llamacpp.gguf_header import check_gguf, model_files
from lmx_worker.backends.llamacpp.native_log import NativeLog, capture_native_log
from lmx_worker.text.answer_format import belongs_to_marks

_PIECE_BYTES = 256
_UNKNOWN_ARCHITECTURE = "unknown model architecture"


class Weights:
    """A loaded model. The vocabulary methods are thread-safe; `close` ends everything."""

    def __init__(self, api: Any, handle: Any, architecture: str, sharing: ComputeSharing) -> None:
        self._api = api
        self.sharing = sharing
        self.handle = handle
        self.architecture = architecture
        self._vocabulary = api.llama_model_get_vocab(handle)
        self.vocabulary_size = int(api.llama_vocab_n_tokens(self._vocabulary))
        self.train_context_length = int(api.llama_model_n_ctx_train(handle))
        self.parameters = int(api.llama_model_n_params(handle))
        self.weights_bytes = int(api.llama_model_size(handle))
        self.embedding_dimensions = int(api.llama_model_n_embd_out(handle))
        self.keeps_whole_sequences = bool(api.llama_model_is_recurrent(handle) or api.llama_model_is_hybrid(handle))
        """Its memory of a sequence is one state, which cannot be cut back to an earlier position."""
        self.bos_text = self._token_text(api.llama_vocab_bos(self._vocabulary))
        self.eos_text = self._token_text(api.llama_vocab_eos(self._vocabulary))
        self._pieces: dict[int, bytes] = {}
        self._marks: frozenset[str] = frozenset()

    def chat_template(self, name: str | None = None) -> str | None:
        """The Jinja source in the file (with a name: a further one), or None."""
        source = self._api.llama_model_chat_template(self.handle, name.encode() if name else None)
        return source.decode("utf-8", "replace") if source else None

    def show_marks(self, marks: frozenset[str]) -> None:
        """From now on `piece` gives the text of the control tokens that these marks consist of."""
        self._marks = marks
        self._pieces.clear()

    @property
    def classes(self) -> int:
        """How many numbers its classification head gives, if it has one."""
        return int(self._api.llama_model_n_cls_out(self.handle))

    @property
    def rerank_template(self) -> str | None:
        """The text around a query and a document that the file has for rerankers, or None."""
        source = self._api.llama_model_chat_template(self.handle, b"rerank")
        return source.decode("utf-8", "replace") if source else None

    @property
    def pair_marks(self) -> tuple[list[int], list[int], list[int]]:
        """The control tokens before, between and after two texts that are read together."""
        api, vocabulary = self._api, self._vocabulary
        separator = [api.llama_vocab_sep(vocabulary)] if api.llama_vocab_get_add_sep(vocabulary) else []
        end = [api.llama_vocab_eos(vocabulary)] if api.llama_vocab_get_add_eos(vocabulary) else []
        before = [api.llama_vocab_bos(vocabulary)] if api.llama_vocab_get_add_bos(vocabulary) else []
        return before, end + separator, end or separator

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> Sequence[int]:
        """The tokens of a text. `add_special` adds e.g. BOS; `parse_special`: markers like `<|...|>` become control tokens."""
        return self._tokenize(text.encode("utf-8", "replace"), add_special=add_special, parse_special=parse_special)

    def tokenize_plain(self, data: bytes) -> Sequence[int]:
        """The tokens of text in the middle of an answer: nothing is added, and markers stay text."""
        return self._tokenize(data, add_special=False, parse_special=False)

    def _tokenize(self, data: bytes, *, add_special: bool, parse_special: bool) -> Sequence[int]:
        size = len(data) + 2
        while True:
            buffer = (ctypes.c_int32 * size)()
            count = self._api.llama_tokenize(self._vocabulary, data, len(data), buffer, size, add_special, parse_special)
            if count >= 0:
                return buffer[:count]
            size = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text; none for a control token that belongs to no mark."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False) or self._mark_piece(token)
        return piece

    def token_text(self, token: int) -> bytes:
        """The bytes a token stands for: of a control token its name, which never gets into an answer's text."""
        return self.piece(token) or self._read_piece(token, special=True)

    def is_control(self, token: int) -> bool:
        """Whether a token stands for no text; belonging to a mark does not make it text."""
        return not self._read_piece(token, special=False)

    def ends_generation(self, token: int) -> bool:
        """Whether this token is one of the model's ends."""
        return bool(self._api.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        """Free the model; idempotent."""
        if self.handle is not None:
            self._api.llama_model_free(self.handle)
            self.handle = None

    def _mark_piece(self, token: int) -> bytes:
        text = self._token_text(token)
        return text.encode() if belongs_to_marks(text, self._marks) else b""

    def _token_text(self, token: int) -> str:
        return self._read_piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._api.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count


def load_weights(api: Any, spec: ModelSpec, progress: LoadProgressCallback) -> Weights:
    """Check the file, then have llama.cpp load it.

    Raises:
        LoadError: the file is missing, no GGUF, cut off, of an unknown architecture, or not a text generation model.
    """
    path = Path(spec.path)
    headers = [check_gguf(part) for part in model_files(path)]
    total_bytes = sum(header.file_bytes for header in headers)
    log = capture_native_log()
    log.clear()

    @api.llama_progress_callback  # type: ignore[untyped-decorator, unused-ignore]
    def on_progress(ratio: float, _user_data: Any) -> bool:
        progress("weights", int(ratio * total_bytes), total_bytes)
        return True

    params = api.llama_model_default_params()
    params.load_mode = api.LLAMA_LOAD_MODE_MMAP
    params.n_gpu_layers = spec.gpu_layers
    params.progress_callback = on_progress
    params.use_extra_bufts = not _has_amx(api)
    handle = api.llama_model_load_from_file(str(path).encode(), params)
    if not handle:
        raise refused(path, headers[0].architecture, log)
    uses_gpu = spec.gpu_layers != 0 and api.llama_supports_gpu_offload()
    sharing = ComputeSharing.TIME if uses_gpu else ComputeSharing.THREADS
    weights = Weights(api, handle, headers[0].architecture, sharing)
    if api.llama_model_has_encoder(handle) or not api.llama_model_has_decoder(handle) or weights.vocabulary_size == 0:
        weights.close()
        raise LoadError(ErrorCode.MODEL_UNSUPPORTED_BACKEND, f"{path} ({weights.architecture}) is not a text generation model")
    return weights


def _has_amx(api: Any) -> bool:
    # ggml's AMX kernels take a copy of all weights, and die of a general protection fault in virtual machines that show AMX
    # without providing it. Without the copy the file's pages are used as they are, shared and evictable.
    return b"AMX_INT8 = 1" in api.llama_print_system_info()


def refused(path: Path, architecture: str, log: NativeLog) -> LoadError:
    """Why llama.cpp did not take a file, in its own words."""
    reason = log.first_error() or "llama.cpp gave no reason"
    if _UNKNOWN_ARCHITECTURE in reason:
        return LoadError(
            ErrorCode.MODEL_UNSUPPORTED_ARCH, f"{path}: this llama.cpp does not know the architecture {architecture!r}"
        )
    return LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{path} does not load: {reason}")
