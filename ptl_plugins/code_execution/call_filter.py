"""A seccomp filter: system calls that reach the network, other processes or the kernel's insides.

It needs no rights, holds for all that the program starts, and cannot be taken off. A refused call
fails with EPERM. The rest is allowed: this is a second wall, not the only one.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ptl_plugins.code_execution.libc import PR_SET_PDEATHSIG, PR_SET_SECCOMP, prctl

X86_64, AARCH64 = 0xC000003E, 0xC00000B7
ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64}

# name: (x86_64, aarch64)
REFUSED = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # opens sockets by another door
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "ioprio_set": (251, 30),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "shmget": (29, 194),  # memory that no limit counts and that outlives the process
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
CLONE, CLONE3, PRLIMIT, PRCTL = (56, 220), (435, 435), (302, 261), (157, 167)
FCNTL = (72, 25)
OWNER_SIGNALS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: a file that sends signals to a process of one's choice."""
NEW_NAMESPACES = 0x7E020000

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, FAIL, END_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false (both in instructions to skip), constant."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("constant", ctypes.c_uint),
    )


def install_filter() -> None:
    """Refuse the calls from here on, for this process and its children.

    The process must have `PR_SET_NO_NEW_PRIVS` set.

    Raises:
        OSError: the kernel has no seccomp, or the processor is not a known one.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter for processor {machine}")
    lines = _instructions(ARCHITECTURES[machine])
    array = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), ctypes.addressof(array))
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(program))


def _instructions(architecture: int) -> list[Instruction]:
    """Write the filter: each refused number returns at once, the rest is allowed at the end."""
    column = 0 if architecture == X86_64 else 1
    lines: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, END_PROCESS),
        (LOAD, 0, 0, NUMBER),
    ]
    if architecture == X86_64:  # the x32 calls have numbers of their own
        lines += [(JUMP_AT_LEAST, 0, 1, 0x40000000), _fail(errno.EPERM)]
    for numbers in REFUSED.values():
        lines += [(JUMP_EQUAL, 0, 1, numbers[column]), _fail(errno.EPERM)]
    # its flags lie behind a pointer; libc falls back to clone
    lines += [(JUMP_EQUAL, 0, 1, CLONE3[column]), _fail(errno.ENOSYS)]
    lines += _by_argument(0, CLONE[column], (JUMP_BITS, 0, 1, NEW_NAMESPACES))
    # the limits of others; its own end when the launcher ends
    lines += _by_argument(0, PRLIMIT[column], (JUMP_AT_LEAST, 0, 1, 1))
    lines += _by_argument(0, PRCTL[column], (JUMP_EQUAL, 0, 1, PR_SET_PDEATHSIG))
    for command in OWNER_SIGNALS:
        lines += _by_argument(1, FCNTL[column], (JUMP_EQUAL, 0, 1, command))
    return [*lines, (RETURN, 0, 0, ALLOW)]


def _by_argument(argument: int, number: int, refused: Instruction) -> list[Instruction]:
    return [
        (JUMP_EQUAL, 0, 4, number),
        (LOAD, 0, 0, FIRST_ARGUMENT + 8 * argument),
        refused,
        _fail(errno.EPERM),
        (LOAD, 0, 0, NUMBER),
    ]


def _fail(number: int) -> Instruction:
    return (RETURN, 0, 0, FAIL | number)
