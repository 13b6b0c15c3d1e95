"""Landlock: which files a program may open. It needs no rights, only a kernel from 2021 or later.

Names, sizes and permissions of other files stay visible; their contents do not.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from ptl_plugins.code_execution.libc import system_call
from ptl_plugins.code_execution.python_files import NULL, python_files

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, BENEATH_A_PATH = 1, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER = 1, 2, 4, 8
READ = EXECUTE | READ_FILE | READ_FOLDER
TRUNCATE = 1 << 14
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
RIGHTS_SINCE = {1: (1 << 13) - 1, 2: 1 << 13, 3: TRUNCATE, 5: 1 << 15}
"""The rights that each version of Landlock has added."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("rights", ctypes.c_uint64),)


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def allow_files(work: Path, *, python: Path, prefix: Path) -> None:
    """Let this process and its children read Python's files and use `work`, and nothing else.

    The process must have `PR_SET_NO_NEW_PRIVS` set.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = system_call(CREATE_RULESET, None, 0, ASK_VERSION)
    rights = sum(added for since, added in RIGHTS_SINCE.items() if since <= version)
    wanted = _Ruleset(rights)
    rules = system_call(CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0)
    _allow(rules, work, rights)
    for path in python_files(python, prefix):
        _allow(rules, path, READ | (WRITE_FILE if path == NULL else 0))
    system_call(RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(folder).st_mode):
        rights &= OF_FILES
    beneath = _Beneath(rights, folder)
    system_call(ADD_RULE, rules, BENEATH_A_PATH, ctypes.byref(beneath), 0)
    os.close(folder)
