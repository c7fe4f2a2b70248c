"""Names of the kernel's functions: from lines as /proc/kallsyms has them, and from what it may not tell."""

from __future__ import annotations

import pytest

from threadinfo.errors import NotAvailableError
from threadinfo.trace.kernel.symbols import KernelSymbols

LINES = (
    "ffffffff81000100 T vfs_read\n",
    "ffffffff81000000 T _text\n",
    "ffffffff81000180 d some_data\n",
    "ffffffff81000200 t helper\n",
    "ffffffffc0000000 t of_module\t[ext4]\n",
    "0000000000000000 T hidden\n",
)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0xFFFFFFFF81000100, "vfs_read [kernel]"),
        (0xFFFFFFFF810001FF, "vfs_read [kernel]"),  # data lies between, and is no function
        (0xFFFFFFFF81000200, "helper [kernel]"),
        (0xFFFFFFFFC0000010, "of_module [ext4]"),
        (0xFFFFFFFFC0200000, None),  # beyond the last: nothing bounds it
        (0xFFFFFFFF90000000, None),
        (0x1000, None),
    ],
)
def test_address_has_the_name_of_the_function_that_holds_it(address: int, name: str | None) -> None:
    assert KernelSymbols(LINES).name(address) == name


@pytest.mark.parametrize("lines", [(), ("0000000000000000 T vfs_read\n", "0000000000000000 t helper\n")])
def test_addresses_that_are_not_told_are_an_error_with_a_remedy(lines: tuple[str, ...]) -> None:
    with pytest.raises(NotAvailableError) as caught:
        KernelSymbols(lines)
    assert caught.value.remedy is not None
    assert "kptr_restrict" in caught.value.remedy


def test_a_line_that_is_no_symbol_is_malformed() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        KernelSymbols(["nonsense T x\n"])
