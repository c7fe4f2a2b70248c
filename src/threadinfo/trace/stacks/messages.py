"""What the unwinder and its child say to each other: datagrams on a Unix socket, a kind in the first byte.

| kind | from | then |
|---|---|---|
| READY | child | the names of what it gave up, separated by blanks |
| SPACE | parent | number of the space, then start and end of each module, in the order of their indices |
| FORGET | parent | number of a space that is not needed any more |
| BATCH | parent | number of the space, index of the first sample; with a descriptor of the samples |
| NEED_ELF | child | index of the module; answered by FILE, with a descriptor or without one |
| NEED_DEBUG | child | index of the module, its build-id; answered likewise |
| PLACE | child | what an address is, said once (see `PLACE`) |
| STACK | child | index of the sample, how it ended, then its frames (see `STACK`, `FRAME`, `END_*`) |
| DONE | child | the batch is finished |
| FAILED | child | an error of ours, in words; it ends |

Samples lie one after the other in a memfd: SAMPLE, the registers, the stack. In memory that both have, the child writes
the index of the module that it looks into (SUSPECT): whom to suspect, should it never be heard of again. The child is
not trusted: its parent checks every number and length.
"""

from __future__ import annotations

import struct

READY, SPACE, FORGET, BATCH, FILE = b"R", b"M", b"X", b"B", b"F"
NEED_ELF, NEED_DEBUG, PLACE_IS, STACK_IS, DONE, FAILED = b"E", b"G", b"P", b"S", b"D", b"!"

MAX_MESSAGE_BYTES = 1 << 16
MAX_NAME_BYTES = 4096
MAX_FRAMES = 512
"""Beyond, a stack is cut; a copy of 8 KiB holds no more."""

REGISTERS_BYTES = 168  # struct pt_regs of x86_64 (arch/x86/include/asm/ptrace.h)
SAMPLE = struct.Struct("=I")
"""Bytes of stack; the registers and the stack follow."""

SUSPECT = struct.Struct("=i")
"""Index of a module; -1: none."""

TWO_DESCRIPTORS = struct.Struct("=ii")
"""Of a request for a child: its socket, its memory."""

HEADER = struct.Struct("=cI")
"""Kind, and a number."""
RANGE = struct.Struct("=QQ")
BATCH_IS = struct.Struct("=cII")

PLACE = struct.Struct("=cIiBQQHH")
"""Kind, id, index of the module (-1: none), flags, address in the ELF file, offset in the function, and how many bytes
of function name and of source follow."""
HAS_ELF, HAS_UNWIND_TABLE, IS_SIGNAL_FRAME, HAS_FUNCTION, HAS_NO_CALLER, HAS_NO_ROOM = 1, 2, 4, 8, 16, 32
"""HAS_NO_CALLER: the unwind table says that its return address is undefined, as where a thread starts. HAS_NO_ROOM: its
file does not fit into the child's memory any more."""

STACK = struct.Struct("=cIBH")
"""Kind, index of the sample, how it ended, number of frames; after the frames the words of libdw, for END_ERROR."""
FRAME = struct.Struct("=QQI")
"""Program counter, stack pointer (0: not known), id of the place."""

END_OF_FRAMES, END_ERROR, END_OF_COPY, END_TOO_DEEP = range(4)
"""libdw knows no caller; it cannot go on; memory is needed that was not copied; MAX_FRAMES."""
