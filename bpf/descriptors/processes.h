/* Processes and threads: who begins to be traced, what exec closes, and who is no more. */

/* A process that is traced from now on, of which no table is known yet. Gives its slot. */
static __always_inline u32 add_process(u32 tgid) {
    u32 zero = 0, slot;
    struct control *c = get_control();
    struct process *p;

    slot = c ? take_slot(free_processes.lookup(&zero), &c->next_process, PROCESSES) : NO_SLOT;
    p = process_slots.lookup(&slot);

    if (!p)
        return NO_SLOT;
    p->tgid = tgid;
    p->table = NO_SLOT;
    p->state = IS_BOUND;
    processes.update(&tgid, &slot);
    set_mark(tgid, TARGET);
    return slot;
}

/* Run by user space before anything is counted, with a pidfd of its own and the slot of that target: binds its table. */
int show_target(struct bpf_raw_tracepoint_args *ctx) {
    void *task = (void *)bpf_get_current_task(), *file = kernel_file(read_u64(task, TASK_FILES), ctx->args[0]), *pid;
    u32 slot = ctx->args[1], table;
    struct process *p = process_slots.lookup(&slot);
    u64 node, files;
    struct table *t;

    pid = (void *)read_u64(file, FILE_PRIVATE);
    if (!pid) /* since Linux 6.9 */
        pid = (void *)read_u64((void *)read_u64(file, FILE_INODE), INODE_PRIVATE);
    node = read_u64(pid, PID_TASKS + 8); /* of PIDTYPE_TGID: the task's hlist_node of that kind, which has 16 bytes */
    if (!p || !node)
        return 0;
    task = (void *)node - TASK_PID_LINKS - 16;
    files = read_u64(task, TASK_FILES);
    if (read_u32(task, TASK_TGID) != p->tgid || !files)
        return 0;
    table = p->table;
    t = table_slots.lookup(&table);
    p->state = IS_BOUND;
    if (t && !bind_reserved(t, table, files)) /* it has parted from the one that it shared a moment ago */
        move_leader(slot, add_table(files, slot));
    return 0;
}

/* A thread that is no more: user space takes what it did, and gives its slot out again. */
static __always_inline void end_thread(u32 tid, u32 slot) {
    struct thread_slot *done = thread_slots.lookup(&slot);

    if (done)
        done->has_ended = 1;
    forget_thread(tid);
}

/* A table that begins as a copy of another. */
static __always_inline u32 add_copy(u64 files, u32 process, u32 source) {
    u32 slot = add_table(files, process);
    struct table *t = table_slots.lookup(&slot);

    if (t)
        t->source = source + 1ULL;
    return slot;
}

static __always_inline void copy_name(struct event *e, struct scratch *s, void *task) {
    bpf_probe_read_kernel(s->data, COMM_BYTES, task + TASK_COMM);
    e->length = COMM_BYTES;
}

int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
    void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
    u64 files = read_u64(child, TASK_FILES), id = bpf_get_current_pid_tgid();
    u32 child_tid, child_tgid, slot, table;
    struct scratch *s = get_scratch();
    struct work *w;
    struct event e;
    struct actor a;

    table = NO_SLOT;
    if (!is_on() || !s)
        return 0;
    if (tables.lookup(&files) && files != read_u64(parent, TASK_FILES))
        tables.delete(&files); /* the table of that address is gone, and its memory is used again */
    child_tid = read_u32(child, TASK_PID);
    child_tgid = read_u32(child, TASK_TGID);
    if (child_tid == child_tgid && mark_of(child_tgid)) { /* of one that had the number before */
        processes.delete(&child_tgid);
        set_mark(child_tgid, 0);
    }
    if (!mark_of(id >> 32) || !find_actor(&a, parent, read_u64(parent, TASK_FILES), id, id >> 32))
        return 0;
    forget_thread(child_tid); /* of one that had the number before */
    begin_event(&e, &a, FORK, 0);
    e.fd = child_tid;
    e.fd2 = child_tgid;
    e.flags = files == a.files ? SHARES : 0;
    if (child_tgid != (u32)(id >> 32) && mark_of(id >> 32) == TARGET && may_follow(&slot)) {
        slot = add_process(child_tgid);
        if (slot != NO_SLOT) {
            e.flags |= FOLLOWED;
            e.argument = slot;
            /* where it has its own, it does not run yet: what that has is what it begins with */
            table = e.flags & SHARES ? a.table : add_copy(files, slot, a.table);
            move_leader(slot, table);
        }
    } else if (e.flags & SHARES && child_tgid != (u32)(id >> 32)) {
        processes.update(&child_tgid, &a.process);
        set_mark(child_tgid, SHARER);
    }
    copy_name(&e, s, child);
    emit_with(&e, s);
    w = get_work();
    if (w && e.flags & FOLLOWED && begin_copy(w, table)) {
        w->then_sweeps = 0;
        parts.call(ctx, PART_COPY);
    }
    return 0;
}

/* Close-on-exec has been done: what is open now is what the new program has. */
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    u64 id = bpf_get_current_pid_tgid();
    u32 tid = id, tgid = id >> 32, before = ctx->args[1], slot; /* `before`: the number that the thread had */
    struct scratch *s = get_scratch();
    struct thread *thread, as_before;
    struct event e;
    struct actor a;
    struct work *w;
    bool has_come;
    void *task = (void *)bpf_get_current_task();
    long length;

    if (!is_on() || !s)
        return 0;
    has_come = is_awaited();
    if (has_come) {
        slot = add_process(tgid);
        if (slot != NO_SLOT) {
            u64 files = read_u64(task, TASK_FILES);

            if (tables.lookup(&files))
                tables.delete(&files);
            move_leader(slot, add_table(files, slot));
        }
    }
    if (!mark_of(tgid))
        return 0;
    thread = threads.lookup(&before);
    if (before != tid && thread) { /* it goes on under the first thread's number */
        as_before = *thread;
        end_thread(before, thread->slot);
        as_before.slot = add_thread_slot(tid, as_before.process);
        threads.update(&tid, &as_before);
        note_thread_change();
    }
    if (!find_actor(&a, task, read_u64(task, TASK_FILES), tid, tgid))
        return 0;
    a.call = CODE_EXEC;
    begin_event(&e, &a, EXEC, 0);
    e.argument = before;
    length = bpf_probe_read_kernel_str(s->data, sizeof s->data, (void *)read_u64((void *)ctx->args[2], BINARY_NAME));
    e.length = length < 0 ? 0 : length;
    emit_with(&e, s);
    w = get_work();
    if (!w || has_come)
        return 0;
    e.length = 0;
    w->actor = a;
    w->event = e;
    w->next = 0;
    w->last = MOST_NUMBER;
    w->is_exec = 1;
    w->then_sweeps = 1;
    if (begin_copy(w, a.table))
        parts.call(ctx, PART_COPY);
    parts.call(ctx, PART_SWEEP);
    return 0;
}

/* A traced process has ended, and uses its table no more. */
static __always_inline void end_leader(u32 process) {
    struct process *p = process_slots.lookup(&process);
    struct table *t;
    u32 table;

    if (!p || __sync_lock_test_and_set(&p->state, HAS_ENDED) == HAS_ENDED)
        return;
    table = p->table;
    t = table_slots.lookup(&table);
    if (t)
        __sync_fetch_and_add(&t->leaders, -1);
}

/* How many of the tasks that ended before still have the table: they are on their way to giving it up. */
static __always_inline u32 count_leaving(struct table *t, u64 files) {
    u32 count = 0, i;

    EACH (i, 0, MOST_LEAVING) {
        void *task = (void *)t->leaving[i];

        /* of one that is freed the memory may be anything, and another's that ends as well is one of these again */
        if (task && read_u64(task, TASK_FILES) == files && read_u32(task, TASK_FLAGS) & 4 /* PF_EXITING */)
            count++;
    }
    return count;
}

/* Whether a table is used by tasks alone that are ending, with this one. Each gives it up some time after this tracepoint:
 * of two that end together neither is the last by the kernel's count. */
static __always_inline bool is_given_up(struct table *t, u64 task, u64 files) {
    u32 users = read_u32((void *)files, FILES_COUNT), again, i;
    bool is_noted = false;
    u64 place;

    EACH (i, 0, MOST_LEAVING)
        is_noted |= t->leaving[i] == task;
    if (!is_noted) {
        place = __sync_fetch_and_add(&t->next_leaving, 1);
        __sync_lock_test_and_set(&t->leaving[place & (MOST_LEAVING - 1)], task);
    }
    if (users > MOST_LEAVING)
        return false;
    for (int i = 0; i < 4; i++) { /* until the count stays the same while they are looked at */
        u32 leaving = count_leaving(t, files);

        again = read_u32((void *)files, FILES_COUNT);
        if (users == again)
            return users <= leaving;
        users = again;
    }
    return false;
}

int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx) {
    void *task = (void *)ctx->args[0];
    u64 files = read_u64(task, TASK_FILES);
    u32 tid = read_u32(task, TASK_PID), tgid = read_u32(task, TASK_TGID), *process;
    struct thread *thread;
    struct scratch *s = get_scratch();
    struct event e;
    struct actor a = {};
    struct table *t;
    u32 *known;

    if (!is_on() || !s || !mark_of(tgid))
        return 0;
    if (mark_of(tgid) == TARGET) /* it may be the first that is seen of it */
        find_actor(&a, task, read_u64(task, TASK_FILES), tid, tgid);
    known = tables.lookup(&files);
    process = processes.lookup(&tgid);
    if (!process)
        return 0;
    a.process = *process;
    a.table = known ? *known : NO_SLOT;
    a.now = bpf_ktime_get_ns();
    thread = threads.lookup(&tid);
    if (thread)
        end_thread(tid, thread->slot);
    begin_event(&e, &a, EXIT, 0);
    e.tid = tid;
    e.tgid = tgid;
    if (!read_u32((void *)read_u64(task, TASK_SIGNAL), SIGNAL_LIVE))
        e.flags = LAST;
    t = table_slots.lookup(&a.table);
    if (t && is_given_up(t, (u64)task, files)) {
        if ((mark_of(tgid) == TARGET || t->leaders > 0) && !__sync_val_compare_and_swap(&t->ended_ns, 0, a.now))
            e.flags |= TABLE_GONE;
        tables.delete(&files);
    }
    if (e.flags & LAST && mark_of(tgid) == TARGET)
        end_leader(*process);
    copy_name(&e, s, task);
    emit_with(&e, s);
    return 0;
}
