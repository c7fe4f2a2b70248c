"""All that is known of one thread, descriptor or event, as lines of text; escaped."""

from __future__ import annotations

from collections.abc import Iterable

from threadinfo.model import Descriptor, DescriptorEvent, Finding, Scheduling, Thread, Wait
from threadinfo.render.escape import format_text
from threadinfo.render.stream import describe_event, event_verb
from threadinfo.render.text.details import format_details
from threadinfo.render.text.duration import format_duration
from threadinfo.render.text.waits import describe_wait
from threadinfo.snapshot import Age, Snapshot
from threadinfo.top.marks import format_age, format_bytes, format_rate, sparkline

_HISTORY = 40
_OTHERS = 8
_GRAPH, _LABEL = 60, 22


def thread_detail(snapshot: Snapshot, tid: int, width: int) -> list[str]:
    """One thread: what it did in the last interval and since the trace began, what it serves, its last calls.

    `width` is that of the screen.
    """
    thread = next((one for one in snapshot.process.threads or () if one.tid == tid), None)
    if thread is None:
        return [f"Thread {tid} has ended.", "", *_history(snapshot, tid=tid)]
    lines = [f"Thread {thread.tid} {thread.name}", "", *_thread_facts(thread), *_interval(snapshot, tid, width)]
    if thread.scheduling is not None and snapshot.process.trace is not None:
        lines += _scheduling(thread.scheduling, snapshot.process.trace.duration_ns)
        lines += _waits(thread.waits or ())
    lines += _about(finding for finding in snapshot.process.findings if tid in finding.tids)
    lines += ["", "Serves"]
    served = [
        f"  FD {descriptor.fd} {descriptor.description} ({server.how})"
        for descriptor in snapshot.process.descriptors or ()
        for server in descriptor.served_by
        if server.tid == tid
    ]
    lines += served or ["  no descriptor that it was seen waiting for"]
    return _escaped([*lines, "", *_history(snapshot, tid=tid)])


def _thread_facts(thread: Thread) -> list[str]:
    runtime = "-" if thread.runtime_seconds is None else f"{thread.runtime_seconds:.2f} s"
    lived = "-" if thread.cpu_percent is None else f"{thread.cpu_percent:.1f} %"
    return [
        f"State      {thread.state_name} ({thread.state})",
        f"Runtime    {runtime}, {lived} of a CPU over its life",
        f"Stack      {format_bytes(thread.thread_stack_bytes)}",
    ]


def _interval(snapshot: Snapshot, tid: int, width: int) -> list[str]:
    moment = snapshot.moments.get(tid)
    graph = max(1, min(_GRAPH, width - _LABEL))
    if moment is None:
        return []
    cpu = "-" if moment.cpu_percent is None else f"{moment.cpu_percent:.1f} %"
    lines = ["", "In the last interval", f"  CPU        {cpu:9}{sparkline(moment.cpu_history, graph, highest=10.0)}"]
    if moment.wait_count is None:
        return lines
    p50, p99 = format_duration(moment.wait_p50_ns), format_duration(moment.wait_p99_ns)
    lines += [
        f"  P99        {p99:9}{sparkline(moment.wait_history, graph)}",
        f"  Waits      {moment.wait_count} for a CPU, p50 {p50}",
        f"  Queued     {moment.queued_percent or 0:.1f} % of the time",
        f"  Switches   {format_rate(moment.switches_per_second)} a second",
    ]
    if moment.waits_on is not None:
        lines.append(f"  Waits on   {describe_wait(moment.waits_on)}, {format_duration(moment.waits_on.sum_ns)}")
    if moment.delayed_by:
        lines.append(f"  Delayed by {moment.delayed_by}")
    return lines


def _scheduling(scheduling: Scheduling, duration_ns: int) -> list[str]:
    latency = scheduling.run_queue_latency_ns
    lines = [
        "",
        f"In the {duration_ns / 1e9:.0f} s that were traced",
        f"  On CPU {format_duration(scheduling.on_cpu_ns)}, queued {format_duration(scheduling.run_queue_ns)}, "
        f"blocked {format_duration(scheduling.blocked_ns)}",
        f"  Waits {latency.count}: p50 {format_duration(latency.p50)}, p90 {format_duration(latency.p90)}, "
        f"p99 {format_duration(latency.p99)}, max {format_duration(latency.max)}",
        f"  Switches {scheduling.voluntary_switch_count} of its own, {scheduling.involuntary_switch_count} forced; "
        f"{scheduling.migration_count} moves to another CPU",
        "  Held the CPU meanwhile:",
    ]
    lines += [
        f"    {holder.name} {holder.tid}  {format_duration(holder.time_ns)}"
        for holder in scheduling.delayed_by[:_OTHERS]
    ] or ["    nobody that was seen"]
    lines.append("  Woken by:")
    return lines + (
        [
            f"    {waker.name}{f' {waker.tid}' if waker.tid is not None else ''}  {waker.count} times"
            for waker in scheduling.woken_by[:_OTHERS]
        ]
        or ["    nobody"]
    )


def _waits(waits: Iterable[Wait]) -> list[str]:
    """The longest, those for work last."""
    ranked = sorted(waits, key=lambda one: (one.is_idle, -one.sum_ns))[:_OTHERS]
    lines = [
        f"    {format_duration(one.sum_ns):>8} {'idle in ' * one.is_idle}{describe_wait(one)}, {one.count} times, "
        f"p99 {format_duration(one.p99_ns)}"
        for one in ranked
    ]
    return ["  Blocked in:", *lines] if lines else []


def descriptor_detail(snapshot: Snapshot, fd: int, last: Descriptor | None) -> list[str]:
    """One descriptor, its birth with the stack, and what happened to its number; `last`: as it was, if it is gone."""
    descriptor = next((one for one in snapshot.process.descriptors or () if one.fd == fd), None)
    lines = []
    if descriptor is None:
        lines.append(f"FD {fd} is closed." + (" What it was:" if last else ""))
        descriptor = last
    if descriptor is not None:
        lines += [f"FD {fd}  {descriptor.type}", "", *_descriptor_facts(descriptor, snapshot.ages.get(fd), snapshot)]
        lines += _about(finding for finding in snapshot.process.findings if fd in finding.fds)
        lines += _birth(descriptor, snapshot)
    return _escaped([*lines, "", *_history(snapshot, fd=fd)])


def _descriptor_facts(descriptor: Descriptor, age: Age | None, snapshot: Snapshot) -> list[str]:
    lines = [f"What       {descriptor.description}", f"Points to  {descriptor.target}"]
    if age is not None:
        seconds = format_age((snapshot.at_ns - age.since_ns) / 1e9)
        lines.append(f"Age        {seconds}" if age.is_exact else f"Age        more than {seconds}: it was open before")
    if details := format_details(descriptor):
        lines += ["Details", *(f"  {word}" for word in details.split("; "))]
    if (sock := descriptor.socket) is not None:
        fields = ("family", "type", "protocol", "state", "local", "remote", "role")
        known = [(field, getattr(sock, field)) for field in fields]
        lines += ["Socket", *(f"  {field:10} {value}" for field, value in known if value is not None)]
        if sock.evidence:
            lines.append(f"  evidence   {', '.join(sock.evidence)}")
    return lines


def _birth(descriptor: Descriptor, snapshot: Snapshot) -> list[str]:
    origin = descriptor.origin
    if origin is None:
        if snapshot.tracing == "on":
            return ["", "Origin", "  it is older than the trace"]
        return ["", "Origin", "  only a trace, which root may do, sees how a descriptor is made"]
    lines = [
        "",
        "Origin",
        f"  {origin.syscall} by {origin.thread_name or '?'} {origin.tid} at {origin.opened_at[11:26]}",
    ]
    if origin.maker:
        lines.append(f"  {origin.maker}")
    lines += ["  Stack, innermost first", *(f"    {frame}" for frame in origin.stack or ("not known",))]
    if origin.events:
        lines.append("  Then")
        lines += [f"    {event.time[11:26]} {event_verb(event)} {describe_event(event)}" for event in origin.events]
    return lines


def event_detail(snapshot: Snapshot, event: DescriptorEvent) -> list[str]:
    """One event with its stack, and what else happened to that number."""
    lines = [
        f"{event_verb(event)} {describe_event(event)}",
        "",
        f"At         {event.time}",
        f"Thread     {event.thread_name or '?'} {event.tid}",
    ]
    if event.lifetime_ns is not None:
        lines.append(f"Lifetime   {format_duration(event.lifetime_ns)}")
    lines += ["", "Stack, innermost first", *(f"  {frame}" for frame in event.stack or ("none was taken",))]
    if event.fd is not None:
        lines += ["", *_history(snapshot, fd=event.fd)]
    return _escaped(lines)


def _history(snapshot: Snapshot, *, tid: int | None = None, fd: int | None = None) -> list[str]:
    """The last events of a thread or a number, the newest first, with the newest stack."""
    if snapshot.tracing != "on":
        return ["History: only a trace, which root may do, sees it"]
    found = [event for event in snapshot.events if (event.tid == tid if fd is None else event.fd == fd)][::-1]
    if not found:
        return ["History: nothing happened while it was watched"]
    lines = ["History, the newest first"]
    lines += [
        f"  {event.time[11:26]} {event.thread_name or '?'} {event.tid} {event_verb(event)} {describe_event(event)}"
        for event in found[:_HISTORY]
    ]
    if fd is None and (stack := next((event.stack for event in found if event.stack), ())):
        lines += ["", "Its newest call's stack, innermost first", *(f"  {frame}" for frame in stack)]
    return lines


def findings_lines(snapshot: Snapshot) -> list[str]:
    """What stands out, with its threshold and what to do next; then what is not known."""
    lines = ["What stands out"]
    for number, finding in enumerate(snapshot.process.findings, 1):
        lines += ["", f"  {number}. {finding.severity}: {finding.words}"]
        lines += [f"     Threshold: {finding.rule}", f"     Next: {finding.advice}"]
    if not snapshot.process.findings:
        lines += ["", "  nothing"]
    if snapshot.message:
        lines += ["", snapshot.message]
    if gaps := snapshot.process.gaps:
        lines += ["", "Not known"]
        lines += [f"  {gap.section}: {gap.cause}" + (f" ({gap.remedy})" if gap.remedy else "") for gap in gaps]
    return _escaped(lines)


def _about(findings: Iterable[Finding]) -> list[str]:
    """The findings that a detail is concerned by."""
    lines = [f"  {finding.severity}: {finding.words}" for finding in findings]
    return ["", "What stands out", *lines] if lines else []


def _escaped(lines: list[str]) -> list[str]:
    return [format_text(line) for line in lines]
