"""Descriptors that become too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from threadinfo.findings.words import (
    SEVERITIES,
    format_long_time,
    format_rate,
    name_threads,
    others_too,
    percent,
    plural,
)
from threadinfo.model import DescriptorTrace, Finding, LeakSuspect, ProcessReport

_DESCRIPTORS_PERCENT = 80.0
_DESCRIPTORS_HIGH_PERCENT = 95.0
_SUSPECT_COUNT = 3  # the trace has judged already that they become steadily more (trace/stacks/leaks.py)
_GROWTH_COUNT = 10
_GROWTH_INTERVALS = 4
_GROWTH_HIGH_SECONDS = 3600


def _soft_limit(process: ProcessReport) -> int | None:
    return process.limits.open_files.soft if process.limits else None


def _raise_limit(process: ProcessReport) -> str:
    """The command, with a number that the hard limit allows."""
    limit = process.limits.open_files if process.limits else None
    if limit is not None and limit.hard is not None and limit.soft is not None and limit.hard <= limit.soft:
        return f"as root, prlimit --pid {process.pid} --nofile={limit.soft * 4} (for good: LimitNOFILE= of its unit)"
    wanted = (limit.soft if limit and limit.soft else 1024) * 4
    if limit is not None and limit.hard is not None:
        wanted = min(wanted, limit.hard)
    return f"prlimit --pid {process.pid} --nofile={wanted}: (for good: LimitNOFILE= of its unit)"


def open_count(process: ProcessReport) -> int | None:
    """How many descriptors are open; None where that is not known."""
    return None if process.descriptors is None else len(process.descriptors)


def near_the_limit(process: ProcessReport) -> Iterator[Finding]:
    """As many descriptors are open as hardly more may be."""
    limit, now = _soft_limit(process), open_count(process)
    if not limit or now is None:
        return
    churn = process.trace.descriptors if process.trace else None
    most = max(now, churn.peak_open_count if churn else 0)
    if (share := percent(most, limit)) <= _DESCRIPTORS_PERCENT:
        return
    peak = f" ({most} at the most)" if most > now else ""
    yield Finding(
        kind="descriptors_near_limit",
        severity="high" if share > _DESCRIPTORS_HIGH_PERCENT else "medium",
        words=f"{now} descriptors are open{peak}, and the limit is {limit}",
        value=share,
        threshold=_DESCRIPTORS_PERCENT,
        unit="percent",
        rule=f"more than {_DESCRIPTORS_PERCENT:.0f} % of the soft limit on open files",
        advice=f"Find out whether the number grows (--trace 60), or raise the limit: {_raise_limit(process)}",
    )


def leak(process: ProcessReport) -> Iterator[Finding]:
    """What the trace suspects; where it knew no call sites, a number of open descriptors that only grew."""
    churn = process.trace.descriptors if process.trace else None
    if churn is None:
        return
    growing = [one for one in churn.leak_suspects if one.surviving_count >= _SUSPECT_COUNT]
    if growing:
        yield _suspected_leak(process, churn, growing)
    elif churn.stacks is None:
        yield from _net_growth(process, churn)


def _suspected_leak(process: ProcessReport, churn: DescriptorTrace, suspects: Sequence[LeakSuspect]) -> Finding:
    """Of the suspects that are surest, the fastest."""
    surest = sorted(suspects, key=lambda one: SEVERITIES.index(one.confidence))
    worst = surest[0]
    left = worst.seconds_to_limit if churn.seconds_to_limit is None else churn.seconds_to_limit
    peer = _common_peer(process, worst.fds)
    connected = "" if peer is None else f" (connected to {peer})"
    words = f"{_what_leaks(worst)}{connected}, {format_rate(worst.growth_per_minute)} more each minute"
    words += others_too(len(suspects) - 1, "call site grows", "call sites grow", "too")
    if left is not None:
        words += f". At this rate the limit is reached in {format_long_time(left)}"
    severity: Literal["high", "medium", "low"] = "medium"
    if worst.confidence == "low":
        severity = "low"
    elif left is not None and left < _GROWTH_HIGH_SECONDS:
        severity = "high"
    return Finding(
        kind="descriptor_leak",
        severity=severity,
        words=f"{words}. Confidence: {worst.confidence}, watched for {format_long_time(worst.watched_ns / 1e9)}. "
        f"Opened at {worst.stack[0] if worst.stack else worst.library or 'an unknown call site'}",
        value=float(worst.surviving_count),
        threshold=float(_SUSPECT_COUNT),
        unit="count",
        rule=f"{_SUSPECT_COUNT} or more that one call site opened stay open, and become steadily more to the end",
        advice="Find the path after that call on which it is not closed. "
        + ("Trace longer to be sure. " if worst.confidence != "high" else "")
        + f"Meanwhile the limit can be raised: {_raise_limit(process)}",
        tids=tuple(thread.tid for thread in worst.threads),
        fds=tuple(dict.fromkeys(fd for one in surest for fd in one.fds)),
    )


def _common_peer(process: ProcessReport, fds: Sequence[int]) -> str | None:
    """The address that most of these sockets are connected to; where it is a port of ours, they were accepted there."""
    listening = listening_ports(process)
    peers = Counter(
        sock.remote
        for one in process.descriptors or ()
        if one.fd in set(fds) and (sock := one.socket) is not None and sock.remote and sock.port not in listening
    )
    (peer, count), *_ = peers.most_common(1) or [("", 0)]
    return peer if 2 * count > len(fds) else None


def listening_ports(process: ProcessReport) -> set[int | None]:
    """The ports that sockets of the process listen at."""
    return {
        one.socket.port for one in process.descriptors or () if one.socket is not None and one.socket.state == "LISTEN"
    }


def _what_leaks(suspect: LeakSuspect) -> str:
    """``/etc/passwd, opened by thread reloader 12: 61 of 67 files are still open``."""
    kinds = plural(suspect.opened_count, (suspect.kind or "descriptor").replace("_", " "))
    words = f"{suspect.surviving_count} of {suspect.opened_count} {kinds} are still open"
    opened = f"opened by {name_threads([(one.tid, one.name) for one in suspect.threads])}" if suspect.threads else ""
    about = ", ".join(word for word in (suspect.path, opened) if word)
    return f"{about[:1].upper() if suspect.path is None else about[:1]}{about[1:]}: {words}" if about else words


def _net_growth(process: ProcessReport, churn: DescriptorTrace) -> Iterator[Finding]:
    """Growth in both halves of the trace, whoever made it."""
    if process.trace is None or process.trace.ended_by == "target":
        return
    growth = [born - died for born, died in _per_interval(churn)]
    half = len(growth) // 2
    total, slower = sum(growth), min(sum(growth[:half]), sum(growth[half:]))
    if len(growth) < _GROWTH_INTERVALS or total < _GROWTH_COUNT or 4 * slower < total:
        return
    seconds = process.trace.duration_ns / 1e9
    limit, now = _soft_limit(process), open_count(process)
    words = f"The number of open descriptors grew by {total} in {seconds:.0f} s"
    left = None
    if limit is not None and now is not None:
        left = max(0.0, (limit - now) * seconds / total)
        when = f"; at this rate the limit of {limit} is reached in {format_long_time(left)}"
        words += when if left else ", to the limit"
    yield Finding(
        kind="descriptor_growth",
        severity="high" if left is not None and left < _GROWTH_HIGH_SECONDS else "medium",
        words=words,
        value=float(total),
        threshold=float(_GROWTH_COUNT),
        unit="count",
        rule=f"{_GROWTH_COUNT} or more, and a quarter of that or more in either half of the trace",
        advice="Call sites are not known here: look at what was born during the trace and stayed, and trace "
        "longer to be sure.",
        fds=tuple(descriptor.fd for descriptor in process.descriptors or () if descriptor.origin),
    )


def _per_interval(churn: DescriptorTrace) -> Sequence[tuple[int, int]]:
    length = max(len(churn.opened_per_interval), len(churn.closed_per_interval))
    opened, closed = (
        (*counts, *[0] * (length - len(counts))) for counts in (churn.opened_per_interval, churn.closed_per_interval)
    )
    return list(zip(opened, closed, strict=True))


def failed_for_the_limit(process: ProcessReport) -> Iterator[Finding]:
    """Calls that failed because as many descriptors are open as may be."""
    churn = process.trace.descriptors if process.trace else None
    counts: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for failure in churn.failures if churn else ():
        if failure.error in {"EMFILE", "ENFILE"}:
            counts[failure.error] += failure.count
            calls[failure.syscall] += failure.count
    if not counts:
        return
    total = sum(counts.values())
    limit = _soft_limit(process)
    whole_machine = "EMFILE" not in counts
    yield Finding(
        kind="open_files_limit_reached",
        severity="high",
        words=f"{total} {plural(total, 'call')} failed for want of a free descriptor ({', '.join(counts)}), "
        f"most of them {calls.most_common(1)[0][0]}"
        + (f"; the limit is {limit}" if limit and not whole_machine else ""),
        value=float(total),
        threshold=1.0,
        unit="count",
        rule="one call or more",
        advice="The whole machine is out of files: see /proc/sys/fs/file-nr and raise fs.file-max."
        if whole_machine
        else f"Find what is not closed, and raise the limit meanwhile: {_raise_limit(process)}",
        tids=tuple(dict.fromkeys(one.tid for one in churn.limit_failures)) if churn else (),
    )
