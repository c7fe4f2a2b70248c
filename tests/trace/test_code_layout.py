"""The text of /proc/PID/maps to modules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadinfo.trace.stacks.code_layout import is_library_file, is_library_function, parse_layout

MAPS = b"""\
00400000-00401000 r--p 00000000 fe:00 11                                 /usr/bin/node
00401000-00800000 r-xp 00001000 fe:00 11                                 /usr/bin/node
00a00000-00a10000 rw-p 00400000 fe:00 11                                 /usr/bin/node
00a10000-00b00000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000001000 r-xp 00300000 fe:00 11                         /usr/bin/node
7f0000002000-7f0000003000 r-xp 00000000 00:00 0
7f0000010000-7f0000011000 r--p 00000000 fe:00 12                         /lib/libx.so (deleted)
7f0000011000-7f0000012000 r-xp 00001000 fe:00 12                         /lib/libx.so (deleted)
7f0000012000-7f0000013000 r--p 00000000 fe:00 12                         /lib/libx.so (deleted)
7f0000013000-7f0000014000 r-xp 00001000 fe:00 12                         /lib/libx.so (deleted)
7f0000020000-7f0000021000 r--p 00000000 fe:00 13                         /usr/share/data
7ffff7fc0000-7ffff7fc2000 r-xp 00000000 00:00 0                          [vdso]
no line
"""


def test_modules_are_what_is_mapped_of_one_file_with_code() -> None:
    layout = parse_layout(MAPS)
    assert [(hex(module.start), hex(module.end), module.path, module.mapping) for module in layout.modules] == [
        ("0x400000", "0xa10000", "/usr/bin/node", "400000-401000"),
        ("0x7f0000000000", "0x7f0000001000", "/usr/bin/node", None),
        ("0x7f0000010000", "0x7f0000012000", "/lib/libx.so (deleted)", "7f0000010000-7f0000011000"),
        ("0x7f0000012000", "0x7f0000014000", "/lib/libx.so (deleted)", "7f0000012000-7f0000013000"),
        ("0x7ffff7fc0000", "0x7ffff7fc2000", "[vdso]", "7ffff7fc0000-7ffff7fc2000"),
    ]
    assert not layout.has_library


def test_code_is_what_an_executable_mapping_holds() -> None:
    layout = parse_layout(MAPS)
    assert [layout.is_code(address) for address in (0x401000, 0x7FFFFF, 0x7F0000002000)] == [True] * 3
    assert [layout.is_code(address) for address in (0, 0x400FFF, 0x800000, 1 << 63)] == [False] * 4


@pytest.mark.parametrize(
    "path",
    "/usr/lib/x86_64-linux-gnu/libc.so.6 /lib/libc-2.31.so /lib/libpthread-2.31.so /lib64/ld-linux-x86-64.so.2"
    " /lib/ld-musl-x86_64.so.1 /lib/libc.musl-x86_64.so.1 /lib/ld-2.31.so".split(),
)
def test_c_library_is_told_by_its_name(path: str) -> None:
    assert is_library_file(path)
    assert is_library_file(path + " (deleted)")


@pytest.mark.parametrize(
    "path", ["/opt/libc.so.6/server", "/lib/libcurl.so.4", "/lib/libcap.so.2", "", "/home/libcx.so"]
)
def test_other_files_are_no_c_library(path: str) -> None:
    assert not is_library_file(path)


def test_c_library_in_a_static_program_is_told_by_function() -> None:
    assert all(map(is_library_function, "__libc_start_call_main _start __socket bind __GI_bind open64 clone3".split()))
    assert not any(map(is_library_function, "main socket_server my_open opener rebind server_start".split()))


@given(st.binary())
def test_any_text_is_parsed(text: bytes) -> None:
    parse_layout(text)
    parse_layout(MAPS[:700] + text)
