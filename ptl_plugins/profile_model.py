"""The model and the tokenizer of a folder, whole, or one line about what is the matter."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.attention import exact_attention
from ptl_plugins.errors import PTLError
from ptl_plugins.geometry import NOT_AGAIN, SLICED
from ptl_plugins.model_config import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ptl_plugins.families import Family

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "*.tiktoken", "tiktoken.model", "tekken.json", "tokenization_*.py",
)  # fmt: skip
"""One of them is in every folder with a tokenizer."""
MOST = 0.9
"""Share of unknown tokens from which on the tokenizer is not the texts'."""
REMEDY = "copy or download the checkpoint again"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer.

    Raises:
        PTLError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    if not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        # AutoTokenizer would make an empty one
        raise PTLError(
            f"{folder}: has no tokenizer, neither tokenizer.json nor tokenizer.model nor "
            "vocab.json; copy the original model's tokenizer files into the folder"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    except Exception as error:  # whatever fails in there, the user has to mend the folder
        raise PTLError(f"{folder}: its tokenizer cannot be loaded ({_reason(error)})") from error
    return tokenizer


def require_known_tokens(
    where: str, sequences: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, vocab: Any
) -> None:
    """Refuse tokens that the model, or nearly all of which the tokenizer, does not know.

    Raises:
        PTLError: they are such.
    """
    largest = max(max(ids) for ids in sequences if ids)
    if isinstance(vocab, int) and largest >= vocab:
        raise PTLError(
            f"{where}: the tokenizer makes token {largest} of it, the model's vocab_size is "
            f"{vocab}; the tokenizer is of another model, copy the model's own into the folder"
        )
    unknown = tokenizer.unk_token_id
    number = sum(ids.count(unknown) if isinstance(ids, list) else 0 for ids in sequences)
    if unknown is not None and number > MOST * sum(map(len, sequences)):
        raise PTLError(
            f"{where}: {number} of {sum(map(len, sequences))} tokens are the unknown token "
            f"'{tokenizer.unk_token}'; the tokenizer does not fit the text, copy the model's own "
            "into the folder"
        )


def load_model(folder: Path, family: Family) -> PreTrainedModel:
    """Return the folder's model on the accelerator, every weight of it from the folder.

    Raises:
        PTLError: it cannot be loaded, or tensors are missing, left over, or of other shapes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from ptl_plugins.live import accelerator

    config = read_config(str(folder))
    if config.get("model_type") == SLICED:
        raise PTLError(f"{folder}: {NOT_AGAIN}")
    device = accelerator()
    if device.type == "cpu":
        keep_freed_memory()
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is wrong is told in one line
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            attn_implementation=exact_attention(config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        model: PreTrainedModel = loaded[0]
        _require_whole(folder, family, model, loaded[1])
        model.to(device)  # type: ignore[arg-type]
    except PTLError:
        raise
    except Exception as error:  # transformers fails in many ways
        raise PTLError(
            f"{folder}: the model cannot be loaded ({_reason(error)}); mend its config.json, or "
            f"{REMEDY}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return model


def _require_whole(
    folder: Path, family: Family, model: PreTrainedModel, info: Mapping[str, Any]
) -> None:
    """Refuse weights that transformers would make up, cut off or leave out."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = sorted(n for n in info["missing_keys"] if n not in tied and "rotary" not in n)
    left_over = sorted(
        n for n in info["unexpected_keys"] if f"{family.layers}." in n and "rotary" not in n
    )
    for name, there, wanted in sorted(info["mismatched_keys"], key=str):
        raise PTLError(
            f"{folder}: tensor '{name}' is of shape {list(there)}, config.json makes it "
            f"{list(wanted)}; mend config.json, or {REMEDY}"
        )
    for names, what in (
        (missing, "is missing, which the model of config.json has"),
        (left_over, "is there, which the model of config.json has not"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise PTLError(
                f"{folder}: tensor '{names[0]}'{more} {what}; mend config.json, or {REMEDY}"
            )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the system after each layer.

    A batch's activations are tens of megabytes; by default each is mapped, zeroed page by page
    and unmapped again, which costs about a seventh of a CPU's forward pass.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def hand_back_freed_memory() -> None:
    """Hand back what glibc has kept so far; it goes on keeping what is freed from here on.

    Blocks of a backward pass do not fit into the place of those of another batch's shape: with
    four layers of SmolLM2 and 128 MB of logits at once the process grew to 13.7 GB over 33 batches,
    0.5 GB of it in use. Handed back after each batch, and with 16 MB, it was 1.6 GB over 27. What
    still grows, about 9 MB with each new shape of a batch, is oneDNN's cache of kernels.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names, from malloc.h."""
