"""Opening a GGUF file without its weights: the headers of all parts, the architecture, its tensors' shapes, the vocabulary."""

from pathlib import Path

from lmx_protocol.messages import ModelSpec
from lmx_worker.backends.llamacpp.gguf_header import check_gguf, model_files
from lmx_worker.backends.llamacpp.native_log import capture_native_log
from lmx_worker.backends.llamacpp.weights import refused
from lmx_worker.backends.probes import ProbedModel


def probe(spec: ModelSpec) -> ProbedModel:
    """Open the file `spec.path`. Raises `LoadError`."""
    import llama_cpp.llama_cpp as api

    path = Path(spec.path)
    headers = [check_gguf(part) for part in model_files(path)]
    log = capture_native_log()
    log.clear()
    params = api.llama_model_default_params()
    # Every tensor is looked up and measured; no memory is taken for any of them.
    params.no_alloc = True
    params.load_mode = api.LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = 0
    handle = api.llama_model_load_from_file(str(path).encode(), params)
    if not handle:
        raise refused(path, headers[0].architecture, log)
    vocabulary = api.llama_model_get_vocab(handle)
    found = ProbedModel(
        architecture=headers[0].architecture,
        train_context_length=int(api.llama_model_n_ctx_train(handle)),
        vocabulary_size=int(api.llama_vocab_n_tokens(vocabulary)),
    )
    api.llama_model_free(handle)
    return found
