"""`ptl train-llamafactory X.yaml`: the explicit door, for who switches the autoload off.

It installs the same import hook and calls LLaMA-Factory's launcher. torchrun starts its workers
with the launcher's own file, so this file is given in its place and does the same there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def train(arguments: Sequence[str]) -> None:
    """Run `llamafactory-cli train` with `arguments` (a yaml, then `key=value` words)."""
    from llamafactory_ext.autoload import install

    install()
    import llamafactory.launcher as launcher

    launcher.__file__ = __file__
    sys.argv = ["llamafactory-cli", "train", *arguments]
    launcher.launch()


if __name__ == "__main__":  # a torchrun worker
    from llamafactory_ext.autoload import install

    install()
    from llamafactory.train.tuner import run_exp

    run_exp()
