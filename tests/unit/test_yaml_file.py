"""Only plain YAML mappings are read; everything else is one line with file and place."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import RecipeError
from ptl_plugins.yaml_file import MAX_BYTES, read_yaml


@pytest.fixture
def refused(tmp_path):
    """Write bytes to a file and return the one line that refuses it, without its path."""

    def refuse(content: bytes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content)
        with pytest.raises(RecipeError) as raised:
            read_yaml(path)
        text = str(raised.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        return text.removeprefix(f"{path}: ")

    return refuse


def test_keys_and_text_are_returned(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# a comment\na: {b: [1, 2.5, x]}\n", encoding="utf-8")
    assert read_yaml(path) == ({"a": {"b": [1, 2.5, "x"]}}, "# a comment\na: {b: [1, 2.5, x]}\n")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: x\n")
    assert read_yaml(path) == ({"model": "x"}, "model: x\n")


def test_a_key_given_twice_is_refused_with_its_line(refused):
    assert refused(b"a: 1\nb: 2\na: 3\n").endswith("line 3, column 1: key 'a' is given twice")
    assert "key 'x' is given twice" in refused(b"a:\n  x: 1\n  x: 2\n")


def test_the_same_key_in_two_mappings_is_fine(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("a: {x: 1}\nb: {x: 2}\n", encoding="utf-8")
    assert read_yaml(path)[0] == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.mark.parametrize("content", [b"a: [1, 2\n", b"a: b: c\n", b"\tx: 1\n", b"{a: 1}: 2\n"])
def test_what_is_not_yaml_is_refused_with_its_line(refused, content):
    assert refused(content).startswith("not valid YAML: line ")


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"- a\n- b\n", b"words\n", b"3\n"])
def test_what_is_no_mapping_is_refused(refused, content):
    assert "holds no keys" in refused(content)


def test_a_file_that_is_too_large_is_not_read(refused):
    assert f"larger than {MAX_BYTES} bytes" in refused(b"a: " + b"x" * MAX_BYTES)


def test_what_is_not_utf_8_is_refused(refused):
    assert "not UTF-8" in refused(b"a: \xff\xfe\n")


def test_python_objects_are_not_made(refused):
    assert "not valid YAML" in refused(b"a: !!python/object/apply:os.system ['true']\n")


@pytest.mark.parametrize("content", [b"a: 2024-99-99\n", b"a: " + b"[" * 5000 + b"\n"])
def test_what_the_parser_itself_stumbles_over_is_refused(refused, content):
    assert "not valid YAML" in refused(content)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_yaml(tmp_path)
    with pytest.raises(RecipeError, match="No such file"):
        read_yaml(tmp_path / "missing.yaml")
