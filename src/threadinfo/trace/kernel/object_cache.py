"""What was compiled once, kept for the next trace in files that root alone can write.

An entry is whole or not there (rename(2)) and carries a checksum; whatever is odd about it, its owner or its directory
is logged, and costs a compilation. A wrong entry can do no more than a wrong source: the kernel verifies what it loads.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from threadinfo.trace.kernel import bpf
from threadinfo.trace.kernel.compiler import CompiledObject, find_bcc

DIRECTORY = "/var/cache/threadinfo"
_VARIABLE = "THREADINFO_CACHE_DIR"
_MAGIC = b"threadinfo-object/1\n"
_DIGEST_BYTES = 32
_MOST_BYTES = 1 << 24
_MOST_ENTRIES = 64
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LIBBCC = ("/usr/lib", "*/libbcc.so.0")

_Entry = TypeVar("_Entry")
_log = logging.getLogger(__name__)


def directory() -> Path:
    """Where entries lie: /var/cache/threadinfo, or $THREADINFO_CACHE_DIR."""
    return Path(os.environ.get(_VARIABLE) or DIRECTORY)


def make_key(source: bytes, headers: Path, flags: Sequence[str]) -> str:
    """The name of an entry: everything that what is compiled depends on."""
    parts = [source, *(flag.encode() for flag in flags), platform.machine().encode(), os.uname().release.encode()]
    parts.append(os.uname().version.encode())
    parts += [path.read_bytes() for path in sorted(headers.rglob("*.h"))]
    parts += [_identity(path) for path in _compiler_files()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _compiler_files() -> list[Path]:
    package = find_bcc()
    own = [] if package is None else [package / "__init__.py", package / "version.py"]
    return own + sorted(Path(_LIBBCC[0]).glob(_LIBBCC[1]))


def _identity(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError as problem:
        return f"{path} {problem.errno}".encode()
    return f"{path} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}".encode()


def read(key: str) -> CompiledObject | None:
    """What was compiled; None where there is none that can be trusted."""
    return read_entry(key, _decode_object)


def write(key: str, compiled: CompiledObject) -> None:
    """Keeps what was compiled, where that can be done safely."""
    write_entry(key, msgspec.msgpack.encode(compiled))


def read_entry(key: str, decode: Callable[[bytes], _Entry]) -> _Entry | None:
    """An entry; None where there is none that can be trusted, or `decode` raises ValueError or MsgspecError."""
    place = directory() / key
    try:
        _check_directory(place.parent)
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            _check(os.fstat(descriptor), str(place), is_file=True)
            content = file.read(_MOST_BYTES + 1)
            with contextlib.suppress(OSError):  # a file system that is read-only
                os.utime(file.fileno())  # what is used is not forgotten
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        _log.info("what was compiled before is not used: %s", problem)
        return None
    try:
        return decode(_unsealed(content))
    except (ValueError, msgspec.MsgspecError) as problem:
        _log.info("what was compiled before is not used: %s: %s", place, problem)
        return None


def write_entry(key: str, payload: bytes) -> None:
    """Keeps an entry, where that can be done safely."""
    if os.geteuid() != 0:
        return
    place = directory() / key
    temporary = place.with_suffix(f".{os.getpid()}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(place.parent, 0o755)
        _check_directory(place.parent)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o644), "wb") as file:
                file.write(sealed(payload))
            os.rename(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _forget_oldest(place.parent)
    except (OSError, ValueError) as problem:
        _log.info("what was compiled is not kept: %s", problem)


def remove(key: str) -> None:
    """Forgets an entry that the kernel refused."""
    with contextlib.suppress(OSError):
        os.unlink(directory() / key)


def _forget_oldest(place: Path) -> None:
    """Keeps those used last: sources, kernels and compilers change, and every change makes a new name."""
    entries = sorted(os.scandir(place), key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
    for entry in entries[:-_MOST_ENTRIES]:
        os.unlink(entry.path)


def _check_directory(place: Path) -> None:
    """Raises ValueError where somebody else than root could put an entry, up to the root directory."""
    real = Path(os.path.realpath(place))
    for ancestor in (real, *real.parents):
        _check(os.stat(ancestor), str(ancestor), is_file=False)


def _check(status: os.stat_result, name: str, *, is_file: bool) -> None:
    if not (stat.S_ISREG if is_file else stat.S_ISDIR)(status.st_mode):
        raise ValueError(f"{name} is no {'regular file' if is_file else 'directory'}")
    if status.st_uid != 0:
        raise ValueError(f"{name} belongs to user {status.st_uid}, not to root")
    is_shared = not is_file and status.st_mode & stat.S_ISVTX  # /tmp: what is root's there stays root's
    if status.st_mode & _WRITABLE_BY_OTHERS and not is_shared:
        raise ValueError(f"others than root can write to {name}")


def sealed(payload: bytes) -> bytes:
    """An entry as it is in its file."""
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def _unsealed(content: bytes) -> bytes:
    """Raises ValueError for what is no whole entry."""
    if not content.startswith(_MAGIC):
        raise ValueError("it is no entry")
    if len(content) > _MOST_BYTES:
        raise ValueError("it is larger than any entry")
    digest, payload = content[len(_MAGIC) :][:_DIGEST_BYTES], content[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its checksum is wrong")
    return payload


def _decode_object(payload: bytes) -> CompiledObject:
    """Raises ValueError or MsgspecError for what is no object of ours."""
    compiled = msgspec.msgpack.decode(payload, type=CompiledObject)
    for program in compiled.programs:
        count = len(program.instructions) // bpf.INSTRUCTION_BYTES
        if any(not (0 <= at < count and 0 <= number < len(compiled.maps)) for at, number in program.maps):
            raise ValueError(f"{program.name} names what is not there")
        if any(not (0 <= at < count) for at, _ in program.functions):
            raise ValueError(f"{program.name} calls from where nothing is")
    return compiled
