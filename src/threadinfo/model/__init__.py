"""What a report is made of: frozen values, the same for every source and every renderer.

Names, units and the meaning of null are those of the JSON report, `threadinfo.report/1`: a number is in the unit that
its name ends in, None means "not known" and comes with a `Gap`, 0 means measured and zero. Text that came from the
target is valid Unicode here: bytes that are not UTF-8 were replaced by a visible ``\\xNN`` when they were read.

msgspec's structs rather than dataclasses, because a report holds tens of thousands of them: they are built 14 times
faster and are read from and written to JSON, with validation, by the same definitions (docs/how-it-works.md).

A file an area; whoever uses them takes them from here.
"""

from threadinfo.model.checks import Check
from threadinfo.model.churn import (
    DescriptorTrace,
    Failure,
    LeakSuspect,
    LedgerDifference,
    LimitFailure,
    PathChurn,
    SiteChurn,
    StackCounts,
    SuspectThread,
    ThreadChurn,
)
from threadinfo.model.cpu import CpuSample, CpuTime
from threadinfo.model.descriptors import Descriptor, Origin, Served
from threadinfo.model.events import DescriptorEvent, EventKind, SocketCalls, SocketTrace
from threadinfo.model.memory import Limits, Memory, OpenFilesLimit
from threadinfo.model.report import Family, FamilyCommand, Finding, ProcessReport, Report
from threadinfo.model.scheduling import DelayedBy, DelayEvent, KernelAccount, Scheduling, SchedulingDifference, WokenBy
from threadinfo.model.sockets import Inference, Socket, Standing
from threadinfo.model.threads import EndedThread, EndedThreads, Thread
from threadinfo.model.trace import Confidence, Trace, TraceTable
from threadinfo.model.values import DetailItem, Details, DetailValue, Gap, Latency
from threadinfo.model.waits import BlockedCall, Lock, LockHolder, LockUse, Wait, WaitObject, WaitStack

__all__ = [
    "BlockedCall",
    "Check",
    "Confidence",
    "CpuSample",
    "CpuTime",
    "DelayEvent",
    "DelayedBy",
    "Descriptor",
    "DescriptorEvent",
    "DescriptorTrace",
    "DetailItem",
    "DetailValue",
    "Details",
    "EndedThread",
    "EndedThreads",
    "EventKind",
    "Failure",
    "Family",
    "FamilyCommand",
    "Finding",
    "Gap",
    "Inference",
    "KernelAccount",
    "Latency",
    "LeakSuspect",
    "LedgerDifference",
    "LimitFailure",
    "Limits",
    "Lock",
    "LockHolder",
    "LockUse",
    "Memory",
    "OpenFilesLimit",
    "Origin",
    "PathChurn",
    "ProcessReport",
    "Report",
    "Scheduling",
    "SchedulingDifference",
    "Served",
    "SiteChurn",
    "Socket",
    "SocketCalls",
    "SocketTrace",
    "StackCounts",
    "Standing",
    "SuspectThread",
    "Thread",
    "ThreadChurn",
    "Trace",
    "TraceTable",
    "Wait",
    "WaitObject",
    "WaitStack",
    "WokenBy",
]
