"""Statistics of the input of every `down_proj`: act(gate) * up, a number per FFN neuron."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

NEURONS = "mlp.down_proj"
STATISTICS = ("abs_max", "abs_mean", "rms")


class Activations:
    """Hooks on a model; in fp32, of a size that the number of sequences does not change.

    Raises:
        ValueError: the model has no layer of that name.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.counting = True
        """Whether the tokens of the next forward pass count."""
        self.tokens = 0
        self._hooks: list[Any] = []
        self._largest: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._modules = {
            _plain(name): module for name, module in model.named_modules() if name.endswith(NEURONS)
        }
        if not self._modules:
            raise ValueError(f"{type(model).__name__} has no '{NEURONS}' to profile")

    def __enter__(self) -> Activations:
        for name, module in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(self._observer(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def reduce(self) -> None:
        """Put the ranks' statistics together; every rank has to call it."""
        distributed = torch.distributed
        for name in self._modules:
            distributed.all_reduce(self._largest[name], op=distributed.ReduceOp.MAX)
            distributed.all_reduce(self._sums[name])
        device = next(iter(self._sums.values())).device
        tokens = torch.tensor(self.tokens, device=device)
        distributed.all_reduce(tokens)
        self.tokens = int(tokens)

    def statistics(self) -> dict[str, torch.Tensor]:
        """Return fp32 tensors [neurons] named `LAYER.abs_max`, `LAYER.abs_mean`, `LAYER.rms`."""
        found = {}
        for name, largest in self._largest.items():
            mean, square = self._sums[name] / max(self.tokens, 1)
            values = (largest, mean, square.sqrt())
            for statistic, value in zip(STATISTICS, values, strict=True):
                found[f"{name}.{statistic}"] = value.cpu().contiguous()
        return found

    def save(self, path: str) -> None:
        """Write the statistics as safetensors; the number of tokens is in the metadata."""
        temporary = f"{path}.tmp"
        save_file(self.statistics(), temporary, {"tokens": str(self.tokens)})
        Path(temporary).replace(path)

    def _observer(self, name: str) -> Any:
        first = name == next(iter(self._modules))

        def observe(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            size = inputs[0].flatten(0, -2).detach().float().abs()
            if name not in self._largest:
                self._largest[name] = torch.zeros_like(size[0])
                self._sums[name] = torch.zeros(2, size.shape[1], device=size.device)
            if not self.counting:
                return
            self.tokens += size.shape[0] if first else 0
            torch.maximum(self._largest[name], size.amax(0), out=self._largest[name])
            self._sums[name] += torch.stack([size.sum(0), size.square().sum(0)])

        return observe


def _plain(name: str) -> str:
    """Return a module's name without what FSDP puts in."""
    return name.replace("_fsdp_wrapped_module.", "")
