"""Sampled stacks as flame graphs want them: a line each, "process;thread;outermost;...;innermost COUNT"."""

from __future__ import annotations

from collections import Counter

from threadinfo.model import CpuSample, CpuTime, Report
from threadinfo.render.escape import Printable, format_text, printable

IN_KERNEL = "[kernel]"
NOT_UNWOUND = "[unknown]"


def kernel_frames(sample: CpuSample) -> list[str]:
    """What the kernel did, innermost first: its functions, or that it was the kernel."""
    return [*sample.kernel_stack] or [IN_KERNEL] * sample.is_kernel


def function_of(frame: str) -> str:
    """``work [libx.so]`` of ``work+0x12 [libx.so] x.c:7``: a name for all places in a function."""
    name, bracket, rest = frame.partition(" [")
    function = name.rpartition("+0x")[0] or name
    return f"{function}{bracket}{rest.partition(']')[0]}{']' * bool(bracket)}"


def render_collapsed(report: Report) -> Printable:
    """One line for every way that was seen, in the order of its name; nothing where CPUs were not sampled."""
    counts: Counter[str] = Counter()
    for process in report.processes:
        threads = [(thread.name, thread.cpu) for thread in process.threads or ()]
        threads += [(thread.name, thread.cpu) for thread in (process.trace.ended_threads if process.trace else ())]
        for name, cpu in threads:
            for words, count in _ways(cpu):
                counts[";".join([_part(process.name), _part(name), *words])] += count
    return printable(f"{way} {count}" for way, count in sorted(counts.items()))


def _ways(cpu: CpuTime | None) -> list[tuple[list[str], int]]:
    return [
        (
            [_part(function_of(frame)) for frame in reversed(sample.stack)]
            + [NOT_UNWOUND] * (not sample.stack)
            + [_part(frame) for frame in reversed(kernel_frames(sample))],
            sample.count,
        )
        for sample in (cpu.samples if cpu else ())
    ]


def _part(text: str) -> str:
    """A frame as a part of a line: what separates parts stands for nothing else."""
    return format_text(text).replace(";", ":")
