"""The merged recipe of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ptl_plugins.errors import PTLError
from ptl_plugins.study.jobs import all_jobs
from ptl_plugins.study.merging import merged_keys, recipe_text, require_words

LLAMAFACTORY = {"model_name_or_path": "m", "learning_rate": 1.0e-5, "ptl": {"seed": 9}}
RUN = {"model": "m", "data": {"path": "d", "template": "{q}"}, "recover": [{"settings": {}}]}


@pytest.fixture
def merged(study_of, tmp_path):
    """Merge a recipe with `set` and words; return its keys."""

    def merge(recipe, words=(), **changes):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        runs = {"a": {"recipe": "a.yaml", "seeds": [7], "set": changes}, "b": {"recipe": "a.yaml"}}
        study = study_of(runs=runs)
        job = next(j for j in all_jobs(study, tmp_path / "F") if j.run.name == "a")
        return merged_keys(study, job, words, lambda name: Path("/models") / name)

    return merge


def test_seed_and_run_folder_are_the_jobs(merged, tmp_path):
    keys = merged(LLAMAFACTORY)
    assert keys["seed"] == 7
    assert "seed" not in keys["ptl"]  # it would hide the other
    assert keys["output_dir"] == str(tmp_path / "F" / "a" / "seed_7" / "run")
    assert merged(RUN)["run_dir"] == keys["output_dir"]


def test_values_keep_their_kind(merged):
    changes = {"ptl.distill": {"teacher": "original", "weight": 1.0}, "learning_rate": 1e-05}
    keys = merged(LLAMAFACTORY, **changes)
    again = yaml.safe_load(recipe_text(keys))
    assert again["ptl"]["distill"]["weight"] == 1.0
    assert again["learning_rate"] == 1e-05


def test_the_command_line_has_the_last_word(merged):
    assert merged(LLAMAFACTORY, ["bf16=false"], bf16=True)["bf16"] is False


def test_a_key_of_one_door_is_passed_over_by_the_other(merged):
    words = ["llamafactory:use_cpu=true", "run:recover.0.settings.use_cpu=true"]
    assert merged(LLAMAFACTORY, words)["use_cpu"] is True
    assert "recover" not in merged(LLAMAFACTORY, words)
    assert merged(RUN, words)["recover"][0]["settings"] == {"use_cpu": True}
    assert "use_cpu" not in merged(RUN, words)


def test_model_is_the_model_of_both_doors(merged):
    assert merged(LLAMAFACTORY, ["model=x"])["model_name_or_path"] == "x"
    assert merged(RUN, ["model=x"])["model"] == "x"


def test_a_named_run_becomes_the_folder_of_its_model(merged):
    keys = merged(RUN, **{"distill": {"teacher": "{b}"}, "protect.data": "{b}/vocab.json"})
    assert keys["distill"]["teacher"] == "/models/b"
    assert keys["protect"]["data"] == "/models/b/vocab.json"
    assert keys["data"]["template"] == "{q}"


def test_a_place_that_the_recipe_has_not_is_told_with_file_and_key(merged, tmp_path):
    with pytest.raises(PTLError) as raised:
        merged(RUN, **{"recover.3.settings": {"a": 1}})
    said = "runs.a.set.recover.3.settings: '3' is not one of 1 entries, from 0"
    assert str(raised.value) == f"{tmp_path / 'study.yaml'}: {said}"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model", "is not KEY=VALUE"),
        ("seed=3", "seed is set by the study"),
        ("llamafactory:output_dir=x", "is set by the study"),
        ("a=[", "the value is not YAML"),
    ],
)
def test_a_wrong_word_is_refused(word, said):
    with pytest.raises(PTLError, match=f"^--set .*{said}"):
        require_words([word])
