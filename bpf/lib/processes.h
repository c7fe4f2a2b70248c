/* Who comes to be traced: the children that are followed, the process that is awaited. For every tracer. */

/* How many processes that traced ones make are traced too. Mirrored by trace/session/following.py. */
struct following {
    u64 limit; /* user space raises it as they end */
    u64 count; /* of those that were followed so far */
    u64 left_out_count;
};
BPF_F_TABLE("array", u32, struct following, following, 1, MAPPED);

/* `index`: how many were followed before. */
static __always_inline bool may_follow(u32 *index) {
    u32 zero = 0;
    struct following *f = following.lookup(&zero);

    if (!f || !f->limit)
        return false;
    *index = __sync_fetch_and_add(&f->count, 1);
    if (*index < f->limit)
        return true;
    __sync_fetch_and_add(&f->count, -1);
    __sync_fetch_and_add(&f->left_out_count, 1);
    return false;
}

/* A process that has not begun: the next that has this name when it calls exec is traced. Mirrored by trace/session/awaited.py. */
struct awaited {
    u64 name[2]; /* as the kernel has it, padded with zeroes */
    s64 left;    /* 1 while it is waited for */
    u64 pid;
    u64 at_ns;
};
BPF_F_TABLE("array", u32, struct awaited, awaited, 1, MAPPED);

/* Whether the process that has just called exec is the one. */
static __always_inline bool is_awaited(void) {
    u32 zero = 0;
    struct awaited *a = awaited.lookup(&zero);
    u64 name[2] = {};

    if (!a || a->left <= 0)
        return false;
    bpf_get_current_comm(&name, sizeof name);
    if (name[0] != a->name[0] || name[1] != a->name[1] || __sync_fetch_and_add(&a->left, -1) != 1)
        return false;
    a->at_ns = bpf_ktime_get_ns();
    a->pid = bpf_get_current_pid_tgid() >> 32;
    return true;
}
