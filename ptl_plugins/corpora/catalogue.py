"""Which corpora there are, where their rows come from, and what becomes of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ptl_plugins.errors import PTLError, did_you_mean

PAIR = "Question: {%s}Answer: {%s}"
"""A question and its worked answer as one text, as the paper's authors released it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One data set of the hub, or a local copy of it."""

    repository: str
    columns: Mapping[str, str]
    """Column that is written -> its text, with the source's columns in braces."""
    config: str | None = None
    """The hub's configuration of the data set."""
    folder: str | None = None
    """The folder of the repository that is read alone."""
    split: str = "train"
    revision: str | None = None
    """The hub's commit, branch or tag; unset, the newest commit when the work begins."""
    limit: int | None = None
    """The first so many rows; unset, all."""
    expected: int | None = None
    """Rows when this was written; another number is told, and taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Sources that are merged into one shuffled set of rows."""

    about: str
    sources: Mapping[str, Source]
    text: bool = True
    """Whether a row is a `text` to train on, which LLaMA-Factory gets an entry for."""


def _opc(config: str) -> Source:
    return Source(
        repository="OpenCoder-LLM/opc-sft-stage2",
        config=config,
        columns={"text": PAIR % ("instruction", "output")},
    )


CORPORA: Mapping[str, Corpus] = {
    "numina_metamath": Corpus(
        about="NuminaMath-CoT and MetaMathQA, a text of question and answer a row: math, CPT",
        sources={
            "numina": Source(
                repository="AI-MO/NuminaMath-CoT",
                columns={"text": PAIR % ("problem", "solution")},
                expected=859_494,
            ),
            "metamath": Source(
                repository="meta-math/MetaMathQA",
                columns={"text": PAIR % ("query", "response")},
                expected=395_000,
            ),
        },
    ),
    "math12k": Corpus(
        about="Math-12k, a problem and its final answer a row: GRPO",
        text=False,
        sources={
            "math12k": Source(
                repository="hiyouga/math12k",
                columns={"problem": "{problem}", "answer": "{answer}"},
                expected=12_000,
            )
        },
    ),
    "opc_starcoder": Corpus(
        about="opc-sft-stage2 and 150,000 Python files of StarCoder: code, CPT",
        sources={
            "opc_educational": _opc("educational_instruct"),
            "opc_evol": _opc("evol_instruct"),
            "opc_mceval": _opc("mceval_instruct"),
            "opc_package": _opc("package_instruct"),
            "starcoder_python": Source(
                repository="bigcode/starcoderdata",
                folder="python",
                columns={"text": "{content}"},
                limit=150_000,
                expected=150_000,
            ),
        },
    ),
    "english": Corpus(
        about="paragraphs of WikiText-103: the protect set of the released variants",
        sources={
            "wikitext": Source(
                repository="Salesforce/wikitext",
                config="wikitext-103-raw-v1",
                columns={"text": "{text}"},
                limit=200_000,
            )
        },
    ),
}


def find_corpus(name: str) -> Corpus:
    """Return the corpus called `name`.

    Raises:
        PTLError: there is none; the line lists what there is.
    """
    if name not in CORPORA:
        raise PTLError(
            f"data: unknown corpus '{name}'{did_you_mean(name, CORPORA)}; "
            f"available: {', '.join(CORPORA)}"
        )
    return CORPORA[name]
