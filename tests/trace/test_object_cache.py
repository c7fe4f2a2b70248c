"""What is compiled is kept: whole, trusted only where root alone can write, and never worse than compiling."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Run
from threadinfo.trace.kernel import loader, object_cache
from threadinfo.trace.kernel.compiler import CompiledObject, compile_source

pytestmark = pytest.mark.usefixtures("bpf")
NOBODY = 65534
SOURCE = """
BPF_F_TABLE("array", u32, u64, seen, 1, 1 << 10);
BPF_HASH(by_cpu, u32, u64, 64);
int on_event(struct bpf_raw_tracepoint_args *ctx) {
    u32 zero = 0, cpu = bpf_get_smp_processor_id();
    u64 argument = ctx->args[0], *count = seen.lookup(&zero);
    if (count)
        __sync_fetch_and_add(count, 1);
    by_cpu.update(&cpu, &argument);
    return 0;
}
"""


_compiled: list[CompiledObject] = []  # once for all tests


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path_factory.mktemp("root's") / "cache"
    monkeypatch.setenv("THREADINFO_CACHE_DIR", str(directory))
    return directory


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[[], bool]:
    """Loads and attaches, checks that it counts, and says whether it was compiled for that."""
    (tmp_path / "include").symlink_to(loader.bpf_directory() / "include")
    (tmp_path / "test.bpf.c").write_text(SOURCE)
    monkeypatch.setattr(loader, "bpf_directory", lambda: tmp_path)
    compiled = []

    def compile_and_note(*arguments: object) -> CompiledObject:
        compiled.append(arguments)
        if not _compiled:
            _compiled.append(compile_source(*arguments))  # type: ignore[arg-type]
        return _compiled[0]

    monkeypatch.setattr(loader, "compile_source", compile_and_note)

    def load_once() -> bool:
        compiled.clear()
        with loader.Programs("test.bpf.c", {}, [("sys_enter", "on_event")]) as programs:
            os.getppid()
            assert int.from_bytes(programs.memory("seen", 8, 1)[:8], "little") > 0
            assert list(programs.map("by_cpu", ctypes.c_uint32, ctypes.c_uint64).items())
        return bool(compiled)

    return load_once


def test_entries_that_were_not_used_for_longest_are_forgotten(cache: Path) -> None:
    kept = object_cache._MOST_ENTRIES
    for number in range(kept):
        object_cache.write_entry(f"entry-{number}", b"")
        os.utime(cache / f"entry-{number}", (number, number))
    assert object_cache.read_entry("entry-0", bytes) == b""
    object_cache.write_entry("another", b"")
    names = {entry.name for entry in cache.iterdir()}
    assert names == {"another", "entry-0", *(f"entry-{number}" for number in range(2, kept))}


def test_the_second_time_nothing_is_compiled_and_the_programs_are_equal(load: Callable[[], bool], cache: Path) -> None:
    assert load()
    (entry,) = cache.iterdir()
    content = entry.read_bytes()
    assert not load()
    entry.unlink()
    assert load()
    assert entry.read_bytes() == content


def sealed(compiled: CompiledObject) -> bytes:
    """An entry with a right checksum."""
    return object_cache.sealed(msgspec.msgpack.encode(compiled))


def flip(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def forged(change: Callable[[CompiledObject], CompiledObject]) -> Callable[[bytes], bytes]:
    """A change that keeps the checksum right: as if a bug of ours had written it."""
    return lambda content: sealed(change(object_cache._decode_object(object_cache._unsealed(content))))


def with_code(compiled: CompiledObject, code: bytes) -> CompiledObject:
    program = msgspec.structs.replace(compiled.programs[0], instructions=code, maps=())
    return msgspec.structs.replace(compiled, programs=(program,))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "magic alone": lambda content: content[: len(object_cache._MAGIC)],
    "half": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "random": lambda content: os.urandom(len(content)),
    "another version": lambda content: flip(content, len(object_cache._MAGIC) - 2),
    "checksum": lambda content: flip(content, len(object_cache._MAGIC)),
    "first of payload": lambda content: flip(content, len(object_cache._MAGIC) + 32),
    "last of payload": lambda content: flip(content, -1),
    "gigantic": lambda content: content + bytes(1 << 25),
    "no function": forged(lambda compiled: msgspec.structs.replace(compiled, programs=())),
    "no map": forged(lambda compiled: msgspec.structs.replace(compiled, maps=())),
    "refused by the verifier": forged(lambda compiled: with_code(compiled, b"\xff" * 16)),
    "endless loop": forged(lambda compiled: with_code(compiled, bytes.fromhex("0500ffff00000000") * 2)),
    "no instructions": forged(lambda compiled: with_code(compiled, b"")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_compiled_anew(
    damage: str, load: Callable[[], bool], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load()
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGES[damage](whole))
    with caplog.at_level(logging.INFO, "threadinfo"):
        assert load()
    assert "what was compiled before is not used" in caplog.text
    assert entry.read_bytes() == whole
    assert not load()


def chown_entry(entry: Path) -> None:
    os.chown(entry, NOBODY, NOBODY)


def replace_by_link(entry: Path) -> None:
    entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to("../elsewhere")


def replace_by_fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def give_away_parent(entry: Path) -> None:
    os.chown(entry.parent.parent, NOBODY, NOBODY)


UNTRUSTED: dict[str, Callable[[Path], object]] = {
    "another's entry": chown_entry,
    "others write the entry": lambda entry: entry.chmod(0o646),
    "a link": replace_by_link,
    "a pipe": replace_by_fifo,
    "another's directory": lambda entry: os.chown(entry.parent, NOBODY, NOBODY),
    "others write the directory": lambda entry: entry.parent.chmod(0o777),
    "another's directory above": give_away_parent,
}


@pytest.mark.parametrize("what", UNTRUSTED)
def test_untrusted_entry_is_not_used(
    what: str, load: Callable[[], bool], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load()
    (entry,) = cache.iterdir()
    UNTRUSTED[what](entry)
    with caplog.at_level(logging.INFO, "threadinfo"):
        assert load()
    assert "what was compiled before is not used" in caplog.text


def test_a_word_is_said_where_words_are_asked_for(threadinfo: Run, cache: Path) -> None:
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    silent = threadinfo(os.getpid(), "--trace", "0.05", "--only", "scheduling")
    told = threadinfo(os.getpid(), "--trace", "0.05", "--only", "scheduling", "-v")
    assert "compiled" not in silent.stderr
    assert "others than root can write to" in told.stderr
    assert list(cache.iterdir()) == []
