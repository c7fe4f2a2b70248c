"""`python -m tests.fuzz.elf_files --count 1000`: damaged ELF files, mapped by a real process, are unwound.

The process has stopped itself on a stack through a library; then the file of that library is written over, and so it is
what the process has mapped. Whatever becomes of the child that reads it, the unwinder answers in time, says why what is
missing is missing, keeps nothing open, and unwinds another process as before. A failure names its seed: `--seed N` with
`--count 1` plays it again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conftest import WORKLOADS
from tests.stack_samples import open_mapping, read_maps, take_sample
from threadinfo.render.escape import printable
from threadinfo.trace.stacks import messages as message
from threadinfo.trace.stacks.unwinder import Frame, Sample, Stack, Unwinder

_STRANGERS = ("/bin/true", "/usr/lib/x86_64-linux-gnu/libz.so.1", "/usr/lib/x86_64-linux-gnu/libm.so.6")
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "stripped": ("-s",),
    "debug": ("-g",),
    "compressed": ("-g", "-gz=zlib"),
    "debug_frame": ("-g", "-fno-asynchronous-unwind-tables"),
}
_TARGETS = (".eh_frame", ".symtab", ".strtab", ".dynsym", ".dynstr", ".note", ".debug", ".dynamic", ".gnu", ".shstrtab")
_INTERESTING = (0, 1, 7, 8, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_MOST_SECONDS = 15.0  # one stack may take 2, and be tried again; a machine may be busy
_EVERY_OTHER = 10  # of which the process with good files is unwound too


class Section(NamedTuple):
    """A part of a file that has a name: a section, or a table of headers."""

    name: str
    offset: int
    size: int


class Target(NamedTuple):
    """A stopped process, the file that is written over, and what was sampled before."""

    pid: int
    maps: bytes
    sample: Sample
    library: Path
    content: bytes


def sections(content: bytes) -> list[Section]:
    """Those of a file that is whole."""
    program_headers, section_headers = struct.unpack_from("=QQ", content, 32)
    program_size, program_count, size, count, names_index = struct.unpack_from("=HHHHH", content, 54)
    headers = [struct.unpack_from("=IIQQQQ", content, section_headers + at * size) for at in range(count)]
    names = headers[names_index][4]
    found = [
        Section("the header", 0, 64),
        Section("program headers", program_headers, program_size * program_count),
        Section("section headers", section_headers, size * count),
    ]
    for name_at, kind, _, _, offset, length in headers:
        if length and kind != 8:  # SHT_NOBITS has no bytes
            name = content[names + name_at : content.index(b"\0", names + name_at)].decode()
            found.append(Section(name, offset, length))
    return found


def damage(chance: random.Random, content: bytes) -> bytes:
    """A file with some things wrong, most often what unwinding a stack needs."""
    data = bytearray(content)
    parts = [part for part in sections(content) if not part.name.startswith(".") or part.name.startswith(_TARGETS)]
    vital = [part for part in parts if not part.name.startswith((".debug", ".gnu"))]
    for _ in range(chance.choice((1, 1, 2, 4, 9))):
        part = chance.choice(chance.choice((parts, vital)))
        if part.offset >= len(data):  # it was cut off
            continue
        end = min(part.offset + part.size, len(data))
        at = chance.randrange(part.offset, end)
        chance.choice(_WAYS)(chance, data, part, at, end)
    if not chance.randrange(20):
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def _change_bytes(chance: random.Random, data: bytearray, part: Section, _at: int, end: int) -> None:
    for _ in range(chance.randrange(1, 40)):
        data[chance.randrange(part.offset, end)] = chance.randrange(256)


def _change_number(chance: random.Random, data: bytearray, part: Section, at: int, _end: int) -> None:
    """One where a number is likely to begin: sizes, offsets, counts."""
    width = chance.choice((1, 2, 4, 8))
    at = part.offset + (at - part.offset) // width * width
    number = chance.choice((*_INTERESTING, len(data), part.size, part.offset, chance.getrandbits(64)))
    data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")


def _add(chance: random.Random, data: bytearray, part: Section, at: int, _end: int) -> None:
    """To a number that is there."""
    at = part.offset + (at - part.offset) // 4 * 4
    number = int.from_bytes(data[at : at + 4], "little") + chance.choice((-1, 1, -8, 8, 1 << 12, 1 << 20))
    data[at : at + 4] = (number % (1 << 32)).to_bytes(4, "little")


def _fill(chance: random.Random, data: bytearray, _part: Section, at: int, end: int) -> None:
    """What never ends: LEB128 numbers, names."""
    length = chance.choice((16, 300, end - at))
    data[at : min(at + length, end)] = chance.choice((b"\0", b"\x80", b"\xff", b"A", b"\n")) * (
        min(at + length, end) - at
    )


def _copy(chance: random.Random, data: bytearray, _part: Section, at: int, end: int) -> None:
    """From elsewhere in the file."""
    length = chance.randrange(1, end - at + 1)
    source = chance.randrange(len(data))
    piece = data[source : source + length]
    data[at : at + len(piece)] = piece


def _move(chance: random.Random, data: bytearray, part: Section, at: int, end: int) -> None:
    """What follows, by some bytes, within the section."""
    del data[at]
    data.insert(chance.randrange(part.offset, end), chance.randrange(256))


_WAYS: tuple[Callable[[random.Random, bytearray, Section, int, int], None], ...] = (
    _change_bytes,
    _change_number,
    _change_number,
    _add,
    _fill,
    _copy,
    _move,
)


@contextmanager
def stopped(directory: Path, options: tuple[str, ...]) -> Iterator[Target]:
    """A process whose library is made with some options."""
    directory.mkdir()
    library, program = directory / "libstack.so", directory / "stacks"
    shared = ["cc", "-O2", "-fomit-frame-pointer", "-fPIC", "-shared", *options]
    subprocess.run([*shared, "-o", library, WORKLOADS / "stack_library.c"], check=True)
    linked = ["-DWITH_LIBRARY", str(WORKLOADS / "stacks.c"), str(library), f"-Wl,-rpath,{directory}", "-pthread"]
    subprocess.run(["cc", "-O2", "-fomit-frame-pointer", "-o", program, *linked], check=True)
    with subprocess.Popen([program, "recursion"], stdout=subprocess.PIPE) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            sample = take_sample(process.pid, process.pid)
            yield Target(process.pid, read_maps(process.pid), sample, library, library.read_bytes())
        finally:
            process.kill()


class Campaign:
    """Processes to be damaged, one that is not, and an unwinder for all; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self.ends: Counter[str] = Counter()
        """What became of the stacks, in words."""
        self.longest_seconds = 0.0
        self.restarts = 0
        with ExitStack() as stack:
            self._targets = [
                stack.enter_context(stopped(directory / name, options)) for name, options in _LIBRARIES.items()
            ]
            self._good = stack.enter_context(stopped(directory / "good", ("-s",)))
            self._strangers = [Path(path).read_bytes() for path in _STRANGERS if os.path.exists(path)]
            self._stack = stack.pop_all()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, seed: int) -> None:
        """One file; raises AssertionError."""
        chance = random.Random(seed)
        target = chance.choice(self._targets)
        original = chance.choice(self._strangers) if not chance.randrange(8) else target.content
        data = damage(chance, original)
        with target.library.open("r+b") as file:  # in place: the process has this file mapped
            file.write(data)
            file.truncate()
        before = sorted(os.listdir("/proc/self/fd"))
        began = time.monotonic()
        with Unwinder(open_mapping) as unwinder:
            (stack, again) = unwinder.unwind(target.pid, target.maps, [target.sample] * 2)
            seconds = time.monotonic() - began
            for one in (stack, again):
                check(one)
            if not seed % _EVERY_OTHER:
                (good,) = unwinder.unwind(self._good.pid, self._good.maps, [self._good.sample])
                assert good.is_complete, f"the good one: {good.problem}"
                assert len(good.frames) > 20
            self.restarts += unwinder.counters.restarts
            child = unwinder.child_pid
        assert child is None or not os.path.exists(f"/proc/{child}"), "a child is left"
        assert sorted(os.listdir("/proc/self/fd")) == before, "descriptors are left"
        assert seconds < _MOST_SECONDS, f"it took {seconds:.1f} s"
        self.longest_seconds = max(self.longest_seconds, seconds)
        self.ends[_kind(stack)] += 1


def check(stack: Stack) -> None:
    """What holds for every stack, whatever it was made from."""
    assert stack.is_complete == (stack.problem is None), stack
    assert len(stack.frames) <= message.MAX_FRAMES
    for frame in stack.frames:
        assert isinstance(frame, Frame)
        assert 0 <= frame.address < 1 << 64
        assert len(frame.function or "") <= 4 * message.MAX_NAME_BYTES
        assert all(line.isprintable() for line in str(printable([f"{frame.function} {frame.source}"])).split("\n"))


def _kind(stack: Stack) -> str:
    if stack.problem is None:
        return "complete"
    crash = stack.problem.partition(", in ")[0]
    if crash.startswith("the unwinder "):
        return crash
    return "with frames" if stack.frames else "without frames"


def main() -> int:
    """0 where all held; 1 with the seeds of those that did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.elf_files", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="the first; a random one where it is not given")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, Campaign(Path(directory)) as campaign:
        for seed in range(first, first + options.count):
            try:
                campaign.play(seed)
            except Exception as problem:  # any is a failure of the unwinder: a traceback
                failed.append(seed)
                print(f"seed {seed}: {type(problem).__name__}: {problem}", flush=True)
    print(f"{options.count} files from seed {first} in {time.monotonic() - began:.0f} s: {len(failed)} failed {failed}")
    print(f"longest {campaign.longest_seconds:.2f} s; {campaign.restarts} children replaced")
    for kind, count in campaign.ends.most_common():
        print(f"{count:6} {kind}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
