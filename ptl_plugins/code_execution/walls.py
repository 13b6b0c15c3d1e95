"""Which walls stand around a program, and how to say it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Containment:
    """The walls that were tried on this machine and hold; the limits hold always."""

    own_user: bool = False
    """Root only: programs run as a user that owns nothing."""
    user_namespace: bool = False
    """Ordinary users only: what gives the right to make the other namespaces."""
    network_namespace: bool = False
    process_namespace: bool = False
    """Processes and System V memory of others are not visible; all end together."""
    new_root: bool = False
    """Only Python's own files are visible, and a `/tmp` of bounded size."""
    file_rules: bool = False
    """Only Python's own files can be read, only the program's folder written (Landlock)."""
    call_filter: bool = False
    """Sockets, signals, ptrace and mounts are refused by the kernel (seccomp)."""

    @property
    def network_closed(self) -> bool:
        """Whether a program cannot reach any other machine or server."""
        return self.network_namespace or self.call_filter

    @property
    def files_closed(self) -> bool:
        """Whether the contents of the user's files cannot be read or changed."""
        return self.new_root or self.file_rules

    @property
    def processes_safe(self) -> bool:
        """Whether a program cannot signal or watch the processes of the user."""
        return self.process_namespace or self.call_filter or self.own_user

    def missing(self, *, root: bool) -> str:
        """Return why programs must not run at all with these walls, or an empty text."""
        if root and not self.own_user:
            return "PTL runs as root and could not give programs another user"
        if not self.processes_safe:
            return "a program could end other processes: no namespaces, no seccomp"
        return ""

    def lines(self) -> list[str]:
        """Return plain sentences: what holds, and what does not."""
        return [
            "limits: wall time, CPU time, memory, file size, open files, processes",
            _say(self.network_closed, "network: closed" + self._network_how(), _NETWORK_OPEN),
            _NEW_ROOT if self.new_root else _say(self.file_rules, _RULES, _FILES_OPEN),
            _say(self.process_namespace, "processes: end with their namespace", _SWEPT),
            _say(self.processes_safe, "signals to other processes: refused", _SIGNALS_OPEN),
            _say(self.own_user, "user: one that owns nothing", _SAME_USER),
            _say(self.call_filter, "system calls: filtered by seccomp", _UNFILTERED),
            "NOT contained: errors of the kernel; a program made to forge its own result",
        ]

    def _network_how(self) -> str:
        named = {"namespace": self.network_namespace, "seccomp": self.call_filter}
        return f" ({', '.join(name for name, there in named.items() if there)})"


_NETWORK_OPEN = "NOT contained: network open"
_NEW_ROOT = "files: only Python's own are there, and a /tmp of bounded size"
_RULES = (
    "files: only Python's own can be read, only the program's folder written (Landlock); "
    "NOT contained: names and sizes of other files can be seen; the folder's size is watched"
)
_FILES_OPEN = (
    "NOT contained: files of this machine that the program's user may read or write are open, "
    "the environment of that user's processes too; only the program's own folder is watched"
)
_SWEPT = "NOT contained: no process namespace; left processes are searched and ended"
_SIGNALS_OPEN = "NOT contained: signals to other processes of this user"
_SAME_USER = "NOT contained: programs run as the user who runs PTL"
_UNFILTERED = "NOT contained: system calls are not filtered"


def _say(there: bool, yes: str, no: str) -> str:
    return yes if there else no
