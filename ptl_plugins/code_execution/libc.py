"""System calls of Linux that Python 3.11 has no function for."""

from __future__ import annotations

import ctypes
import functools
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

MNT_DETACH = 2


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names for new ones.

    Raises:
        OSError: the kernel or a security policy forbids it.
    """
    _checked("unshare", _libc().unshare(ctypes.c_int(flags)))


def prctl(option: int, value: int, pointer: object = None) -> None:
    """Set an option of the calling process; `pointer` is passed as the third argument.

    Raises:
        OSError: the kernel has no such option or forbids it.
    """
    third = ctypes.c_void_p(None) if pointer is None else pointer
    zero = ctypes.c_ulong(0)
    result = _libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), third, zero, zero)
    _checked(f"prctl {option}", result)


def system_call(number: int, *arguments: object) -> int:
    """Make a system call that libc has no function for.

    Raises:
        OSError: the call failed.
    """
    call = _libc().syscall
    call.restype = ctypes.c_long
    whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = call(ctypes.c_long(number), *whole)
    _checked(f"system call {number}", min(result, 0))
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change a mount.

    Raises:
        OSError: the kernel or a security policy forbids it.
    """
    texts = [text.encode() for text in (source, target, kind, data)]
    call = _libc().mount
    result = call(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(f"mount {target}", result)


def enter_root(folder: str) -> None:
    """Make the mount `folder` the root of the process and let the old root go.

    Raises:
        OSError: the kernel or a security policy forbids it.
    """
    os.chdir(folder)
    _checked("pivot_root", _libc().pivot_root(b".", b"."))
    _checked("umount", _libc().umount2(b".", ctypes.c_int(MNT_DETACH)))
    os.chdir("/")
