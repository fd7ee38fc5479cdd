"""Opening an MLX model without its weights: files, architecture, every weight's shape against the model's, the tokenizer."""

from lmx_protocol.messages import ModelSpec
from lmx_worker.backends.mlx.files import train_context_length
from lmx_worker.backends.mlx.loading import check_cache, check_files, load_failures, open_lazily, open_tokenizer
from lmx_worker.backends.probes import ProbedModel


def probe(spec: ModelSpec) -> ProbedModel:
    """Open the directory `spec.path`. Raises `LoadError`, as `load_model` would but for what only the weights can show."""
    files = check_files(spec.path)
    with load_failures(files):
        model, config = open_lazily(files)
        check_cache(model)
        tokenizer = open_tokenizer(files, config)
        return ProbedModel(
            architecture=files.model_type,
            train_context_length=train_context_length(config) or 0,
            vocabulary_size=len(tokenizer.vocab),
        )
