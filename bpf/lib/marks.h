/* Which processes are traced, for programs that are asked by every process of the machine. Given: PID_LIMIT. */

/* A mark for each process: that it is traced, or that it may share something with one that is. Asked first of every event
 * of the machine: an array costs a bystander a third of what a hash does. 32 processes an element, two bits each.
 * Mirrored by trace/session/marks.py. */
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
