/* Which tables of descriptors (task->files) are traced, who uses them, and where the state of each number is.
 * Threads share a table, and processes can: whoever uses one that is traced is seen. */

/* A traced process. Mirrored by trace/descriptors/ledger.py, as are the structures below. */
struct process {
    u64 state; /* IS_BOUND: `table` is known to be the one of some task->files; 0: not yet; HAS_ENDED */
    u32 tgid;
    u32 table; /* slot of the table that its first thread uses; the first of all user space may have filled */
};
#define IS_BOUND 1
#define HAS_ENDED 2
#define MOST_SHARERS 1024
/* By tgid: its slot; a sharer's is that of the process it shares with. */
BPF_HASH(processes, u32, u32, PROCESSES + MOST_SHARERS);
BPF_F_TABLE("array", u32, struct process, process_slots, PROCESSES, MAPPED);

#define MOST_LEAVING 16
struct table {
    u64 files;
    s64 open_count;
    u64 peak_count;
    u64 ended_ns; /* when the last process that used it ended; 0: it is in use */
    s64 leaders;  /* traced processes whose first thread uses it: while there is one, what others do to it is told */
    u64 source;   /* slot of the one that it began as a copy of, and 1, until the types are copied; 0: none */
    u32 process;  /* slot */
    u32 is_lazy;  /* what was open in a page is read when the page is first needed */
    u64 next_leaving;
    u64 leaving[MOST_LEAVING]; /* the last tasks that ended while they used it */
};
BPF_HASH(tables, u64, u32, TABLES); /* by task->files: its slot */
BPF_F_TABLE("array", u32, struct table, table_slots, TABLES, MAPPED);

/* The numbers of a table, 256 a page. Each table has the page of its own slot for the first 256; others are given out. */
#define PAGE_NUMBERS 256
struct page {
    u64 was_open[PAGE_NUMBERS / 64]; /* before anything was seen of them */
    u8 types[PAGE_NUMBERS];          /* of those that were open, by user space; 0: not known */
    u32 table;
    u32 first;
};
BPF_F_TABLE("array", u32, struct page, page_slots, PAGES, MAPPED);
BPF_HASH(pages, u64, u32, PAGES); /* by slot of the table and first number / 256 */

/* The life of a number, in one word that is exchanged at once: two CPUs may change it. When it was opened is in units of
 * 4 ns since `started_ns`; 0: before the trace. */
#define LIFE_IS_KNOWN 1ULL /* or was_open tells */
#define LIFE_IS_OPEN 2ULL
#define LIFE_STACK_SHIFT 2
#define LIFE_STACK_MASK 0x3fffULL
#define LIFE_TIME_SHIFT 16
#define TIME_SHIFT 2
struct number {
    u64 life;
    s32 owed; /* closes that have not returned though the number was opened again; below 0: opens that have not */
    u32 file; /* which one it is since it was opened: mark_of_file(); 0: not known */
    u64 moved_ns; /* the last change */
    u32 tid;      /* who opened it */
    u16 call;     /* code of the call that did */
    u8 type;
    u8 is_replacement; /* the open replaced what was there */
};
BPF_F_TABLE("array", u32, struct number, numbers, PAGES * PAGE_NUMBERS, MAPPED);

/* What each thread did; user space gives the slots of those that ended out again. */
struct thread_slot {
    u64 opened_count;
    u64 closed_count;
    u32 tid;
    u32 process;
    u32 has_ended;
    u32 unused;
};
BPF_F_TABLE("array", u32, struct thread_slot, thread_slots, THREADS, MAPPED);

/* By tid: what it used when it was last seen. */
struct thread {
    u64 files;
    u32 table;
    u32 process;
    u32 slot;
    u32 is_sharer; /* of a process that is told of only as long as it uses a traced one's table */
    u32 unused;
    s32 restarts; /* a call that a signal interrupted, and its error, until it is known whether it begins anew; 0: none */
};
BPF_HASH(threads, u32, struct thread, THREADS);

/* Threads as they were found on this CPU: a look at these costs a fifth of one into the hash. Believed as long as nothing
 * has changed since (control.thread_changes). */
#define FOUND_THREADS 64
struct found_thread {
    u64 files;
    u64 changes;
    u32 tid; /* 0: nobody */
    u32 table;
    u32 process;
    u32 slot;
};
BPF_PERCPU_ARRAY(found_threads, struct found_thread, FOUND_THREADS);

static __always_inline void note_thread_change(void) {
    struct control *c = get_control();

    if (c)
        __sync_fetch_and_add(&c->thread_changes, 1);
}

static __always_inline void forget_thread(u32 tid) {
    if (!threads.delete(&tid))
        note_thread_change();
}

/* Slots that user space has taken back: the kernel takes from `taken` on, user space appends. */
struct free_slots {
    u64 taken;
    u64 given;
    u32 slots[FREE_SLOTS];
};
BPF_F_TABLE("array", u32, struct free_slots, free_threads, 1, MAPPED);
BPF_F_TABLE("array", u32, struct free_slots, free_tables, 1, MAPPED);
BPF_F_TABLE("array", u32, struct free_slots, free_pages, 1, MAPPED);
BPF_F_TABLE("array", u32, struct free_slots, free_processes, 1, MAPPED);
BPF_F_TABLE("array", u32, struct free_slots, free_failures, 1, MAPPED);
BPF_F_TABLE("array", u32, struct free_slots, free_paths, 1, MAPPED);

/* A slot that nobody uses; NO_SLOT where there is none. */
#define NO_SLOT 0xffffffff
static __always_inline u32 take_slot_if_any(struct free_slots *free, u64 *next, u64 limit) {
    u64 place;

    if (!free)
        return NO_SLOT;
    place = free->taken;
    if (place < free->given && __sync_val_compare_and_swap(&free->taken, place, place + 1) == place)
        return free->slots[place & (FREE_SLOTS - 1)];
    if (*next < limit) {
        place = __sync_fetch_and_add(next, 1);
        if (place < limit)
            return place;
    }
    return NO_SLOT;
}

static __always_inline u32 take_slot(struct free_slots *free, u64 *next, u64 limit) {
    u32 slot = take_slot_if_any(free, next, limit);

    if (slot == NO_SLOT)
        COUNT(map_full);
    return slot;
}

/* --- what the kernel itself says of a table ------------------------------------------------------------------------- */

static __always_inline void *kernel_file(u64 files, u32 fd) {
    void *table = (void *)read_u64((void *)files, FILES_FDT);

    if (fd >= read_u32(table, TABLE_MAX_FDS))
        return NULL;
    return (void *)read_u64((void *)read_u64(table, TABLE_FD), fd * 8);
}

/* Which file it is, as good as always; 0: none. They lie 64 bytes apart at least. */
static __always_inline u32 mark_of_file(void *file) {
    return (u64)file >> 6;
}

/* Which of 256 numbers are open now. */
static __always_inline void read_open(u64 files, u32 page, u64 *to) {
    void *table = (void *)read_u64((void *)files, FILES_FDT);
    u32 most = read_u32(table, TABLE_MAX_FDS), first = page * PAGE_NUMBERS;

    to[0] = to[1] = to[2] = to[3] = 0;
    if (first >= most)
        return;
    /* a table has at least 64 numbers, and then 256 or a multiple */
    bpf_probe_read_kernel(to, most - first < PAGE_NUMBERS ? 8 : 32,
                          (void *)read_u64(table, TABLE_OPEN_FDS) + first / 8);
}

/* --- pages and tables ----------------------------------------------------------------------------------------------- */

static __always_inline u32 add_page(u32 table, u32 page) {
    u64 key = (u64)table << 32 | page;
    u32 zero = 0, slot;
    struct control *c = get_control();
    struct page *p;

    slot = c ? take_slot(free_pages.lookup(&zero), &c->next_page, PAGES) : NO_SLOT;
    if (slot == NO_SLOT)
        return slot;
    p = page_slots.lookup(&slot);
    if (p) {
        p->table = table;
        p->first = page * PAGE_NUMBERS;
    }
    if (pages.insert(&key, &slot)) { /* another CPU was first: this slot stays unused */
        u32 *other = pages.lookup(&key);

        return other ? *other : NO_SLOT;
    }
    return slot;
}

#define EAGER_PAGES 16

/* What is open now is what the table begins with. */
static __always_inline void fill_table(struct table *t, u32 slot, u64 files) {
    struct page *first = page_slots.lookup(&slot);
    u32 page;

    t->is_lazy = read_u32((void *)read_u64((void *)files, FILES_FDT), TABLE_MAX_FDS) > EAGER_PAGES * PAGE_NUMBERS;
    if (!first)
        return;
    first->table = slot;
    first->first = 0;
    read_open(files, 0, first->was_open);
    t->open_count = count_bits(first->was_open[0]) + count_bits(first->was_open[1]) + count_bits(first->was_open[2]) +
                    count_bits(first->was_open[3]);
    EACH (page, 1, EAGER_PAGES) {
        u64 open[PAGE_NUMBERS / 64];
        struct page *p;
        u32 at;

        read_open(files, page, open);
        if (!(open[0] | open[1] | open[2] | open[3]))
            continue;
        at = add_page(slot, page);
        p = page_slots.lookup(&at);
        if (!p)
            return;
        for (int i = 0; i < 4; i++) {
            p->was_open[i] = open[i];
            t->open_count += count_bits(open[i]);
        }
    }
    t->peak_count = t->open_count;
}

/* A slot for a table that nobody knew; its first page is that of its slot. */
static __always_inline u32 add_table(u64 files, u32 process) {
    u32 zero = 0, slot;
    struct control *c = get_control();
    struct table *t;

    slot = c ? take_slot(free_tables.lookup(&zero), &c->next_table, TABLES) : NO_SLOT;
    t = table_slots.lookup(&slot);
    if (!t)
        return NO_SLOT;
    t->files = files;
    t->process = process;
    t->ended_ns = 0;
    t->leaders = 0;
    t->source = 0;
    fill_table(t, slot, files);
    if (tables.update(&files, &slot)) {
        COUNT(map_full);
        return NO_SLOT;
    }
    return slot;
}

/* The slot that user space has filled is of this table from now on, unless it is of another already. */
static __always_inline bool bind_reserved(struct table *t, u32 slot, u64 files) {
    u64 before = __sync_val_compare_and_swap(&t->files, 0, files);

    if (!before)
        tables.update(&files, &slot);
    return !before || before == files;
}

/* The table of a process of which nothing was seen yet and that user space could not show (show_target), or one that is
 * new. */
static __always_inline u32 bind_table(void *task, u64 files, u32 tgid) {
    u32 mark = mark_of(tgid), *process = processes.lookup(&tgid), slot;
    struct process *p;
    struct table *t;
    u64 leader_files;

    if (!process)
        return NO_SLOT;
    slot = *process;
    p = process_slots.lookup(&slot);
    if (!p)
        return NO_SLOT;
    leader_files = read_u64((void *)read_u64(task, TASK_LEADER), TASK_FILES);
    if (!leader_files || leader_files == files) {
        u32 reserved = p->table;

        t = table_slots.lookup(&reserved);
        if (!__sync_val_compare_and_swap(&p->state, 0, IS_BOUND) && t && bind_reserved(t, reserved, files))
            return reserved;
        if (t && t->files == files) /* another CPU was first */
            return reserved;
    }
    return mark == TARGET ? add_table(files, slot) : NO_SLOT;
}

/* The first thread of a traced process uses this table from now on. */
static __always_inline void move_leader(u32 process, u32 table) {
    struct process *p = process_slots.lookup(&process);
    struct table *before, *now;
    u32 old;

    if (!p || p->table == table)
        return;
    old = p->table;
    p->table = table;
    before = table_slots.lookup(&old);
    if (before)
        __sync_fetch_and_add(&before->leaders, -1);
    now = table_slots.lookup(&table);
    if (now)
        __sync_fetch_and_add(&now->leaders, 1);
}

static __always_inline u32 add_thread_slot(u32 tid, u32 process) {
    struct control *c = get_control();
    struct thread_slot *fresh;
    u32 zero = 0, slot;

    slot = c ? take_slot(free_threads.lookup(&zero), &c->next_thread, THREADS) : NO_SLOT;
    fresh = thread_slots.lookup(&slot);
    if (fresh) {
        fresh->tid = tid;
        fresh->process = process;
        fresh->opened_count = fresh->closed_count = 0;
        fresh->has_ended = 0;
    }
    return slot;
}

/* What a thread uses that was not seen with this table before. `changed`: it used another one, so that this one is new,
 * and one of the same address that was known is gone. */
static __always_inline struct thread *enter_table(void *task, u32 tid, u32 tgid, u64 files, bool changed) {
    struct thread t = {.files = files}, *before = threads.lookup(&tid);
    u32 *known = tables.lookup(&files);
    struct table *table;

    if (!files)
        return NULL;
    if (known && changed) {
        tables.delete(&files);
        known = NULL;
    }
    t.table = known ? *known : bind_table(task, files, tgid);
    table = table_slots.lookup(&t.table);
    if (!table)
        return NULL;
    t.process = table->process;
    t.is_sharer = mark_of(tgid) == SHARER;
    if (!t.is_sharer) {
        u32 *slot = processes.lookup(&tgid), own = slot ? *slot : NO_SLOT;
        struct process *p = process_slots.lookup(&own);

        if (!known && p)
            table->source = (before ? before->table : p->table) + 1ULL;
        if (tid == tgid)
            move_leader(own, t.table);
    }
    if (before && before->process == t.process) {
        t.slot = before->slot;
    } else {
        t.slot = add_thread_slot(tid, t.process);
    }
    threads.update(&tid, &t);
    note_thread_change();
    return threads.lookup(&tid);
}

/* Whether no traced process uses a table, which others go on using: what they do is none of ours. */
static __always_inline bool is_left(u32 table) {
    struct table *t = table_slots.lookup(&table);

    return t && t->leaders <= 0;
}

/* Whoever does something to a table: a thread, or io_uring for one. */
struct actor {
    u64 files;
    u64 now;
    u32 table;
    u32 process;
    u32 slot; /* of the thread */
    u32 tid;
    u32 tgid;
    u32 stack;
    u32 call; /* code */
    u32 unused;
};

static __always_inline bool find_actor(struct actor *a, void *task, u64 files, u32 tid, u32 tgid) {
    u32 index = tid % FOUND_THREADS;
    struct found_thread *found = found_threads.lookup(&index);
    struct control *c = get_control();
    struct thread *t;

    if (!found || !c)
        return false;
    a->files = files;
    a->tid = tid;
    a->table = found->table;
    a->process = found->process;
    a->slot = found->slot;
    asm volatile("" ::: "memory"); /* an interrupt's program may have put another in its place: then that is seen now */
    if (found->tid != tid || found->files != files || found->changes != c->thread_changes) {
        u64 changes = c->thread_changes;

        t = threads.lookup(&tid);
        if (!t || t->files != files)
            t = enter_table(task, tid, tgid, files, !!t);
        if (!t || (t->is_sharer && is_left(t->table)))
            return false;
        if (t->restarts) /* it has begun anew, and returned */
            t->restarts = 0;
        a->table = found->table = t->table;
        a->process = found->process = t->process;
        a->slot = found->slot = t->slot;
        found->files = files;
        found->changes = changes;
        found->tid = t->is_sharer ? 0 : tid; /* whether those are left is asked each time */
    }
    a->tgid = tgid;
    a->now = bpf_ktime_get_ns();
    a->stack = 0;
    a->call = 0;
    return true;
}

/* The state of a number; NULL where there is no room. `opens`: the call that is seen here has opened it. */
static __always_inline struct number *find_number(struct actor *a, u32 fd, bool opens) {
    u32 page = fd / PAGE_NUMBERS, slot = a->table, word = fd % PAGE_NUMBERS / 64, index, *known;
    u64 key = (u64)a->table << 32 | page;
    struct number *n;
    struct page *p;

    if (page) {
        known = pages.lookup(&key);
        slot = known ? *known : NO_SLOT;
        if (!known) {
            struct table *t = table_slots.lookup(&a->table);

            slot = add_page(a->table, page);
            p = page_slots.lookup(&slot);
            if (p && t && t->is_lazy) { /* the kernel has done already what this call does */
                read_open(a->files, page, p->was_open);
                p->was_open[word & 3] |= 1ULL << fd % 64;
                if (opens)
                    p->was_open[word & 3] -= 1ULL << fd % 64;
            }
        }
    }
    p = page_slots.lookup(&slot);
    index = slot * PAGE_NUMBERS + fd % PAGE_NUMBERS;
    n = numbers.lookup(&index);
    if (!n || !p)
        return NULL;
    if (!(n->life & LIFE_IS_KNOWN)) {
        u64 was_open = p->was_open[word & 3] >> fd % 64 & 1;

        n->type = was_open ? p->types[fd % PAGE_NUMBERS] : 0;
        __sync_val_compare_and_swap(&n->life, 0, LIFE_IS_KNOWN | (was_open ? LIFE_IS_OPEN : 0));
    }
    return n;
}
