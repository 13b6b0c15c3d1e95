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

The promise is held against `off`, which is unkind to PTL: it charges torch's own search, made
for every package that might be there, to PTL. `hidden` is PTL's own share. `silent` is no
baseline, because it pays for the module's import.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

PROMISE_MS = 20.0
HEAD = "import importlib.metadata as m, time\n"
HIDE = (
    "seen = m.entry_points\n"
    "m.entry_points = lambda **k: [e for e in seen(**k) if e.name != 'ptl_llamafactory']\n"
)
IMPORT = (
    "start = time.perf_counter()\nimport torch\nprint((time.perf_counter() - start) * 1e3)\n"
    "import sys\n"
    "print(any(type(f).__module__ == 'llamafactory_ext.autoload' for f in sys.meta_path))\n"
)
INSTALL = (
    "import sys, time\n"
    "start = time.perf_counter()\n"
    "from llamafactory_ext.autoload import install\n"
    "loaded = time.perf_counter()\n"
    "install()\n"
    "print((loaded - start) * 1e3)\n"
    "print((time.perf_counter() - loaded) * 1e3)\n"
)
ARMS: dict[str, tuple[dict[str, str], str, bool]] = {
    "active": ({}, HEAD + IMPORT, True),
    "off": ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, HEAD + IMPORT, False),
    "hidden": ({}, HEAD + HIDE + IMPORT, False),
    "silent": ({"PTL_AUTOLOAD": "0"}, HEAD + IMPORT, False),
}
"""Environment, program, and whether the import hook has to be there afterwards."""


def main() -> None:
    """Measure, print medians, differences and ratios; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    times = measure(pairs)
    for arm, values in times.items():
        print(f"import torch, {arm:<7} median {statistics.median(values):8.1f} ms")
    bounds = {arm: _report(times["active"], times[arm], arm) for arm in ("off", "hidden", "silent")}
    rows = [_child({}, INSTALL) for _ in range(pairs)]
    loading, installing = (statistics.median(float(row[i]) for row in rows) for i in (0, 1))
    print(f"in a fresh process: import of llamafactory_ext.autoload {loading:.2f} ms, "
          f"install() {installing:.3f} ms")  # fmt: skip
    kept = bounds["off"] < PROMISE_MS
    print(f"promise: median against 'off' under {PROMISE_MS:g} ms: {'kept' if kept else 'BROKEN'}")
    raise SystemExit(0 if kept else 1)


def measure(pairs: int) -> dict[str, list[float]]:
    """Return the milliseconds of `import torch` per arm, `pairs` each; one more warms the disk."""
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(pairs + 1):
        names = list(ARMS)
        first = number % len(names)
        for arm in names[first:] + names[:first]:
            env, program, hooked = ARMS[arm]
            elapsed, hook = _child(env, program)
            if hook != str(hooked):
                raise SystemExit(f"arm '{arm}': the import hook is {hook}, not {hooked}")
            if number:
                times[arm].append(float(elapsed))
    return times


def _child(env: dict[str, str], program: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_AUTOLOAD")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=clean | env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def _report(active: Sequence[float], other: Sequence[float], arm: str) -> float:
    """Print the median paired difference with its 95 % bootstrap interval; return it."""
    differences = np.subtract(active, other)
    drawn = np.random.default_rng(0).choice(differences, (10_000, len(differences)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    middle = float(np.median(differences))
    ratio = statistics.median(active) / statistics.median(other)
    print(f"active - {arm:<7} {middle:+7.1f} ms [{low:+.1f}, {high:+.1f}], ratio {ratio:.3f}")
    return middle


if __name__ == "__main__":
    main()
