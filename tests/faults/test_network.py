"""The network goes in mid-download: one line, and the same command again ends well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from after_checks import digests, left_over, said_in_one_line, unreadable
from doors import FAKE, RUN
from hub_server import Hub

MODEL = "tiny/model"
USER_ERROR = 2
PTL = (sys.executable, "-m", "ptl_plugins")
COMMANDS = {
    "ptl run": (*PTL, "run", "r.yaml", "-p", FAKE),
    "ptl profile": (*PTL, "profile", MODEL, "--data", "data/tiny.jsonl", "--out", "out/scores",
                    "--samples", "5", "--max-length", "32", "--batch-tokens", "64"),
    "ptl data": (*PTL, "data", "numina_metamath", "--out", "out"),
}  # fmt: skip


@pytest.fixture
def hub(door_inputs, tmp_path):
    """A hub with the tiny model and the two data sets of a corpus."""
    root = tmp_path / "hub"
    shutil.copytree(door_inputs / "model", root / MODEL)
    for name, repository, copies in (("numina", "AI-MO/NuminaMath-CoT", 40),
                                     ("metamath", "meta-math/MetaMathQA", 40)):  # fmt: skip
        (root / repository).mkdir(parents=True)
        rows = (door_inputs / "data" / f"{name}.jsonl").read_text(encoding="utf-8") * copies
        (root / repository / "train.jsonl").write_text(rows, encoding="utf-8")
    hub = Hub(root)
    yield hub
    hub.shutdown()
    hub.server_close()


def give(command, folder, hub):
    """Give a command whose hub this is; return the finished process."""
    environment = {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "3", "HF_HUB_ETAG_TIMEOUT": "3", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", "no_proxy": "*",
    }  # fmt: skip
    return subprocess.run(
        COMMANDS[command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_download_that_breaks_off_is_one_line_and_goes_on(
    hub, door_inputs, tried, tmp_path, command
):
    ends = {}
    for name in ("undisturbed", "broken"):
        folder = tmp_path / name
        (folder / "out").mkdir(parents=True)
        (folder / "data").symlink_to(door_inputs / "data")
        recipe = {**RUN, "model": MODEL}
        (folder / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        if name == "broken":
            hub.set_whole(False)
            done = give(command, folder, hub)
            assert done.returncode == USER_ERROR, done.stderr[-3000:]
            assert hub.broken_off, "nothing was downloaded"
            assert said_in_one_line(done.stderr) == []
            hub.set_whole(True)
        done = give(command, folder, hub)
        assert done.returncode == 0, done.stderr[-3000:]
        ends[name] = digests(folder / "out")
    wrong = [*unreadable(folder / "out"), *left_over(folder / "out")]
    wrong += [
        name for name in ends["broken"] if ends["broken"][name] != ends["undisturbed"].get(name)
    ]
    tried("network gone in mid-download", command, 1, int(not wrong), steps="read from the hub")
    assert not wrong, "\n".join(wrong)
