"""Where threads were, as `go tool pprof` and its kin read it: profile.proto, compressed.

A value of each sample: samples and nanoseconds on the CPU, nanoseconds queued for one, nanoseconds blocked. What a
thread waited for is the innermost frame. The format (https://github.com/google/pprof/blob/main/proto/profile.proto) is
seven messages of numbers and strings: writing them takes less than a library's generated code would.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from threadinfo.model import EndedThread, ProcessReport, Report, Thread
from threadinfo.render.collapsed import NOT_UNWOUND, function_of, kernel_frames
from threadinfo.render.escape import Binary, format_text
from threadinfo.render.text.waits import describe_wait

QUEUED = "[queued for a CPU]"
_TYPES = (("samples", "count"), ("cpu", "nanoseconds"), ("queued", "nanoseconds"), ("blocked", "nanoseconds"))
_DEFAULT_TYPE = "cpu"
_MODULE, _SOURCE = re.compile(r" \[([^\]]*)\]"), re.compile(r"([^\s:]+):(\d{1,9})$")

# The numbers of the fields, by message.
_SAMPLE_TYPE, _SAMPLE, _MAPPING, _LOCATION, _FUNCTION, _STRING, _TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _DEFAULT = (
    *(1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 14),
)
_MAPPING_FILE, _MAPPING_HAS_FUNCTIONS = 5, 7


class _Profile:
    """What is written so far, and the numbers that strings, places and files have in it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._strings: dict[str, int] = {"": 0}
        self._places: dict[str, int] = {}
        self._functions: dict[str, int] = {}
        self._mappings: dict[str, int] = {}

    def string(self, text: str) -> int:
        """Its place in the table of strings."""
        return self._strings.setdefault(format_text(text), len(self._strings))

    def place(self, frame: str) -> int:
        """A frame's location, its function and its file."""
        known = self._places.get(frame)
        if known is None:
            known = self._places[frame] = len(self._places) + 1
            module, source = _MODULE.search(frame), _SOURCE.search(frame)
            function = self._function(function_of(frame), source[1] if source else "")
            line = _message((1, function), (2, int(source[2]) if source else 0))
            mapping = self.mapping(module[1]) if module else 0
            self.parts.append(_field(_LOCATION, _message((1, known), (2, mapping), (4, line))))
        return known

    def _function(self, name: str, file: str) -> int:
        known = self._functions.get(name)
        if known is None:
            known = self._functions[name] = len(self._functions) + 1
            named = self.string(name)
            words = _message((1, known), (2, named), (3, named), (4, self.string(file)))
            self.parts.append(_field(_FUNCTION, words))
        return known

    def mapping(self, name: str) -> int:
        """A file that is mapped; viewers take the first for the program."""
        known = self._mappings.get(name)
        if known is None:
            known = self._mappings[name] = len(self._mappings) + 1
            words = _message((1, known), (_MAPPING_FILE, self.string(name)), (_MAPPING_HAS_FUNCTIONS, 1))
            self.parts.append(_field(_MAPPING, words))
        return known

    def strings(self) -> Iterator[bytes]:
        """The table of strings, which comes last: by now all are known."""
        return (_field(_STRING, text.encode("utf-8", "backslashreplace")) for text in self._strings)


def render_pprof(report: Report) -> Binary:
    """One profile of all processes and threads, which are labels; without a trace, one without samples."""
    profile = _Profile()
    for name, unit in _TYPES:
        profile.parts.append(_field(_SAMPLE_TYPE, _value_type(profile, name, unit)))
    period_ns = duration_ns = 0
    for process in report.processes:
        profile.mapping(os.path.basename(process.executable or process.name))
        duration_ns = max(duration_ns, process.trace.duration_ns if process.trace else 0)
        for frames, values, labels, sample_period_ns in _samples(process):
            period_ns = period_ns or sample_period_ns
            places = _packed(profile.place(frame) for frame in frames)
            told = b"".join(
                _field(3, _message((1, profile.string(key)), (2, profile.string(text)), (3, number)))
                for key, text, number in labels
            )
            profile.parts.append(_field(_SAMPLE, _field(1, places) + _field(2, _packed(values)) + told))
    made_at = datetime.strptime(report.generated_at[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    profile.parts.append(_field(_PERIOD_TYPE, _value_type(profile, "cpu", "nanoseconds")))
    numbers = _message(
        (_TIME, int(made_at.timestamp()) * 10**9 - duration_ns),
        (_DURATION, duration_ns),
        (_PERIOD, period_ns),
        (_DEFAULT, profile.string(_DEFAULT_TYPE)),
    )
    return Binary(gzip.compress(b"".join([*profile.parts, numbers, *profile.strings()]), mtime=0))


_Label = tuple[str, str, int]


def _samples(process: ProcessReport) -> Iterator[tuple[list[str], tuple[int, ...], list[_Label], int]]:
    """(frames, innermost first; a value of each type; labels; the period of CPU samples)."""
    threads: list[Thread | EndedThread] = [*(process.threads or ())]
    threads += process.trace.ended_threads if process.trace else ()
    for thread in threads:
        labels = [("process", process.name, 0), ("pid", "", process.pid)]
        labels += [("thread", thread.name, 0), ("tid", "", thread.tid)]
        for one in thread.cpu.samples if thread.cpu else ():
            period_ns = thread.cpu.sample_period_ns if thread.cpu else 0
            frames = kernel_frames(one) + ([*one.stack] or [NOT_UNWOUND])
            yield frames, (one.count, one.count * period_ns, 0, 0), labels, period_ns
        if thread.scheduling and thread.scheduling.run_queue_ns:
            yield [QUEUED], (0, 0, thread.scheduling.run_queue_ns, 0), labels, 0
        for wait in thread.waits or ():
            why = [("waits", "for work" if wait.is_idle else "within work", 0)]
            for stack, ns in wait.time_by_stack:
                yield [f"[{describe_wait(wait)}]", *stack], (0, 0, 0, ns), labels + why, 0


def _value_type(profile: _Profile, name: str, unit: str) -> bytes:
    return _message((1, profile.string(name)), (2, profile.string(unit)))


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    """Fields that are 0, or empty, are left out, as the format has it."""
    return b"".join(_field(number, value) for number, value in fields if value)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _packed(values: Iterable[int]) -> bytes:
    return b"".join(map(_varint, values))


def _varint(value: int) -> bytes:
    parts = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
