"""A random Llama on disk, and random scores of it, made without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptl_plugins.criteria import forward_statistics, needed_statistics
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.model_digest import model_digest
from ptl_plugins.scores_file import write_scores
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.types import Scores

SHARD_BYTES = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a Llama."""

    hidden: int = 1024
    width: int = 4096
    layers: int = 16
    vocabulary: int = 32000

    def tensors(self) -> Iterator[tuple[str, list[int]]]:
        """Yield names and shapes in the order of the layers."""
        yield "model.embed_tokens.weight", [self.vocabulary, self.hidden]
        for stem in (f"model.layers.{i}." for i in range(self.layers)):
            for name in ("q", "k", "v", "o"):
                yield f"{stem}self_attn.{name}_proj.weight", [self.hidden, self.hidden]
            for name in ("gate", "up"):
                yield f"{stem}mlp.{name}_proj.weight", [self.width, self.hidden]
            yield f"{stem}mlp.down_proj.weight", [self.hidden, self.width]
            for name in ("input", "post_attention"):
                yield f"{stem}{name}_layernorm.weight", [self.hidden]
        yield "model.norm.weight", [self.hidden]
        yield "lm_head.weight", [self.vocabulary, self.hidden]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(2 * math.prod(shape) for _, shape in self.tensors())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return 2 * self.hidden * max(self.width, self.vocabulary)

    def config(self) -> dict[str, object]:
        """Return the `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": self.hidden, "intermediate_size": self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": 16,
            "num_key_value_heads": 16, "vocab_size": self.vocabulary, "dtype": "bfloat16",
            "tie_word_embeddings": False,
        }  # fmt: skip


def write_llama_scores(folder: Path, shape: Shape) -> None:
    """Write random scores of the model in `folder / "model"`, with all that `ptl profile` has."""
    registry = build_registry(build_manager(autoload=False))
    rng = np.random.default_rng(1)
    statistics = {}
    wanted = needed_statistics([criterion for _, criterion in registry.criteria.items()])
    for statistic in forward_statistics(wanted):
        sizes = (shape.layers, shape.width)[: 1 if statistic.site == "layer" else 2]
        statistics[statistic.name] = rng.random(sizes, dtype=np.float32)
    scores = Scores(
        statistics=statistics, num_layers=shape.layers, width=shape.width, num_tokens=1000,
        num_sequences=10,
    )  # fmt: skip
    about = {"model_digest": model_digest(open_checkpoint(folder / "model"))}
    write_scores(folder / "scores.safetensors", scores, about)


def write_model(folder: Path, shape: Shape, *, random: bool) -> None:
    """Write a bf16 checkpoint of random values, or of holes in several files."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.config()), encoding="utf-8")
    if random:
        write_shard(folder / "model.safetensors", dict(shape.tensors()), random=True)
        return
    shards: list[dict[str, list[int]]] = [{}]
    for name, sizes in shape.tensors():
        if sum(2 * math.prod(s) for s in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = sizes
    weight_map = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, tensors, random=False)
        weight_map.update(dict.fromkeys(tensors, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_shard(path: Path, tensors: dict[str, list[int]], *, random: bool) -> None:
    """Write one safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in tensors.values() if random else ():
            # below 0x4000 as bf16: finite, from 0 to 2
            file.write(rng.integers(0, 0x4000, math.prod(shape), dtype=np.uint16).tobytes())
        file.truncate(8 + len(raw) + end)
