/* io_uring: its requests are seen when they complete; join with what was submitted by the request's address. */
#define OP_ACCEPT 13 /* include/uapi/linux/io_uring.h */
#define OP_OPENAT 18
#define OP_CLOSE 19
#define OP_OPENAT2 28
#define OP_SOCKET 45
#define OP_FIXED_FD_INSTALL 54

/* Requests that go on: an accept that completes many times, without the request itself, by ring and user data. */
struct multishot {
    u64 ring;
    u64 user_data;
};
BPF_TABLE("lru_hash", struct multishot, u64, multishots, 4096); /* to the task that submitted it */

/* Names, which are freed before the request completes. */
struct name {
    u64 data[32];
};
BPF_TABLE("lru_hash", u64, struct name, names, 1024);
BPF_PERCPU_ARRAY(name_scratch, struct name, 1);


static __always_inline void *task_of_request(void *request) {
#ifdef RING_TASK
    return (void *)read_u64(request, RING_TASK);
#else
    return (void *)read_u64((void *)read_u64(request, RING_CONTEXT), RING_CONTEXT_TASK);
#endif
}

/* Whoever submitted the request, where that is traced. */
static __always_inline bool find_submitter(struct actor *a, void *task) {
    u32 tgid = read_u32(task, TASK_TGID);

    return mark_of(tgid) && find_actor(a, task, read_u64(task, TASK_FILES), read_u32(task, TASK_PID), tgid);
}

int on_io_uring_submit_req(struct bpf_raw_tracepoint_args *ctx) {
    void *request = (void *)ctx->args[0], *task = task_of_request(request);
    u64 key = ctx->args[0], submitter = (u64)task;
    struct actor a;
    u8 opcode = 0;
    u32 zero = 0;

    if (!is_on())
        return 0;
    bpf_probe_read_kernel(&opcode, 1, request + RING_OPCODE);
    if (opcode != OP_OPENAT && opcode != OP_OPENAT2 && opcode != OP_ACCEPT)
        return 0;
    if (!find_submitter(&a, task))
        return 0;
    if (opcode == OP_ACCEPT) {
        struct multishot which = {.ring = read_u64(request, RING_OF), .user_data = read_u64(request, RING_RESULT)};

        if (read_u32(request, ACCEPT_FLAGS) & 1 /* IORING_ACCEPT_MULTISHOT */ && !read_u32(request, ACCEPT_SLOT))
            multishots.update(&which, &submitter);
        return 0;
    }
    struct name *n = name_scratch.lookup(&zero);
    if (n) {
        void *name = (void *)read_u64((void *)read_u64(request, OPEN_NAME), NAME_TEXT);

        bpf_probe_read_kernel_str(n->data, sizeof n->data, name);
        names.update(&key, n);
    }
    return 0;
}

int on_io_uring_complete(struct bpf_raw_tracepoint_args *ctx) {
    void *request = (void *)ctx->args[1], *task = NULL;
    struct work *w = get_work();
    struct event *e;
    u8 opcode = OP_ACCEPT, type = 0;
    u32 slot = 0, code;
    u64 key = ctx->args[1];
    s32 result;

    if (!is_on())
        return 0;
#ifdef RING_COMPLETE_HAS_CQE
    result = read_u32((void *)ctx->args[2], 8); /* struct io_uring_cqe: user_data, res */
#else
    result = ctx->args[3];
#endif
    if (request) {
        bpf_probe_read_kernel(&opcode, 1, request + RING_OPCODE);
    } else {
#ifdef RING_COMPLETE_HAS_CQE
        struct multishot which = {.ring = ctx->args[0], .user_data = read_u64((void *)ctx->args[2], 0)};
#else
        struct multishot which = {.ring = ctx->args[0], .user_data = ctx->args[2]};
#endif
        u64 *submitter = multishots.lookup(&which);

        if (!submitter)
            return 0;
        task = (void *)*submitter;
    }
    switch (opcode) {
    case OP_ACCEPT:
        slot = request ? read_u32(request, ACCEPT_SLOT) : 0;
        type = TYPE_SOCKET;
        code = CODE_URING;
        break;
    case OP_OPENAT:
        slot = read_u32(request, OPEN_SLOT);
        code = CODE_URING + 1;
        break;
    case OP_CLOSE:
        slot = read_u32(request, CLOSE_SLOT);
        code = CODE_URING + 2;
        break;
    case OP_OPENAT2:
        slot = read_u32(request, OPEN_SLOT);
        code = CODE_URING + 3;
        break;
    case OP_SOCKET:
        slot = read_u32(request, SOCKET_SLOT);
        type = TYPE_SOCKET;
        code = CODE_URING + 4;
        break;
    case OP_FIXED_FD_INSTALL:
        code = CODE_URING + 5;
        break;
    default:
        return 0;
    }
    if (slot || result == -125 /* ECANCELED */) /* a descriptor of the ring, not of the table */
        return 0;
    if (!task)
        task = task_of_request(request);
    if (!w || !find_submitter(&w->actor, task))
        return 0;
    w->actor.call = code;
    e = &w->event;
    begin_event(e, &w->actor, URING + opcode, result);
    e->tgid = read_u32(task, TASK_TGID);
    if (opcode == OP_CLOSE) {
        e->fd = read_u32(request, CLOSE_NUMBER);
        if (result != -9 /* EBADF */) {
            close_number(&w->actor, e, e->fd);
            if (is_wanted(e, w->actor.call))
                emit(e);
            return 0;
        }
    }
    w->action = 0;
    w->effect = result < 0 ? EFFECT_FAIL : EFFECT_OPEN;
    w->fd = result;
    w->source = -1;
    w->type = type;
    w->payload = opcode == OP_ACCEPT && result >= 0 ? PAYLOAD_ACCEPTED : PAYLOAD_NONE;
    w->length = 0; /* the peer's address, if it is asked for, is in the memory of the process that submitted it */
    if (opcode == OP_OPENAT || opcode == OP_OPENAT2) {
        struct scratch *s = get_scratch();
        struct name *n = names.lookup(&key);

        if (s && n) {
            long length = bpf_probe_read_kernel_str(s->data, sizeof n->data, n->data);

            e->length = length < 0 ? 0 : length;
            w->payload = PAYLOAD_NAME;
            names.delete(&key);
        }
    }
    parts.call(ctx, PART_APPLY);
    return 0;
}
