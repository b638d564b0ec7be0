"""A filter of system calls for processes that read hostile bytes: compute, and answer over the descriptors that are open.

Linux runs it before every call (seccomp, mode 2), and no process can take it off. What decoders and encoders need is allowed;
what they never do and a process that was taken over would (another program, a socket, writing a file) ends the process;
anything else is refused with EPERM. Numbers are those of arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h of Linux.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["CALLS", "MACHINES", "confine", "program", "refusal"]


class Call(NamedTuple):
    """A system call's number on each machine; None where it has no such call."""

    x86_64: int | None
    aarch64: int | None


MACHINES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_...
X32 = 0x40000000  # set in numbers of x86-64's calls with 32-bit pointers, which are other ways in

# Those that every message takes come first, since they are looked for in this order.
CALLS: Mapping[str, Call] = {
    name: Call(*numbers)
    for name, numbers in {
        "recvfrom": (45, 207),
        "sendto": (44, 206),
        "futex": (202, 98),
        "mmap": (9, 222),
        "munmap": (11, 215),
        "brk": (12, 214),
        "mprotect": (10, 226),
        "madvise": (28, 233),
        "mremap": (25, 216),
        "prlimit64": (302, 261),
        "getrusage": (98, 165),
        "read": (0, 63),
        "write": (1, 64),
        "rt_sigprocmask": (14, 135),
        "rt_sigaction": (13, 134),
        "rt_sigreturn": (15, 139),
        "sigaltstack": (131, 132),
        "restart_syscall": (219, 128),
        "clock_gettime": (228, 113),
        "clock_getres": (229, 114),
        "clock_nanosleep": (230, 115),
        "nanosleep": (35, 101),
        "gettimeofday": (96, 169),
        "time": (201, None),
        "getcpu": (309, 168),
        "getrandom": (318, 278),
        "sched_yield": (24, 124),
        "sched_getaffinity": (204, 123),
        "sched_getscheduler": (145, 120),
        "sched_getparam": (143, 121),
        "sysinfo": (99, 179),
        "uname": (63, 160),
        "getpid": (39, 172),
        "gettid": (186, 178),
        "geteuid": (107, 175),
        "set_robust_list": (273, 99),
        "rseq": (334, 293),
        "prctl": (157, 167),
        "clone": (56, 220),
        "clone3": (435, 435),
        "exit": (60, 93),
        "exit_group": (231, 94),
        "openat": (257, 56),
        "open": (2, None),
        "creat": (85, None),
        "execve": (59, 221),
        "execveat": (322, 281),
        "fork": (57, None),
        "vfork": (58, None),
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "kill": (62, 129),
        "socket": (41, 198),
        "connect": (42, 203),
        "bind": (49, 200),
        "listen": (50, 201),
        "accept": (43, 202),
        "accept4": (288, 242),
        "unshare": (272, 97),
        "setns": (308, 268),
        "bpf": (321, 280),
        "io_uring_setup": (425, 425),
        "pidfd_getfd": (438, 438),
    }.items()
}

# Actions, SECCOMP_RET_... of linux/seccomp.h
ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = _ERRNO | 1, _ERRNO | 38

# Opcodes of classic BPF: linux/bpf_common.h. All loads are of 32 bits, all comparisons with a constant.
LOAD, RETURN, EQUAL, ABOVE, FROM, BITS = 0x20, 0x06, 0x15, 0x25, 0x35, 0x45
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

PROT_EXEC, CLONE_THREAD, PR_SET_NAME, RLIMIT_CPU = 0x4, 0x00010000, 15, 0
O_WRITES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND
CHANNEL, LAST_DESCRIPTOR = 0, 2


@dataclass(frozen=True)
class Rule:
    """What happens at a call: `then` where all tests hold, `otherwise` if not.

    A test is an argument's place, a comparison (EQUAL, ABOVE, or BITS for any of them set) and a constant. The lower 32 bits
    are compared, which hold all that the kernel looks at of descriptors and flags.
    """

    then: int
    otherwise: int
    tests: tuple[tuple[int, int, int], ...]

    def code(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield it as instructions."""
        for left, (argument, comparison, constant) in zip(range(len(self.tests))[::-1], self.tests, strict=True):
            yield (LOAD, 0, 0, ARGUMENTS + 8 * argument)
            yield (comparison, 0, 2 * left + 1, constant)
        yield (RETURN, 0, 0, self.then)
        yield (RETURN, 0, 0, self.otherwise)


TESTED: Mapping[str, Rule] = {
    "recvfrom": Rule(ALLOW, EPERM, ((0, EQUAL, CHANNEL),)),
    "sendto": Rule(ALLOW, EPERM, ((0, EQUAL, CHANNEL),)),
    "read": Rule(EPERM, ALLOW, ((0, ABOVE, LAST_DESCRIPTOR),)),
    "write": Rule(EPERM, ALLOW, ((0, ABOVE, LAST_DESCRIPTOR),)),
    "mmap": Rule(EPERM, ALLOW, ((2, BITS, PROT_EXEC),)),
    "mprotect": Rule(EPERM, ALLOW, ((2, BITS, PROT_EXEC),)),
    "prlimit64": Rule(ALLOW, EPERM, ((0, EQUAL, 0), (1, EQUAL, RLIMIT_CPU))),  # of itself only
    "prctl": Rule(ALLOW, EPERM, ((0, EQUAL, PR_SET_NAME),)),
    "clone": Rule(ALLOW, KILL, ((0, BITS, CLONE_THREAD),)),  # encoders have threads, but no processes
    "openat": Rule(KILL, EPERM, ((2, BITS, O_WRITES),)),  # libraries look into /proc and /sys, and go on without
    "open": Rule(KILL, EPERM, ((1, BITS, O_WRITES),)),
}
FIXED: Mapping[str, int] = {"clone3": ENOSYS}  # its flags lie in memory: libraries take clone instead
FATAL = tuple(CALLS)[tuple(CALLS).index("creat") :]


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter for a machine of `MACHINES`, as (opcode, jump if true, jump if false, constant) of classic BPF."""
    code = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        code += [(FROM, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for name, numbers in CALLS.items():
        number = getattr(numbers, machine)
        if number is not None:
            rule = list(TESTED[name].code()) if name in TESTED else [(RETURN, 0, 0, _action(name))]
            code += [(EQUAL, 0, len(rule), number), *rule]
    return [*code, (RETURN, 0, 0, EPERM)]


def _action(name: str) -> int:
    return KILL if name in FATAL else FIXED.get(name, ALLOW)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("constant", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def confine() -> None:
    """Put the filter on this thread, for good; raises `OSError` where the system has none or does not let it.

    A process has to have no other thread, or those go on without.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES or sys.maxsize < 2**32:
        raise OSError(f"there is no filter of system calls for {sys.platform} on {machine}")
    _install(program(machine))


def _install(code: list[tuple[int, int, int, int]]) -> None:
    instructions = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    filtered = _Program(len(code), instructions)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    set_no_new_privs, set_seccomp, mode_filter = 38, 22, 2
    for request in (
        (set_no_new_privs, ctypes.c_ulong(1), ctypes.c_ulong(0)),
        (set_seccomp, ctypes.c_ulong(mode_filter), ctypes.byref(filtered)),
    ):
        if prctl(*request, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"the system allows no filter of system calls: {os.strerror(number)}")


def refusal() -> str:
    """Return why processes cannot be filtered here, "" where they can. Tried on a thread, with a filter that allows all."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return f"there is none for {sys.platform} on {platform.machine()}"
    found = []

    def attempt() -> None:
        try:
            _install([(RETURN, 0, 0, ALLOW)])
        except (OSError, AttributeError) as error:
            found.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return "".join(found)
