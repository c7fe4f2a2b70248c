"""What bpf/scheduling.bpf.c needs of the running kernel: where fields are, and which tracepoints there are."""

from __future__ import annotations

from threadinfo.errors import NotAvailableError
from threadinfo.trace.kernel.btf import KernelTypes

TRACEPOINTS = {
    "sched_switch": "on_sched_switch",
    "sched_waking": "on_sched_waking",
    "sched_wakeup": "on_sched_wakeup",
    "sched_wakeup_new": "on_sched_wakeup",
    "sched_migrate_task": "on_sched_migrate_task",
    "sched_process_fork": "on_sched_process_fork",
    "sched_process_exec": "on_sched_process_exec",
}
"""Raw tracepoints that must be there, with our function for each."""

INTERRUPT_TRACEPOINTS = ("irq_handler", "softirq", "hrtimer_expire", "irq_work", "call_function", "reschedule")
"""Pairs of _entry and _exit that tell a wake-up by an interrupt; those that a machine lacks are left out."""


def kernel_facts() -> tuple[dict[str, int | str], list[tuple[str, str]], bool]:
    """From BTF: the defines of the program, its tracepoints, and whether the kernel has "delayed dequeue".

    Raises NotAvailableError where something is missing.
    """
    with KernelTypes() as types:
        defines: dict[str, int | str] = {}
        for name, fields in {"TASK_TGID": ["tgid"], "TASK_PID": ["pid"], "TASK_COMM": ["comm"]}.items():
            offset = types.offset("task_struct", *fields)
            if offset is None:
                raise NotAvailableError(f"this kernel's task_struct has no field {fields[0]}")
            defines[name] = offset
        cpu = types.offset("task_struct", "thread_info", "cpu")
        cpu = types.offset("task_struct", "cpu") if cpu is None else cpu
        if cpu is None:
            raise NotAvailableError("this kernel's task_struct does not say on which CPU a thread is")
        defines["TASK_CPU"] = cpu
        arguments = types.argument_count("sched_switch")
        if arguments is not None and arguments >= 4:
            defines["SWITCH_HAS_STATE"] = 1
        else:
            state = types.offset("task_struct", "__state")
            defines["TASK_STATE_BYTES"] = 4 if state is not None else 8
            state = types.offset("task_struct", "state") if state is None else state
            if state is None:
                raise NotAvailableError("this kernel's task_struct has no field state")
            defines["TASK_STATE"] = state
        run, run_before = (types.offset("task_struct", "se", f"{name}sum_exec_runtime") for name in ("", "prev_"))
        if run is not None and run_before is not None:
            defines |= {"TASK_RUN": run, "TASK_RUN_BEFORE": run_before}
        missing = [name for name in TRACEPOINTS if types.argument_count(name) is None]
        if missing:
            raise NotAvailableError(f"this kernel lacks the tracepoints {', '.join(missing)}", None)
        attach = list(TRACEPOINTS.items())
        for name in INTERRUPT_TRACEPOINTS:
            if None not in {types.argument_count(f"{name}_entry"), types.argument_count(f"{name}_exit")}:
                attach += [(f"{name}_{end}", f"on_{name}_{end}") for end in ("entry", "exit")]
        delays_dequeue = types.offset("task_struct", "se", "sched_delayed") is not None
        if types.argument_count("softirq_raise") is not None:
            attach.append(("softirq_raise", "on_softirq_raise"))
    return defines, attach, delays_dequeue
