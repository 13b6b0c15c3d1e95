"""For tests, PTL's own and plugin authors': tiny models, a corpus, a backend that fakes."""

from ptl_plugins.testing.fake_backend import FakeBackend
from ptl_plugins.testing.tiny import (
    COMMON,
    TINY,
    tiny_model,
    tiny_texts,
    tiny_tokenizer,
    write_tiny_checkpoint,
    write_tiny_corpus,
)

__all__ = [
    "COMMON",
    "TINY",
    "FakeBackend",
    "tiny_model",
    "tiny_texts",
    "tiny_tokenizer",
    "write_tiny_checkpoint",
    "write_tiny_corpus",
]
