"""The weights of a dense checkpoint as slicing reads them: one layer, one half at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from safetensors import safe_open

from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.shards import Checkpoint

ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
MLP_INPUTS = ("gate_proj", "up_proj")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Linear:
    """A linear module: weight [out, in], and a bias [out] where it has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Half:
    """Half a layer: what stands between two residual additions. On the device, in fp32."""

    name: str
    """`self_attn` or `mlp`."""
    inputs: dict[str, Linear]
    """The modules that read the norm's output."""
    output_name: str
    output: Linear
    scale: torch.Tensor
    """What the norm multiplies each direction by, [hidden]."""
    branch_scale: torch.Tensor | None
    """The same of the norm behind the output, where the family has one (gemma2)."""
    dtype: torch.dtype
    """What the checkpoint stores."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceWeights:
    """Reads the tensors of a checkpoint by what they are."""

    checkpoint: Checkpoint
    family: Family
    device: torch.device

    def biases(self) -> dict[str, bool]:
        """Return which modules have a bias, by the sliced config's keys."""
        places = {
            "qkv_bias": "self_attn.q_proj",
            "output_bias": "self_attn.o_proj",
            "mlp_bias": "mlp.down_proj",
        }
        start, tensors = f"{self.family.layers}.0.", self.checkpoint.tensors
        return {key: f"{start}{place}.bias" in tensors for key, place in places.items()}

    def embedding(self) -> torch.Tensor:
        """Return the embedding as it is stored, [vocabulary, hidden], on the CPU."""
        return self._read("model.embed_tokens.weight")

    def head(self, *, tied: bool) -> torch.Tensor:
        """Return the lm_head as it is stored, [vocabulary, hidden], on the CPU."""
        return self.embedding() if tied else self._read("lm_head.weight")

    def final_scale(self) -> torch.Tensor:
        """Return what the last norm multiplies by."""
        return self._scale("model.norm")

    def attention(self, layer: int) -> Half:
        """Return a layer's attention with its norms."""
        branch = "post_attention_layernorm" if self._has_branch_norms else None
        norms = ("input_layernorm", branch)
        return self._half(layer, "self_attn", ATTENTION_INPUTS, "o_proj", norms)

    def mlp(self, layer: int) -> Half:
        """Return a layer's FFN with its norms."""
        norms: tuple[str, str | None] = ("post_attention_layernorm", None)
        if self._has_branch_norms:
            norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
        return self._half(layer, "mlp", MLP_INPUTS, "down_proj", norms)

    @property
    def _has_branch_norms(self) -> bool:
        return self.family.norms_per_layer == 4

    def _half(
        self,
        layer: int,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        norms: tuple[str, str | None],
    ) -> Half:
        start = f"{self.family.layers}.{layer}."
        before, behind = norms
        stored = self._read(f"{start}{name}.{output}.weight")
        return Half(
            name=name,
            inputs={each: self._linear(f"{start}{name}.{each}") for each in inputs},
            output_name=output,
            output=self._with_bias(f"{start}{name}.{output}", stored),
            scale=self._scale(start + before),
            branch_scale=None if behind is None else self._scale(start + behind),
            dtype=stored.dtype,
        )

    def _linear(self, name: str) -> Linear:
        return self._with_bias(name, self._read(f"{name}.weight"))

    def _with_bias(self, name: str, weight: torch.Tensor) -> Linear:
        has_bias = f"{name}.bias" in self.checkpoint.tensors
        bias = self._read(f"{name}.bias").to(self.device, torch.float32) if has_bias else None
        return Linear(weight=weight.to(self.device, torch.float32), bias=bias)

    def _scale(self, name: str) -> torch.Tensor:
        weight = self._read(f"{name}.weight").to(self.device, torch.float64)
        return 1 + weight if self.family.name == "gemma2" else weight

    def _read(self, name: str) -> torch.Tensor:
        if name not in self.checkpoint.tensors:
            raise PruneError(
                f"{self.checkpoint.folder}: has no tensor '{name}', which every model of family "
                f"'{self.family.name}' has; give a whole checkpoint of that family"
            )
        path = self.checkpoint.folder / self.checkpoint.tensors[name].file
        with safe_open(os.fspath(path), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor
