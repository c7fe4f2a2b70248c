"""Where CPU time went: the functions that were seen most, and the threads that were in them."""

from __future__ import annotations

from collections import Counter

from threadinfo.model import CpuTime, ProcessReport, Trace
from threadinfo.render.collapsed import function_of, kernel_frames
from threadinfo.render.escape import format_text
from threadinfo.render.text.fold import Cuts

_WAYS, _FRAMES = 3, 12


def render_cpu(process: ProcessReport, trace: Trace, width: int, cuts: Cuts) -> list[str]:
    """The lines of the section; none where CPUs were not sampled. Where nothing is cut, each thread's stacks."""
    threads = [(thread.tid, thread.name, thread.cpu) for thread in process.threads or () if thread.cpu]
    threads += [(thread.tid, thread.name, thread.cpu) for thread in trace.ended_threads if thread.cpu]
    if not threads:
        return []
    total, functions = _functions([cpu for _, _, cpu in threads if cpu])
    most = cuts.functions
    rate = 1e9 / threads[0][2].sample_period_ns if threads[0][2] else 0
    lines = [f"=== Where CPU Time Went in {format_text(process.name)} ({total} samples, {rate:.0f} a second) ==="]
    lines += [
        f"{100 * count / total:5.1f} % {format_text(name)}"[: max(width, 60)]
        for name, count in functions.most_common(most)
    ]
    if most and len(functions) > most:
        rest = total - sum(count for _, count in functions.most_common(most))
        lines.append(f"{100 * rest / total:5.1f} % {len(functions) - most} others")
    if cuts.is_whole:
        for tid, name, cpu in sorted(threads, key=lambda one: -_count(one[2])):
            lines += _ways(tid, name, cpu, total)
    return lines


def _count(cpu: CpuTime | None) -> int:
    return sum(sample.count for sample in cpu.samples) if cpu else 0


def _functions(threads: list[CpuTime]) -> tuple[int, Counter[str]]:
    functions: Counter[str] = Counter()
    for cpu in threads:
        for sample in cpu.samples:
            name = function_of(sample.stack[0]) if sample.stack else "not known"
            functions[f"in the kernel, called by {name}" if sample.is_kernel else name] += sample.count
    return sum(functions.values()) or 1, functions


def _ways(tid: int, name: str, cpu: CpuTime | None, total: int) -> list[str]:
    """Stacks without offsets, the most frequent first."""
    ways: Counter[tuple[str, ...]] = Counter()
    for sample in cpu.samples if cpu else ():
        user = tuple(map(function_of, sample.stack)) or ("not known",)
        ways[tuple(kernel_frames(sample)) + user] += sample.count
    lines = [f"{tid} {format_text(name)}: {100 * _count(cpu) / total:.1f} %"]
    for way, count in ways.most_common(_WAYS):
        lines.append(f"  {100 * count / total:5.1f} %, innermost first")
        lines += [f"          {format_text(frame)}" for frame in way[:_FRAMES]]
        if len(way) > _FRAMES:
            lines.append(f"          {len(way) - _FRAMES} others")
    return lines
