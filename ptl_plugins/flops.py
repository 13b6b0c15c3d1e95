"""FLOPs of a question from the tokens that it used, out of a model's sizes alone.

A multiplication with its addition is two FLOPs. Counted are the matrices: norms, biases,
activations, rotary embeddings and the softmax are below 1 % of them and are left out.
"""

from __future__ import annotations

from ptl_plugins.errors import PTLError
from ptl_plugins.geometry import Geometry, Matrices


def question_flops(geometry: Geometry, *, prompt_tokens: int, generated_tokens: int) -> int:
    """Return the FLOPs of one question, answered with a KV cache.

    2 x (weights that multiply, lm_head with them, embedding without) x (prompt + generated
    tokens), and the attention term of `attention_flops`. Every token of the question counts
    once through all weights. An engine may do less: lm_head is needed for the last token of a
    prompt alone, and the last generated token need not be read. `generate` of transformers
    leaves out both, which is 2 x hidden x vocabulary x (prompt tokens - 1), and the difference
    to the FLOPs of one generated token fewer.

    Args:
        geometry: sizes of the model, read from the config of just this model.
        prompt_tokens: tokens given to the model, with few-shot examples, template and BOS.
        generated_tokens: tokens that the model wrote, with the end token if it wrote one.

    Raises:
        PTLError: the sizes are of a shape of which nobody knows which layers went.
        ValueError: a number of tokens is negative.
    """
    attention = attention_flops(
        geometry, prompt_tokens=prompt_tokens, generated_tokens=generated_tokens
    )
    return 2 * multiplied_weights(geometry) * (prompt_tokens + generated_tokens) + attention


def multiplied_weights(geometry: Geometry) -> int:
    """Return the weights that a token is multiplied by: without embedding, norms and biases."""
    matrices = _matrices(geometry)
    layer = matrices.attention + geometry.width * matrices.per_neuron
    return geometry.num_layers * layer + geometry.vocabulary * geometry.hidden


def attention_flops(geometry: Geometry, *, prompt_tokens: int, generated_tokens: int) -> int:
    """Return the FLOPs of QK^T and of AV, over all query heads of all layers.

    The prompt takes 4 x query size x prompt^2 in every layer: kernels that mask multiply all
    pairs, those ahead and those outside a window too (a kernel that skips blocks does about half
    of it). A generated token is one query over the tokens before it and itself, in a layer with
    a window over no more than that many: 4 x query size x that context.

    Raises:
        PTLError: the sizes are of a shape of which nobody knows which layers went.
        ValueError: a number of tokens is negative.
    """
    if prompt_tokens < 0 or generated_tokens < 0:
        raise ValueError(f"{prompt_tokens} + {generated_tokens} tokens: none can be negative")
    matrices = _matrices(geometry)
    if matrices.windows is None:
        raise PTLError(
            "FLOPs of the attention: layers with and without a window went, and it is not known "
            "which are left; read the sizes from the config.json of the pruned model itself"
        )
    pairs = sum(
        prompt_tokens**2 + _decoded_pairs(prompt_tokens, generated_tokens, window)
        for window in matrices.windows
    )
    return 4 * matrices.query_size * pairs


def _decoded_pairs(prompt: int, generated: int, window: int | None) -> int:
    """Return the keys that all generated tokens look at: prompt + 1, prompt + 2, ... if free."""
    free = generated if window is None else min(max(window - prompt, 0), generated)
    pairs = free * prompt + free * (free + 1) // 2
    return pairs + (generated - free) * (window or 0)


def _matrices(geometry: Geometry) -> Matrices:
    if geometry.matrices is None:
        raise PTLError(
            "FLOPs of a question: these sizes do not tell the matrices; read them from a "
            "config.json with `geometry`"
        )
    return geometry.matrices
