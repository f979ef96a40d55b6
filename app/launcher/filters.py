"""Filters of listening sockets, in classic BPF (linux/filter.h): which member of a group gets a connection, and whether.

A program of a reuseport group returns the number of a member (socket(7), SO_ATTACH_REUSEPORT_CBPF); one of a socket
returns how many bytes of a packet it lets through (SO_ATTACH_FILTER).
"""

import ctypes
import itertools
import socket
import struct
from collections.abc import Sequence

SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 27, 51  # asm-generic/socket.h
# An instruction is an operation, two jumps (if true, if false), and an operand.
LOAD_WORD, LOAD_HALF, JUMP_IF_EQUAL, MODULO, ADD, RETURN_VALUE, RETURN = 0x20, 0x28, 0x15, 0x94, 0x04, 0x16, 0x06
NETWORK_HEADER, RANDOM = -0x100000, -0x1000 + 56  # SKF_NET_OFF; SKF_AD_OFF + SKF_AD_RANDOM
# Bytes from the network header: the last four of the source address, and the source port, without options.
SOURCE = {socket.AF_INET: (12, 20), socket.AF_INET6: (20, 40)}
Program = tuple[tuple[int, int, int, int], ...]


def attach(each: socket.socket, program: Program, option: int = SO_ATTACH_REUSEPORT_CBPF) -> None:
    """Give a socket, or with it its group, a program. Raises OSError: no such filters here, or no memory for one."""
    code = b"".join(struct.pack("HBBI", *instruction[:3], instruction[3] & 0xFFFFFFFF) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    each.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(program), ctypes.addressof(buffer)))


def let_in(each: socket.socket, port: int) -> None:
    """Let only packets from the source port `port` through to a socket; 0 for none. Raises OSError."""
    program = (LOAD_HALF, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, port), (RETURN, 0, 0, -1), (RETURN, 0, 0, 0)
    attach(each, program, SO_ATTACH_FILTER)


def let_all_in(each: socket.socket) -> None:
    """Undo `let_in`. Raises OSError if it has no filter."""
    each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def the_same(number: int) -> Program:
    """Return what gives every connection to one member, or to any, as the kernel likes, if nobody has that number."""
    return ((RETURN, 0, 0, number),)


def at_random(numbers: Sequence[int]) -> Program:
    """Return what gives each connection to one of these members, which are in order."""
    first, last = numbers[0], numbers[-1]
    draw = (LOAD_WORD, 0, 0, RANDOM), (MODULO, 0, 0, len(numbers))
    if last - first == len(numbers) - 1:
        return *draw, (ADD, 0, 0, first), (RETURN_VALUE, 0, 0, 0)
    cases = (((JUMP_IF_EQUAL, 0, 1, drawn), (RETURN, 0, 0, number)) for drawn, number in enumerate(numbers))
    return *draw, *itertools.chain.from_iterable(cases), (RETURN, 0, 0, last)


def one_client(client: socket.socket, number: int, others: Program) -> Program:
    """Return what gives the connection that `client`, a bound socket, is going to make to a member, and `others`."""
    host, port = client.getsockname()[:2]
    last = int.from_bytes(socket.inet_pton(client.family, host.partition("%")[0])[-4:])
    at_address, at_port = SOURCE[client.family]
    return (
        (LOAD_WORD, 0, 0, NETWORK_HEADER + at_address),
        (JUMP_IF_EQUAL, 0, 3, last),
        (LOAD_HALF, 0, 0, NETWORK_HEADER + at_port),
        (JUMP_IF_EQUAL, 0, 1, port),
        (RETURN, 0, 0, number),
        *others,
    )
