/* System calls when they return: what each did to which number. */

#define REGISTER(r, type, offset) (*(type *)&(r)->bytes[(offset) - REGISTERS_FROM])
#define ARGUMENT_0 REGISTER(r, u64, REGISTER_0)
#define ARGUMENT_1 REGISTER(r, u64, REGISTER_1)
#define ARGUMENT_2 REGISTER(r, u64, REGISTER_2)
#define ARGUMENT_3 REGISTER(r, u64, REGISTER_3)

/* include/linux/errno.h: -ERESTARTSYS to -ERESTART_RESTARTBLOCK, a call that a signal interrupted. Whether it begins
 * anew or ends with EINTR is decided when the signal is delivered. */
#define IS_RESTARTED(result) ((result) <= -512 && (result) >= -516)

#define MOST_NUMBER 0x7fffffff

/* struct user_msghdr: msg_control and msg_controllen are at 32 and 40 on every 64-bit machine */
static __always_inline bool has_control(u64 message) {
    u64 control_data[2] = {};

    return !read_user_bytes(control_data, sizeof control_data, (void *)message + 32) && control_data[1];
}

static __always_inline bool bpf_makes_descriptor(u64 command) {
    /* enum bpf_cmd: MAP_CREATE, PROG_LOAD, OBJ_GET, *_GET_FD_BY_ID, RAW_TRACEPOINT_OPEN, BTF_LOAD, LINK_CREATE,
     * ENABLE_STATS, ITER_CREATE, TOKEN_CREATE */
    const u64 makers = 1ULL << 0 | 1ULL << 5 | 1ULL << 7 | 1ULL << 13 | 1ULL << 14 | 1ULL << 17 | 1ULL << 18 |
                       1ULL << 19 | 1ULL << 28 | 1ULL << 30 | 1ULL << 32 | 1ULL << 33 | 1ULL << 36;

    return command < 64 && (makers >> command & 1);
}

/* What a call did: its effect, and what its record says of it. */
static __always_inline void decode(struct work *w, struct registers *r, u64 action, s32 result) {
    u64 first = ARGUMENT_0, second, third;
    struct event *e = &w->event;
    u32 length = 0;
    s32 number = -1;

    w->effect = result < 0 ? EFFECT_FAIL : EFFECT_OPEN;
    w->fd = result;
    w->source = -1;
    w->payload = PAYLOAD_NONE;
    w->type = w->action >> TYPE_SHIFT;
    switch (action) {
    case ACTION_NUMBER:
        e->argument = first;
        break;
    case ACTION_NUMBER_PATH_0:
    case ACTION_NUMBER_PATH_1:
        e->argument = action == ACTION_NUMBER_PATH_0 ? ARGUMENT_1 : ARGUMENT_2;
        w->payload = PAYLOAD_PATH;
        w->address = action == ACTION_NUMBER_PATH_0 ? first : ARGUMENT_1;
        break;
    case ACTION_CLOSE:
        e->fd = first;
        break;
    case ACTION_CLOSE_RANGE:
        w->next = (u32)first > MOST_NUMBER ? MOST_NUMBER : first;
        w->is_exec = 0;
        second = (u32)ARGUMENT_1;
        w->last = second > MOST_NUMBER ? MOST_NUMBER : second;
        if (!result)
            w->effect = ARGUMENT_2 & 4 /* CLOSE_RANGE_CLOEXEC */ ? EFFECT_COPY : EFFECT_CLOSE_RANGE;
        break;
    case ACTION_DUP:
        e->fd2 = w->source = first;
        break;
    case ACTION_DUP_ONTO:
        e->fd2 = w->source = first;
        e->argument = ARGUMENT_1;
        if (result >= 0)
            w->effect = first == (u32)result ? EFFECT_NONE : EFFECT_OPEN_ONTO; /* dup2(7, 7) does nothing */
        break;
    case ACTION_FCNTL:
        second = ARGUMENT_1;
        e->fd2 = w->source = first;
        if (second == 2 /* F_SETFD */ && !result) {
            e->argument = ARGUMENT_2 & 1;
            w->effect = EFFECT_CLOSE_ON_EXEC;
        } else if (second != 0 /* F_DUPFD */ && second != 1030 /* F_DUPFD_CLOEXEC */) {
            w->effect = EFFECT_NONE;
        }
        break;
    case ACTION_IOCTL:
        second = (u32)ARGUMENT_1;
        e->fd2 = first;
        e->argument = second & 1;
        w->effect = (second == 0x5450 /* FIONCLEX */ || second == 0x5451 /* FIOCLEX */) && !result
                        ? EFFECT_CLOSE_ON_EXEC
                        : EFFECT_NONE;
        break;
    case ACTION_PAIR_3:
        e->argument = (u16)first | (ARGUMENT_1 & 0xffff) << 16 | ARGUMENT_2 << 32;
        /* fall through */
    case ACTION_PAIR_0:
        if (!result) {
            u64 pair = 0;

            w->effect = EFFECT_OPEN_PAIR;
            if (read_user_bytes(&pair, sizeof pair, (void *)(action == ACTION_PAIR_0 ? first : ARGUMENT_3))) {
                COUNT(unread);
                e->flags |= UNREADABLE;
                w->effect = EFFECT_NONE;
            }
            w->fd = pair;
            w->fd2 = pair >> 32;
        }
        break;
    case ACTION_SOCKET:
        e->argument = (u16)first | (ARGUMENT_1 & 0xffff) << 16 | ARGUMENT_2 << 32;
        break;
    case ACTION_ACCEPT:
        e->fd2 = first;
        third = ARGUMENT_2;
        if (result >= 0) {
            w->payload = PAYLOAD_ACCEPTED;
            if (ARGUMENT_1 && third)
                read_user_bytes(&length, sizeof length, (void *)third);
            w->address = ARGUMENT_1;
            w->length = length > ADDRESS_BYTES ? ADDRESS_BYTES : length;
        }
        break;
    case ACTION_SIGNALFD: /* otherwise it changes one that there is */
        if ((s32)first != -1)
            w->effect = EFFECT_NONE;
        break;
    case ACTION_BPF_CALL:
        e->argument = first;
        if (!bpf_makes_descriptor(first))
            w->effect = EFFECT_NONE;
        break;
    case ACTION_CLONE:
    case ACTION_CLONE3: {
        u64 arguments[2] = {first, ARGUMENT_2}; /* of clone3, struct clone_args: flags, pidfd */

        if (action == ACTION_CLONE3)
            read_user_bytes(arguments, sizeof arguments, (void *)first);
        e->argument = result;
        w->effect = EFFECT_NONE;
        if (arguments[0] & 0x1000 /* CLONE_PIDFD */ && result > 0 &&
            !read_user_bytes(&number, sizeof number, (void *)arguments[1])) {
            w->effect = EFFECT_OPEN;
            w->fd = number;
        }
        break;
    }
    case ACTION_SECCOMP:
        if (!(ARGUMENT_1 & 8 /* SECCOMP_FILTER_FLAG_NEW_LISTENER */))
            w->effect = EFFECT_NONE;
        break;
    case ACTION_LANDLOCK: /* otherwise it asks for a version */
        if (ARGUMENT_2)
            w->effect = EFFECT_NONE;
        break;
    case ACTION_RECVMSG:
    case ACTION_RECVMMSG:
        e->fd2 = first;
        w->effect = EFFECT_NONE;
        w->messages = ARGUMENT_1;
        w->next = 0;
        w->last = action == ACTION_RECVMMSG && result > 0 ? result : 1;
        if (result >= 0 && (action == ACTION_RECVMMSG ? result > 0 : has_control(ARGUMENT_1)))
            w->effect = EFFECT_RECEIVE;
        break;
    case ACTION_GETSOCKOPT:
        e->fd2 = first;
        w->effect = EFFECT_NONE;
        if ((s32)ARGUMENT_1 == 1 /* SOL_SOCKET */ && (s32)ARGUMENT_2 == 77 /* SO_PEERPIDFD */) {
            w->effect = EFFECT_FAIL;
            if (!result && !read_user_bytes(&number, sizeof number, (void *)ARGUMENT_3)) {
                w->effect = EFFECT_OPEN;
                w->fd = number;
            }
        }
        break;
    case ACTION_ADDRESS:
        e->fd = first;
        e->argument = socket_kind_of(w->actor.files, first);
        w->effect = EFFECT_ON_SOCKET;
        w->payload = PAYLOAD_BYTES;
        w->address = ARGUMENT_1;
        w->length = (u32)ARGUMENT_2 > ADDRESS_BYTES ? ADDRESS_BYTES : (u32)ARGUMENT_2;
        break;
    case ACTION_NUMBER_OF_SOCKET:
        e->fd = first;
        e->fd2 = ARGUMENT_1;
        e->argument = socket_kind_of(w->actor.files, first);
        w->effect = EFFECT_ON_SOCKET;
        break;
    default: /* ACTION_UNSHARE: that the table is another one has been noticed */
        w->effect = result ? EFFECT_NONE : EFFECT_COPY;
    }
}

/* The addresses of the connection that the event's descriptor is into the scratch; false: it is of another family. */
static __always_inline bool read_addresses(struct work *w, struct scratch *s) {
    struct event *e = &w->event;
    struct addresses *to = (struct addresses *)s->data;
    void *sock;
    u16 family = e->argument;

    if (family != 2 /* AF_INET */ && family != 10 /* AF_INET6 */)
        return false;
    sock = sock_of(w->actor.files, e->fd);
    __builtin_memset(to, 0, sizeof *to);
    to->family = family;
    to->remote_port = read_u32(sock, SOCK_REMOTE_PORT);
    to->local_port = read_u32(sock, SOCK_LOCAL_PORT);
    to->interface = read_u32(sock, SOCK_INTERFACE);
    if (family == 2) {
        bpf_probe_read_kernel(to->remote, 4, sock + SOCK_REMOTE);
        bpf_probe_read_kernel(to->local, 4, sock + SOCK_LOCAL);
    }
#ifdef SOCK_REMOTE_6
    if (family == 10) {
        bpf_probe_read_kernel(to->remote, 16, sock + SOCK_REMOTE_6);
        bpf_probe_read_kernel(to->local, 16, sock + SOCK_LOCAL_6);
    }
#endif
    e->length = sizeof *to;
    e->flags |= ADDRESSES;
    return true;
}

/* The record of an event, with what belongs to it; the path of an open is counted. */
static __always_inline void finish_event(struct work *w) {
    struct event *e = &w->event;
    bool has_path = w->payload == PAYLOAD_PATH || w->payload == PAYLOAD_NAME;
    bool wanted = is_wanted(e, w->actor.call), counts_path = has_path && e->flags & OPENED;
    struct scratch *s;

    if (!wanted && !counts_path)
        return;
    s = get_scratch();
    if (!s)
        return;
    if (w->payload == PAYLOAD_PATH)
        read_string(e, s, w->address);
    else if (w->payload == PAYLOAD_BYTES || (w->payload == PAYLOAD_ACCEPTED && !read_addresses(w, s) && w->length))
        read_bytes(e, s, w->address, w->length);
    if (counts_path)
        count_path(&w->actor, e, s);
    if (!wanted)
        return;
    if (e->length)
        emit_with(e, s);
    else
        emit(e);
}

/* The registers of a call. */
static __always_inline bool fetch_registers(struct registers *r, void *from) {
#ifdef IS_TYPED
    REGISTER(r, u64, REGISTER_CALL) = LOAD(64, from, REGISTER_CALL);
    ARGUMENT_0 = LOAD(64, from, REGISTER_0);
    ARGUMENT_1 = LOAD(64, from, REGISTER_1);
    ARGUMENT_2 = LOAD(64, from, REGISTER_2);
    ARGUMENT_3 = LOAD(64, from, REGISTER_3);
    return true;
#else
    return !bpf_probe_read_kernel(r, sizeof *r, from + REGISTERS_FROM);
#endif
}

static __always_inline bool is_compat(void *task) {
#ifdef IS_TYPED
    return LOAD(32, task, COMPAT_OFFSET) & COMPAT_MASK;
#else
    return read_u32(task, COMPAT_OFFSET) & COMPAT_MASK;
#endif
}

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx) {
    u64 id = bpf_get_current_pid_tgid(), *action_of, action, files;
    s64 result = ctx->args[1];
    struct registers *r;
    struct work *w;
    u32 number, index, tid = id;
    void *task;

    if (!mark_of(id >> 32)) /* a bystander pays for no more than this */
        return 0;
    w = get_work();
    if (!w)
        return 0;
    r = &w->registers;
    if (!fetch_registers(r, (void *)ctx->args[0]))
        return 0;
    number = REGISTER(r, u32, REGISTER_CALL);
    index = number & (CALLS - 1);
    action_of = actions.lookup(&index);
    if (!action_of || !*action_of || !is_on())
        return 0;
    action = *action_of & ACTION_MASK;
#ifdef IS_TYPED
    task = get_typed_task();
    files = LOAD(64, task, TASK_FILES);
#else
    task = (void *)bpf_get_current_task();
    files = read_u64(task, TASK_FILES);
#endif
    if (!find_actor(&w->actor, task, files, tid, id >> 32))
        return 0;
    if (number >= CALLS || is_compat(task)) {
        COUNT(compat);
        return 0;
    }
    if (action == ACTION_COMPAT_ONLY)
        return 0;
    w->actor.call = *action_of >> CALL_SHIFT & 0xff;
    if (IS_RESTARTED(result)) {
        struct thread *thread = threads.lookup(&tid);

        if (thread) {
            thread->restarts = number << 16 | -result;
            note_thread_change();
        }
        return 0;
    }
    begin_event(&w->event, &w->actor, number, result);
    if (action == ACTION_CLOSE && result != -9 /* EBADF: any other error frees the number too */) {
        close_number(&w->actor, &w->event, REGISTER(r, u32, REGISTER_0));
        if (is_wanted(&w->event, w->actor.call))
            emit(&w->event);
        return 0;
    }
    w->action = *action_of;
    decode(w, r, action, result);
    if (w->effect != EFFECT_NONE)
        parts.call(ctx, PART_APPLY);
    return 0;
}

/* Whether a table has just begun as a copy of another: then what is known of the types is to go over to it. */
static __always_inline bool begin_copy(struct work *w, u32 table) {
    struct table *t = table_slots.lookup(&table);

    if (!t || !t->source)
        return false;
    w->from = t->source - 1;
    w->to = table;
    w->page = 0;
    t->source = 0;
    return w->from != w->to;
}

/* What the numbers of a table are, for one that began as its copy: a page at a time. */
int copy(struct bpf_raw_tracepoint_args *ctx) {
    struct work *w = get_work();
    u32 i, from, to, *known;
    u64 key;
    struct page *before, *page;

    if (!w)
        return 0;
    from = w->from;
    to = w->to;
    EACH (i, 0, EAGER_PAGES) { /* the next that both have */
        if (!w->page)
            break;
        key = (u64)w->from << 32 | w->page;
        known = pages.lookup(&key);
        from = known ? *known : NO_SLOT;
        key = (u64)w->to << 32 | w->page;
        known = pages.lookup(&key);
        to = known ? *known : NO_SLOT;
        if (from != NO_SLOT && to != NO_SLOT)
            break;
        w->page++;
    }
    before = page_slots.lookup(&from);
    page = page_slots.lookup(&to);
    if (before && page && w->page < EAGER_PAGES) {
        EACH (i, 0, PAGE_NUMBERS) {
            u32 index = from * PAGE_NUMBERS + i;
            struct number *n = numbers.lookup(&index);

            if (n)
                page->types[i] = n->life & LIFE_IS_KNOWN ? n->type : before->types[i];
        }
        w->page++;
        parts.call(ctx, PART_COPY);
    }
    if (w->then_sweeps)
        parts.call(ctx, PART_SWEEP);
    return 0;
}

#ifdef REGISTER_IP
static __always_inline u32 stack_of(struct bpf_raw_tracepoint_args *ctx, bool is_typed, bool is_whole) {
    void *registers = (void *)ctx->args[0], *task;

#ifdef IS_TYPED
    if (is_typed) {
        task = get_typed_task();
        return stack_of_call(registers, LOAD(64, registers, REGISTER_IP), LOAD(64, registers, REGISTER_SP),
                             LOAD(32, task, TASK_EXEC_ID), is_whole);
    }
#endif
    task = (void *)bpf_get_current_task();
    return stack_of_call(registers, read_u64(registers, REGISTER_IP), read_u64(registers, REGISTER_SP),
                         read_u32(task, TASK_EXEC_ID), is_whole);
}
#endif

/* What a call of the current thread has just opened; the table is large enough for it. */
static __always_inline void *file_of_new(struct actor *a, s32 fd, bool is_typed) {
#ifdef IS_TYPED
    if (is_typed) {
        void *table = (void *)LOAD(64, LOAD(64, LOAD(64, get_typed_task(), TASK_FILES), FILES_FDT), TABLE_FD);

        return (void *)read_u64(table, fd * 8);
    }
#endif
    return kernel_file(a->files, fd);
}

/* What is left to do of a call that was decoded; a program of its own, because the verifier would follow it anew for every
 * action. */
static __always_inline int apply_work(struct bpf_raw_tracepoint_args *ctx, bool is_typed) {
    struct work *w = get_work();
    struct totals *t;
    struct actor *a;
    struct event *e;
    void *file;
    s32 result;
    u64 action;

    if (!w)
        return 0;
    a = &w->actor;
    e = &w->event;
    action = w->action;
    result = e->result;
#ifdef REGISTER_IP
    if (action & (WITH_STACK | WITH_WHOLE_STACK) && w->effect != EFFECT_CLOSE_ON_EXEC &&
        (w->effect != EFFECT_FAIL || action & WITH_WHOLE_STACK || result == -24 /* EMFILE */ ||
         result == -23 /* ENFILE */)) {
        e->stack = a->stack = stack_of(ctx, is_typed, action & WITH_WHOLE_STACK);
    }
#endif
    switch (w->effect) {
    case EFFECT_FAIL:
        count_failure(a, result, true);
        e->flags |= FAILED;
        e->type = w->type; /* that it would have had */
        if ((action & ACTION_MASK) == ACTION_ACCEPT && result == -11 /* EAGAIN */)
            e->type = 0; /* of no interest to the story of sockets */
        break;
    case EFFECT_ON_SOCKET:
        e->flags |= ON_SOCKET;
        if (result < 0) {
            count_failure(a, result, !is_under_way(result));
        } else {
            t = find_totals(a->process);
            if (t)
                ADD_OWN_AT(t->sockets, a->call, CALL_CODES, 1);
        }
        e->inode = e->argument ? inode_of(a->files, e->fd) : 0;
        break;
    case EFFECT_CLOSE_ON_EXEC:
        t = find_totals(a->process);
        if (t)
            ADD_OWN_AT(t->close_on_exec, e->argument & 1, 2, 1);
        e->flags |= CLOSE_ON_EXEC;
        e->fd = e->fd2;
        e->fd2 = -1;
        break;
    case EFFECT_COPY:
    case EFFECT_CLOSE_RANGE: /* which may have made a table, too */
        w->then_sweeps = w->effect == EFFECT_CLOSE_RANGE;
        if (begin_copy(w, a->table))
            parts.call(ctx, PART_COPY);
        if (w->then_sweeps)
            parts.call(ctx, PART_SWEEP);
        return 0;
    case EFFECT_RECEIVE:
        w->is_first = 1;
        parts.call(ctx, PART_RECEIVE);
        return 0;
    default: /* it opened one, or two */
        if (w->fd < 0)
            return 0;
        if (!w->type && w->source >= 0) { /* a duplicate: what its source is known to be */
            struct number *n = find_number(a, w->source, false);

            w->type = n ? n->type : 0;
        }
        file = file_of_new(a, w->fd, is_typed);
        if (!w->type)
            w->type = type_of_inode(file);
        asm volatile("" ::: "memory"); /* the verifier knows less of what is in memory: it would follow each type */
        open_number(a, e, w->fd, w->effect == EFFECT_OPEN_ONTO, w->type, file);
        if (w->type == TYPE_SOCKET) {
            e->inode = inode_of(a->files, w->fd);
            if ((action & ACTION_MASK) != ACTION_SOCKET && (action & ACTION_MASK) != ACTION_PAIR_3)
                e->argument = socket_kind_of(a->files, w->fd);
        }
    }
    finish_event(w);
    if (w->effect == EFFECT_OPEN_PAIR) { /* the other one */
        w->effect = EFFECT_OPEN;
        w->fd = w->fd2;
        COUNT(seen);
        e->flags = 0;
        e->lifetime_ns = 0;
        e->ended_type = 0;
        parts.call(ctx, PART_APPLY);
    }
    return 0;
}

int apply(struct bpf_raw_tracepoint_args *ctx) {
    return apply_work(ctx, true);
}

#ifdef IS_TYPED
/* For those that io_uring's tracepoints go on in. */
int apply_untyped(struct bpf_raw_tracepoint_args *ctx) {
    return apply_work(ctx, false);
}
#endif

/* A call that a signal interrupted ends with EINTR where a handler is run that does not have it begin anew: signal(7). */
int on_signal_deliver(struct bpf_raw_tracepoint_args *ctx) {
    u64 id = bpf_get_current_pid_tgid();
    u32 tid = id, number;
    struct work *w = get_work();
    struct thread *thread;
    u64 handler, flags, *action_of;
    void *task;
    s32 restarts;

    if (!mark_of(id >> 32) || !is_on() || !w)
        return 0;
    thread = threads.lookup(&tid);
    if (!thread || !thread->restarts)
        return 0;
    restarts = thread->restarts;
    handler = read_u64((void *)ctx->args[2], SIGACTION_HANDLER);
    flags = read_u64((void *)ctx->args[2], SIGACTION_FLAGS);
    if (handler <= 1) /* SIG_DFL, SIG_IGN */
        return 0;
    thread->restarts = 0;
    if ((restarts & 0xffff) == 513 /* ERESTARTNOINTR */ ||
        ((restarts & 0xffff) == 512 /* ERESTARTSYS */ && flags & 0x10000000 /* SA_RESTART */))
        return 0;
    number = restarts >> 16 & (CALLS - 1);
    action_of = actions.lookup(&number);
    task = (void *)bpf_get_current_task();
    if (!action_of || !find_actor(&w->actor, task, read_u64(task, TASK_FILES), tid, id >> 32))
        return 0;
    w->actor.call = *action_of >> CALL_SHIFT & 0xff;
    begin_event(&w->event, &w->actor, number, -4 /* EINTR */);
    count_failure(&w->actor, -4, true);
    w->event.flags |= FAILED;
    if (is_wanted(&w->event, w->actor.call))
        emit(&w->event);
    return 0;
}

/* Numbers from `next` to `last` are closed, a page at a time: by close_range, or by exec, of which the kernel tells. What
 * close_number does is said again here in the shortest way, because the verifier follows each of the 256 on its own. */
int sweep(struct bpf_raw_tracepoint_args *ctx) {
    struct work *w = get_work();
    u64 open[PAGE_NUMBERS / 64], before, closed_count = 0;
    u32 i, page, slot, *known, most;
    struct actor *a;
    struct event *e;
    struct totals *t;
    struct page *p;
    u64 key;

    if (!w)
        return 0;
    a = &w->actor;
    e = &w->event;
    most = read_u32((void *)read_u64((void *)a->files, FILES_FDT), TABLE_MAX_FDS);
    if (w->last >= most)
        w->last = most - 1;
    if (!most || w->next > w->last)
        return 0;
    page = w->next / PAGE_NUMBERS;
    key = (u64)a->table << 32 | page;
    known = pages.lookup(&key);
    slot = page ? known ? *known : NO_SLOT : a->table;
    p = page_slots.lookup(&slot);
    t = find_totals(a->process);
    if (!p || !t)
        goto next;
    read_open(a->files, page, open);
    EACH (i, 0, PAGE_NUMBERS) {
        u32 index = slot * PAGE_NUMBERS + i, fd = page * PAGE_NUMBERS + i;
        struct number *n = numbers.lookup(&index);
        bool is_used, was_open;

        if (!n || fd < w->next || fd > w->last)
            continue;
        is_used = open[i / 64 & 3] >> (i & 63) & 1;
        was_open = n->life & LIFE_IS_KNOWN ? n->life & LIFE_IS_OPEN : p->was_open[i / 64 & 3] >> (i & 63) & 1;
        if (!is_used && was_open && kernel_file(a->files, fd)) /* since they were read */
            is_used = true;
        if (is_used && w->is_exec)
            continue;
        if (n->owed > 0 && (is_used || !was_open) && !w->is_exec) { /* what it was before it was opened again */
        pays:
            __sync_fetch_and_add(&n->owed, -1);
            closed_count++;
            e->lifetime_ns = 0;
            e->fd = fd;
            e->ended_type = 0;
            e->flags = LATE;
            if (is_wanted(e, a->call))
                emit(e);
            continue;
        }
        if (!was_open)
            continue;
        /* in use again by a call that has not returned; or it was free, and is what was opened meanwhile */
        if (is_used && n->life & LIFE_IS_KNOWN && n->file == mark_of_file(kernel_file(a->files, fd)))
            continue;
        before = __sync_lock_test_and_set(&n->life, LIFE_IS_KNOWN);
        if (n->owed > 0 && is_used) /* it was opened again just now: that life goes back, and this pays */
            if (__sync_val_compare_and_swap(&n->life, LIFE_IS_KNOWN, before) == LIFE_IS_KNOWN)
                goto pays;
        n->moved_ns = a->now;
        closed_count++;
        e->lifetime_ns = end_life(a, before, t);
        e->fd = fd;
        e->ended_type = before ? n->type : p->types[i];
        e->flags = CLOSED;
        if (is_wanted(e, a->call))
            emit(e);
        change_open_count(a, -1);
    }
    count_closes(a, t, closed_count);
next:
    w->next = (page + 1) * PAGE_NUMBERS;
    parts.call(ctx, PART_SWEEP);
    COUNT(unread); /* more pages than calls of this kind may follow each other */
    return 0;
}

/* Numbers that came with messages, from the control data: cmsg(3). */
#define CONTROL_BYTES 2048 /* of one message */
#define SCM_RIGHTS 1
#define SCM_PIDFD 4
#define MOST_RECEIVED 256 /* SCM_RIGHTS has 253 at most */
#define IS_PIDFD 0x80000000
#define OPENED_AT_ONCE 8
struct received {
    u32 numbers[MOST_RECEIVED];
    u32 count;
    u32 done;
    u32 at; /* where the next control message begins, in words of 4 bytes */
    u32 unused;
};
BPF_PERCPU_ARRAY(received_numbers, struct received, 1);

/* One control message at a time, of one message after the other. */
int receive(struct bpf_raw_tracepoint_args *ctx) {
    struct work *w = get_work();
    struct scratch *s = get_scratch();
    u32 zero = 0, i, *words, at, begin, number_count, kind, mark;
    struct received *list = received_numbers.lookup(&zero);
    u64 control_data[2] = {}, length;

    if (!w || !s || !list)
        return 0;
    if (w->is_first) {
        w->is_first = 0;
        list->count = list->done = list->at = 0;
    }
    if (w->next >= w->last)
        goto open;
    words = (u32 *)s->data;
    at = list->at;
    if (read_user_bytes(control_data, sizeof control_data, (void *)w->messages + w->next * 64 /* struct mmsghdr */ + 32))
        goto unread;
    length = control_data[1];
    if (at * 4 + 16 > length)
        goto next_message;
    if (length > CONTROL_BYTES) {
        COUNT(unread);
        length = CONTROL_BYTES;
    }
    if (!at) {
        asm volatile("" : "+r"(length));
        length &= 2 * CONTROL_BYTES - 1;
        if (length > CONTROL_BYTES || read_user_bytes(s->data, length, (void *)control_data[0]))
            goto unread;
    }
    /* struct cmsghdr: length with the head, level, type */
    asm volatile("" : "+r"(at));
    at &= CONTROL_BYTES / 4 - 1;
    begin = at + 4;
    length = words[at] > length - at * 4 ? length - at * 4 : words[at];
    if (length < 16)
        goto next_message;
    kind = words[(at + 2) & (CONTROL_BYTES / 4 - 1)] == 1 /* SOL_SOCKET */ ? words[(at + 3) & (CONTROL_BYTES / 4 - 1)] : 0;
    list->at = at + (length + 7) / 8 * 2;
    if (kind != SCM_RIGHTS && kind != SCM_PIDFD)
        goto next;
    mark = kind == SCM_PIDFD ? IS_PIDFD : 0;
    number_count = (length - 16) / 4;
    EACH (i, 0, MOST_RECEIVED) {
        u32 place = list->count, from = begin + i;

        if (i >= number_count)
            break;
        /* or clang drops the masks, and the bound of the loop, which the verifier needs */
        asm volatile("" : "+r"(place), "+r"(from), "+r"(number_count));
        list->numbers[place & (MOST_RECEIVED - 1)] = words[from & (CONTROL_BYTES / 4 - 1)] | mark;
        list->count = place + 1;
    }
    goto next;
unread:
    COUNT(unread);
next_message:
    w->next++;
    list->at = 0;
next:
    parts.call(ctx, PART_RECEIVE);
open:
    parts.call(ctx, PART_OPEN);
    return 0;
}

/* A few of the numbers at a time: what one takes, the verifier follows for each. */
int open_received(struct bpf_raw_tracepoint_args *ctx) {
    u32 zero = 0, i;
    struct received *list = received_numbers.lookup(&zero);
    struct work *w = get_work();

    if (!list || !w)
        return 0;
    for (i = 0; i < OPENED_AT_ONCE; i++) {
        u32 number, done;
        void *file;
        u8 type;

        if (list->done >= list->count)
            return 0;
        done = list->done++;
        asm volatile("" : "+r"(done));
        number = list->numbers[done & (MOST_RECEIVED - 1)];
        file = kernel_file(w->actor.files, number & ~IS_PIDFD);
        type = forget(number & IS_PIDFD ? TYPE_PIDFD : type_of_inode(file));
        w->event.flags = 0;
        w->event.lifetime_ns = 0;
        open_number(&w->actor, &w->event, number & ~IS_PIDFD, false, type, file);
        w->event.inode = type == TYPE_SOCKET ? inode_of(w->actor.files, number) : 0;
        w->event.argument = type == TYPE_SOCKET ? socket_kind_of(w->actor.files, number) : 0;
        if (is_wanted(&w->event, w->actor.call))
            emit(&w->event);
    }
    parts.call(ctx, PART_OPEN);
    COUNT(unread);
    return 0;
}
