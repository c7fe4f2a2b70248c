"""What the kernel side of scheduling writes: mirrors of the structs of bpf/scheduling.bpf.c."""

from __future__ import annotations

import ctypes

from threadinfo.trace.kernel.histogram import BUCKETS


class LatencyRecord(ctypes.Structure):
    """struct latency."""

    _fields_ = (
        ("count", ctypes.c_uint64),
        ("sum_ns", ctypes.c_uint64),
        ("max_ns", ctypes.c_uint64),
        ("buckets", ctypes.c_uint32 * BUCKETS),
    )


class WakingRecord(ctypes.Structure):
    """struct waking."""

    _fields_ = (
        ("waker", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
        ("ns", ctypes.c_uint64),
    )


class ThreadRecord(ctypes.Structure):
    """struct thread: a slot."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("tid", "tgid", "state", "first_state")),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "first_ns",
                "since_ns",
                "settled_ns",
                "born_ns",
                "ended_ns",
                "on_cpu_ns",
                "queued_ns",
                "sleeping_ns",
                "uninterruptible_ns",
                "voluntary_count",
                "involuntary_count",
                "migration_count",
                "uncharged_ns",
            )
        ),
        *((name, ctypes.c_uint32) for name in ("waker", "named_waker", "last_holder", "unused")),
        ("last_holder_ns", ctypes.c_uint64),
        ("waking", WakingRecord),
        ("comm", ctypes.c_char * 16),
        ("after_wakeup", LatencyRecord),
        ("after_preemption", LatencyRecord),
    )


class LossesRecord(ctypes.Structure):
    """struct losses, of one CPU."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("full_count", "lost_count", "seen_count", "unexpected_count", "uncopied_count")
    )


class ControlRecord(ctypes.Structure):
    """struct control."""

    _fields_ = (
        ("is_on", ctypes.c_uint64),
        ("threshold_ns", ctypes.c_uint64),
        ("copies_left", ctypes.c_int64),
        ("next_stack", ctypes.c_uint64),
    )


class DelayRecord(ctypes.Structure):
    """struct delay, of the live stream."""

    _fields_ = (
        ("at_ns", ctypes.c_uint64),
        ("wait_ns", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("tid", "tgid", "cpu", "holder")),
        ("comm", ctypes.c_char * 16),
    )


class ChildRecord(ctypes.Structure):
    """struct child: a process that is followed."""

    _fields_ = (
        ("tgid", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("born_ns", ctypes.c_uint64),
        ("comm", ctypes.c_char * 16),
    )


class NameRecord(ctypes.Structure):
    """struct name, of another thread."""

    _fields_ = (("tgid", ctypes.c_uint32), ("comm", ctypes.c_char * 16))
