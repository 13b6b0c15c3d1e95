"""A study file: what it means, and one line for each mistake."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.study.study_file import read_study

A = {"recipe": "a.yaml"}


def test_recipes_lie_beside_the_study_and_seeds_have_a_default(study_of, tmp_path):
    study = study_of(seeds=[4, 5], runs={"a": A, "b": {"recipe": "b.yaml", "seeds": [6]}})
    assert study.runs["a"].recipe == tmp_path / "a.yaml"
    assert [study.runs[name].seeds for name in "ab"] == [(4, 5), (6,)]


def test_a_run_overrides_what_is_set_for_all(study_of):
    study = study_of(
        set={"bf16": True, "x": 1}, keep="none", runs={"a": {**A, "set": {"x": 2}, "keep": "last"}}
    )
    assert study.runs["a"].changes == {"bf16": True, "x": 2}
    assert study.runs["a"].keep == "last"


def test_a_named_model_is_waited_for(study_of):
    pupil = {**A, "set": {"ptl.distill": {"teacher": "{a}", "weight": 1.0}}, "after": ["c"]}
    run = study_of(runs={"b": pupil, "a": A, "c": A}).runs["b"]
    assert (run.teachers, run.after) == (("a",), ("c", "a"))


def test_braces_of_a_template_name_no_run(study_of):
    run = study_of(runs={"a": {**A, "set": {"data.template": "{text}"}}}).runs["a"]
    assert run.teachers == ()


def test_a_run_called_control_is_the_control(study_of):
    assert study_of(runs={"control": A}).controls == ("control",)
    assert study_of(runs={"a": A}).controls == ()
    assert study_of(runs={"a": A, "control": A}, controls=["a"]).controls == ("a",)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"runs": {}}, "runs: "),
        (
            {"runs": {"a": {**A, "recip": "x"}}},
            "runs.a.recip: unknown key (did you mean 'recipe'?)",
        ),
        ({"runs": {"a/b": A}}, "runs.a/b: a name is letters, digits"),
        ({"runs": {"a": {**A, "seeds": [1, 1]}}}, "runs.a.seeds: [1, 1] has a seed twice"),
        ({"runs": {"a": {**A, "seeds": [-1]}}}, "runs.a.seeds.0: -1 "),
        ({"runs": {"a": {**A, "after": ["b"]}}}, "runs.a.after: no run 'b'"),
        ({"runs": {"a": {**A, "set": {"x": "{b}"}}}}, "runs.a.set: no run 'b'"),
        ({"runs": {"a": {**A, "set": {"x": "{a}"}}}}, "runs.a.set: '{a}' is the run's own model"),
        ({"runs": {"a": {**A, "set": {"output_dir": "x"}}}}, "runs.a.set.output_dir: is set by"),
        ({"runs": {"a": A}, "set": {"run:seed": 1}}, "set.run:seed: is set by the study"),
        ({"runs": {"a": A}, "set": {"x": "{a}"}}, "set: '{a}' is a run's model"),
        ({"runs": {"a": A}, "controls": ["b"]}, "controls: no run 'b'"),
        ({"runs": {"ptl": A}, "pairs": [["ptl", "plt"]]}, "no run 'plt' (did you mean 'ptl'?)"),
        ({"runs": {"a": A}, "pairs": [["a"]]}, "pairs.0: "),
        ({"runs": {"a": A}, "tables": [{"title": "t", "runs": ["b"]}]}, "tables.0.runs: no run"),
        ({"runs": {"a": A}, "tables": [{"title": "t"}]}, "needs either 'runs'"),
        (
            {
                "runs": {"a": A},
                "tables": [{"title": t, "runs": ["a"]} for t in ("F. 3", "f 3")],
            },
            "tables.1.title: 'f 3' is that of tables.0 too",
        ),
        (
            {"runs": {"a": A}, "tables": [{"title": "t", "lines": {"l": ["a"]}}]},
            "'x' and 'lines' go together",
        ),
        (
            {"runs": {"a": A}, "tables": [{"title": "t", "x": "tokns", "lines": {"l": ["a"]}}]},
            "'tokns' should be 'documents', 'tokens'",
        ),
        (
            {
                "runs": {"a": A, "b": A},
                "tables": [{"title": "t", "x": "round", "lines": {"l": ["a", "b"]}}],
            },
            "x 'round' needs one run for a line",
        ),
        (
            {"runs": {"a": {**A, "after": ["b"]}, "b": {**A, "after": ["a"]}}},
            "runs.a: waits for itself: a -> b -> a",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(write_study, keys, said):
    path = write_study(**keys)
    with pytest.raises(PTLError) as raised:
        read_study(path)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{path}: ")
    assert said in line
