"""A LLaMA-Factory yaml with a `ptl:` section becomes a recipe: pure, no framework imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from llamafactory_ext.dataset_info import check_datasets
from llamafactory_ext.learning_rate import schedule_problems
from ptl_plugins.distillation.teacher_check import teacher_problems
from ptl_plugins.errors import RecipeError
from ptl_plugins.given_path import is_folder
from ptl_plugins.json_file import read_json
from ptl_plugins.number_check import number_problems
from ptl_plugins.recipe import RecipeSource, read_section
from ptl_plugins.secret_values import secret_problems
from ptl_plugins.stage_types import StageSpec
from ptl_plugins.types import Recipe

DEFAULT_SEED = 42
"""LLaMA-Factory's own (transformers' `TrainingArguments.seed`)."""

FREE_KEYS = frozenset(
    {"ptl", "output_dir", "overwrite_output_dir", "logging_steps", "report_to", "run_name",
     "plot_loss", "disable_tqdm", "preprocessing_num_workers", "overwrite_cache"}
)  # fmt: skip
"""Keys that may change between the tries of one run: they decide no weight."""


def is_seed(value: object) -> bool:
    """Whether random generators take `value`; None stands for the default."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value is None or (whole and 0 <= cast("int", value) < 2**32)


def is_path(value: object) -> bool:
    """Whether `value` is text that can be a path; a missing one is told elsewhere."""
    return not value or (isinstance(value, str) and value.isprintable())


Rule = tuple[str, Callable[[Any], bool], str]

RULES: tuple[Rule, ...] = (
    ("stage", lambda v: v == "pt", "PTL recovers by continual pre-training; set 'stage: pt'"),
    (
        "finetuning_type",
        lambda v: v == "full",
        "adapters and frozen parts cannot be pruned; set 'finetuning_type: full'",
    ),
    ("do_train", lambda v: v is True, "set 'do_train: true'"),
    *(
        (key, is_path, "give a path or a name, as text of characters that can be shown")
        for key in ("model_name_or_path", "output_dir")
    ),
    (
        "dataset_dir",
        lambda v: isinstance(v, dict) or is_path(v),  # a mapping names data sets of a hub
        "give a folder, as text of characters that can be shown",
    ),
    *(
        (key, lambda v: not v, "a quantised model cannot be pruned; give the full-precision one")
        for key in ("quantization_bit",)
    ),
    ("adapter_name_or_path", lambda v: not v, "merge the adapter first: llamafactory-cli export"),
    ("fsdp", lambda v: not v, "FSDP is not supported; use DDP or DeepSpeed ZeRO-2"),
    *(
        (key, lambda v: not v, "changes the model itself; make that model first, then prune it")
        for key in ("resize_vocab", "add_tokens", "add_special_tokens",
                    "new_special_tokens_config", "rope_scaling")
    ),
    ("push_to_hub", lambda v: not v, "push output_dir when the run is done"),
    ("seed", is_seed, "give a whole number from 0 to 4294967295"),
    ("streaming", lambda v: not v, "parts are cut by document: streaming must be off"),
    (
        "neat_packing",
        lambda v: not v,
        "LLaMA-Factory has it for supervised fine-tuning alone; remove the key: stage 'pt' packs "
        "the documents anyway",
    ),
    (
        "tokenized_path",
        lambda v: not v,
        "a tokenised cache hides the documents; remove the key, PTL cuts before packing",
    ),
    (
        "resume_from_checkpoint",
        lambda v: not v,
        "PTL resumes by itself at the last finished round; remove the key",
    ),
    *(
        (key, lambda v: not v, "is not supported with a ptl: section; remove the key")
        for key in ("use_unsloth", "use_ray", "use_mca", "use_kt", "use_badam", "use_galore",
                    "use_apollo", "use_llama_pro", "mixture_of_depths", "pure_bf16", "fp8",
                    "train_from_scratch", "load_best_model_at_end")
    ),
)  # fmt: skip


def read_llamafactory_recipe(source: RecipeSource) -> Recipe:
    """Check the file's keys and return the recipe.

    Raises:
        RecipeError: one line per problem.
    """
    if secrets := secret_problems(source.keys):
        raise RecipeError("\n".join(f"{source.path}: {line}" for line in secrets))
    problems = [
        *number_problems(source.keys),
        *_missing(source.keys),
        *_broken_rules(source.keys),
        *_hub_keys(source.keys),
        *_deepspeed(source.keys),
    ]
    section = None
    try:
        section = read_section(source, source.keys["ptl"], prefix="ptl")
    except RecipeError as error:
        problems.insert(0, str(error).removeprefix(f"{source.path}: "))
    if section is not None and section.distill and section.distill.is_on:
        problems += distillation_problems(source.keys)
    if section is not None and section.learning_rate_schedule == "run":
        problems += schedule_problems(source.keys)
        problems += _halved_schedule(section.on_divergence)
    if not problems and source.thorough:
        assert section is not None
        check_datasets(source.path, source.keys)
        original = str(source.keys["model_name_or_path"])
        problems += (
            f"ptl.{line}" for line in teacher_problems(section.distill, original, source.registry)
        )
    if problems:
        lines = (line.removeprefix(f"{source.path}: ") for p in problems for line in p.split("\n"))
        raise RecipeError("\n".join(f"{source.path}: {line}" for line in lines))
    assert section is not None
    settings = {k: v for k, v in source.keys.items() if k not in FREE_KEYS}
    if settings.get("deepspeed"):
        settings["deepspeed"] = _deepspeed_config(settings["deepspeed"])  # its content counts
    seeds = (section.seed, source.keys.get("seed"), DEFAULT_SEED)
    return Recipe(
        source=source.path,
        model=str(source.keys["model_name_or_path"]),
        family=section.family,
        seed=next(int(seed) for seed in seeds if seed is not None),
        run_folder=Path(str(source.keys["output_dir"])),
        rounds=section.rounds,
        multiple_of=section.multiple_of,
        refit=section.refit,
        protect=section.protect,
        calibration=section.calibration,
        stages=(StageSpec(backend="llamafactory", settings=settings),),
        evaluation=section.evaluation,
        distill=section.distill,
        tokens=section.tokens,
        learning_rate_schedule=section.learning_rate_schedule,
        health=section.health,
        on_divergence=section.on_divergence,
        text=source.text,
    )


def _missing(keys: Mapping[str, Any]) -> list[str]:
    required = ("model_name_or_path", "output_dir", "dataset")
    return [f"{key}: is missing and has no default" for key in required if not keys.get(key)]


def _broken_rules(keys: Mapping[str, Any]) -> list[str]:
    defaults = {"stage": "sft", "finetuning_type": "lora", "do_train": False}
    problems = []
    for key, allowed, remedy in RULES:
        value = keys.get(key, defaults.get(key))
        if not allowed(value):
            given = repr(value) if key in keys else f"{value!r} (LLaMA-Factory's default)"
            problems.append(f"{key}: {given}: {remedy}")
    return problems


def _halved_schedule(on_divergence: str) -> list[str]:
    """Return one line where a schedule shall span rounds of which there may be more."""
    if on_divergence == "stop":
        return []
    return [
        f"ptl.on_divergence: '{on_divergence}': adds rounds, and a learning rate that spans the "
        "run has to know them all; use stop, or 'learning_rate_schedule: round'"
    ]


UNTAUGHT = ("label_smoothing_factor", "torch_compile", "use_mca", "use_unsloth", "use_kt", "fp8")
"""Keys under which another trainer, loss or forward pass would leave the teacher out."""


def distillation_problems(keys: Mapping[str, Any]) -> list[str]:
    """Return the keys that change the loss or the forward pass that a teacher's needs."""
    given = (key for key in UNTAUGHT if keys.get(key))
    return [f"{key}: {keys[key]!r}: does not go with a teacher; remove it" for key in given]


def _hub_keys(keys: Mapping[str, Any]) -> list[str]:
    """Return what PTL does not pass on when it asks the hub for config and side files."""
    if is_folder(str(keys.get("model_name_or_path"))):
        return []
    remedy = "works with a local folder only; hf download the model and give its folder"
    given = ["cache_dir"] if keys.get("cache_dir") else []
    given += ["model_revision"] if keys.get("model_revision", "main") != "main" else []
    return [f"{key}: {keys[key]!r}: {remedy}" for key in given]


def _deepspeed_config(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return cast("dict[str, Any]", read_json(Path(value)))


def _deepspeed(keys: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the DeepSpeed config: ZeRO-3, or a scheduler of its own."""
    value = keys.get("deepspeed")
    if not value:
        return []
    try:
        config = _deepspeed_config(value)
        stage = int(config.get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return [f"deepspeed: {value!r}: cannot be read as a DeepSpeed config ({error})"]
    problems = []
    if stage != 2:
        why = "ZeRO-3 shards the weights and" if stage == 3 else f"ZeRO stage {stage}"
        problems.append(
            f"deepspeed: {value!r}: {why} is not supported; "
            "use ZeRO-2 (zero_optimization.stage: 2) or plain DDP"
        )
    if "scheduler" in config:
        problems.append(
            f"deepspeed: {value!r}: has a scheduler of its own, which is built once and not per "
            "round; remove its 'scheduler' section and use lr_scheduler_type"
        )
    return problems
