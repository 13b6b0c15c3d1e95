"""The page stands alone, is well-formed, and shows hostile text as text."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest

from ptl_plugins.report.contents import build_document
from ptl_plugins.report.page import to_page
from ptl_plugins.report.write import render

VOID = {"meta", "img", "link", "br", "hr", "input"}
HOSTILE = "</pre><script>alert(1)</script> \" ' & <img src=x onerror=alert(1)>\n"


class Page(HTMLParser):
    """Checks that tags close, and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(write_run, read, steps_right):
    def make(name="run", recipe="seed: 0\n", metric="cot_loss"):
        def metrics(index):
            return {**steps_right(20), metric: 1.0}

        facts = {"recipe_text": recipe, "plugins": [recipe]}
        files = render(build_document(read(write_run(name, facts=facts, metrics=metrics))))
        return files["report.html"].decode(), files

    return make


def test_it_is_well_formed_and_stands_alone(page):
    text, _ = page()
    found = Page(text)
    assert found.tags[:2] == ["html", "head"]
    assert found.tags.count("table") == 4
    assert found.tags.count("img") == 2
    assert not {"script", "link", "iframe", "object", "a", "base"} & set(found.tags)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    sources = [value for name, value in found.attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 2
    assert all(value.startswith("data:image/png;base64,") for value in sources)


def test_the_pictures_in_it_are_the_files_beside_it(page):
    text, files = page()
    sources = [value for name, value in Page(text).attributes if name == "src"]
    inside = [base64.b64decode(value.partition(",")[2]) for value in sources]
    assert inside == [files["curve_cot_loss.png"], files["curve_step_accuracy.png"]]


def test_hostile_text_is_shown_and_not_run(page):
    text, files = page(name="a <b>&amp; run", recipe=HOSTILE, metric="<script>x</script>")
    found = Page(text)
    assert "script" not in found.tags
    assert "onerror" not in dict(found.attributes)
    assert HOSTILE.rstrip() in found.texts
    assert "Report: a <b>&amp; run" in found.texts
    assert {name for name in files if name.endswith(".png")} == {
        "curve_cot_loss.png", "curve_step_accuracy.png", "curve_script_x_script.png",
    }  # fmt: skip


def test_it_is_readable_in_dark_and_in_light(page):
    text, _ = page()
    assert "color-scheme: light dark" in text
    assert "@media (prefers-color-scheme: dark)" in text


def test_without_pictures_it_is_a_page_as_well(write_run, read):
    found = Page(to_page(build_document(read(write_run(done=1))), {}))
    assert "img" not in found.tags
    assert any("UNFINISHED, 1 of 3 rounds done" in text for text in found.texts)
