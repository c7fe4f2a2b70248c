/* The ledger: which numbers are open, since when and by whom, and everything that is counted, in arrays that user space
 * reads as memory at its ease.
 *
 * What the counts rest on: each open and each close is counted when it is seen, once, whatever else happens. The state
 * of a number needs their order, and a call is seen when it returns: the kernel has given the number to another thread by
 * then, perhaps seconds ago (close waits for SO_LINGER). So an open of an open number means that a close is owed, and a
 * close that finds one owed and the number in use pays it; the kernel's own table is asked only where that is in doubt. */

/* Of one process; a copy for some CPUs each, so that they do not wait for each other. */
struct totals {
    u64 opened[CALL_CODES];
    u64 closed[CALL_CODES];
    u64 failed[CALL_CODES];
    u64 sockets[CALL_CODES]; /* that the call made or numbered; of bind, listen, connect, shutdown: those that worked */
    u64 types[TYPE_CODES]; /* of what was opened */
    u64 close_on_exec[2];  /* taken away, set */
    u64 lifetime_sum_ns;
    u64 lifetime_max_ns;
    u64 path_left_out; /* opens of paths that were one too many */
    u64 unused;
    u32 lifetimes[BUCKETS];
};
BPF_F_TABLE("array", u32, struct totals, totals, SHARDS * PROCESSES, MAPPED);

/* By stack id; those below PROCESSES stand for calls of that process whose stack is not known. */
struct site {
    u64 opened;
    u64 closed; /* of those that were opened here, however they ended */
    u64 limit_failed;
    u64 first_ns; /* when the first was opened; 0: none was */
    u64 lifetime_sum_ns;
    u64 lifetime_max_ns;
    u32 process;
    u32 unused;
    u32 types[TYPE_CODES];
};
BPF_F_TABLE("array", u32, struct site, sites, SITES, MAPPED);
/* Lifetimes by site, as many sites as there is room for. */
struct site_lifetimes {
    u32 counts[BUCKETS];
};
BPF_F_TABLE("array", u32, struct site_lifetimes, site_lifetimes, SITE_HISTOGRAMS, MAPPED);

struct failure_key {
    u32 process;
    u16 call;
    u16 error;
    u32 tid; /* of EMFILE and ENFILE; 0 otherwise */
};
struct failure {
    struct failure_key key;
    u32 unused;
    u64 count;
};
BPF_HASH(failure_slots, struct failure_key, u32, FAILURES);
BPF_F_TABLE("array", u32, struct failure, failures, FAILURES, MAPPED);

BPF_HASH(path_slots, u64, u32, PATHS); /* by hash */
BPF_F_TABLE("array", u32, u64, path_counts, PATHS, MAPPED);

#define ADD(counter, amount) __sync_fetch_and_add(&(counter), (amount))
/* Adds to an element of an array; the bound is kept from clang, which would prove it away where the verifier cannot. */
#define ADD_AT(array, place, limit, amount)                                                                            \
    ({                                                                                                                 \
        u32 place_ = (place);                                                                                          \
        asm volatile("" : "+r"(place_));                                                                               \
        if (place_ < (limit))                                                                                          \
            ADD((array)[place_], amount);                                                                              \
    })

/* To totals: where each CPU has its own, nobody else adds to them. */
#if SHARDS == CPU_COUNT
#define ADD_OWN(counter, amount) ((counter) += (amount))
#else
#define ADD_OWN(counter, amount) ADD(counter, amount)
#endif
#define ADD_OWN_AT(array, place, limit, amount)                                                                        \
    ({                                                                                                                 \
        u32 place_ = (place);                                                                                          \
        asm volatile("" : "+r"(place_));                                                                               \
        if (place_ < (limit))                                                                                          \
            ADD_OWN((array)[place_], amount);                                                                          \
    })

static __always_inline struct totals *find_totals(u32 process) {
    u32 index = bpf_get_smp_processor_id() % SHARDS * PROCESSES + process;

    return totals.lookup(&index);
}

/* The same value, of which the verifier knows nothing: otherwise it follows every way to a bucket on its own. */
static __always_inline u32 forget(u32 value) {
    volatile struct counts *c = this_cpu_counts();

    if (!c)
        return 0;
    c->forgotten = value;
    return c->forgotten;
}

static __always_inline u64 site_of_life(u64 life) {
    return life >> LIFE_STACK_SHIFT & LIFE_STACK_MASK;
}

/* When it was opened; 0: before the trace. */
static __always_inline u64 opened_ns_of_life(u64 life) {
    u64 since = life >> LIFE_TIME_SHIFT << TIME_SHIFT;
    u32 zero = 0;
    struct control *c = get_control();

    return since && c ? c->started_ns + since : 0;
}

static __always_inline u64 make_life(struct actor *a) {
    u64 site = a->stack ? a->stack : a->process, since = 1;
    u32 zero = 0;
    struct control *c = get_control();

    if (c && a->now > c->started_ns)
        since = ((a->now - c->started_ns) >> TIME_SHIFT) + 1;
    return LIFE_IS_KNOWN | LIFE_IS_OPEN | (site & LIFE_STACK_MASK) << LIFE_STACK_SHIFT | since << LIFE_TIME_SHIFT;
}

/* What was opened by `life` has ended: how long it lived. Gives that; 0 where it was opened before the trace. */
static __always_inline u64 end_life(struct actor *a, u64 life, struct totals *t) {
    u64 opened_ns = opened_ns_of_life(life), ns;
    u32 site = site_of_life(life), bucket;
    struct site *s;
    struct site_lifetimes *histogram;

    if (!opened_ns)
        return 0;
    ns = a->now > opened_ns ? a->now - opened_ns : 1;
    bucket = forget(bucket_of(ns));
    ADD_OWN(t->lifetime_sum_ns, ns);
    if (ns > t->lifetime_max_ns)
        t->lifetime_max_ns = ns;
    ADD_OWN_AT(t->lifetimes, bucket, BUCKETS, 1);
    s = sites.lookup(&site);
    if (s) {
        ADD(s->closed, 1);
        ADD(s->lifetime_sum_ns, ns);
        if (ns > s->lifetime_max_ns)
            s->lifetime_max_ns = ns;
    }
    histogram = site_lifetimes.lookup(&site);
    if (histogram)
        ADD_AT(histogram->counts, bucket, BUCKETS, 1);
    return ns;
}

static __always_inline void change_open_count(struct actor *a, s64 by) {
    struct table *t = table_slots.lookup(&a->table);
    s64 count;

    if (!t)
        return;
    count = __sync_fetch_and_add(&t->open_count, by) + by;
    if (by > 0 && count > (s64)t->peak_count)
        t->peak_count = count;
}

static __always_inline void count_closes(struct actor *a, struct totals *t, u64 count) {
    struct thread_slot *thread = thread_slots.lookup(&a->slot);

    ADD_OWN_AT(t->closed, a->call, CALL_CODES, count);
    if (thread)
        ADD(thread->closed_count, count);
}

/* What looked like a replacement was not: the number was free, because a close had not returned. The number is still what
 * the replacement made it, then: otherwise this close is of that, and another thread has opened the number since. */
static __always_inline bool is_no_replacement(struct actor *a, struct number *n, u32 fd) {
    return n->is_replacement && n->tid != a->tid && n->file && n->file == mark_of_file(kernel_file(a->files, fd));
}

static __always_inline void take_back_replacement(struct number *n, struct totals *t) {
    u32 tid = n->tid, call = n->call, slot;
    struct thread *thread = threads.lookup(&tid);
    struct thread_slot *done;

    n->is_replacement = 0;
    ADD_OWN_AT(t->closed, call, CALL_CODES, -1);
    slot = thread ? thread->slot : NO_SLOT;
    done = thread_slots.lookup(&slot);
    if (done)
        ADD(done->closed_count, -1);
}

/* The current call has opened fd, which is `file` now. `onto`: and closed what that was. Says in the event what became
 * of it. */
static __always_inline void open_number(struct actor *a, struct event *e, u32 fd, bool onto, u8 type, void *file) {
    struct number *n = find_number(a, fd, true);
    struct totals *t = find_totals(a->process);
    struct thread_slot *thread = thread_slots.lookup(&a->slot);
    u64 life = make_life(a), before;
    u32 site = site_of_life(life);
    struct site *s = sites.lookup(&site);

    e->fd = fd;
    e->flags |= OPENED;
    e->type = type;
    if (!t)
        return;
    ADD_OWN_AT(t->opened, a->call, CALL_CODES, 1);
    ADD_OWN_AT(t->types, type, TYPE_CODES, 1);
    if (type == TYPE_SOCKET)
        ADD_OWN_AT(t->sockets, a->call, CALL_CODES, 1);
    if (thread)
        ADD(thread->opened_count, 1);
    if (s) {
        if (!s->first_ns) {
            s->first_ns = a->now;
            s->process = a->process;
        }
        ADD(s->opened, 1);
        ADD_AT(s->types, type, TYPE_CODES, 1);
    }
    if (!n)
        return;
    before = __sync_lock_test_and_set(&n->life, life);
    if (before & LIFE_IS_OPEN && !onto) /* at once: the close may be looking on another CPU */
        __sync_fetch_and_add(&n->owed, 1);
    e->ended_type = n->type;
    n->tid = a->tid;
    n->call = a->call;
    n->type = type;
    n->moved_ns = a->now;
    n->file = mark_of_file(file);
    n->is_replacement = 0;
    if (before & LIFE_IS_OPEN) {
        e->lifetime_ns = end_life(a, before, t);
        e->flags |= CLOSED;
        if (onto) {
            n->is_replacement = 1;
            count_closes(a, t, 1);
        } else {
            e->flags |= OWED;
        }
        return;
    }
    if (n->owed < 0 && !kernel_file(a->files, fd)) { /* its close has returned before */
        __sync_fetch_and_add(&n->owed, 1);
        __sync_lock_test_and_set(&n->life, LIFE_IS_KNOWN);
        end_life(a, life, t);
        e->flags |= EARLY;
        return;
    }
    change_open_count(a, 1);
}

/* The current call has closed fd. */
static __always_inline void close_number(struct actor *a, struct event *e, u32 fd) {
    struct number *n = find_number(a, fd, false);
    struct totals *t = find_totals(a->process);
    u64 before;

    e->fd = fd;
    if (!t)
        return;
    count_closes(a, t, 1);
    if (!n)
        return;
    n->moved_ns = a->now;
    if ((n->owed > 0 && kernel_file(a->files, fd)) || is_no_replacement(a, n, fd)) {
        /* the number is in use again: this call closed what it was before */
        if (n->owed > 0)
            __sync_fetch_and_add(&n->owed, -1);
        else
            take_back_replacement(n, t);
        e->flags |= LATE;
        return;
    }
    before = __sync_lock_test_and_set(&n->life, LIFE_IS_KNOWN);
    /* it was opened again just now: that life goes back */
    if (before & LIFE_IS_OPEN && n->owed > 0 && kernel_file(a->files, fd) &&
        __sync_val_compare_and_swap(&n->life, LIFE_IS_KNOWN, before) == LIFE_IS_KNOWN) {
        __sync_fetch_and_add(&n->owed, -1);
        e->flags |= LATE;
        return;
    }
    if (before & LIFE_IS_OPEN) {
        e->ended_type = n->type;
        e->lifetime_ns = end_life(a, before, t);
        e->flags |= CLOSED;
        change_open_count(a, -1);
        return;
    }
    if (n->owed > 0)
        e->flags |= LATE;
    __sync_fetch_and_add(&n->owed, -1);
}

/* By call and error; `is_failure`: unless it says no more than that a connection is under way. */
static __always_inline void count_failure(struct actor *a, s32 result, bool is_failure) {
    struct failure_key key = {.process = a->process, .call = a->call, .error = -result};
    u32 site = a->stack ? a->stack : a->process, zero = 0, slot, *known;
    struct totals *t = find_totals(a->process);
    struct control *c = get_control();
    struct failure *f;
    struct site *s;

    if (!t || !c)
        return;
    ADD_OWN_AT(t->failed, a->call, CALL_CODES, is_failure);
    if (result == -24 /* EMFILE */ || result == -23 /* ENFILE */) {
        key.tid = a->tid;
        s = sites.lookup(&site);
        if (s) {
            s->process = a->process;
            ADD(s->limit_failed, 1);
        }
    }
    known = failure_slots.lookup(&key);
    if (known) {
        slot = *known;
    } else {
        slot = take_slot(free_failures.lookup(&zero), &c->next_failure, FAILURES);
        f = failures.lookup(&slot);
        if (!f)
            return;
        f->key = key;
        if (failure_slots.insert(&key, &slot)) { /* another CPU was first */
            known = failure_slots.lookup(&key);
            if (!known)
                return;
            slot = *known;
        }
    }
    f = failures.lookup(&slot);
    if (f)
        ADD(f->count, 1);
}


/* `left`: how many bytes of the path are left, this word's included. */
static __always_inline u64 mix_path(u64 hash, u64 word, u32 left) {
    if (left < 8)
        word &= (1ULL << left * 8) - 1;
    hash = (hash ^ word) * MIX;
    return hash ^ hash >> 29;
}

#ifdef HAS_ITERATORS
#define SHORT_PATH_WORDS 8 /* most paths are no longer */
#else
#define SHORT_PATH_WORDS (sizeof ((struct scratch *)0)->data / 8)
#endif

/* Counts an open of the path in the scratch; a path that is new is handed over, once. */
static __always_inline void count_path(struct actor *a, struct event *e, struct scratch *s) {
    struct totals *t = find_totals(a->process);
    u32 zero = 0, i, slot, *known, length = e->length;
    struct control *c = get_control();
    u64 hash, *count;

    if (!t || !c || !length || e->flags & UNREADABLE)
        return;
    hash = (c->seed ^ a->process) * MIX;
    for (i = 0; i < SHORT_PATH_WORDS; i++) {
        hash = mix_path(hash, s->data[i], length - i * 8);
        if (length - i * 8 <= 8)
            break;
    }
    if (length > SHORT_PATH_WORDS * 8)
        EACH (i, SHORT_PATH_WORDS, sizeof s->data / 8) {
            hash = mix_path(hash, s->data[i], length - i * 8);
            if (length - i * 8 <= 8)
                break;
        }
    hash ^= length;
    known = path_slots.lookup(&hash);
    if (!known) {
        u64 argument = e->argument;
        u16 call = e->call;
        bool told = true;

        slot = take_slot_if_any(free_paths.lookup(&zero), &c->next_path, PATHS);
        if (slot >= PATHS) {
            ADD_OWN(t->path_left_out, 1);
            return;
        }
        if (path_slots.insert(&hash, &slot)) {
            known = path_slots.lookup(&hash);
            if (!known)
                return;
            slot = *known;
        } else {
            e->call = PATH;
            e->argument = slot;
            told = emit_with(e, s);
            e->call = call;
            e->argument = argument;
        }
        if (!told) {
            path_slots.delete(&hash); /* the next one tells it */
            ADD_OWN(t->path_left_out, 1);
            return;
        }
    } else {
        slot = *known;
    }
    count = path_counts.lookup(&slot);
    if (count)
        ADD(*count, 1);
}
