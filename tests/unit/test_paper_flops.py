"""The #FLOPs cells of the paper's Tables 1 and 4, from configs alone, and as the docs show them.

A cell is reproduced where the computed number, rounded as the paper rounds, is the paper's. The
paper does not tell its tokens: of those that give a model's dense cell, the count is used that
gives the ShortGPT cell too and is nearest to the middle. Cells that then differ are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import pytest

from ptl_plugins.flops import attention_flops, question_flops
from ptl_plugins.geometry import geometry

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
DATA_SETS = ("GSM8K", "Minerva Math", "MATH-500", "MBPP")
CONFIGS = {
    "Llama3-8B": ("llama", {
        "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256,
    }),
    "Gemma2-9B": ("gemma2", {
        "hidden_size": 3584, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
        "num_hidden_layers": 42, "intermediate_size": 14336, "vocab_size": 256000,
    }),
    "Qwen2.5-7B": ("qwen2", {
        "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "num_hidden_layers": 28, "intermediate_size": 18944, "vocab_size": 152064,
    }),
}  # fmt: skip
"""Sizes as published."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper, and a shape that is held against it."""

    name: str
    model: str
    num_layers: int
    removed: int
    """Neurons of every layer."""
    cells: tuple[float | None, ...]
    """T, in the order of DATA_SETS."""
    differs: tuple[str, ...] = ()
    """Data sets whose cell this shape does not give."""


def row(name, model, num_layers, removed, *cells, differs=()):
    cells = (*cells, *[None] * (len(DATA_SETS) - len(cells)))
    return Row(
        name=name, model=model, num_layers=num_layers, removed=removed, cells=cells,
        differs=differs,
    )  # fmt: skip


LLAMA, GEMMA, QWEN = CONFIGS
DENSE = {
    LLAMA: row("Llama3-8B", LLAMA, 32, 0, 9.1, 8.5, 8.5, 2.8),
    GEMMA: row("Gemma2-9B", GEMMA, 42, 0, 11.5, 10.5, 10.4),
    QWEN: row("Qwen2.5-7B", QWEN, 28, 0, 9.0, 8.2, 8.2),
}
SHORTGPT = {
    LLAMA: row("Shortgpt (Llama3)", LLAMA, 22, 0, 6.4, 6.0, 6.0, 2.0),
    GEMMA: row(
        "Shortgpt (Gemma2)", GEMMA, 26, 0, 7.6, 6.8, 6.7, differs=("Minerva Math", "MATH-500")
    ),
}
MATH = ("GSM8K", "Minerva Math", "MATH-500")
PTL = (
    row("PTL-Llama3-5B, the text's shape", LLAMA, 30, 7000, 6.3, 5.9, 5.9, differs=MATH),
    row("PTL-Llama3-5B, the code task's shape", LLAMA, 30, 5000, 6.3, 5.9, 5.9, 1.9),
    row("PTL-Gemma2-5B", GEMMA, 42, 9600, 6.1, 5.6, 5.5),
    row("PTL-Gemma2-5B", GEMMA, 40, 9200, 6.1, 5.6, 5.5),
    row("PTL-Gemma2-5B", GEMMA, 42, 9500, 6.1, 5.6, 5.5, differs=("GSM8K", "MATH-500")),
    row("PTL-Gemma2-5B", GEMMA, 40, 9000, 6.1, 5.6, 5.5, differs=MATH),
    row("PTL-Qwen2.5-5B", QWEN, 28, 10700, 4.9, 4.5, 4.5),
    row("PTL-Qwen2.5-5B", QWEN, 26, 9900, 4.9, 4.5, 4.5),
    row("PTL-Qwen2.5-5B", QWEN, 26, 10000, 4.9, 4.5, 4.5, differs=MATH),
)
ROWS = tuple(
    each
    for model in CONFIGS
    for each in (DENSE[model], SHORTGPT.get(model), *(r for r in PTL if r.model == model))
    if each
)


@pytest.fixture(scope="module")
def sizes(registry):
    return {
        model: geometry({"model_type": family, **config}, registry.families.get(family))
        for model, (family, config) in CONFIGS.items()
    }


def shape(sizes, row):
    whole = sizes[row.model]
    return whole.after(width=whole.width - row.removed, num_layers=row.num_layers)


def counts(shape, cell):
    """Return the first and last whole number of tokens that the cell, rounded, stands for."""
    return ceil((cell - 0.05) * 1e12 / shape.flops_per_token), floor(
        (cell + 0.05) * 1e12 / shape.flops_per_token
    )


def tokens(sizes, model, data_set):
    """Return the range that gives the dense cell, and the number of it that is used."""
    index = DATA_SETS.index(data_set)
    first, last = counts(sizes[model], DENSE[model].cells[index])
    short = SHORTGPT.get(model)
    low, high = counts(shape(sizes, short), short.cells[index]) if short else (first, last)
    both = [n for n in range(first, last + 1) if low <= n <= high] or range(first, last + 1)
    return first, last, min(both, key=lambda n: abs(2 * n - first - last))


def computed(sizes, row, data_set):
    number = shape(sizes, row).flops_per_token * tokens(sizes, row.model, data_set)[2]
    return f"{number / 1e12:.1f}"


def told(row):
    """Return data set and cell of those that the paper has."""
    return [pair for pair in zip(DATA_SETS, row.cells, strict=True) if pair[1] is not None]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.name} {r.num_layers} -{r.removed}")
def test_a_cell_is_the_papers_unless_it_is_listed_as_differing(sizes, row):
    differing = [name for name, cell in told(row) if computed(sizes, row, name) != f"{cell:.1f}"]
    assert tuple(differing) == row.differs


def test_the_dense_and_shortgpt_cells_give_the_tokens_of_every_data_set(sizes):
    used = {m: [tokens(sizes, m, name)[2] for name, _ in told(DENSE[m])] for m in CONFIGS}
    assert used == {LLAMA: [605, 566, 566, 186], GEMMA: [622, 568, 562], QWEN: [636, 580, 580]}


def test_no_other_number_of_layers_gives_shortgpts_llama(sizes):
    def fits(num_layers):
        short = row("", LLAMA, num_layers, 0, *SHORTGPT[LLAMA].cells)
        return all(computed(sizes, short, name) == f"{cell:.1f}" for name, cell in told(short))

    assert [n for n in range(16, 33) if fits(n)] == [22]


def test_no_shape_at_all_gives_shortgpts_gemma_at_the_tokens_of_the_dense_one():
    """Where FLOPs are a shape's times a data set's tokens, a row is a multiple of the dense one."""
    ratios = [
        ((short - 0.05) / (dense + 0.05), (short + 0.05) / (dense - 0.05))
        for dense, short in zip(DENSE[GEMMA].cells[:3], SHORTGPT[GEMMA].cells[:3], strict=True)
    ]
    assert max(low for low, _ in ratios) > min(high for _, high in ratios)


def test_26_layers_are_nearest_to_shortgpts_gemma(sizes):
    def furthest(num_layers):
        short = row("", GEMMA, num_layers, 0, *SHORTGPT[GEMMA].cells)
        return max(abs(float(computed(sizes, short, name)) - cell) for name, cell in told(short))

    assert min(range(16, 43), key=furthest) == 26
    assert furthest(26) == pytest.approx(0.1)


# --- the page ---


def cell(sizes, row, data_set, paper):
    mark = "*" if data_set in row.differs else ""
    return "-" if paper is None else f"{computed(sizes, row, data_set)}{mark} / {paper:.1f}"


def table_of_rows(sizes):
    lines = []
    for each in ROWS:
        left, whole = shape(sizes, each), sizes[each.model].width
        width = f"{whole} - {each.removed}" if each.removed else f"{whole}"
        facts = [each.name, f"{left.num_layers}", width, f"{left.num_parameters / 1e9:.2f} B"]
        cells = [cell(sizes, each, *pair) for pair in zip(DATA_SETS, each.cells, strict=True)]
        lines.append(f"| {' | '.join([*facts, *cells])} |")
    return lines


def table_of_tokens(sizes):
    lines = []
    for model in CONFIGS:
        cells = []
        for name, dense in zip(DATA_SETS, DENSE[model].cells, strict=True):
            first, last, used = tokens(sizes, model, name) if dense else (0, 0, 0)
            cells.append(f"{first}-{last}: {used}" if dense else "-")
        lines.append(f"| {' | '.join([model, *cells])} |")
    return lines


def table_of_counts(sizes):
    lines = []
    for prompt, new in ((93, 512), (1000, 512), (100, 3000)):
        words = {"prompt_tokens": prompt, "generated_tokens": new}
        paper = sizes[LLAMA].flops_per_token * (prompt + new)
        own = question_flops(sizes[LLAMA], **words)
        share = attention_flops(sizes[LLAMA], **words) / own
        numbers = (f"{paper / 1e12:.2f} T", f"{own / 1e12:.2f} T", f"{share:.1%}")
        lines.append(f"| {prompt} + {new} | {' | '.join(numbers)} |")
    return lines


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("| model | GSM8K", table_of_tokens),
        ("| row | layers", table_of_rows),
        ("| Llama3-8B, prompt + generated", table_of_counts),
    ],
)
def test_the_tables_of_the_page_are_the_computed_ones(sizes, heading, table):
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(heading))
    end = next(i for i in range(start, len(lines) + 1) if not lines[i : i + 1] or not lines[i])
    assert lines[start + 2 : end] == table(sizes)


SMOL = {
    "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
    "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152,
}  # fmt: skip


def test_what_generate_leaves_out_is_the_share_that_the_page_tells(sizes, registry):
    smol = geometry(SMOL, registry.families.get("llama"))
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for model, prompt, new, told in (
        (sizes[LLAMA], 93, 512, "{:.1%} for Llama3-8B at 93 + 512 tokens"),
        (smol, 100, 16, "{:.1%} for SmolLM2-135M, mostly lm_head, at 100 + 16 tokens"),
    ):
        whole = question_flops(model, prompt_tokens=prompt, generated_tokens=new)
        read = question_flops(model, prompt_tokens=prompt, generated_tokens=new - 1)
        left_out = whole - read + 2 * model.hidden * model.vocabulary * (prompt - 1)
        assert told.format(left_out / whole).replace("%", " %") in text


# --- what contradicts itself ---


def told_in(where):
    """Return the row of the page's table of contradictions that begins so."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    (found,) = (line for line in lines if line.startswith(f"| {where} |"))
    return found


def billions(sizes, model, num_layers, removed, digits=2):
    return f"{shape(sizes, row('', model, num_layers, removed)).num_parameters / 1e9:.{digits}f} B"


def test_the_table_of_contradictions_tells_the_sizes_that_follow_from_the_configs(sizes):
    llama, code = sizes[LLAMA], shape(sizes, row("", LLAMA, 30, 5000))
    assert billions(sizes, LLAMA, 30, 5000) in told_in("1 and 4.2, code")
    for quantity in ("num_parameters", "non_embedding"):
        less = 1 - getattr(code, quantity) / getattr(llama, quantity)
        assert f"{less:.0%}".replace("%", " %") in told_in("1 and 4.2, code")
    assert billions(sizes, QWEN, 28, 10700, 1) in told_in("Table 1 against 3.2, Qwen2.5")
    assert billions(sizes, QWEN, 28, 10000) in told_in("Table 1 against 3.2, Qwen2.5")
    assert billions(sizes, QWEN, 26, 10000) in told_in("Table 2")
    baselines = told_in("3.2 and Table 4, the baselines")
    assert billions(sizes, LLAMA, 22, 0) in baselines
    assert billions(sizes, GEMMA, 26, 0) in baselines
    sliced = llama.sliced(1888)  # 54 % less, a multiple of 8
    assert round(sliced.flops_per_token * 605 / 1e12, 1) == 4.5
    assert f"{sliced.num_parameters / 1e9:.1f} B" in baselines


def test_the_table_of_contradictions_tells_what_is_left_and_the_scripts_flops(sizes):
    ends = {LLAMA: (30, 7000), GEMMA: (40, 9000), QWEN: (28, 10000)}
    less = [
        1 - shape(sizes, row("", model, *end)).num_parameters / sizes[model].num_parameters
        for model, end in ends.items()
    ]
    told_less = "{:.0f} % (Llama3), {:.0f} % (Gemma2), {:.0f} % (Qwen2.5) less"
    assert told_less.format(*(100 * x for x in less)) in told_in("Abstract, 1, 3.2, 6")
    at_128 = sizes[LLAMA].flops_per_token * 128 / 1e12
    assert f"{at_128:.1f} T for Llama3" in told_in("Table 1 against the scripts, #FLOPs")
    assert f"{1000 / 14336:.0%}".replace("%", " %") in told_in("4.1")
    assert f"{1000 / 18944:.1%}".replace("%", " %") in told_in("4.1")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("2.1 against Eq. 2", "significantly alters"),
        ("Eq. 3", "GELU"),
        ("Eq. 4 against Eq. 2", "abs(Act)"),
        ("Eq. 4 against 3.2", "same width"),
        ("Eq. 6 against 3.2 and 4.2", "the last two layers"),
        ("4.2 against 3.1", "language ability probing"),
        ("3.2 against Table 1, Llama3", "6.3 T"),
        ("MATH-500 of PTL-Llama3", "14.6 to 16.1, text 16.0 to 18.9"),
        ("Table 1, GSM8K of Gemma2's baselines", "51.4"),
        ("Table 1 against the scripts, speedup", "ten problems"),
        ("3.1, parts", "54,494"),
        ('"Minerva Math"', "272"),
        ("Table 1, bottom, against the scripts", "SimpleRL-Zoo"),
    ],
)
def test_the_table_has_a_row_with_a_decision_for_each_known_contradiction(where, words):
    cells = [cell.strip() for cell in told_in(where).strip("|").split(" | ")]
    assert words in told_in(where)
    assert len(cells) == 3
    assert all(cells)
