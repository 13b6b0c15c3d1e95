"""The backend `hf`: what it generates, times and leaves as it was."""

from __future__ import annotations

import itertools

import pytest
import torch

from ptl_plugins.errors import PTLError
from ptl_plugins.speed import transformers_engine
from ptl_plugins.speed.transformers_engine import TransformersEngine, facts, opened, stop_tokens
from ptl_plugins.speed.weights import bytes_per_token, num_parameters, without_weights
from ptl_plugins.testing import tiny_model, tiny_tokenizer, write_tiny_checkpoint

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def model():
    return tiny_model("llama")


def engine(model, **keys):
    """Return an engine whose clock ticks once whenever it is asked."""
    ticks = itertools.count()
    return TransformersEngine(
        model, tiny_tokenizer(), name="m", clock=lambda: float(next(ticks)), **keys
    )


def lengths(model):
    """Return a list that grows by the number of tokens that each forward pass reads."""
    seen = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


def first_token(model):
    """Return what the model says first after the prompt."""
    with torch.inference_mode():
        return int(model(torch.tensor([PROMPT])).logits[0, -1].argmax())


@pytest.fixture
def ends_at_once(model):
    """A model whose first token is its end of text."""
    model.generation_config.eos_token_id = first_token(model)
    return model


def test_a_natural_generation_stops_at_the_end_of_the_text(ends_at_once):
    sample = engine(ends_at_once).generate([PROMPT], new_tokens=6, stop=True)
    assert sample.num_tokens == 1


def test_fixed_tokens_are_generated_though_the_model_wants_to_stop(ends_at_once):
    seen = lengths(ends_at_once)
    sample = engine(ends_at_once).generate([PROMPT], new_tokens=6, stop=False)
    assert sample.num_tokens == 6
    assert seen == [(1, 4)] + [(1, 1)] * 5


def test_the_end_of_the_text_is_a_token_like_any_other_where_the_length_is_fixed(ends_at_once):
    read = []
    ends_at_once.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0][0].tolist())
    )
    engine(ends_at_once).generate([PROMPT], new_tokens=3, stop=False)
    assert read[1] == [ends_at_once.generation_config.eos_token_id]


def test_a_batch_runs_as_one_and_counts_the_tokens_of_all(model):
    seen = lengths(model)
    sample = engine(model).generate([PROMPT, PROMPT, PROMPT], new_tokens=5, stop=False)
    assert sample.num_tokens == 15
    assert seen == [(3, 4)] + [(3, 1)] * 4


def test_prefill_is_one_pass_and_decode_steps_of_one_token_with_the_cache(model):
    seen = lengths(model)
    prefill, decode = engine(model).prefill_decode(PROMPT, new_tokens=3)
    assert seen == [(1, 4), (1, 1), (1, 1), (1, 1)]
    assert (prefill.seconds, prefill.num_tokens) == (1, 4)
    assert (decode.seconds, decode.num_tokens) == (1, 3)


def test_the_lm_head_of_a_prefill_sees_the_last_token_alone(model):
    rows, own = [], model.forward
    model.forward = lambda **keys: own(**keys)  # a wrapper that does not show what it takes
    model.lm_head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    engine(model).prefill_decode(PROMPT, new_tokens=1)
    assert rows == [1, 1]


@pytest.mark.parametrize("model_type", ["gemma2", "qwen3", "phi3"])
def test_decoding_says_what_generate_says(model_type):
    model = tiny_model(model_type)
    read = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0][0].tolist())
    )
    engine(model).prefill_decode(PROMPT, new_tokens=12)
    stepped = read[1:]
    del read[:]
    engine(model).generate([PROMPT], new_tokens=13, stop=False)
    assert stepped == read[1:]


def test_the_models_own_generation_settings_do_not_apply_and_stay(model):
    own = model.generation_config
    own.max_length, own.repetition_penalty, own.do_sample, own.top_k = 5, 1.9, True, 3
    assert engine(model).generate([PROMPT], new_tokens=8, stop=False).num_tokens == 8
    assert model.generation_config is own
    assert own.max_length == 5


def test_a_training_model_is_measured_in_eval_mode_and_goes_on_training(model):
    model.train()
    modes = []
    model.register_forward_pre_hook(lambda *_: modes.append(model.training))
    model.config.use_cache = False
    seen = lengths(model)
    engine(model).prefill_decode(PROMPT, new_tokens=2)
    engine(model).generate([PROMPT], new_tokens=2, stop=False)
    assert set(modes) == {False}
    assert model.training
    assert seen == [(1, 4), (1, 1), (1, 1), (1, 4), (1, 1)]


def test_the_clock_is_read_around_the_pass_alone(model):
    assert engine(model).generate([PROMPT], new_tokens=2, stop=False).seconds == 1


def test_end_of_text_is_the_generation_configs_before_the_tokenizers(model):
    model.generation_config.eos_token_id = [4, 9]
    assert stop_tokens(model, tiny_tokenizer()) == [4, 9]
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, tiny_tokenizer()) == [tiny_tokenizer().eos_token_id]


def test_a_table_of_embeddings_counts_only_where_it_is_the_lm_head():
    tied, untied = (tiny_model("llama", tie_word_embeddings=is_tied) for is_tied in (True, False))
    table = 256 * 32
    assert num_parameters(untied) == num_parameters(tied) + table
    assert bytes_per_token(tied) == 4 * num_parameters(tied)
    assert bytes_per_token(untied) == 4 * (num_parameters(untied) - table)
    assert bytes_per_token(tied) == bytes_per_token(untied)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2"])
def test_a_model_without_weights_counts_like_one_with_them(tmp_path, model_type):
    folder = write_tiny_checkpoint(tmp_path / "m", model_type)
    live = tiny_model(model_type, dtype=torch.bfloat16)
    found = facts(without_weights(folder, None), "m")
    assert found.bytes_per_token == bytes_per_token(live)
    assert found.num_parameters == num_parameters(live)
    assert (found.dtype, found.vocabulary, found.context) == ("bfloat16", 256, 256)


def test_a_checkpoint_is_opened_in_its_own_dtype_or_the_one_asked_for(tmp_path):
    folder, cpu = write_tiny_checkpoint(tmp_path / "m"), torch.device("cpu")
    with opened(folder, dtype=None, device=cpu, attention=None) as own:
        assert own.facts.dtype == "bfloat16"
    with opened(folder, dtype="float32", device=cpu, attention="eager") as other:
        assert (other.facts.dtype, other.facts.attention) == ("float32", "eager")
        assert other.facts.bytes_per_token == 2 * own.facts.bytes_per_token
        assert other.encode("What") == tiny_tokenizer()("What")["input_ids"]


def test_a_model_larger_than_the_free_memory_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    folder = write_tiny_checkpoint(tmp_path / "m")

    class Full:
        available = 1000

    monkeypatch.setattr(transformers_engine.psutil, "virtual_memory", Full)
    monkeypatch.setattr(transformers_engine.AutoModelForCausalLM, "from_pretrained", None)
    with (
        pytest.raises(PTLError, match=r"its weights take .* GB and .* GB are free on cpu"),
        opened(folder, dtype=None, device=torch.device("cpu"), attention=None),
    ):
        pass


@pytest.mark.parametrize("gone", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_checkpoint_that_cannot_be_loaded_is_one_line_with_its_folder(tmp_path, gone):
    folder = write_tiny_checkpoint(tmp_path / "m")
    (folder / gone).unlink()
    with (
        pytest.raises(PTLError) as caught,
        opened(folder, dtype=None, device=torch.device("cpu"), attention=None),
    ):
        pass
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
