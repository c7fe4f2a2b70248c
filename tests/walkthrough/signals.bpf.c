/* Signals that are delivered to the threads of traced processes: signal(7); counted by thread and number. */
#include <linux/types.h>

#include "lib/kernel.h"
#include "lib/marks.h"
#include "lib/processes.h"
#include "lib/follow.h"

struct delivery {
    u32 pid;
    u32 tid;
    u32 number;
    u32 unused;
};
BPF_HASH(deliveries, struct delivery, u64, 4096);

/* How many were seen, and how many found no room. */
struct counts {
    u64 seen;
    u64 map_full;
};
BPF_F_TABLE("array", u32, struct counts, counts, 1, MAPPED);

int on_signal_deliver(struct bpf_raw_tracepoint_args *ctx) {
    u64 id = bpf_get_current_pid_tgid(), one = 1, *count;
    struct delivery key = {.pid = id >> 32, .tid = id, .number = ctx->args[0]};
    u32 zero = 0;
    struct counts *c = counts.lookup(&zero);

    if (!c || mark_of(id >> 32) != TARGET || !is_on())
        return 0;
    __sync_fetch_and_add(&c->seen, 1);
    count = deliveries.lookup(&key);
    if (count)
        __sync_fetch_and_add(count, 1);
    else if (deliveries.update(&key, &one))
        __sync_fetch_and_add(&c->map_full, 1);
    return 0;
}
