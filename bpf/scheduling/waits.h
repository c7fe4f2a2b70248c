/* What a thread waits for when it gives up the CPU: the system call that it is in, and the object of that.
 *
 * The registers that it entered the kernel with lie at the top of its kernel stack: number and first argument of its
 * call are read there at the switch, so that calls which do not wait cost nothing. Where exactly they lie is learnt from
 * sys_enter, once. The time is charged in leave_state, with the very nanoseconds that are charged to the thread's state:
 * what a thread was blocked and what it waited cannot be two figures.
 *
 * Read by src/threadinfo/trace/scheduling/waits.py, whose struct layouts mirror these. Given by the loader beside what
 * scheduling.bpf.c needs: WAITS (how many are kept), the machine's REGISTER_CALL, REGISTER_0, REGISTER_1, REGISTER_2 and
 * COMPAT_MASK with TASK_COMPAT, TASK_STACK, TASK_FLAGS, and for the identity of files TASK_FILES, FILES_TABLE,
 * TABLE_FILES, FILE_INODE and INODE_NUMBER. With WAIT_STACKS (how many are told apart) also where in the program waits
 * begin: then REGISTER_IP, REGISTER_SP, TASK_EXEC_ID and what lib/stacks.h needs.
 */

#define CALLS 512       /* system calls have numbers below this */
#define RECENT 8        /* of a thread's waits, found without a hash */
#define THREAD_WAITS 256 /* that one thread may take; the rest of its waits are in a sum */
#define FILES 7         /* that one number may be, one after the other, and be told apart */
#define CHECK_NS 1000000 /* so often it is asked whether a number is still the same file */

/* As calls: what is none. */
#define IN_PAGE_FAULT 0x10000
#define STOPPED 0x10001   /* by a signal, a tracer or a freezer */
#define IN_KERNEL 0x10002 /* a thread that the kernel made for itself */
#define OTHER_CALL 0x10003
#define FOR_LOCK 0x80000000 /* on a futex that looks like a contended mutex: added to the call */

#define TASK_STOPPED_OR_TRACED 0xc /* include/linux/sched.h, __TASK_STOPPED, __TASK_TRACED */
#define TASK_FREEZABLE 0x2000
#define PF_KERNEL 0x00200010 /* PF_KTHREAD, PF_IO_WORKER */

enum wait_kind { BY_CALL, BY_DESCRIPTOR, BY_FUTEX, BY_CHILD, BY_SECOND, BY_POLL };
struct wait_kinds {
    u8 of_call[CALLS];
    u64 registers_at; /* of a thread, from task_struct.stack; 0: not learnt */
};
BPF_F_TABLE("array", u32, struct wait_kinds, wait_kinds, 1, MAPPED);

struct wait_key {
    u32 slot;
    u32 call;
    u64 object;
    u64 file; /* 0: whichever the number was first */
};
BPF_HASH(wait_slots, struct wait_key, u32, WAITS);

struct at_stack {
    u32 stack; /* 0: not known */
    u32 unused;
    u64 count;
    u64 ns;
};

#define IS_COMPAT 1   /* a 32-bit call: number and argument mean something else */
#define MANY_FILES 2  /* the number was more files than are told apart */
struct wait {
    u32 slot;
    u32 call;
    u64 object;
    u64 file; /* inode */
    u32 flags;
    u32 file_count; /* others that the same number was */
    u64 uninterruptible_ns;
    struct waking waking;
    u32 holder; /* who had the lock last time, and since when it is the same one */
    u32 unused;
    u64 holder_count;
    u64 holder_ns;
    struct at_stack at; /* where the last ones began, as long as that stays the same */
    struct latency took;
};
BPF_F_TABLE("array", u32, struct wait, waits, WAITS, MAPPED);

struct recent {
    u32 call;
    u32 wait; /* 0: none */
    u64 object;
    u64 checked_ns;
};

/* Beside each struct thread. */
struct waiting {
    u64 registers; /* where those of this thread are; 0: not asked yet */
    u32 wait;      /* that it is in; 0: not known */
    u32 holder;    /* who had the lock when it began; 0: no lock, or not known */
    u32 wait_count;
    u32 stack;     /* from where the program came to it; 0: not known */
    u64 other_count; /* of waits whose object is not known, or that found no room */
    u64 other_ns;
    struct recent recent[RECENT];
};
BPF_F_TABLE("array", u32, struct waiting, waiting, SLOT_COUNT, MAPPED);

BPF_HASH(held_by, struct pair, struct total, PAIRS); /* (wait, holder of the lock) */

#ifdef WAIT_STACKS
#define STACKS WAIT_STACKS
#define COUNT(name)                                                                                                    \
    ({                                                                                                                 \
        struct losses *losses_ = this_cpu_losses();                                                                    \
        if (losses_)                                                                                                   \
            losses_->name##_count++;                                                                                   \
    })
#include "lib/stacks.h"
BPF_HASH(began_at, struct pair, struct total, PAIRS); /* (wait, stack id) */
#endif

/* Of waits, the places that were never used, then those that user space gave back. */
BPF_F_TABLE("array", u32, u64, next_wait, 1, MAPPED);
BPF_QUEUE(free_waits, u32, WAITS);

static long (*read_user)(void *to, u32 size, const void *from) = (void *)112; /* BPF_FUNC_probe_read_user */

/* At sys_enter: where the saved registers are, and whether the number of the call is where we think. */
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx) {
    void *registers = (void *)ctx->args[0];
    u32 zero = 0;
    struct wait_kinds *k = wait_kinds.lookup(&zero);

    if (k && !k->registers_at && read_u32(registers, REGISTER_CALL) == (u32)ctx->args[1])
        k->registers_at = (u64)registers - read_u64((void *)bpf_get_current_task(), TASK_STACK);
    return 0;
}

#define NO_REGISTERS 1

static __always_inline u64 find_registers(void *task) {
    u32 zero = 0;
    struct wait_kinds *k = wait_kinds.lookup(&zero);

    if (!k || !k->registers_at || read_u32(task, TASK_FLAGS) & PF_KERNEL)
        return NO_REGISTERS;
    return read_u64(task, TASK_STACK) + k->registers_at;
}

/* The inode of an open file; 0: not known. */
static __always_inline u64 file_of(void *task, u32 fd) {
#ifdef FILE_INODE
    u64 file, table = read_u64(task, TASK_FILES);

    if (!table)
        return 0;
    table = read_u64((void *)table, FILES_TABLE);
    file = read_u64((void *)read_u64((void *)table, TABLE_FILES), fd * sizeof file);
    return file ? read_u64((void *)read_u64((void *)file, FILE_INODE), INODE_NUMBER) : 0;
#else
    return 0;
#endif
}

static __always_inline u32 make_wait(struct waiting *w, struct wait_key *key, void *task, u64 file) {
    u32 zero = 0, index = 0;
    u64 *next = next_wait.lookup(&zero);
    struct wait *e;

    if (!next || w->wait_count >= THREAD_WAITS)
        return 0;
    if (*next < WAITS)
        index = __sync_fetch_and_add(next, 1);
    if ((!index || index >= WAITS) && free_waits.pop(&index)) {
        w->wait_count = THREAD_WAITS; /* it is said once of a thread, and not tried again */
        count_full();
        return 0;
    }
    e = waits.lookup(&index);
    if (!e)
        return 0;
    w->wait_count++;
    e->call = key->call;
    e->object = key->object;
    e->file = file;
    e->flags = read_u32(task, TASK_COMPAT) & COMPAT_MASK ? IS_COMPAT : 0;
    asm volatile("" ::: "memory"); /* whoever sees whose it is sees the rest of it */
    e->slot = key->slot;
    if (wait_slots.update(key, &index))
        count_full();
    return index;
}

/* Of a descriptor the first files that it was have a place each. */
static __always_inline u32 find_wait(struct waiting *w, struct wait_key *key, void *task, u64 file) {
    u32 *found = wait_slots.lookup(key), index;
    struct wait *first;

    if (!found)
        return make_wait(w, key, task, file);
    index = *found;
    first = waits.lookup(&index);
    if (!first || !file || first->file == file || first->flags & MANY_FILES)
        return index;
    key->file = file;
    found = wait_slots.lookup(key);
    if (found)
        return *found;
    if (first->file_count < FILES) {
        first->file_count++;
        return make_wait(w, key, task, file);
    }
    first->flags |= MANY_FILES;
    return index;
}

/* glibc's pthread_mutex_t, as far as it is needed: sysdeps/nptl/bits/struct_mutex.h. */
struct mutex {
    u32 lock;
    u32 count;
    u32 owner;
    u32 users;
    u32 kind;
};
#define FUTEX_COMMAND 0x7f /* include/uapi/linux/futex.h */
#define FUTEX_WAITERS 0x80000000
#define FUTEX_TID_MASK 0x3fffffff
#define CONTENDED 2 /* the word of a mutex for which somebody waits: lowlevellock.h */
#define MUTEX_KINDS 0x3ff

/* Whether this is a wait for a lock; `holder`: who has it, where that is certain. The word of one that inherits priority,
 * or is robust, has the holder's number, by the kernel's own rule; in others, glibc keeps it beside the word, and puts it
 * there after it has taken the lock and takes it away before it gives it back. */
static __always_inline bool is_lock(struct thread *t, u64 address, u32 operation, u32 expected, u32 *holder) {
    struct mutex m = {};
    struct thread *owner;
    u32 command = operation & FUTEX_COMMAND, slot, tid;
    bool has_number;

    if (command == 0)
        has_number = expected != CONTENDED;
    else if (command == 6 || command == 13) /* FUTEX_LOCK_PI, FUTEX_LOCK_PI2 */
        has_number = true;
    else
        return false;
    if (command == 0 && has_number && !(expected & FUTEX_WAITERS))
        return false;
    if (read_user(&m, sizeof m, (void *)address))
        return command != 0;
    if (command == 0 && m.lock != expected)
        return !has_number; /* it has changed hands meanwhile */
    tid = has_number ? m.lock & FUTEX_TID_MASK : m.owner;
    owner = tid && tid < TID_LIMIT && tid != t->tid ? find_thread(tid, &slot) : NULL;
    if (!owner || owner->tgid != t->tgid || owner->tid != tid)
        return !(has_number && command == 0);
    if (has_number || (m.users && m.users <= TID_LIMIT && !(m.kind & ~MUTEX_KINDS) && (m.kind & 15) < 4))
        *holder = tid;
    return true;
}

static __always_inline void begin_wait(struct thread *t, u32 slot, void *task, u64 task_state, u64 now) {
    struct waiting *w = waiting.lookup(&slot);
    struct wait_key key = {.slot = slot};
    struct {
        u64 first, call;
    } registers = {};
    struct recent *r;
    u32 zero = 0, kind = BY_CALL, holder = 0, place;
    struct wait_kinds *k = wait_kinds.lookup(&zero);
    u64 file = 0;

    if (!w || !k || !k->registers_at)
        return;
    if (!w->registers)
        w->registers = find_registers(task);
    if (task_state & TASK_STOPPED_OR_TRACED) {
        key.call = STOPPED;
    } else if (w->registers == NO_REGISTERS) {
        key.call = IN_KERNEL;
    } else if (bpf_probe_read_kernel(&registers, sizeof registers, (void *)w->registers + REGISTER_0)) {
        w->wait = 0;
        return;
    } else {
        key.call = registers.call;
        place = key.call & (CALLS - 1);
        if ((s32)key.call < 0)
            key.call = task_state & TASK_FREEZABLE ? STOPPED : IN_PAGE_FAULT;
        else if (key.call >= CALLS)
            key.call = OTHER_CALL;
        else
            kind = k->of_call[place];
    }
    if (kind == BY_DESCRIPTOR || kind == BY_CHILD) {
        key.object = (u32)registers.first;
    } else if (kind == BY_FUTEX) {
        key.object = registers.first;
        if (is_lock(t, key.object, read_u32((void *)w->registers, REGISTER_1),
                    read_u32((void *)w->registers, REGISTER_2), &holder))
            key.call |= FOR_LOCK;
    } else if (kind == BY_SECOND) { /* waitid(2): the kind of number, and the number */
        key.object = registers.first << 32 | read_u32((void *)w->registers, REGISTER_1);
    } else if (kind == BY_POLL) { /* of one descriptor it is that one; of others there is no name */
        u32 fd = -1;

        if (read_u64((void *)w->registers, REGISTER_1) == 1)
            read_user(&fd, sizeof fd, (void *)registers.first);
        key.object = fd;
        kind = (s32)fd < 0 ? BY_CALL : BY_DESCRIPTOR;
    }
    w->holder = holder;
    r = &w->recent[(key.object ^ key.object >> 5 ^ key.call * 3) & (RECENT - 1)];
    if (r->wait && r->call == key.call && r->object == key.object) {
        if (kind != BY_DESCRIPTOR || now - r->checked_ns < CHECK_NS) {
            w->wait = r->wait;
            return;
        }
    }
    if (kind == BY_DESCRIPTOR)
        file = file_of(task, key.object);
    r->call = key.call;
    r->object = key.object;
    r->checked_ns = now;
    r->wait = w->wait = find_wait(w, &key, task, file);
}

static __always_inline void flush_lock_holder(struct wait *e, u32 index) {
    struct pair key = {.of = index, .tid = e->holder};
    struct total *sum = held_by.lookup(&key), first = {.count = e->holder_count, .ns = e->holder_ns};

    if (!e->holder || !e->holder_count)
        return;
    if (sum) {
        sum->count += first.count;
        sum->ns += first.ns;
    } else if (held_by.update(&key, &first)) {
        count_full();
    }
}

static __always_inline void note_stack(struct wait *e, u32 index, u32 stack, u64 ns) {
#ifdef WAIT_STACKS
    if (stack != e->at.stack) {
        struct pair key = {.of = index, .tid = e->at.stack};
        struct total first = {.count = e->at.count, .ns = e->at.ns}, *sum = began_at.lookup(&key);

        if (sum) {
            sum->count += first.count;
            sum->ns += first.ns;
        } else if (first.count && began_at.update(&key, &first)) {
            count_full();
        }
        e->at.stack = stack;
        e->at.count = e->at.ns = 0;
    }
    e->at.count++;
    e->at.ns += ns;
#endif
}

/* Of as long as the thread was blocked, by the account of its state. */
static __always_inline void end_wait(struct thread *t, u32 slot, u64 ns, bool is_uninterruptible) {
    struct waiting *w = waiting.lookup(&slot);
    struct wait *e;
    u32 index;

    if (!w)
        return;
    index = w->wait;
    e = index ? waits.lookup(&index) : NULL;
    if (!e) {
        w->other_count++;
        w->other_ns += ns;
        note_waker(&t->waking, slot | OF_THREAD, t->waker, ns);
        return;
    }
    w->wait = 0;
    add_latency(&e->took, ns);
    if (is_uninterruptible)
        e->uninterruptible_ns += ns;
    note_waker(&e->waking, index, t->waker, ns);
    note_stack(e, index, w->stack, ns);
    if (w->holder) {
        if (w->holder != e->holder) {
            flush_lock_holder(e, index);
            e->holder = w->holder;
            e->holder_count = e->holder_ns = 0;
        }
        e->holder_count++;
        e->holder_ns += ns;
    }
}
