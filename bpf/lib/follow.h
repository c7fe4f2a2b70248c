/* For a tracer that needs no more of processes than whether they are traced (lib/marks.h, lib/processes.h): the children that are
 * followed, and the process that is awaited, are. Given by the loader: TASK_PID, TASK_TGID, TASK_COMM. Driven by
 * src/threadinfo/trace/session/program_tracer.py. */

#define MOST_FOLLOWED 1024

struct window {
    u64 is_on;
};
BPF_F_TABLE("array", u32, struct window, window, 1, MAPPED);

static __always_inline bool is_on(void) {
    u32 zero = 0;
    struct window *w = window.lookup(&zero);

    return w && w->is_on;
}

/* Who was followed, for user space, in the order of their births; the latest of them. */
struct followed {
    u32 pid; /* written last */
    u32 parent_pid;
    u64 born_ns;
    char comm[COMM_BYTES];
};
BPF_F_TABLE("array", u32, struct followed, followed, MOST_FOLLOWED, MAPPED);

int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
    void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
    u32 tgid = read_u32(child, TASK_TGID), parent_tgid = read_u32(parent, TASK_TGID), index;
    struct followed *f;

    if (tgid == parent_tgid)
        return 0;
    if (mark_of(tgid)) /* of one that had the number before */
        set_mark(tgid, 0);
    if (mark_of(parent_tgid) != TARGET || !may_follow(&index))
        return 0;
    set_mark(tgid, TARGET);
    index %= MOST_FOLLOWED;
    f = followed.lookup(&index);
    if (!f)
        return 0;
    f->parent_pid = parent_tgid;
    f->born_ns = bpf_ktime_get_ns();
    bpf_probe_read_kernel(&f->comm, sizeof f->comm, child + TASK_COMM);
    asm volatile("" ::: "memory");
    f->pid = tgid;
    return 0;
}

int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    if (is_awaited())
        set_mark(bpf_get_current_pid_tgid() >> 32, TARGET);
    return 0;
}
