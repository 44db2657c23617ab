"""The shared library that WiredTiger loads: one function that jumps to where a pointer says.

WiredTiger takes extensions as shared libraries only. All that ours has to do in machine code is to hand the
call over to Python, so it is written here byte by byte, and nobody needs a compiler::

    wiredtiger_extension_init:  if (hook == 0) return ENOTSUP; else jump to hook, arguments as they are
    bucketry_wiredtiger_hook:   a pointer, 0 until this process puts the address of a callback there

A process that never set the pointer (WiredTiger's own command line program, say) gets an error instead of a
crash.

The file is an ordinary ELF shared object: two segments, a symbol table with these two names, and a section of
none at all. Facts from the System V ABI, its supplements for x86-64 and AArch64, and the Arm manual.
"""

import errno
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bucketry.errors import Unsupported

ENTRY = "wiredtiger_extension_init"
HOOK = "bucketry_wiredtiger_hook"

#: What the function returns when nobody set the hook.
_UNSET = errno.ENOTSUP
#: The largest page of both architectures: segments with different rights may not share one.
_PAGE_BYTES = 0x10000

_HEADER_BYTES = 64
_SEGMENT_BYTES = 56
_SYMBOL_BYTES = 24
_SHARED_OBJECT = 3
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_EXECUTE, _WRITE, _READ = 1, 2, 4
_GLOBAL_OBJECT, _GLOBAL_FUNCTION = 0x11, 0x12
#: Tags of the dynamic section.
_HASH, _STRINGS, _SYMBOLS, _STRINGS_SIZE, _SYMBOL_SIZE = 4, 5, 6, 10, 11


def _code_x86_64(distance: int) -> bytes:
    """``distance`` is from the first instruction to the hook."""
    #  endbr64; mov rax, [rip + …]; test rax, rax; je +2; jmp rax; mov eax, …; ret
    return (
        b"\xf3\x0f\x1e\xfa\x48\x8b\x05"
        + struct.pack("<i", distance - 11)
        + b"\x48\x85\xc0\x74\x02\xff\xe0\xb8"
        + struct.pack("<i", _UNSET)
        + b"\xc3"
    )


def _code_aarch64(distance: int) -> bytes:
    #  bti c; adr x16, …; ldr x16, [x16]; cbz x16, +8; br x16; mov w0, …; ret
    reach = distance - 4
    adr = 0x10000010 | (reach & 3) << 29 | (reach >> 2 & 0x7FFFF) << 5
    move = 0x52800000 | _UNSET << 5
    return struct.pack("<7I", 0xD503245F, adr, 0xF9400210, 0xB4000050, 0xD61F0200, move, 0xD65F03C0)


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processors: ELF's number, and the function."""

    number: int
    code: Callable[[int], bytes]


#: By what ``platform.machine()`` calls them.
MACHINES = {
    "x86_64": Machine(62, _code_x86_64),
    "aarch64": Machine(183, _code_aarch64),
}


def this_machine() -> Machine:
    """Raises Unsupported where WiredTiger can load nothing of ours."""
    name = platform.machine()
    if sys.platform != "linux" or name not in MACHINES or sys.maxsize < 1 << 32:
        raise Unsupported(
            f"the WiredTiger bridge needs Linux on {' or '.join(MACHINES)}, not {sys.platform} on {name}"
        )
    return MACHINES[name]


def shared_library(machine: Machine) -> bytes:
    """The bytes of the file."""
    names = f"\0{ENTRY}\0{HOOK}\0".encode()
    # One bucket: its chain leads through both symbols. Count of buckets, count of symbols, bucket, chains.
    table = struct.pack("<6I", 1, 3, 1, 0, 2, 0)
    # First segment: all that is only read, and the function.
    symbols_at = _HEADER_BYTES + 4 * _SEGMENT_BYTES
    table_at = symbols_at + 3 * _SYMBOL_BYTES
    names_at = table_at + len(table)
    code_at = _aligned(names_at + len(names), 16)
    code_size = len(machine.code(0))
    # Second segment: the pointer, and what the loader may want to write to.
    data_in_file = _aligned(code_at + code_size, 16)
    dynamic = struct.pack(
        "<12Q",
        *(_HASH, table_at, _STRINGS, names_at, _SYMBOLS, symbols_at),
        *(_STRINGS_SIZE, len(names), _SYMBOL_SIZE, _SYMBOL_BYTES, 0, 0),
    )
    dynamic_at = data_in_file + _PAGE_BYTES
    hook_at = dynamic_at + len(dynamic)
    data_size = len(dynamic) + 8

    parts = [
        _header(machine),
        _segment(_LOAD, _READ | _EXECUTE, 0, 0, code_at + code_size, _PAGE_BYTES),
        _segment(_LOAD, _READ | _WRITE, data_in_file, dynamic_at, data_size, _PAGE_BYTES),
        _segment(_DYNAMIC, _READ | _WRITE, data_in_file, dynamic_at, len(dynamic), 8),
        # Without this line the loader would make the stack executable, or refuse.
        _segment(_STACK, _READ | _WRITE, 0, 0, 0, 16),
        bytes(_SYMBOL_BYTES),
        struct.pack("<IBBHQQ", 1, _GLOBAL_FUNCTION, 0, 1, code_at, code_size),
        struct.pack("<IBBHQQ", 2 + len(ENTRY), _GLOBAL_OBJECT, 0, 1, hook_at, 8),
        table,
        names,
    ]
    image = b"".join(parts).ljust(code_at, b"\0") + machine.code(hook_at - code_at)
    return image.ljust(data_in_file, b"\0") + dynamic + bytes(8)


def _header(machine: Machine) -> bytes:
    identity = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little-endian, version 1
    return identity + struct.pack(
        "<HHIQQQIHHHHHH",
        *(_SHARED_OBJECT, machine.number, 1, 0, _HEADER_BYTES, 0, 0),
        *(_HEADER_BYTES, _SEGMENT_BYTES, 4, 64, 0, 0),
    )


def _segment(kind: int, rights: int, in_file: int, address: int, size: int, alignment: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, rights, in_file, address, address, size, size, alignment)


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to


def write_library(path: Path) -> Path:
    """Put the library for this machine at ``path``, whole or not at all, unless it is there already.

    Raises Unsupported, OSError."""
    wanted = shared_library(this_machine())
    try:
        if path.read_bytes() == wanted:
            return path
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(wanted)
        Path(temporary).chmod(0o755)
        # A new file: one that some process has loaded is left as it is.
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
