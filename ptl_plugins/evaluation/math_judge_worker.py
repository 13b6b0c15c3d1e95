r"""Judges answers to mathematical problems as lm-eval's task `minerva_math` does, one a line.

A program that stands alone: `python -P math_judge_worker.py`, json on stdin and stdout, until stdin
closes. It is a process of its own because sympy can run for hours and take all memory on ten
characters; whoever starts it kills it when its patience ends (`math_judge.py`).

First line in: {"source": the functions of lm-eval's minerva_math as Python source,
                "antlr": a folder with antlr4-python3-runtime 4.11, or null, "memory": bytes}
First line out: {"exact_match_rule": "sympy" | "strings", "versions": {...}}
             or {"missing": a package}, {"antlr": the version found instead of 4.11}.
Then in: {"mark": "exact_match" | "math_verify", "response": text, "solution": text or null,
          "answer": text or null, "seconds": of CPU time}
     out: {"value": 0 | 1, "gold": "solution" | "answer" | null, "unreadable_gold": reason or null}
       or {"failed": reason}.

The gold answer is the last box of the solution, as lm-eval has it (math_verify reads the whole
solution); where no box can be read it is the answer.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

PACKAGES = ("lm_eval", "math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
GRAMMAR = "4.11"
"""The antlr4 runtime that sympy's grammar of LaTeX was written for."""

NO_GOLD = "there is no closed box in the solution and no answer"

Rules = dict[str, Any]
"""What lm-eval's functions see as their module."""
Question = Mapping[str, Any]
"""A line that came in."""


def serve(questions: TextIO, replies: TextIO) -> int:
    """Answer until there are no more questions; the exit code."""
    setup = json.loads(questions.readline())
    _limit_memory(setup["memory"])
    if setup["antlr"]:
        sys.path.insert(0, setup["antlr"])
    rules: Rules = {"__name__": "minerva_math"}
    exec(setup["source"], rules)
    ready = prepare(rules, wants_grammar=bool(setup["antlr"]))
    _write(replies, ready)
    for line in questions if "versions" in ready else ():
        question = json.loads(line)
        _limit_cpu(question["seconds"])
        _write(replies, _judged(question, rules, ready["exact_match_rule"]))
    return 0


def prepare(rules: Rules, *, wants_grammar: bool) -> dict[str, Any]:
    """Import the libraries into `rules`; the first line that goes out."""
    antlr = _version("antlr4-python3-runtime")
    has_grammar = antlr is not None and antlr.startswith(GRAMMAR)
    if wants_grammar and not has_grammar:
        return {"antlr": antlr}
    try:
        import math_verify
        import sympy
    except ImportError as error:
        return {"missing": str(error)}
    rules.update(sympy=sympy, parse=math_verify.parse, verify=math_verify.verify)
    if has_grammar:
        from sympy.parsing.latex import parse_latex

        rules.update(parse_latex=parse_latex)
    versions = {name: _version(name) for name in PACKAGES}
    return {"exact_match_rule": "sympy" if has_grammar else "strings", "versions": versions}


def exact_match(question: Question, rules: Rules, rule: str) -> dict[str, Any]:
    """Minerva's own mark: the answer in its fixed sentence equals the gold, both normalized."""
    source, text = gold_answer(question, rules)
    if source is None:
        return _reply(0, source, NO_GOLD)
    gold = rules["normalize_final_answer"](text)
    if not gold:
        return _reply(0, source, f"nothing is left of the {source}'s final answer")
    given = rules["get_unnormalized_answer"](question["response"])
    given = rules["normalize_final_answer"](given)
    right = given == gold if rule == "strings" else rules["is_equiv"](given, gold)
    return _reply(right, source)


def math_verify(question: Question, rules: Rules, _: str) -> dict[str, Any]:
    """math-verify's mark, with its defaults: what it finds in the response equals the gold."""
    source, text = gold_answer(question, rules)
    if source is None:
        return _reply(0, source, NO_GOLD)
    gold = rules["parse"](question["solution"] if source == "solution" else _in_a_box(text))
    if not gold:
        return _reply(0, source, f"math-verify finds nothing in the {source}")
    right = rules["verify"](gold=gold, target=rules["parse"](question["response"]))
    return _reply(right, source)


MARKS: dict[str, Callable[[Question, Rules, str], dict[str, Any]]] = {
    "exact_match": exact_match,
    "math_verify": math_verify,
}


def gold_answer(question: Question, rules: Rules) -> tuple[str | None, str]:
    """Where the gold answer comes from, and its text; lm-eval stops where there is no box."""
    solution, answer = question["solution"] or "", question["answer"] or ""
    try:
        return "solution", rules["remove_boxed"](rules["last_boxed_only_string"](solution))
    except (AssertionError, TypeError):  # no box, or one that is not closed
        return ("answer", answer) if answer.strip() else (None, "")


def _in_a_box(answer: str) -> str:
    r"""An answer that math-verify reads as LaTeX; without `$` or a box it sees only numbers."""
    return answer if "$" in answer or "\\boxed" in answer else rf"\boxed{{{answer}}}"


def _judged(question: Question, rules: Rules, rule: str) -> dict[str, Any]:
    try:
        return MARKS[question["mark"]](question, rules, rule)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # math-verify's late alarms are no Exception
        return {"failed": f"{type(error).__name__}: {error}"[:200]}


def _reply(right: object, source: str | None, unreadable: str | None = None) -> dict[str, Any]:
    return {"value": int(bool(right)), "gold": source, "unreadable_gold": unreadable}


def _write(replies: TextIO, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _limit_memory(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _limit_cpu(seconds: float) -> None:
    """End this process after that much more computing, whoever started it being dead or not.

    No alarm can do it: lm-eval and math-verify set and clear SIGALRM for limits of their own.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def main() -> int:
    """Serve on the real stdin and stdout; what a library prints goes elsewhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a run that ends tidily on Ctrl-C asks on
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        with os.fdopen(os.dup(0), encoding="utf-8") as questions:
            return serve(questions, replies)


if __name__ == "__main__":
    sys.exit(main())
