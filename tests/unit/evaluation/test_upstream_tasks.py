"""Prompts and rules are read out of the installed lm-eval, whatever else it would import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ptl_plugins.errors import PTLError, UnknownNameError
from ptl_plugins.evaluation import upstream_tasks
from ptl_plugins.evaluation.upstream_tasks import (
    CONFIG_FILES,
    NEEDED,
    SUPPORTED,
    TESTED,
    installed_version,
    load_task_config,
    load_task_functions,
    task_digest,
    task_source,
)

pytest.importorskip("lm_eval", reason="the extra [eval] is not installed")

DIGESTS = {
    "gsm8k_cot": "b87b5c1fbc2061b0",
    "minerva_math_algebra": "0dbeae932795b135",
    "minerva_math500": "70330d4ed0d99d64",
    "mbpp": "e5075f4d4d1efd32",
}
"""Of lm-eval 0.4.13; where another version is installed and one differs: read what changed."""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder that stands for lm-eval's tasks; returns a writer of its files."""
    monkeypatch.setattr(upstream_tasks, "_tasks_folder", lambda: tmp_path)

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def version(monkeypatch):
    """Pretend that a version of lm-eval is installed."""

    def pretend(version: str) -> None:
        monkeypatch.setattr(upstream_tasks.importlib.metadata, "version", lambda _: version)

    return pretend


@pytest.mark.parametrize("name", sorted(CONFIG_FILES))
def test_prompts_shots_and_rules_are_those_that_were_read(name):
    assert task_digest(name) == DIGESTS[name], (
        f"lm-eval {installed_version()} changed {name} (digest of {TESTED} expected): read what"
        " changed, then renew the digest here"
    )


def test_minervas_rules_work_without_its_packages():
    minerva = load_task_functions("minerva_math")
    response = "So it is.\nFinal Answer: The final answer is $\\frac12$. I hope it is correct."
    given = minerva.normalize_final_answer(minerva.get_unnormalized_answer(response))
    boxed = minerva.remove_boxed(minerva.last_boxed_only_string("a \\boxed{1}, \\boxed{\\frac12}"))
    assert given == minerva.normalize_final_answer(boxed) == "\\frac{1}{2}"
    assert minerva.doc_to_text({"problem": "2+2?"}).endswith("Solution:")
    assert minerva.is_equiv("x", "x")


def test_minervas_documents_get_their_answer_in_a_data_set():
    datasets = pytest.importorskip("datasets")
    questions = datasets.Dataset.from_list([{"problem": "p", "solution": "it is $\\boxed{7}$"}])
    assert load_task_functions("minerva_math").process_docs(questions)[0]["answer"] == "7"


def test_shots_of_both_tasks_are_there():
    math = load_task_functions("minerva_math").list_fewshot_samples()
    code = load_task_functions("mbpp").list_fewshot_samples()
    assert len(math) == 4
    assert all("I hope it is correct." in shot["solution"] for shot in math)
    assert [len(shot["test_list"]) for shot in code] == [3, 3, 3]


def test_neither_lm_eval_nor_its_metric_is_imported():
    program = (
        "import sys; from ptl_plugins.evaluation.upstream_tasks import load_task_functions as f;"
        "f('minerva_math'), f('mbpp');"
        "print([m for m in ('lm_eval', 'evaluate', 'antlr4', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


def test_a_task_is_plain_values_with_what_it_includes():
    math500 = load_task_config("minerva_math500")
    assert math500["task"] == "minerva_math500"
    assert math500["training_split"] is None
    assert math500["num_fewshot"] == load_task_config("minerva_math_algebra")["num_fewshot"] == 4
    assert math500["fewshot_config"]["samples"] == "utils.list_fewshot_samples"
    assert "include" not in math500


def test_tasks_without_functions_are_as_lm_eval_reads_them():
    lm_evals = pytest.importorskip("lm_eval.tasks._yaml_loader")
    folder = Path(lm_evals.__file__).parent
    expected = lm_evals.load_yaml(folder / CONFIG_FILES["gsm8k_cot"], resolve_func=False)
    assert load_task_config("gsm8k_cot") == expected


def test_only_what_needs_nothing_else_is_kept(tasks):
    tasks(
        "mbpp/utils.py",
        "import re, os\nimport evaluate\nfrom . import other\nfrom typing import Any as Anything\n"
        "try:\n    metric = evaluate.load('x')\nexcept Exception as e:\n    raise e\n"
        "METRIC = evaluate.load('y')\nWORDS: list[str] = ['a']\nPATTERN = re.compile(WORDS[0])\n"
        "def score(x: evaluate.Metric) -> Anything:\n    return metric.compute(x)\n"
        "def list_fewshot_samples():\n    return PATTERN.findall('banana')\n",
    )
    module = load_task_functions("mbpp")
    assert module.list_fewshot_samples() == ["a", "a", "a"]
    assert {"re", "os", "Anything", "WORDS", "PATTERN", "score"} <= set(vars(module))
    assert not {"evaluate", "other", "metric", "METRIC"} & set(vars(module))


def test_a_decorator_is_kept_with_its_function(tasks):
    tasks(
        "mbpp/utils.py",
        "from functools import cache\n\n@cache\ndef list_fewshot_samples():\n    return object()\n",
    )
    samples = load_task_functions("mbpp").list_fewshot_samples
    assert samples() is samples()


def test_a_digest_changes_with_a_function_and_with_the_task(tasks):
    tasks("mbpp/utils.py", "def list_fewshot_samples():\n    return [1]\n")
    tasks("mbpp/mbpp.yaml", "task: mbpp\nnum_fewshot: 3\n")
    digests = {task_digest("mbpp")}
    tasks("mbpp/mbpp.yaml", "task: mbpp\nnum_fewshot: 4\n")
    digests.add(task_digest("mbpp"))
    tasks("mbpp/utils.py", "def list_fewshot_samples():\n    return [2]\n")
    assert len(digests | {task_digest("mbpp")}) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def doc_to_text():\n    pass\n", "has no function list_fewshot_samples"),
        ("def f(:\n", "is not Python"),
        ("@missing\ndef list_fewshot_samples():\n    pass\n", "NameError"),
    ],
)
def test_a_file_that_is_not_what_it_was_is_one_line_with_the_version(tasks, text, reason):
    tasks("mbpp/utils.py", text)
    with pytest.raises(PTLError) as raised:
        load_task_functions("mbpp")
    line = str(raised.value)
    assert f"lm-eval {installed_version()}" in line
    assert reason in line
    assert f"lm-eval=={TESTED}" in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "task: other\n", None])
def test_a_yaml_that_is_not_what_it_was_is_one_line(tasks, text):
    if text is not None:
        tasks("mbpp/mbpp.yaml", text)
    with pytest.raises(PTLError, match=r"\Alm-eval .* has another task mbpp .*\Z"):
        load_task_config("mbpp")


@pytest.mark.parametrize("found", ["0.4.8", "0.5.0", "1.0"])
def test_a_version_that_was_not_read_is_refused(version, found):
    version(found)
    with pytest.raises(PTLError, match=f"lm-eval {found} is installed.*{TESTED}"):
        task_source("mbpp")


def test_the_tested_version_is_supported():
    assert SUPPORTED.contains(TESTED)


def test_without_lm_eval_the_command_that_installs_it_is_named(monkeypatch):
    def missing(name: str) -> str:
        raise upstream_tasks.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(upstream_tasks.importlib.metadata, "version", missing)
    with pytest.raises(PTLError, match=r"pip install 'ptl\[eval\]'"):
        load_task_config("mbpp")


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'minerva_math500'"):
        load_task_config("minerva_math50")
    with pytest.raises(UnknownNameError, match=", ".join(NEEDED)):
        load_task_functions("gsm8k")
