/* Which processes are traced: those that are asked for, the children that are followed, the one that is awaited. */

/* A mark for each process: that it is traced, or that it may share something with one that is. Asked first of every event
 * of the machine: an array costs a bystander a third of what a hash does. 32 processes an element, two bits each.
 * Mirrored by trace/process_marks.py. */
BPF_F_TABLE("array", u32, u64, marks, PID_LIMIT / 32 + 1, MAPPED);

#define TARGET 1
#define SHARER 2

static __always_inline u32 mark_of(u32 tgid) {
    u32 index = tgid / 32;
    u64 *group = marks.lookup(&index);

    return group ? *group >> (tgid % 32 * 2) & 3 : 0;
}

/* Sets the mark of a process that has none; 0 takes it away. The other 31 change meanwhile. */
static __always_inline void set_mark(u32 tgid, u64 mark) {
    u32 index = tgid / 32, shift = tgid % 32 * 2;
    u64 *group = marks.lookup(&index);

    if (group)
        __sync_fetch_and_add(group, (mark << shift) - (*group & 3ULL << shift));
}

/* How many processes that traced ones make are traced too. Mirrored by trace/following.py. */
struct following {
    u64 limit;
    u64 count; /* of those that were to be, beyond the limit as well */
};
BPF_F_TABLE("array", u32, struct following, following, 1, MAPPED);

/* `index`: how many were followed before. */
static __always_inline bool may_follow(u32 *index) {
    u32 zero = 0;
    struct following *f = following.lookup(&zero);

    if (!f || !f->limit)
        return false;
    *index = __sync_fetch_and_add(&f->count, 1);
    return *index < f->limit;
}

/* A process that has not begun: the next that has this name when it calls exec is traced. Mirrored by trace/awaited.py. */
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
