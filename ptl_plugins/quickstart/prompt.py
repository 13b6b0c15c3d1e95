"""The one format of question and answer, shared by training, loss and generation."""

from __future__ import annotations


def prompt(question: str) -> str:
    """Return what precedes an answer.

    It ends in a space, so that `prompt(question) + answer` is the training document. Generation
    starts from `prompt(question).rstrip()`: byte-pair tokenizers join that space to the first
    word of the answer.
    """
    return f"Question: {question}\nAnswer: "


def document(question: str, answer: str) -> str:
    """Return the text that the model is trained on."""
    return prompt(question) + answer
