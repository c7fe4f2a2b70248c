"""elfutils' libdw and libelf through ctypes: only what unwinding asks for, with the types of their headers.

`load` loads them when they are first needed. Signatures: elfutils/libdwfl.h, elfutils/libdw.h, libelf.h, gelf.h. What
libdw opens by itself (paths, debuginfod) is never asked for: every callback that finds a file is ours.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_size_t, c_uint8, c_uint16, c_uint32
from ctypes import c_uint64 as u64
from ctypes import c_void_p as pointer
from typing import Any

from threadinfo.errors import NotAvailableError, is_lack_of_memory, out_of_memory

INSTALL_LIBDW = "apt-get install libdw1 (on Fedora: dnf install elfutils-libs)"

CALLBACK_OK, CALLBACK_ABORT = 0, 1
"""What a callback for frames returns: go on, stop (DWARF_CB_OK, DWARF_CB_ABORT)."""

# DWARF's numbers of the registers of x86_64 (System V ABI, AMD64 supplement, figure 3.36): those that frames need.
STACK_POINTER = 7
REGISTER_COUNT = 17

NextThread = CFUNCTYPE(c_int, pointer, pointer, POINTER(pointer))
GetThread = CFUNCTYPE(c_bool, pointer, c_int, pointer, POINTER(pointer))
MemoryRead = CFUNCTYPE(c_bool, pointer, u64, POINTER(u64), pointer)
SetRegisters = CFUNCTYPE(c_bool, pointer, pointer)
OnFrame = CFUNCTYPE(c_int, pointer, pointer)
FindElf = CFUNCTYPE(c_int, pointer, pointer, c_char_p, u64, pointer, pointer)
FindDebugFile = CFUNCTYPE(c_int, pointer, pointer, c_char_p, u64, c_char_p, c_char_p, c_uint32, pointer)


class ThreadCallbacks(Structure):
    """Dwfl_Thread_Callbacks."""

    _fields_ = (
        ("next_thread", NextThread),
        ("get_thread", GetThread),
        ("memory_read", MemoryRead),
        ("set_initial_registers", SetRegisters),
        ("detach", pointer),
        ("thread_detach", pointer),
    )


class ModuleCallbacks(Structure):
    """Dwfl_Callbacks."""

    _fields_ = (
        ("find_elf", FindElf),
        ("find_debuginfo", FindDebugFile),
        ("section_address", pointer),
        ("debuginfo_path", pointer),
    )


OPERATIONS_BYTES = 3 * 32
"""Room for the three Dwarf_Op that `dwarf_frame_register` may write."""


class Symbol(Structure):
    """GElf_Sym."""

    _fields_ = (
        ("name", c_uint32),
        ("info", c_uint8),
        ("other", c_uint8),
        ("section", c_uint16),
        ("value", u64),
        ("size", u64),
    )


_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "dwfl_begin": (pointer, [POINTER(ModuleCallbacks)]),
    "dwfl_end": (None, [pointer]),
    "dwfl_errmsg": (c_char_p, [c_int]),
    "dwfl_errno": (c_int, []),
    "dwfl_report_module": (pointer, [pointer, c_char_p, u64, u64]),
    "dwfl_report_end": (c_int, [pointer, pointer, pointer]),
    "dwfl_attach_state": (c_bool, [pointer, pointer, c_int, POINTER(ThreadCallbacks), pointer]),
    "dwfl_thread_state_registers": (c_bool, [pointer, c_int, c_uint32, POINTER(u64)]),
    "dwfl_getthread_frames": (c_int, [pointer, c_int, OnFrame, pointer]),
    "dwfl_frame_pc": (c_bool, [pointer, POINTER(u64), pointer]),
    "dwfl_addrmodule": (pointer, [pointer, u64]),
    "dwfl_module_info": (c_char_p, [pointer, pointer, POINTER(u64), pointer, pointer, pointer, pointer, pointer]),
    "dwfl_module_getelf": (pointer, [pointer, POINTER(u64)]),
    "dwfl_module_eh_cfi": (pointer, [pointer, POINTER(u64)]),
    "dwfl_module_dwarf_cfi": (pointer, [pointer, POINTER(u64)]),
    "dwfl_module_build_id": (c_int, [pointer, POINTER(pointer), POINTER(u64)]),
    "dwfl_module_addrinfo": (
        c_char_p,
        [pointer, u64, POINTER(u64), POINTER(Symbol), pointer, pointer, POINTER(u64)],
    ),
    "dwfl_module_getsrc": (pointer, [pointer, u64]),
    "dwfl_lineinfo": (c_char_p, [pointer, pointer, POINTER(c_int), pointer, pointer, pointer]),
    "dwarf_cfi_addrframe": (c_int, [pointer, u64, POINTER(pointer)]),
    "dwarf_frame_register": (
        c_int,
        [pointer, c_int, pointer, POINTER(pointer), POINTER(c_size_t)],
    ),
    "dwarf_frame_info": (c_int, [pointer, POINTER(u64), POINTER(u64), POINTER(c_bool)]),
}
_LIBELF_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "elf_version": (c_uint32, [c_uint32]),
    "elf_memory": (pointer, [pointer, c_size_t]),
}
_EV_CURRENT = 1


class Libraries:
    """libdw and libelf, loaded, with the types of their functions set. Raises NotAvailableError where they are missing.

    `dwfl_frame_reg` came with elfutils 0.188: `has_frame_registers` says whether this one has it.
    """

    def __init__(self) -> None:
        try:
            self.dw = ctypes.CDLL("libdw.so.1")
            self.elf = ctypes.CDLL("libelf.so.1")
        except OSError as problem:
            if is_lack_of_memory(str(problem)):
                raise out_of_memory() from None
            raise NotAvailableError(f"stacks need libdw: {problem}", INSTALL_LIBDW) from None
        for library, prototypes in ((self.dw, _PROTOTYPES), (self.elf, _LIBELF_PROTOTYPES)):
            for name, (result, arguments) in prototypes.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        self.has_frame_registers = hasattr(self.dw, "dwfl_frame_reg")
        if self.has_frame_registers:
            self.dw.dwfl_frame_reg.restype = c_int
            self.dw.dwfl_frame_reg.argtypes = [pointer, c_uint32, POINTER(u64)]
        self.elf.elf_version(_EV_CURRENT)

    def error(self) -> bytes:
        """The message of the last error of libdw in this thread."""
        return self.dw.dwfl_errmsg(-1) or b"unknown"


class Demangler:
    """C++ names (and Rust's legacy ones) through libstdc++, where it is installed."""

    def __init__(self) -> None:
        self._demangle: Any = None
        try:
            self._demangle = ctypes.CDLL("libstdc++.so.6")["__cxa_demangle"]
        except (OSError, AttributeError):
            return
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [pointer]
        self._demangle.restype = pointer
        self._demangle.argtypes = [c_char_p, pointer, pointer, POINTER(c_int)]

    def demangle(self, name: bytes) -> bytes:
        """The readable name; the name itself where it is no mangled one or there is no libstdc++."""
        if self._demangle is None or not name.startswith(b"_Z"):
            return name
        status = c_int()
        text = self._demangle(name, None, None, ctypes.byref(status))
        if not text:
            return name
        readable = ctypes.string_at(text)
        self._free(text)
        return readable
