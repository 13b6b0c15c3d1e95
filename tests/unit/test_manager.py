"""Plugins are blocked, loaded and checked; what pluggy passes over in silence is refused."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types

import pytest

from ptl_plugins import hookimpl
from ptl_plugins.errors import PluginError
from ptl_plugins.manager import build_manager, build_registry, describe_plugins

HEAD = "from ptl_plugins import hookimpl\n"
REGISTERS = (
    HEAD + "@hookimpl\ndef ptl_register(registry):\n    registry.data.add('mine', object())\n"
)


@pytest.fixture
def plugin_module(tmp_path, monkeypatch):
    """Write an importable module and return its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(text, name="ptl_test_plugin"):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def entry_points(tmp_path, monkeypatch):
    """Publish modules as entry points of an installed distribution."""

    def publish(*points, name="their-dist"):
        folder = tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{key} = {value}\n" for key, value in points)
        (folder / "entry_points.txt").write_text(f"[ptl]\n{lines}")

    monkeypatch.syspath_prepend(str(tmp_path))
    found = importlib.metadata.Distribution.discover
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda **keys: found(path=[str(tmp_path)])
    )
    return publish


def build(*plugins):
    return build_manager(plugins=plugins, autoload=False)


def test_the_built_ins_are_plugins_like_any_other():
    own = {"steps", "checkpoint_steps", "local", "slurm", "run_recipe", "builtin", "slicegpt"}
    assert {name for name, _ in build().list_name_plugin()} == own


def test_a_plugin_given_by_name_is_registered(plugin_module):
    registry = build_registry(build(plugin_module(REGISTERS)))
    assert registry.data.names() == ["mine"]


def test_a_blocked_built_in_is_not_registered_whatever_the_order():
    manager = build("no:builtin")
    assert not manager.has_plugin("builtin")
    assert build_registry(manager).families.names() == []


def test_a_blocked_plugin_is_not_registered_even_where_it_is_given(plugin_module):
    name = plugin_module(REGISTERS)
    assert build_registry(build(name, f"no:{name}")).data.names() == []


def test_managers_share_nothing():
    build("no:builtin")
    assert build().has_plugin("builtin")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(PluginError, match="-p not_there_at_all: no module named 'not_there_at"):
        build("not_there_at_all")


def test_a_misspelt_hook_is_an_error(plugin_module):
    text = HEAD + "@hookimpl\ndef ptl_profil(ctx, subject):\n    pass\n"
    with pytest.raises(PluginError, match=r"unknown hook: .*ptl_profil"):
        build(plugin_module(text))


def test_a_misspelt_argument_is_an_error_of_the_plugin(plugin_module):
    text = HEAD + "@hookimpl\ndef ptl_profile(ctx, subjekt):\n    pass\n"
    with pytest.raises(PluginError, match="subjekt") as raised:
        build(plugin_module(text))
    assert "\n" not in str(raised.value)


def test_a_plugin_given_twice_is_an_error_in_one_line(plugin_module):
    name = plugin_module(REGISTERS)
    with pytest.raises(PluginError, match=name) as raised:
        build(name, name)
    assert "\n" not in str(raised.value)


def test_a_hook_that_is_not_marked_is_an_error(plugin_module):
    with pytest.raises(PluginError, match="ptl_profile lacks @hookimpl"):
        build(plugin_module("def ptl_profile(ctx, subject):\n    pass\n"))


def test_other_names_of_a_plugin_are_never_touched():
    class Lazy:
        @property
        def expensive(self):
            raise AssertionError("was looked at")

        @hookimpl
        def ptl_register(self, registry):
            registry.data.add("lazy", self)

    manager = build()
    manager.register(Lazy(), "lazy")
    assert build_registry(manager).data.names() == ["lazy"]


def test_the_last_registered_step_answers_and_the_built_in_last_of_all():
    """The built-in select would fail on these arguments if it were asked."""

    class First:
        @hookimpl
        def ptl_select(self, ctx, scores):
            raise AssertionError("a later plugin answers")

    class Second:
        @hookimpl
        def ptl_select(self, ctx, scores):
            return "second"

    manager = build()
    manager.register(First())
    manager.register(Second())
    assert manager.hook.ptl_select(ctx=None, scores=None) == "second"


def test_a_wrapper_sees_and_may_change_the_answer():
    seen = []

    class Around:
        @hookimpl(wrapper=True)
        def ptl_evaluate(self, ctx, subject):
            seen.append("before")
            result = yield
            seen.append(result)
            return f"{result} and more"

    class Answers:
        @hookimpl
        def ptl_evaluate(self, ctx, subject):
            return "an answer"

    manager = build()
    manager.register(Around())
    manager.register(Answers())
    assert manager.hook.ptl_evaluate(ctx=None, subject=None) == "an answer and more"
    assert seen == ["before", "an answer"]


def test_two_plugins_of_one_name_in_the_registry_are_an_error(plugin_module):
    one, two = plugin_module(REGISTERS, "ptl_one"), plugin_module(REGISTERS, "ptl_two")
    with pytest.raises(PluginError, match="'mine' is registered twice"):
        build_registry(build(one, two))


def test_the_registry_is_frozen_once_it_is_built():
    with pytest.raises(PluginError, match="too late"):
        build_registry(build()).data.add("late", types.SimpleNamespace())


def test_an_entry_point_is_loaded_and_described(plugin_module, entry_points):
    entry_points(("theirs", plugin_module(REGISTERS)))
    manager = build_manager()
    assert build_registry(manager).data.names() == ["mine"]
    assert ("theirs", "their-dist 1.2 (ptl_test_plugin)") in describe_plugins(manager)


def test_a_broken_entry_point_names_itself_its_distribution_and_the_way_out(
    plugin_module, entry_points
):
    entry_points(("broken", plugin_module("1 / 0\n")))
    with pytest.raises(PluginError) as raised:
        build_manager()
    text = str(raised.value)
    assert "plugin 'broken' (their-dist 1.2)" in text
    assert "ZeroDivisionError" in text
    assert "-p no:broken" in text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("raise SystemExit(0)\n", "failed to import: SystemExit: 0"),
        ("raise OSError('two\\nlines')\n", "failed to import: OSError: two lines"),
        ("def ptl_profile(ctx):\n    pass\n", "ptl_profile lacks @hookimpl"),
        (f"{HEAD}@hookimpl\ndef ptl_profile(subjekt):\n    pass\n", "{'subjekt'}"),
        (f"{HEAD}@hookimpl\ndef ptl_distil(ctx):\n    pass\n", "PTL 0.1.0 has no ptl_distil"),
        (f"{HEAD}@hookimpl\ndef ptl_profil(ctx):\n    pass\n", "did you mean 'ptl_profile'?"),
        (f"{HEAD}@hookimpl\ndef ptl_register(registry):\n    1 / 0\n",
         "ptl_register failed: ZeroDivisionError: division by zero"),
        (f"{HEAD}@hookimpl(wrapper=True)\ndef ptl_run_finished(run):\n    return (yield)\n",
         "ptl_run_finished cannot be wrapped"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_with_a_plugin_the_line_says_whose_it_is_and_the_way_out(
    plugin_module, entry_points, text, wrong
):
    entry_points(("theirs", plugin_module(text)))
    with pytest.raises(PluginError) as raised:
        build_registry(build_manager())
    line = str(raised.value)
    assert line.startswith("plugin 'theirs' (their-dist 1.2): ")
    assert wrong in line
    way_out = "; switch it off with -p no:theirs, or PTL_PLUGINS=no:theirs in the environment"
    assert line.endswith(way_out)
    assert "\n" not in line
    build_registry(build_manager(plugins=["no:theirs"]))


def test_an_unknown_hook_that_is_marked_as_optional_is_left_alone(plugin_module):
    """So a plugin serves this PTL and one that has the hook."""
    text = f"{HEAD}@hookimpl(optionalhook=True)\ndef ptl_distil(ctx):\n    pass\n"
    name = plugin_module(text)
    assert build(name).has_plugin(name)


def test_a_module_that_fails_is_one_line_of_the_option(plugin_module):
    name = plugin_module("def broken(:\n")
    with pytest.raises(PluginError, match=f"^-p {name}: failed to import: SyntaxError: .*line 1"):
        build(name)


def test_an_installed_plugin_that_is_given_by_its_module_too_is_named_once(
    plugin_module, entry_points
):
    name = plugin_module(REGISTERS)
    entry_points(("theirs", name))
    with pytest.raises(PluginError) as raised:
        build_manager(plugins=[name])
    assert str(raised.value) == (
        f"plugin '{name}' is loaded already, as 'theirs' (by their-dist 1.2); name it once"
    )


def test_a_blocked_entry_point_is_never_imported(plugin_module, entry_points):
    entry_points(("broken", plugin_module("1 / 0\n")))
    manager = build_manager(plugins=["no:broken"])
    assert ("broken", "blocked") in describe_plugins(manager)


def test_without_autoload_no_entry_point_is_loaded(plugin_module, entry_points):
    entry_points(("broken", plugin_module("1 / 0\n")))
    assert not build_manager(autoload=False).has_plugin("broken")


def test_a_name_that_two_distributions_claim_is_shown(plugin_module, entry_points):
    entry_points(("theirs", plugin_module(REGISTERS, "ptl_one")), name="dist-a")
    entry_points(("theirs", plugin_module(REGISTERS, "ptl_two")), name="dist-b")
    (row,) = (row for row in describe_plugins(build_manager()) if row[0] == "theirs")
    assert "dist-a 1.2" in row[1]
    assert "also claimed by" in row[1]
    assert "dist-b 1.2" in row[1]


def test_manager_and_registry_import_no_heavy_framework():
    """`ptl --help`, `plan` and `validate` answer at once because of this."""
    code = (
        "import sys\n"
        "from ptl_plugins.manager import build_manager, build_registry\n"
        "registry = build_registry(build_manager())\n"
        "assert 'llama' in registry.families.names()\n"
        "heavy = {'torch', 'transformers', 'llamafactory', 'verl', 'datasets', 'deepspeed'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_environment_names_plugins_for_programs_without_the_option(plugin_module, monkeypatch):
    name = plugin_module(HEAD + "@hookimpl\ndef ptl_run_finished(run):\n    pass\n")
    monkeypatch.setenv("PTL_PLUGINS", f"{name},no:llamafactory")
    manager = build_manager()
    assert manager.has_plugin(name)
    assert manager.is_blocked("llamafactory")
    assert not build_manager(autoload=False).has_plugin(name)


@pytest.mark.parametrize("hook", ["ptl_round_finished", "ptl_run_finished", "ptl_register"])
def test_an_announcement_cannot_be_wrapped(plugin_module, hook):
    argument = {"ptl_round_finished": "record", "ptl_run_finished": "run"}.get(hook, "registry")
    text = f"{HEAD}@hookimpl(wrapper=True)\ndef {hook}({argument}):\n    return (yield)\n"
    with pytest.raises(PluginError, match="cannot be wrapped"):
        build_manager(plugins=[plugin_module(text)], autoload=False)
