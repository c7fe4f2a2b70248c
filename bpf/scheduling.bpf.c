/* Per-thread scheduling: a state machine a thread, fed by raw tracepoints; statistics stay in the kernel.
 *
 * Raw tracepoints rather than stable ones, because those are skipped while user space updates a map on the same CPU.
 * Read by src/threadinfo/trace/scheduling/recorder.py; records.py beside it mirrors the structs.
 *
 * Given by the loader: TID_LIMIT (pid_max), SLOT_COUNT, CPU_COUNT, STREAM_PAGES for the live stream, and from the running
 * kernel's BTF the offsets TASK_TGID, TASK_PID, TASK_COMM, TASK_CPU, SWITCH_HAS_STATE or TASK_STATE, TASK_STATE_BYTES, and
 * where there are such fields TASK_RUN and TASK_RUN_BEFORE. PAIRS: how many of (thread, other thread) are kept. With WAITS
 * what threads wait for is kept too: scheduling/waits.h.
 *
 * Not every event is shown to us. A kernel can run no program while certain threads are current (that of a sandbox may hide
 * its init), and counts no recursion miss for it: switches away from them, and wake-ups by their CPU meanwhile, are unseen.
 * So nothing is inferred from one event that the CPU's own sequence contradicts (see catch_up), and what user space read
 * from /proc of a thread's beginning outranks what its first event seems to say.
 */
#include <linux/types.h>

#include "lib/kernel.h"
#include "lib/histogram.h"
#include "lib/processes.h"

#define SLICES 64      /* of each CPU's past, a power of two */
#define WALK 8         /* slices looked back at for one wait; to all of them where loops cost the verifier nothing */
#define CHILDREN 4096 /* that are made between two looks of user space */
#define INTERRUPT 0xffffffff /* as a waker: no thread, but a timer or a device */
#define BY_NETWORK 0x40000000 /* added to a waker: the receiving side of the network, which ran in that thread's send */
#define NET_RX 3 /* include/linux/interrupt.h, NET_RX_SOFTIRQ */

#define STATE_DEAD 0x80          /* include/linux/sched.h, TASK_DEAD */
#define STATE_UNINTERRUPTIBLE 2  /* TASK_UNINTERRUPTIBLE */

/* --- which threads are traced ------------------------------------------------------------------------------------ */

/* A slot for each traced thread, found by its number in one access: a hash made the traced threads 1.2 times slower.
 * Four slots an element, because an array's elements take 8 bytes at least. Slot 0 means "not traced". */
struct slot_group {
    u16 slots[4];
};
BPF_F_TABLE("array", u32, struct slot_group, slot_of, TID_LIMIT / 4 + 1, MAPPED);

/* Written by user space. Start and end of the window are single writes, so every thread's window is the same. */
struct control {
    u64 is_on;
    u64 threshold_ns; /* of the live stream */
    s64 copies_left;  /* of stacks: user space gives more as it gets on with them */
    u64 next_stack;
};
BPF_F_TABLE("array", u32, struct control, control, 1, MAPPED);

/* What could not be recorded: counted where it is lost. One element a CPU. */
struct losses {
    u64 full_count; /* no slot, or no room in a map */
    u64 lost_count; /* no room in the stream */
    u64 seen_count; /* events of traced threads */
    u64 unexpected_count; /* a thread or a CPU was not in the state that its event needs: another event was not seen */
    u64 uncopied_count; /* stacks that were new and had no room, or came too fast */
};
BPF_F_TABLE("array", u32, struct losses, losses, CPU_COUNT, MAPPED);

/* For threads that are born while we watch: the slots that were never used, then those that user space gave back. */
BPF_F_TABLE("array", u32, u64, next_slot, 1, MAPPED);
BPF_QUEUE(free_slots, u32, SLOT_COUNT);

static __always_inline struct losses *this_cpu_losses(void) {
    u32 cpu = bpf_get_smp_processor_id();

    return losses.lookup(&cpu);
}

static __always_inline u32 find_slot(u32 tid) {
    u32 group_index = tid / 4;
    struct slot_group *group = slot_of.lookup(&group_index);

    return group ? group->slots[tid % 4] : 0;
}

static __always_inline void set_slot(u32 tid, u32 slot) {
    u32 group_index = tid / 4;
    struct slot_group *group = slot_of.lookup(&group_index);

    if (group)
        group->slots[tid % 4] = slot;
}

static __always_inline struct control *get_control(void) {
    u32 zero = 0;

    return control.lookup(&zero);
}

static __always_inline bool is_on(void) {
    struct control *c = get_control();

    return c && c->is_on;
}

/* --- what is kept of each ----------------------------------------------------------------------------------------- */

enum thread_state { UNKNOWN, RUNNING, QUEUED_AFTER_WAKEUP, QUEUED_AFTER_PREEMPTION, SLEEPING, UNINTERRUPTIBLE, ENDED };

struct latency {
    u64 count;
    u64 sum_ns;
    u64 max_ns;
    u32 buckets[BUCKETS];
};

/* The same waker as long as it stays the same; then it goes to its map. */
struct waking {
    u32 waker;
    u32 unused;
    u64 count;
    u64 ns; /* that the wait had taken */
};

struct thread {
    u32 tid;
    u32 tgid;
    u32 state;
    u32 first_state; /* what the first event says of the time before it; of one that began in the window, its beginning */
    u64 first_ns;    /* 0: no event yet */
    u64 since_ns;    /* of the present state */
    u64 settled_ns;  /* up to where this wait was charged to its holders */
    u64 born_ns;     /* 0: older than the programs */
    u64 ended_ns;    /* 0: alive */
    u64 on_cpu_ns;
    u64 queued_ns;
    u64 sleeping_ns;
    u64 uninterruptible_ns;
    u64 voluntary_count;
    u64 involuntary_count;
    u64 migration_count;
    u64 uncharged_ns; /* of waits: nobody, or nobody that we remember, held the CPU */
    u32 waker;        /* who is waking it; 0: nobody */
    u32 named_waker;  /* whose name is known */
    u32 last_holder;  /* the pair that is being counted, kept here because it seldom changes */
    u32 unused;
    u64 last_holder_ns;
    struct waking waking;
    char comm[COMM_BYTES];
    struct latency after_wakeup;
    struct latency after_preemption;
};
BPF_F_TABLE("array", u32, struct thread, threads, SLOT_COUNT, MAPPED);

struct slice {
    u64 start_ns;
    u64 end_ns;
    u32 tid;
    u32 unused;
};

struct cpu {
    u64 since_ns; /* when the present thread was switched in */
    u64 current_task; /* its task_struct, since exec can change its number; 0: no switch was seen yet */
    u32 current_tid;
    u32 interrupt_depth;
    u32 raised_by; /* who had the network receive, outside of an interrupt: it sent something over loopback */
    u32 sender;    /* the same, while what it sent is received */
    u64 head;
    struct slice slices[SLICES];
};
BPF_F_TABLE("array", u32, struct cpu, cpus, CPU_COUNT, MAPPED);

/* Of a traced thread, or of one of the things that it waits for: how often another woke it and how long it had waited, and
 * how long another held the CPU while it waited for that. */
struct pair {
    u32 of; /* the thread's slot; of wakers with OF_THREAD added, or the place of the wait */
    u32 tid;
};
struct total {
    u64 count;
    u64 ns;
};
#define OF_THREAD 0x80000000
BPF_HASH(woken_by, struct pair, struct total, PAIRS);
BPF_HASH(delayed_by, struct pair, struct total, PAIRS);

/* Names of those others, taken when they are seen: many are gone when the report is made. */
struct name {
    u32 tgid;
    char comm[COMM_BYTES];
};
BPF_HASH(names, u32, struct name, PAIRS);

#ifdef STREAM_PAGES
struct delay {
    u64 at_ns;
    u64 wait_ns;
    u32 tid;
    u32 tgid;
    u32 cpu;
    u32 holder; /* 0: nobody that we remember */
    char comm[COMM_BYTES];
};
BPF_RINGBUF_OUTPUT(delays, STREAM_PAGES);
#endif

static __always_inline void count_full(void) {
    struct losses *l = this_cpu_losses();

    if (l)
        l->full_count++;
}

static __always_inline void count_seen(void) {
    struct losses *l = this_cpu_losses();

    if (l)
        l->seen_count++;
}

static __always_inline struct thread *find_thread(u32 tid, u32 *slot) {
    *slot = find_slot(tid);
    return *slot ? threads.lookup(slot) : NULL;
}

static __always_inline void add_latency(struct latency *l, u64 wait_ns) {
    u32 bucket = bucket_of(wait_ns);

    l->count++;
    l->sum_ns += wait_ns;
    if (wait_ns > l->max_ns)
        l->max_ns = wait_ns;
    asm volatile("" : "+r"(bucket)); /* or clang proves the bound away, which the verifier then misses */
    if (bucket < BUCKETS)
        l->buckets[bucket]++;
}

static __always_inline void remember_name(u32 tid, void *task) {
    struct name n = {};

    if (names.lookup(&tid))
        return;
    n.tgid = read_u32(task, TASK_TGID);
    bpf_probe_read_kernel(&n.comm, sizeof n.comm, task + TASK_COMM);
    if (names.update(&tid, &n))
        count_full();
}

/* Pairs are counted where they are found at once while they stay the same, and go to their map when they change. */
static __always_inline void note_waker(struct waking *last, u32 of, u32 waker, u64 ns) {
    if (!waker)
        return;
    if (waker != last->waker) {
        struct pair key = {.of = of, .tid = last->waker};
        struct total first = {.count = last->count, .ns = last->ns}, *sum = woken_by.lookup(&key);

        if (sum) {
            sum->count += first.count;
            sum->ns += first.ns;
        } else if (first.count && woken_by.update(&key, &first)) {
            count_full();
        }
        last->waker = waker;
        last->count = last->ns = 0;
    }
    last->count++;
    last->ns += ns;
}

static __always_inline void flush_holder(struct thread *t, u32 slot) {
    struct pair key = {.of = slot, .tid = t->last_holder};
    struct total first = {.count = 1, .ns = t->last_holder_ns}, *sum = delayed_by.lookup(&key);

    if (!t->last_holder_ns)
        return;
    if (sum) {
        sum->count++;
        sum->ns += first.ns;
    } else if (delayed_by.update(&key, &first)) {
        count_full();
        t->uncharged_ns += t->last_holder_ns; /* nobody that we remember */
    }
}

static __always_inline void charge(struct thread *t, u32 slot, u32 holder, u64 ns) {
    if (holder != t->last_holder) {
        flush_holder(t, slot);
        t->last_holder = holder;
        t->last_holder_ns = 0;
    }
    t->last_holder_ns += ns;
}

struct settling {
    u64 from;
    u64 until;
    u64 left_ns; /* of which nobody is known yet */
    u64 longest_ns;
    u32 longest; /* who held the CPU longest */
};

/* Charges a wait to who held the CPU in the slice that came `back` ago; gives whether it ended before that wait. */
static __always_inline bool settle_slice(struct thread *t, u32 slot, struct cpu *c, u32 back, struct settling *wait) {
    struct slice *s = &c->slices[(c->head - back) & (SLICES - 1)];
    u64 start = s->start_ns > wait->from ? s->start_ns : wait->from;
    u64 end = s->end_ns < wait->until ? s->end_ns : wait->until;

    if (s->end_ns <= wait->from)
        return true;
    if (end <= start || !s->tid || s->tid == t->tid)
        return false;
    charge(t, slot, s->tid, end - start);
    wait->left_ns -= end - start;
    if (end - start > wait->longest_ns) {
        wait->longest_ns = end - start;
        wait->longest = s->tid;
    }
    return false;
}

/* Charges a wait from t->settled_ns to `until` to those who held the CPU; gives who held it longest. */
static __always_inline u32 settle(struct thread *t, u32 slot, struct cpu *c, u64 until) {
    struct settling wait = {.from = t->settled_ns, .until = until};
    bool is_done = false;

    if (until <= wait.from)
        return 0;
    wait.left_ns = until - wait.from;
    for (u32 i = 1; i <= WALK && !is_done; i++)
        is_done = settle_slice(t, slot, c, i, &wait);
#ifdef HAS_ITERATORS
    if (!is_done) {
        u32 i;

        EACH (i, WALK + 1, SLICES) {
            if (settle_slice(t, slot, c, i, &wait))
                break;
        }
    }
#endif
    t->uncharged_ns += wait.left_ns;
    t->settled_ns = until;
    return wait.longest;
}

static __always_inline void note_first(struct thread *t, u64 now, u32 state_before) {
    if (!t->first_ns) {
        t->first_ns = now;
        t->first_state = state_before;
    }
}

/* Never negative: the clocks of two CPUs can be apart. */
static __always_inline u64 time_since(u64 since_ns, u64 now) {
    return now > since_ns ? now - since_ns : 0;
}

#ifdef WAITS
#include "scheduling/waits.h"
#else
static __always_inline void begin_wait(struct thread *t, u32 slot, void *task, u64 task_state, u64 now) {
}

static __always_inline void end_wait(struct thread *t, u32 slot, u64 ns, bool is_uninterruptible) {
    note_waker(&t->waking, slot | OF_THREAD, t->waker, ns);
}
#endif

/* Charges the time since the last event to the state that the thread was in; where that is not known, to the one that this
 * event needs. The time before the first event is user space's to charge. */
static __always_inline void leave_state(struct thread *t, u32 slot, u64 now, u32 needed) {
    u64 ns = time_since(t->since_ns, now);
    u32 state = t->state == UNKNOWN ? needed : t->state;

    if (!t->since_ns) {
        note_first(t, now, needed);
        note_waker(&t->waking, slot | OF_THREAD, t->waker, 0);
    } else if (state == RUNNING) {
        t->on_cpu_ns += ns;
    } else if (state == QUEUED_AFTER_WAKEUP || state == QUEUED_AFTER_PREEMPTION) {
        t->queued_ns += ns;
    } else if (state == SLEEPING || state == UNINTERRUPTIBLE) {
        if (state == SLEEPING)
            t->sleeping_ns += ns;
        else
            t->uninterruptible_ns += ns;
        end_wait(t, slot, ns, state == UNINTERRUPTIBLE);
    }
    t->waker = 0;
    t->since_ns = now;
}

static __always_inline void count_unexpected(void) {
    struct losses *l = this_cpu_losses();

    if (l)
        l->unexpected_count++;
}

static __always_inline void switch_out(struct thread *t, u32 slot, void *task, u64 now, u64 task_state) {
    if (t->state != RUNNING && t->state != UNKNOWN)
        count_unexpected();
    leave_state(t, slot, now, RUNNING);
    t->settled_ns = now;
    if (!task_state) {
        t->involuntary_count++;
        t->state = QUEUED_AFTER_PREEMPTION;
        return;
    }
    t->voluntary_count++;
    if (task_state & STATE_DEAD) {
        t->state = ENDED;
        t->ended_ns = now;
        bpf_probe_read_kernel(&t->comm, sizeof t->comm, task + TASK_COMM);
        set_slot(t->tid, 0);
        return;
    }
    t->state = task_state & STATE_UNINTERRUPTIBLE ? UNINTERRUPTIBLE : SLEEPING;
    begin_wait(t, slot, task, task_state, now);
}

static __always_inline void switch_in(struct thread *t, void *task, u32 slot, struct cpu *c, u32 cpu, u64 now) {
    u64 wait_ns = time_since(t->since_ns, now);
    u32 holder;

    if (t->state == QUEUED_AFTER_WAKEUP || t->state == QUEUED_AFTER_PREEMPTION) {
        if (t->state == QUEUED_AFTER_WAKEUP)
            add_latency(&t->after_wakeup, wait_ns);
        else
            add_latency(&t->after_preemption, wait_ns);
        holder = settle(t, slot, c, now);
#ifdef STREAM_PAGES
        struct control *ctl = get_control();

        if (ctl && wait_ns >= ctl->threshold_ns) {
            struct delay *d = delays.ringbuf_reserve(sizeof *d);

            if (d) {
                d->at_ns = now;
                d->wait_ns = wait_ns;
                d->tid = t->tid;
                d->tgid = t->tgid;
                d->cpu = cpu;
                d->holder = holder;
                bpf_probe_read_kernel(&d->comm, sizeof d->comm, task + TASK_COMM);
                delays.ringbuf_submit(d, NO_WAKEUP);
            } else {
                struct losses *l = this_cpu_losses();

                if (l)
                    l->lost_count++;
            }
        }
#endif
    } else if (t->state != UNKNOWN) {
        count_unexpected();
    }
    leave_state(t, slot, now, QUEUED_AFTER_PREEMPTION);
    t->state = RUNNING;
}

static __always_inline void wake(struct thread *t, u32 slot, u64 now) {
    leave_state(t, slot, now, SLEEPING);
    t->state = QUEUED_AFTER_WAKEUP;
    t->settled_ns = now;
}

static __always_inline void end_slice(struct cpu *c, u64 now) {
    struct slice *s = &c->slices[c->head & (SLICES - 1)];

    s->start_ns = c->since_ns;
    s->end_ns = now;
    s->tid = c->current_tid;
    c->head++;
    c->since_ns = now;
}

/* How long the latest turn of a thread on a CPU lasted, by the kernel's own account of it; of one that is being switched
 * out, the turn that ends. */
static __always_inline u64 turn_ns(void *task) {
#ifdef TASK_RUN
    return read_u64(task, TASK_RUN) - read_u64(task, TASK_RUN_BEFORE);
#else
    return 0;
#endif
}

/* Another thread than the one that we saw switched in is switched out: the switch from one to the other was not shown to
 * us. It is made good here: it took place when the one that goes now began its turn. */
static __always_inline void catch_up(struct cpu *c, void *prev, u32 cpu, u64 now) {
    u32 slot, gone_slot, tid = read_u32(prev, TASK_PID);
    u64 from = c->since_ns, turn = turn_ns(tid ? prev : (void *)c->current_task), at;
    struct thread *gone = find_thread(c->current_tid, &gone_slot), *came = find_thread(tid, &slot);

    at = tid ? now - turn : from + turn;
    if (!turn || at < from || at > now) /* not such a scheduling class, or another turn */
        at = from;
    if (gone && gone->state == RUNNING && gone->since_ns == from) {
        count_unexpected();
        leave_state(gone, gone_slot, at, RUNNING);
        gone->state = UNKNOWN; /* what it does now its next event will tell */
    }
    end_slice(c, at);
    c->current_tid = tid;
    if (!came || came->state == RUNNING)
        return;
    count_unexpected();
    if (!came->since_ns) { /* what it did until then, /proc said at the beginning */
        note_first(came, at, UNKNOWN);
        came->since_ns = at;
        came->state = RUNNING;
        return;
    }
    if (came->state != QUEUED_AFTER_WAKEUP && came->state != QUEUED_AFTER_PREEMPTION) {
        count_unexpected();
        wake(came, slot, from > came->since_ns ? from : came->since_ns); /* while the other was current */
    }
    switch_in(came, prev, slot, c, cpu, at);
}

/* Of the thread that is switched out; 0: it would go on, and has to make room. */
static __always_inline u64 state_of_switch(struct bpf_raw_tracepoint_args *ctx, void *task) {
    u64 state = 0;

    if (ctx->args[0]) /* in the kernel, wherever it was: it may say by then that it is going to sleep */
        return 0;
#ifdef SWITCH_HAS_STATE /* since Linux 5.18 */
    state = ctx->args[3];
#else
    bpf_probe_read_kernel(&state, TASK_STATE_BYTES, task + TASK_STATE);
#endif
    return state;
}

int on_sched_switch(struct bpf_raw_tracepoint_args *ctx) {
    void *prev = (void *)ctx->args[1], *next = (void *)ctx->args[2];
    u64 now = bpf_ktime_get_ns(), task_state;
    u32 cpu = bpf_get_smp_processor_id(), prev_slot, next_slot;
    u32 prev_tid = read_u32(prev, TASK_PID), next_tid = read_u32(next, TASK_PID);
    struct cpu *c = cpus.lookup(&cpu);
    struct thread *out, *in;

    if (!c || !is_on())
        return 0;
    task_state = state_of_switch(ctx, prev);
    if (c->current_task && c->current_task != (u64)prev)
        catch_up(c, prev, cpu, now);
    c->current_tid = prev_tid; /* after exec it is another */
    end_slice(c, now);
    c->current_tid = next_tid;
    c->current_task = (u64)next;

    out = find_thread(prev_tid, &prev_slot);
    if (out) {
        switch_out(out, prev_slot, prev, now, task_state);
        count_seen();
    }
    in = find_thread(next_tid, &next_slot);
    if (in) {
        if (prev_tid && prev_tid != in->last_holder)
            remember_name(prev_tid, prev);
        switch_in(in, next, next_slot, c, cpu, now);
        count_seen();
    }
    return 0;
}

#ifdef WAIT_STACKS
/* At a switch, before or after on_sched_switch, which counts: from where in the program the thread came to its wait. A
 * program of its own, so that the other stays within the verifier's bounds, and --no-stacks costs nothing. */
int on_wait(struct bpf_raw_tracepoint_args *ctx) {
    void *task = (void *)ctx->args[1];
    u32 slot;
    struct thread *t;
    struct waiting *w;
    u64 task_state = state_of_switch(ctx, task);

    if (!task_state || task_state & STATE_DEAD || !is_on())
        return 0;
    t = find_thread(read_u32(task, TASK_PID), &slot);
    w = t ? waiting.lookup(&slot) : NULL;
    if (!w)
        return 0;
    w->stack = 0;
    if (!w->registers)
        w->registers = find_registers(task);
    if (w->registers != NO_REGISTERS)
        w->stack = stack_of_call((void *)w->registers, read_u64((void *)w->registers, REGISTER_IP),
                                 read_u64((void *)w->registers, REGISTER_SP), read_u32(task, TASK_EXEC_ID), true);
    return 0;
}
#endif

/* The waker is the current task here; at sched_wakeup it may be the idle task of another CPU. */
int on_sched_waking(struct bpf_raw_tracepoint_args *ctx) {
    u32 cpu = bpf_get_smp_processor_id(), slot, waker = bpf_get_current_pid_tgid();
    struct thread *t = find_thread(read_u32((void *)ctx->args[0], TASK_PID), &slot);
    struct cpu *c;

    if (!t || !is_on())
        return 0;
    if (t->state != SLEEPING && t->state != UNINTERRUPTIBLE && t->state != UNKNOWN)
        return 0; /* it has not gone to sleep yet, or was woken already */
    c = cpus.lookup(&cpu);
    t->waker = waker; /* it is counted when the wait ends, a moment later */
    if (c && c->interrupt_depth && waker && c->sender == waker)
        t->waker = waker | BY_NETWORK;
    else if (!waker || (c && c->interrupt_depth))
        t->waker = waker = INTERRUPT;
    if (waker != INTERRUPT && waker != t->named_waker) {
        t->named_waker = waker;
        if (!names.lookup(&waker)) {
            struct name n = {.tgid = bpf_get_current_pid_tgid() >> 32};

            bpf_get_current_comm(&n.comm, sizeof n.comm);
            if (names.update(&waker, &n))
                count_full();
        }
    }
    count_seen();
    return 0;
}

int on_sched_wakeup(struct bpf_raw_tracepoint_args *ctx) {
    u32 slot;
    struct thread *t = find_thread(read_u32((void *)ctx->args[0], TASK_PID), &slot);
    u64 now;

    if (!t || !is_on())
        return 0;
    now = bpf_ktime_get_ns();
    if (t->state != SLEEPING && t->state != UNINTERRUPTIBLE && t->state != UNKNOWN)
        return 0; /* running, or queued already: nothing begins */
    wake(t, slot, now);
    count_seen();
    return 0;
}

int on_sched_migrate_task(struct bpf_raw_tracepoint_args *ctx) {
    void *task = (void *)ctx->args[0];
    u32 slot, old_cpu;
    struct thread *t = find_thread(read_u32(task, TASK_PID), &slot);
    struct cpu *c;

    if (!t || !is_on())
        return 0;
    t->migration_count++;
    count_seen();
    if (t->state != QUEUED_AFTER_WAKEUP && t->state != QUEUED_AFTER_PREEMPTION)
        return 0;
    old_cpu = read_u32(task, TASK_CPU); /* it waited there up to now, and who is there now has not been switched out */
    c = cpus.lookup(&old_cpu);
    if (c) {
        u64 now = bpf_ktime_get_ns(), from = c->since_ns > t->settled_ns ? c->since_ns : t->settled_ns;

        if (from < now && c->current_tid && c->current_tid != t->tid) {
            settle(t, slot, c, from);
            charge(t, slot, c->current_tid, now - from);
            t->settled_ns = now;
        } else {
            settle(t, slot, c, now);
        }
    }
    return 0;
}

/* Gives a slot to a thread that begins, or that we begin to trace; 0: there is none. */
static __always_inline u32 begin_thread(void *task, u32 state) {
    u32 zero = 0, slot = 0, tid = read_u32(task, TASK_PID);
    u64 *next = next_slot.lookup(&zero);
    struct thread *t;

    if (next && *next < SLOT_COUNT)
        slot = __sync_fetch_and_add(next, 1);
    if ((!slot || slot >= SLOT_COUNT) && free_slots.pop(&slot)) {
        count_full();
        return 0;
    }
    t = threads.lookup(&slot);
    if (!t)
        return 0;
    t->tgid = read_u32(task, TASK_TGID);
    t->born_ns = bpf_ktime_get_ns();
    if (is_on()) { /* otherwise it is older than the window, and its first event tells what it was doing */
        t->first_ns = t->since_ns = t->born_ns;
        t->state = t->first_state = state;
    }
    bpf_probe_read_kernel(&t->comm, sizeof t->comm, task + TASK_COMM);
    asm volatile("" ::: "memory"); /* whoever sees its number sees the rest of it */
    t->tid = tid;
    set_slot(tid, slot);
    return slot;
}

/* Children that are followed, for user space to learn of. */
struct child {
    u32 tgid;
    u32 unused;
    u64 born_ns;
    char comm[COMM_BYTES];
};
BPF_QUEUE(children, struct child, CHILDREN);

int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
    void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
    struct child c = {.tgid = read_u32(child, TASK_TGID)};
    bool is_process = c.tgid != read_u32(parent, TASK_TGID);
    u32 before;

    if (!find_slot(read_u32(parent, TASK_PID)))
        return 0;
    if (is_process && !may_follow(&before))
        return 0;
    begin_thread(child, SLEEPING); /* until sched_wakeup_new */
    if (is_process) {
        c.born_ns = bpf_ktime_get_ns();
        bpf_probe_read_kernel(&c.comm, sizeof c.comm, child + TASK_COMM);
        if (children.push(&c, 0))
            count_full();
    }
    return 0;
}

/* A thread that calls execve takes the process's own number; the others have ended by now. */
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    u32 slot, old_tid = ctx->args[1], tid = read_u32((void *)ctx->args[0], TASK_PID);
    struct thread *t = find_thread(old_tid, &slot);

    if (is_awaited() && !t)
        begin_thread((void *)ctx->args[0], RUNNING);
    if (!t || old_tid == tid)
        return 0;
    set_slot(old_tid, 0);
    set_slot(tid, slot);
    t->tid = tid;
    return 0;
}

static __always_inline int change_depth(int change) {
    u32 cpu = bpf_get_smp_processor_id();
    struct cpu *c = cpus.lookup(&cpu);

    /* Not before the window: an entry whose exit came before its program was attached would count for ever. */
    if (c && is_on() && (change > 0 || c->interrupt_depth))
        c->interrupt_depth += change;
    return 0;
}

/* A function for each tracepoint, though all do the same: interrupts nest, and the kernel leaves out a program that runs
 * on this CPU already. */
#define ON_INTERRUPT(name)                                                                                            \
    int on_##name##_entry(struct bpf_raw_tracepoint_args *ctx) {                                                      \
        return change_depth(1);                                                                                       \
    }                                                                                                                 \
    int on_##name##_exit(struct bpf_raw_tracepoint_args *ctx) {                                                       \
        return change_depth(-1);                                                                                      \
    }

ON_INTERRUPT(irq_handler)
ON_INTERRUPT(hrtimer_expire)
ON_INTERRUPT(irq_work)
ON_INTERRUPT(call_function)
ON_INTERRUPT(reschedule)

/* What a thread sends over loopback is received before its call returns, in its own context: it raises NET_RX where no
 * interrupt is being served, as what is received may do again. */
int on_softirq_raise(struct bpf_raw_tracepoint_args *ctx) {
    u32 cpu = bpf_get_smp_processor_id(), tid = bpf_get_current_pid_tgid();
    struct cpu *c = ctx->args[0] == NET_RX ? cpus.lookup(&cpu) : NULL;

    if (c)
        c->raised_by = !c->interrupt_depth || c->sender == tid ? tid : 0;
    return 0;
}

static __always_inline int change_softirq(struct bpf_raw_tracepoint_args *ctx, int change) {
    u32 cpu = bpf_get_smp_processor_id(), tid = bpf_get_current_pid_tgid();
    struct cpu *c = ctx->args[0] == NET_RX ? cpus.lookup(&cpu) : NULL;

    if (c)
        c->sender = change > 0 && c->raised_by == tid ? tid : 0;
    return change_depth(change);
}

int on_softirq_entry(struct bpf_raw_tracepoint_args *ctx) {
    return change_softirq(ctx, 1);
}

int on_softirq_exit(struct bpf_raw_tracepoint_args *ctx) {
    return change_softirq(ctx, -1);
}
