"""A small package of EasyR1's name and shape: what PTL's launcher touches, and no more.

That the launcher fits this does not show that it fits EasyR1: `test_easyr1_run.py` does.
"""

__version__ = "0.3.3.dev0"
