"""Slices a model half a layer at a time, on activations that went through what was sliced before.

The activations stay in the original directions: a sliced block reads them through its rotation
and its shortcut's way back is the rotation transposed, which is what the sliced model computes.
One half's weights and one batch are on the device; the activations of all batches are on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ptl_plugins.errors import PruneError
from ptl_plugins.slicegpt.configuration_ptl_sliced import PTLSlicedConfig
from ptl_plugins.slicegpt.criterion import Basis
from ptl_plugins.slicegpt.modeling_ptl_sliced import (
    SlicedDecoderLayer,
    SlicedRMSNorm,
    layer_masks,
)
from ptl_plugins.slicegpt.source_weights import Half

Tensors = dict[str, torch.Tensor]
Mix = Callable[[torch.Tensor, int], torch.Tensor]
"""From a norm's output and the batch's number to what the output matrix reads."""
ROWS = 2**13
"""Rows of a large matrix that are rotated at a time."""


@dataclass(kw_only=True, eq=False)
class Stream:
    """The residual stream of all calibration tokens, in the original directions."""

    states: list[torch.Tensor]
    """Per batch [sequences, tokens, hidden], fp32, on the CPU; replaced as it flows on."""
    masks: list[torch.Tensor]
    """Per batch [sequences, tokens], 1 for real tokens, on the CPU."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the activations."""
        return sum(states.nbytes for states in self.states)


@dataclass(kw_only=True, eq=False)
class Slicer:
    """What stays the same over all layers."""

    config: PTLSlicedConfig
    basis: Basis
    seed: int
    device: torch.device
    norm: SlicedRMSNorm = field(init=False)
    rotary: Any = field(init=False)

    def __post_init__(self) -> None:
        """Make the parts that have no weights."""
        self.norm = SlicedRMSNorm(self.config)
        self.rotary = LlamaRotaryEmbedding(cast("Any", self.config), device=self.device)

    def first_rotation(self, stream: Stream) -> torch.Tensor:
        """Return the rotation of the embeddings, [original hidden, hidden] in fp64."""
        moment = self._no_moment()
        for index, states in enumerate(stream.states):
            self._add_moment(moment, self.norm(states.to(self.device)), stream.masks[index])
        return self._rotation(moment)

    def slice_attention(
        self, half: Half, index: int, rotation: torch.Tensor, stream: Stream
    ) -> tuple[Tensors, torch.Tensor]:
        """Slice the attention of layer `index`; see `_slice_half`."""
        layer = self._layer(index, half, rotation)

        def mix(normed: torch.Tensor, batch: int) -> torch.Tensor:
            length = normed.shape[1]
            places = torch.arange(length, device=self.device)[None]
            padding = stream.masks[batch].to(self.device)
            masks = layer_masks(self.config, length, 0, padding, device=self.device)
            out: torch.Tensor = layer.self_attn.heads(
                normed, self.rotary(normed, places), masks[index]
            )
            return out

        return self._slice_half(half, "attention", rotation, stream, mix)

    def slice_mlp(
        self, half: Half, index: int, rotation: torch.Tensor, stream: Stream
    ) -> tuple[Tensors, torch.Tensor]:
        """Slice the FFN of layer `index`; see `_slice_half`."""
        layer = self._layer(index, half, rotation)

        def mix(normed: torch.Tensor, batch: int) -> torch.Tensor:
            out: torch.Tensor = layer.mlp.neurons(normed)
            return out

        return self._slice_half(half, "mlp", rotation, stream, mix)

    def _slice_half(
        self, half: Half, name: str, rotation: torch.Tensor, stream: Stream, mix: Mix
    ) -> tuple[Tensors, torch.Tensor]:
        """Let the stream flow through a half, and return its tensors and the next rotation.

        Args:
            half: its weights.
            name: how its shortcut is called.
            rotation: the directions that it reads, [original hidden, hidden].
            stream: replaced by what comes out.
            mix: runs all but the output matrix.
        """
        branches = self._branches(half, rotation, stream, mix)
        branch_rotation = None
        if half.branch_scale is not None:
            branch_rotation = self._branch_rotation(branches, stream)
        moment = self._no_moment()
        for index, branch in enumerate(branches):
            states = self._reduced(stream.states[index].to(self.device), rotation)
            added = self._normed_branch(branch.to(self.device), half, branch_rotation)
            states = states @ rotation.T.float() + added
            self._add_moment(moment, self.norm(states), stream.masks[index])
            stream.states[index] = states.cpu()
        new = self._rotation(moment)
        return _tensors(half, name, rotation, branch_rotation, new), new

    def _branches(
        self, half: Half, rotation: torch.Tensor, stream: Stream, mix: Mix
    ) -> list[torch.Tensor]:
        """Return what the half's output matrix gives for each batch, in the original directions."""
        branches = []
        for index, states in enumerate(stream.states):
            reduced = self._reduced(states.to(self.device), rotation)
            mixed = mix(self.norm(reduced), index)
            branches.append(functional.linear(mixed, half.output.weight, half.output.bias).cpu())
        return branches

    def _branch_rotation(self, branches: list[torch.Tensor], stream: Stream) -> torch.Tensor:
        """Return the directions of a branch that the norm behind it keeps."""
        moment = self._no_moment()
        for index, branch in enumerate(branches):
            self._add_moment(moment, self.norm(branch.to(self.device)), stream.masks[index])
        return self._rotation(moment)

    def _normed_branch(
        self, branch: torch.Tensor, half: Half, rotation: torch.Tensor | None
    ) -> torch.Tensor:
        if rotation is None or half.branch_scale is None:
            return branch
        normed = self.norm(self._reduced(branch, rotation))
        out: torch.Tensor = normed @ rotation.T.float() * half.branch_scale.float()
        return out

    def _reduced(self, states: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        return states @ rotation.float()

    def _layer(self, index: int, half: Half, rotation: torch.Tensor) -> SlicedDecoderLayer:
        """Return a layer that holds the rotated inputs of `half`, and nothing else."""
        with torch.device("meta"):
            layer = SlicedDecoderLayer(self.config, index)
        inputs = _rotated_inputs(half, rotation)
        layer.load_state_dict(inputs, strict=False, assign=True)
        return layer

    def _no_moment(self) -> torch.Tensor:
        size = self.config.original_hidden_size
        return torch.zeros(size, size, dtype=torch.float64, device=self.device)

    def _add_moment(self, moment: torch.Tensor, normed: torch.Tensor, mask: torch.Tensor) -> None:
        rows = normed[mask.to(self.device).bool()].double()
        moment.addmm_(rows.T, rows)

    def _rotation(self, moment: torch.Tensor) -> torch.Tensor:
        if not bool(moment.isfinite().all()):
            raise PruneError(
                "an activation of the calibration sequences is not finite: the model or its data "
                "overflow; nothing was written"
            )
        return self.basis(moment, self.seed)[:, : self.config.hidden_size].contiguous()


def rotated_rows(
    matrix: torch.Tensor, rotation: torch.Tensor, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `matrix` x diag(scale) x `rotation` in the matrix's dtype, on the CPU.

    Computed in fp64, some thousand rows at a time: embeddings are large.
    """
    right = rotation if scale is None else scale[:, None] * rotation
    rotated = torch.empty(len(matrix), right.shape[1], dtype=matrix.dtype)
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS].to(right.device).double() @ right
        rotated[start : start + ROWS] = rows.to(matrix.dtype).cpu()
    return rotated


def _rotated_inputs(half: Half, rotation: torch.Tensor) -> Tensors:
    right = half.scale[:, None] * rotation
    tensors = {}
    for name, linear in half.inputs.items():
        tensors[f"{half.name}.{name}.weight"] = (linear.weight.double() @ right).float()
        if linear.bias is not None:
            tensors[f"{half.name}.{name}.bias"] = linear.bias
    return tensors


def _tensors(
    half: Half,
    name: str,
    rotation: torch.Tensor,
    branch_rotation: torch.Tensor | None,
    new: torch.Tensor,
) -> Tensors:
    """Return the half's tensors as they are stored, by their names in the layer."""
    tensors = _rotated_inputs(half, rotation)
    left = (new if branch_rotation is None else branch_rotation).T
    place = f"{half.name}.{half.output_name}"
    tensors[f"{place}.weight"] = left @ half.output.weight.double()
    if half.output.bias is not None:
        tensors[f"{place}.bias"] = left @ half.output.bias.double()
    tensors[f"{name}_shortcut.weight"] = new.T @ rotation
    if branch_rotation is not None and half.branch_scale is not None:
        scaled = half.branch_scale[:, None] * branch_rotation
        tensors[f"{name}_rotation.weight"] = new.T @ scaled
    return {key: tensor.to(half.dtype).cpu().contiguous() for key, tensor in tensors.items()}
