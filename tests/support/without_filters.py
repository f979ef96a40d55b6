"""Execute a command on a system without SO_ATTACH_REUSEPORT_CBPF, as gVisor and some seccomp profiles are (seccomp(2))."""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | errno.ENOPROTOOPT
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, OPTION = 0, 16 + 2 * 8  # of struct seccomp_data: the system call, the low half of its third argument
SETSOCKOPT = {"x86_64": 54, "aarch64": 208}[platform.machine()]
PROGRAM = [
    (LOAD, 0, 0, NUMBER),
    (EQUAL, 0, 3, SETSOCKOPT),
    (LOAD, 0, 0, OPTION),
    (EQUAL, 0, 1, 51),  # SO_ATTACH_REUSEPORT_CBPF
    (RETURN, 0, 0, FAIL),
    (RETURN, 0, 0, ALLOW),
]

if __name__ == "__main__":
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in PROGRAM))
    program = ctypes.create_string_buffer(struct.pack("HP", len(PROGRAM), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({arguments[0]})")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - it is what this is for
