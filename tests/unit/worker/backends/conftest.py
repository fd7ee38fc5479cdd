"""Models for the backends' tests."""

from tests.support.minilm import minilm, minilm_gguf, reranker_gguf  # noqa: F401 - fixtures
