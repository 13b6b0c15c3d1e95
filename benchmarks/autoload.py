"""What PTL's autoload adds to `import torch`, in milliseconds; the promise is under 20.

Each arm is a fresh interpreter that times its own `import torch`. The arms of one pair run one
after the other, in an order that changes from pair to pair, so that a busy machine slows them
all alike.

| arm | what happens |
| --- | --- |
| active | as installed |
| off | `TORCH_DEVICE_BACKEND_AUTOLOAD=0`: torch looks for no entry point at all |
| hidden | torch looks, but does not see PTL's entry point: a machine without PTL |
| silent | `PTL_AUTOLOAD=0`: torch looks, loads PTL's module, and `install` returns at once |

The honest baseline is `off`, which is unkind to PTL: it charges torch's own search, made for
every package that might be there, to PTL. `hidden` is PTL's own share. `silent` is no baseline,
because it pays for the module's import.

A whole import takes seconds, so the difference of two drowns where the machine is busy. After
its import the arm `off` therefore times what torch left out, `torch._import_device_backends()`:
the search, the load of PTL's module and its `install`. The promise is held against that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PROMISE_MS = 20.0
HIDE = (
    "import importlib.metadata as m\n"
    "seen = m.entry_points\n"
    "m.entry_points = lambda **k: [e for e in seen(**k) if e.name != 'ptl_llamafactory']\n"
)
IMPORT = """\
import importlib.metadata, sys, time
def clocks():
    return time.perf_counter() * 1e3, time.process_time() * 1e3
def hooked():
    return any(type(f).__module__ == 'llamafactory_ext.autoload' for f in sys.meta_path)
wall, cpu = clocks()
import torch
now = clocks()
print(now[0] - wall, now[1] - cpu, hooked())
"""
LEFT_OUT = """\
wall, cpu = clocks()
torch._import_device_backends()
now = clocks()
assert hooked()
print(now[0] - wall, now[1] - cpu)
"""
INSTALL = """\
import time
start = time.perf_counter()
from llamafactory_ext.autoload import install
loaded = time.perf_counter()
install()
print((loaded - start) * 1e3, (time.perf_counter() - loaded) * 1e3)
"""
ARMS: dict[str, tuple[dict[str, str], str, bool]] = {
    "active": ({}, IMPORT, True),
    "off": ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, IMPORT + LEFT_OUT, False),
    "hidden": ({}, HIDE + IMPORT, False),
    "silent": ({"PTL_AUTOLOAD": "0"}, IMPORT, False),
}
"""Environment, program, and whether the import hook has to be there after the import."""
Times = dict[str, list[tuple[float, float]]]
"""Per arm, (wall, processor) milliseconds of each pair."""


def main() -> None:
    """Measure, print medians, differences and ratios; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description="What PTL's autoload adds to import torch.")
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    times, left_out = measure(pairs)
    for index, clock in enumerate(("wall", "processor")):
        arms = {arm: [row[index] for row in rows] for arm, rows in times.items()}
        for arm, values in arms.items():
            print(f"{clock:<9} import torch, {arm:<6} median {statistics.median(values):8.1f} ms")
        for arm in ("off", "hidden", "silent"):
            differences = np.subtract(arms["active"], arms[arm])
            ratio = statistics.median(arms["active"]) / statistics.median(arms[arm])
            print(f"{clock:<9} active - {arm:<6} {_interval(differences)}, ratio {ratio:.3f}")
        print(f"{clock:<9} what off leaves out {_interval([row[index] for row in left_out])}")
    rows = [_child({}, INSTALL) for _ in range(pairs)]
    loading, installing = (statistics.median(float(row[i]) for row in rows) for i in (0, 1))
    print(f"without torch: import of llamafactory_ext.autoload {loading:.2f} ms, "
          f"install() {installing:.3f} ms")  # fmt: skip
    kept = statistics.median(wall for wall, _ in left_out) < PROMISE_MS
    verdict = "kept" if kept else "BROKEN"
    print(f"promise: wall of what off leaves out under {PROMISE_MS:g} ms: {verdict}")
    raise SystemExit(0 if kept else 1)


def measure(pairs: int) -> tuple[Times, list[tuple[float, float]]]:
    """Return the times of `import torch` per arm, and of what `off` left out.

    One pair more, which does not count, warms the disk.
    """
    times: Times = {arm: [] for arm in ARMS}
    left_out = []
    for number in range(pairs + 1):
        names = list(ARMS)
        first = number % len(names)
        for arm in names[first:] + names[:first]:
            env, program, hooked = ARMS[arm]
            wall, cpu, hook, *rest = _child(env, program)
            if hook != str(hooked):
                raise SystemExit(f"arm '{arm}': the import hook is {hook}, not {hooked}")
            if number:
                times[arm].append((float(wall), float(cpu)))
            if number and rest:
                left_out.append((float(rest[0]), float(rest[1])))
    return times, left_out


def _child(env: dict[str, str], program: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_AUTOLOAD")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=clean | env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def _interval(values: Sequence[float] | npt.NDArray[np.float64]) -> str:
    """Return the median with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return f"{float(np.median(values)):+.1f} ms [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
