"""Sampled stacks in the file format of https://www.speedscope.app: a profile for each thread, weighted by time."""

from __future__ import annotations

import msgspec

from threadinfo.model import CpuTime, Report
from threadinfo.render.collapsed import NOT_UNWOUND, function_of, kernel_frames
from threadinfo.render.escape import Printable, format_text
from threadinfo.render.json import encode_ascii


class _Frame(msgspec.Struct, frozen=True):
    name: str


class _Shared(msgspec.Struct, frozen=True):
    frames: list[_Frame]


class _Profile(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "sampled"
    name: str
    unit: str = "nanoseconds"
    startValue: int = 0  # noqa: N815 - the format's names
    endValue: int  # noqa: N815
    samples: list[list[int]]
    weights: list[int]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = msgspec.field(name="$schema", default="https://www.speedscope.app/file-format-schema.json")
    exporter: str = "threadinfo"
    shared: _Shared
    profiles: list[_Profile]


def render_speedscope(report: Report) -> Printable:
    """One line of JSON; no profile where CPUs were not sampled. Order within a profile is by frequency, not by time."""
    places: dict[str, int] = {}
    profiles = []
    for process in report.processes:
        threads = [(thread.name, thread.tid, thread.cpu) for thread in process.threads or ()]
        ended = process.trace.ended_threads if process.trace else ()
        threads += [(thread.name, thread.tid, thread.cpu) for thread in ended]
        for name, tid, cpu in threads:
            if cpu is not None:
                words = f"{format_text(process.name)} {process.pid}: {format_text(name)} {tid}"
                profiles.append(_profile(words, cpu, places))
    frames = [_Frame(name) for name in places]
    return encode_ascii(_File(shared=_Shared(frames), profiles=profiles))


def _profile(name: str, cpu: CpuTime, places: dict[str, int]) -> _Profile:
    samples, weights = [], []
    for one in cpu.samples:
        frames = [format_text(function_of(frame)) for frame in reversed(one.stack)] or [NOT_UNWOUND]
        frames += [format_text(frame) for frame in reversed(kernel_frames(one))]
        samples.append([places.setdefault(frame, len(places)) for frame in frames])
        weights.append(one.count * cpu.sample_period_ns)
    return _Profile(name=name, endValue=sum(weights), samples=samples, weights=weights)
