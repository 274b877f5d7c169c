"""Which system calls code in the sandbox may not make: a BPF program as bubblewrap's `--seccomp` takes it.

A list of what is refused, since Python uses very many calls: ways to other namespaces, to the kernel's own interpreters
and debuggers, to its keys, clocks and modules, and to sockets of families that nobody needs here. They answer EPERM.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; the choice follows Docker's default profile.
"""

import platform
import struct
from typing import Final

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_REFUSE: Final = 0x00050001  # SECCOMP_RET_ERRNO | EPERM
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_X32: Final = 0x40000000

# name: (x86-64, AArch64)
_REFUSED: Final = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
    "mknodat": (259, 33),
    "pidfd_getfd": (438, 438),
    "memfd_secret": (447, 447),
}
_AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def filter_program() -> bytes:
    """The program for this machine; one that allows everything on machines whose call numbers are not known here."""
    machine = platform.machine()
    architecture = _AUDIT_ARCHITECTURE.get(machine)
    if architecture is None:
        return _instruction(_RETURN, _ALLOW)
    column = 0 if machine == "x86_64" else 1
    numbers = sorted(call[column] for call in _REFUSED.values())
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_IF_EQUAL, architecture, yes=1),
        _instruction(_RETURN, _KILL),  # 32-bit calls have other numbers
        _instruction(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [_instruction(_IF_AT_LEAST, _X32, no=1), _instruction(_RETURN, _KILL)]
    for at, number in enumerate(numbers):
        program.append(_instruction(_IF_EQUAL, number, yes=len(numbers) - at))
    program += [_instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)]
    return b"".join(program)


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
