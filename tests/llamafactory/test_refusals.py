"""Mistakes of the user: one line with file, key, value and remedy, code 2, nothing written."""

from __future__ import annotations

import json

import pytest
from workplace import recipe

from llamafactory_ext.launching import _check
from llamafactory_ext.overrides import read_as_llamafactory
from ptl_plugins.errors import PTLError


def section(**changes):
    return {**recipe()["ptl"], **changes}


def phase(**changes):
    return [{"unit": "neuron", "amount": 8, "rounds": 2, **changes}]


CASES = {
    "unknown key": (
        {"ptl": section(shedule=[])},
        "ptl.shedule: unknown key (did you mean 'schedule'?); allowed: schedule",
    ),
    "unknown key of a phase": (
        {"ptl": section(schedule=phase(amonut=3))},
        "ptl.schedule.0.amonut: unknown key (did you mean 'amount'?)",
    ),
    "unknown criterion": (
        {"ptl": section(schedule=phase(criterion="activation_maxx"))},
        "ptl.schedule.0.criterion: unknown criterion 'activation_maxx' "
        "(did you mean 'activation_max'?); available: activation_max",
    ),
    "criterion of the other unit": (
        {"ptl": section(schedule=phase(criterion="l2"))},
        "ptl.schedule.0.criterion: 'l2' scores layers, but the phase cuts neurons",
    ),
    "unknown family": (
        {"ptl": section(family="lama")},
        "ptl.family: unknown family 'lama' (did you mean 'llama'?); available: gemma2, gemma3, "
        "llama",
    ),
    "unreachable width": (
        {"ptl": section(schedule=phase(amount=20, rounds=3))},
        "ptl.schedule: round 3 removes 20 neurons per layer, but only 8 are left",
    ),
    "unreachable depth": (
        {"ptl": section(schedule=[{"unit": "layer", "amount": 5}])},
        "ptl.schedule: round 1 removes 5 layers, but only 5 are left",
    ),
    "missing model": (
        {"model_name_or_path": "./nowhere"},
        "model_name_or_path: model './nowhere': no such folder",
    ),
    "lora": ({"finetuning_type": "lora"}, "finetuning_type: 'lora': adapters"),
    "no finetuning_type": (
        {"finetuning_type": None},
        "finetuning_type: 'lora' (LLaMA-Factory's default): adapters",
    ),
    "quantised": ({"quantization_bit": 4}, "quantization_bit: 4: a quantised model cannot"),
    "fsdp": ({"fsdp": "full_shard"}, "fsdp: 'full_shard': FSDP is not supported; use DDP or"),
    "zero3": (
        {"deepspeed": {"zero_optimization": {"stage": 3}}},
        "ZeRO-3 shards the weights and is not supported; use ZeRO-2",
    ),
    "deepspeed scheduler": (
        {"deepspeed": {"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}}},
        "has a scheduler of its own",
    ),
    "stage": ({"stage": "sft"}, "stage: 'sft': PTL recovers by continual pre-training"),
    "streaming": ({"streaming": True}, "streaming: True: parts are cut by document"),
    "tokenised cache": ({"tokenized_path": "cache"}, "tokenized_path: 'cache': a tokenised cache"),
    "seed": ({"seed": "abc"}, "seed: 'abc': give a whole number from 0 to 4294967295"),
    "negative seed": ({"seed": -1}, "seed: -1: give a whole number"),
    "huge ptl seed": ({"ptl": section(seed=2**40)}, "ptl.seed: 1099511627776 should be less than"),
    "new tokens": ({"add_tokens": "<x>"}, "add_tokens: '<x>': changes the model itself"),
    "rope scaling": ({"rope_scaling": "yarn"}, "rope_scaling: 'yarn': changes the model itself"),
    "hub push": ({"push_to_hub": True}, "push_to_hub: True: push output_dir when the run is done"),
    "hub revision": (
        {"model_name_or_path": "owner/name", "model_revision": "v2"},
        "model_revision: 'v2': works with a local folder only",
    ),
    "zero1": (
        {"deepspeed": {"zero_optimization": {"stage": 1}}},
        "ZeRO stage 1 is not supported; use ZeRO-2",
    ),
    "zero3 as text": (
        {"deepspeed": {"zero_optimization": {"stage": "3"}}},
        "ZeRO-3 shards the weights and is not supported",
    ),
    "no output": ({"output_dir": None}, "output_dir: is missing"),
    "unknown data set": (
        {"dataset": "tini"},
        "dataset: 'tini' is not in data/dataset_info.json (did you mean 'tiny'?); available: tiny",
    ),
    "shares that only the scores tell": (
        {"ptl": section(tokens="proportional", schedule=phase(selector="threshold", amount=0.1))},
        "ptl.tokens: 'proportional' shares by the parameters that each round removes, but of round "
        "1 only the scores can tell (selector 'threshold'); use equal or final",
    ),
    "one schedule of the losses": (
        {"ptl": section(learning_rate_schedule="run"), "lr_scheduler_type": "reduce_lr_on_plateau"},
        "lr_scheduler_type: 'reduce_lr_on_plateau': follows the losses of one training and cannot",
    ),
    "one schedule beside deepspeed's": (
        {
            "ptl": section(learning_rate_schedule="run"),
            "deepspeed": {"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}},
        },
        "has a scheduler of its own",
    ),
    "no rounds": ({"ptl": section(schedule=[])}, "ptl.schedule: "),
    "evaluation data": (
        {"ptl": section(evaluate={"tasks": [{"evaluator": "chain_of_thought", "data": "no"}]})},
        "ptl.evaluate.tasks.0: data: 'no' is no file",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named_with_file_and_key(workplace, monkeypatch, case):
    monkeypatch.chdir(workplace.folder)
    changes, expected = CASES[case]
    path = workplace.write("wrong.yaml", recipe(**{"output_dir": "refused", **changes}))
    with pytest.raises(PTLError) as caught:
        _check(path, [])
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(path))
    assert expected in line
    assert not (workplace.folder / "refused").exists()


def test_all_mistakes_come_at_once(workplace, monkeypatch):
    monkeypatch.chdir(workplace.folder)
    keys = recipe(stage="sft", finetuning_type="lora", ptl=section(order="sideways", sed=1))
    path = workplace.write("wrong.yaml", keys)
    with pytest.raises(PTLError) as caught:
        _check(path, [])
    assert len(str(caught.value).splitlines()) == 4


def test_the_quantised_model_itself_is_refused(workplace, monkeypatch, tmp_path):
    monkeypatch.chdir(workplace.folder)
    config = json.loads((workplace.folder / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = workplace.write("wrong.yaml", recipe(model_name_or_path=str(tmp_path)))
    with pytest.raises(PTLError, match="is quantised"):
        _check(path, [])


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "USE_RAY"])
def test_an_environment_that_cannot_work_is_refused(workplace, monkeypatch, variable):
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(PTLError, match=variable):
        _check(workplace.write("wrong.yaml", recipe(output_dir="refused")), [])


def test_numbers_are_read_as_llamafactory_reads_them(workplace, monkeypatch):
    path = workplace.folder / "floats.yaml"
    path.write_text("learning_rate: 1e-3\nptl: {schedule: []}\n", encoding="utf-8")
    keys = read_as_llamafactory(path, path.read_text(), ["warmup_ratio=5e-2", "ptl.seed=3"])
    assert keys == {
        "learning_rate": 0.001,
        "warmup_ratio": 0.05,
        "ptl": {"schedule": [], "seed": 3},
    }


def test_a_word_that_is_no_override_is_refused(workplace):
    with pytest.raises(PTLError, match=r"x\.yaml with a=\[1: LLaMA-Factory cannot read it"):
        read_as_llamafactory(workplace.folder / "x.yaml", "a: 1", ["a=[1"])


def one_line_and_nothing_written(workplace, done, expected):
    (line,) = [row for row in done.stderr.splitlines() if row.startswith("ptl: ")]
    assert expected in line
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "refused" / "round_00").exists()


@pytest.mark.timeout(120)
def test_the_command_ends_with_code_2_and_one_line(workplace):
    keys = recipe(output_dir="refused", ptl=section(shedule=[]))
    workplace.write("wrong.yaml", keys)
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2)
    one_line_and_nothing_written(workplace, done, "wrong.yaml: ptl.shedule: unknown key")
    assert not (workplace.folder / "refused").exists()


@pytest.mark.timeout(120)
def test_a_misspelt_key_of_llamafactory_itself_is_named(workplace):
    workplace.write("wrong.yaml", recipe(output_dir="refused", learning_rat=1e-4))
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2)
    expected = "wrong.yaml: learning_rat: is no key of LLaMA-Factory (did you mean 'learning_rate'"
    one_line_and_nothing_written(workplace, done, expected)


@pytest.mark.timeout(120)
def test_more_rounds_than_documents_is_refused_before_training(workplace):
    workplace.write("wrong.yaml", recipe(output_dir="refused", max_samples=2))
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2)
    one_line_and_nothing_written(workplace, done, "the corpus has 2 documents for 3 rounds")


@pytest.mark.timeout(120)
def test_a_part_without_documents_is_refused_before_training(workplace):
    """8 of 48 neurons in one round and 1 in the other two: of 9 documents 0.9 is none."""
    schedule = [{"unit": "neuron", "amount": 8}, {"unit": "neuron", "amount": 1, "rounds": 2}]
    keys = recipe(
        output_dir="refused", max_samples=9, ptl=section(tokens="proportional", schedule=schedule)
    )
    workplace.write("wrong.yaml", keys)
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2)
    expected = "tokens: part 2 of 3 would have none of 9 documents: its share is 0.1"
    one_line_and_nothing_written(workplace, done, expected)


@pytest.mark.timeout(120)
def test_a_part_that_fills_no_block_is_refused_before_training(workplace):
    workplace.write("wrong.yaml", recipe(output_dir="refused", cutoff_len=100_000))
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2)
    one_line_and_nothing_written(workplace, done, "does not fill one block of cutoff_len 100000")


@pytest.mark.timeout(120)
def test_an_empty_corpus_is_refused(workplace):
    (workplace.folder / "data" / "empty.jsonl").write_text("")
    info = json.loads((workplace.folder / "data" / "dataset_info.json").read_text())
    info["empty"] = {"file_name": "empty.jsonl", "columns": {"prompt": "text"}}
    (workplace.folder / "data" / "dataset_info.json").write_text(json.dumps(info))
    workplace.write("wrong.yaml", recipe(output_dir="refused", dataset="empty"))
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2)
    one_line_and_nothing_written(workplace, done, "empty.jsonl is empty; give it documents")


@pytest.mark.timeout(120)
def test_under_torchrun_the_code_is_2_and_the_line_comes_last(workplace):
    workplace.write("wrong.yaml", recipe(output_dir="refused", max_samples=2))
    two = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    done = workplace.run("llamafactory-cli", "train", "wrong.yaml", code=2, **two)
    assert "the corpus has 2 documents for 3 rounds" in done.stderr.splitlines()[-1]
