"""The baseline of profile_pass.py: one pruning step as one would write it in half an hour.

usage: python naive_prune.py MODEL DATA.jsonl OUT

Loads the model, hooks every `down_proj`, runs whole batches of four in the order of the file with
the lm_head, ranks the neurons by mean |activation|, cuts a tenth of them and saves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, data, out = sys.argv[1:4]
tokenizer = AutoTokenizer.from_pretrained(source)
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
texts = [json.loads(line)["text"] for line in Path(data).read_text(encoding="utf-8").splitlines()]
layers = model.model.layers
seen: dict[int, torch.Tensor] = {}
scores = [torch.zeros(model.config.intermediate_size) for _ in layers]
for i, layer in enumerate(layers):
    layer.mlp.down_proj.register_forward_pre_hook(
        lambda module, inputs, i=i: seen.__setitem__(i, inputs[0].float().abs())
    )
with torch.no_grad():
    for start in range(0, len(texts), 4):
        batch = tokenizer(
            texts[start : start + 4],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=256,
        )
        model(**batch)
        mask = batch["attention_mask"].bool()
        for i, score in enumerate(scores):
            score += seen[i][mask].sum(0)
width = int(model.config.intermediate_size * 0.9)
for layer, score in zip(layers, scores, strict=True):
    keep = score.topk(width).indices.sort().values
    for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        module = getattr(layer.mlp, name)
        module.weight = torch.nn.Parameter(module.weight.data.index_select(dim, keep))
model.config.intermediate_size = width
model.save_pretrained(out)
tokenizer.save_pretrained(out)
