"""The prompts that are generated from: short questions to reason about, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from ptl_plugins.errors import PTLError

QUESTIONS = (
    "A gardener plants 7 rows of tulips with 12 bulbs each, and mice eat 9 of the bulbs. How "
    "many are left?",
    "A ferry takes 18 cars a trip and makes 5 trips a day, 6 days a week. How many cars can "
    "it take in a week?",
    "Two pumps fill a pool of 2400 litres, one with 25 litres a minute, the other with 15. "
    "After how many minutes is it full?",
    "A book has 312 pages. Nora reads 24 pages on each of 8 evenings. How many pages has she "
    "still to read?",
    "The sum of three consecutive even numbers is 78. Which numbers are they?",
    "A coat of 140 crowns is sold for three quarters of its price, and then for 5 crowns "
    "less. What does it cost now?",
    "A rectangle is 4 cm longer than it is wide, and its outline measures 56 cm. What is its area?",
    "Anton is three times as old as his niece. In 12 years he will be twice as old as she. "
    "How old are both now?",
    "A baker needs 450 g of flour for 6 rolls. How much does he need for 40 rolls?",
    "In a box are 5 red and 7 blue marbles. What is the chance to draw two red ones one after "
    "the other?",
    "A train leaves at 9:40 and covers 210 km at 84 km an hour. When does it arrive?",
    "What is the remainder of 7 to the power of 30, divided by 10?",
)
ASKED = "Question: {}\nAnswer: Let us work it out step by step. First,"
"""Begins the answer, or some models end it at once."""
PROMPTS = tuple(ASKED.format(question) for question in QUESTIONS)


def choose(prompts: Sequence[str] | None, number: int) -> tuple[str, ...]:
    """Return the first `number` of `prompts`, or of PTL's own where none are given.

    Raises:
        PTLError: there are fewer, or one is empty.
    """
    found = PROMPTS if prompts is None else prompts
    if len(found) < number:
        raise PTLError(
            f"num_prompts: {number} prompts are wanted and there are {len(found)}; "
            "give more prompts, or a smaller num_prompts"
        )
    for index, prompt in enumerate(found[:number]):
        if not isinstance(prompt, str) or not prompt.strip():
            raise PTLError(f"prompts: number {index} is {prompt!r}; give texts that are not empty")
    return tuple(found[:number])
