"""Separate debug files by build-id: the host's own, and where the user asks for it those of debuginfod servers.

What is fetched is read by the unwinder's confined child alone. A server learns the build-ids, and with them what
programs run here: hence only when asked. debuginfod(8), https://sourceware.org/elfutils/Debuginfod.html.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_BUILD_IDS = Path("/usr/lib/debug/.build-id")
_SECONDS = 20.0  # without a byte
_MOST_BYTES = 1 << 30
_CHUNK = 1 << 20


class DebugFiles:
    """Opens debug files; a server is asked once for each build-id."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        """`servers`: addresses as in DEBUGINFOD_URLS."""
        self._servers = tuple(servers)
        self._missing: set[bytes] = set()
        self.fetched_count = 0

    def open(self, build_id: bytes) -> int | None:
        """A descriptor that is open for reading, for the caller to close; None where there is no such file."""
        if not 2 <= len(build_id) <= 64:
            return None
        descriptor = _open_of_host(build_id)
        if descriptor is not None or build_id in self._missing:
            return descriptor
        for server in self._servers:
            if (descriptor := _fetch(f"{server.rstrip('/')}/buildid/{build_id.hex()}/debuginfo")) is not None:
                self.fetched_count += 1
                return descriptor
        self._missing.add(build_id)
        return None


def _open_of_host(build_id: bytes) -> int | None:
    """The host's file; None where there is none, or it is not root's."""
    path = _BUILD_IDS / build_id[:1].hex() / f"{build_id[1:].hex()}.debug"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid == 0:
        return descriptor
    os.close(descriptor)
    return None


def _fetch(address: str) -> int | None:
    """A file without a name, which is gone when it is closed; None where the server has none or does not answer."""
    import urllib.error  # noqa: PLC0415 - with all of HTTP and TLS, which no trace needs that fetches nothing
    import urllib.request  # noqa: PLC0415

    try:
        with (
            urllib.request.urlopen(address, timeout=_SECONDS) as answer,  # noqa: S310 - http(s) was checked
            tempfile.TemporaryFile() as file,
        ):
            if _copy(answer, file):
                return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    except (urllib.error.URLError, OSError, ValueError):
        pass
    return None


def _copy(answer: BinaryIO, file: BinaryIO) -> bool:
    """Says whether it was not too large."""
    room = _MOST_BYTES
    while chunk := answer.read(_CHUNK):
        room -= len(chunk)
        if room < 0:
            return False
        file.write(chunk)
    file.flush()
    return True
