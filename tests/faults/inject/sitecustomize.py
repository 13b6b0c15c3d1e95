"""Loads the faults into a program that is started whole; the folder stands in PYTHONPATH."""

import os
import sys
from pathlib import Path

if os.environ.get("PTL_FAULT"):
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import fault_points

    fault_points.install()
