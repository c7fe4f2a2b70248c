"""Names of the kernel's own functions, where it tells their addresses (/proc/kallsyms, proc(5))."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable

from threadinfo.errors import NotAvailableError

_CODE = frozenset("tTwW")
_FARTHEST_BYTES = 1 << 20
"""From a symbol: beyond the last one of the kernel or of a module there is no next that bounds it."""
_REMEDY = "run as root with CAP_SYSLOG, and with sysctl kernel.kptr_restrict at 0 or 1"


class KernelSymbols:
    """The functions of the running kernel by address; raises NotAvailableError where they are not told."""

    def __init__(self, lines: Iterable[str]) -> None:
        """`lines`: of kallsyms, "ADDRESS TYPE NAME", and "[MODULE]" after a tab for those of modules."""
        found = []
        for line in lines:
            address, _, rest = line.partition(" ")
            if rest[:1] in _CODE and (number := int(address, 16)):
                name, _, module = rest[2:].rstrip("\n").partition("\t")
                found.append((number, name, module.strip("[]") or "kernel"))
        if not found:
            raise NotAvailableError("the kernel does not tell the addresses of its functions", _REMEDY)
        found.sort()
        self._found = found
        self._addresses = [address for address, _, _ in found]

    def name(self, address: int) -> str | None:
        """``vfs_read [kernel]``, or with a module's name; None where no function is sure to be there.

        Without the address or an offset: a report is shown to others, and where this kernel lies is not theirs to know.
        """
        place = bisect_right(self._addresses, address) - 1
        if place < 0 or address - self._addresses[place] > _FARTHEST_BYTES:
            return None
        _, name, module = self._found[place]
        return f"{name} [{module}]"


class KernelSymbolFile:
    """/proc/kallsyms, opened while this process may: the kernel judges by who opened it, and rights are given up later.

    Read once there is an address to name, because it has 10 MB. `close` it.
    """

    def __init__(self) -> None:
        self._problem: OSError | None = None
        self._fd = -1
        try:
            self._fd = os.open("/proc/kallsyms", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as problem:
            self._problem = problem

    def close(self) -> None:
        """May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> KernelSymbols:
        """Once; raises NotAvailableError where the kernel does not tell."""
        problem = self._problem
        try:
            if problem is None:
                with open(self._fd, encoding="ascii", errors="backslashreplace", closefd=False) as file:
                    return KernelSymbols(file)
        except OSError as failure:
            problem = failure
        except ValueError:
            raise NotAvailableError("/proc/kallsyms is not as proc(5) describes it", None) from None
        raise NotAvailableError(f"cannot read /proc/kallsyms: {problem.strerror}", _REMEDY) from None
