/* Records: what needs words, and the lines of a live stream. What is counted never travels (ledger.h).
 * Four ring buffers, by how much data a record carries, so that user space reads each as one array; nobody is woken. */


/* What is not a system call has a number of its own. Mirrored by trace/descriptors/calls.py. */
#define URING 1024 /* and its opcode */
#define FORK 2000
#define EXEC 2001
#define EXIT 2002
#define PATH 2003 /* a path that was not known: argument is its place in path_counts */

/* Flags of an event. Mirrored by trace/descriptors/recorder.py. */
#define TRUNCATED 1        /* the data is longer than what is here */
#define UNREADABLE 2       /* the data could not be read from the process's memory */
#define SHARES 4           /* FORK: the child uses the same table */
#define LAST 8             /* EXIT: the last thread of its process */
#define FOLLOWED 16        /* FORK: the child is traced from now on */
#define OPENED 32          /* fd was opened */
#define CLOSED 64          /* what fd was has ended: by this call, or (with OWED) by a close that has not returned yet */
#define OWED 128
#define LATE 256           /* a close that returns after the number was opened again: told by the CLOSED of that event */
#define EARLY 512          /* OPENED, but its close has returned already */
#define CLOSE_ON_EXEC 1024 /* of fd: argument */
#define TABLE_GONE 2048    /* EXIT: with the last process that used the table */
#define FAILED 4096        /* the call failed, and that counts */
#define ON_SOCKET 8192     /* bind, listen, connect, shutdown */
#define ADDRESSES 16384    /* the data is struct addresses */

struct event {
    u64 at_ns;
    u64 argument;
    u64 lifetime_ns; /* CLOSED: of what ended; 0 where it was opened before the trace */
    u32 process;     /* slot of the process whose table it is */
    u32 table;       /* slot */
    u32 tid;
    u32 tgid;
    s32 result;
    s32 fd;
    s32 fd2;
    u32 length; /* of the data */
    u32 stack;  /* the stack id of the call; 0: none */
    u16 call;
    u16 flags;
    u8 type;       /* OPENED: of fd, a code of user space's; 0: not known */
    u8 ended_type; /* CLOSED: of what ended */
    u16 unused;
    u32 inode; /* of the socket that fd is; 0: none, or closed by another thread already */
};

struct medium {
    struct event event;
    u64 data[8];
};
struct large {
    struct event event;
    u64 data[32];
};
struct huge {
    struct event event;
    u64 data[512];
};
BPF_RINGBUF_OUTPUT(small_events, SMALL_PAGES);
BPF_RINGBUF_OUTPUT(medium_events, MEDIUM_PAGES);
BPF_RINGBUF_OUTPUT(large_events, LARGE_PAGES);
BPF_RINGBUF_OUTPUT(huge_events, HUGE_PAGES);

/* Both ends of a connection, from the socket itself: accept(2) gives the peer alone, and only who asks for it. Mirrored by
 * trace/descriptors/addresses.py. */
struct addresses {
    u16 family;
    u16 remote_port; /* in the network's order */
    u16 local_port;  /* in the machine's */
    u16 unused;
    u32 interface; /* that it is bound to, as one of a link-local address is; 0: none */
    u8 remote[16];
    u8 local[16];
};

/* Where data is put before its length is known. */
struct scratch {
    u64 data[512];
};
BPF_PERCPU_ARRAY(scratches, struct scratch, 1);

static __always_inline struct scratch *get_scratch(void) {
    u32 zero = 0;

    return scratches.lookup(&zero);
}

static __always_inline void emit(struct event *e) {
    struct event *record = small_events.ringbuf_reserve(sizeof *record);

    if (!record) {
        COUNT(lost);
        return;
    }
    *record = *e;
    small_events.ringbuf_submit(record, NO_WAKEUP);
}

/* With the first e->length bytes of the scratch. */
static __always_inline bool emit_with(struct event *e, struct scratch *s) {
    if (e->length <= sizeof ((struct medium *)0)->data) {
        struct medium *record = medium_events.ringbuf_reserve(sizeof *record);

        if (!record)
            goto lost;
        record->event = *e;
        __builtin_memcpy(record->data, s->data, sizeof record->data);
        medium_events.ringbuf_submit(record, NO_WAKEUP);
    } else if (e->length <= sizeof ((struct large *)0)->data) {
        struct large *record = large_events.ringbuf_reserve(sizeof *record);

        if (!record)
            goto lost;
        record->event = *e;
        __builtin_memcpy(record->data, s->data, sizeof record->data);
        large_events.ringbuf_submit(record, NO_WAKEUP);
    } else {
        struct huge *record = huge_events.ringbuf_reserve(sizeof *record);

        if (!record)
            goto lost;
        record->event = *e;
        bpf_probe_read_kernel(record->data, sizeof record->data, s->data);
        huge_events.ringbuf_submit(record, NO_WAKEUP);
    }
    return true;
lost:
    COUNT(lost);
    return false;
}

/* Bytes of the process's memory into the scratch: e->length of them. */
static __always_inline void read_bytes(struct event *e, struct scratch *s, u64 address, u64 wanted) {
    s64 length = wanted;

    if (wanted > sizeof s->data - 1) {
        COUNT(unread);
        e->flags |= TRUNCATED;
        length = sizeof s->data - 1;
    }
    asm volatile("" : "+r"(length)); /* or clang drops the mask below, which the verifier needs */
    length &= sizeof s->data - 1;
    e->length = length;
    if (read_user_bytes(s->data, length, (void *)address)) {
        COUNT(unread);
        e->flags |= UNREADABLE;
        e->length = 0;
    }
}

/* What comes to lie on the program's own stack costs the kernel less: it checks other places each time. */
struct short_string {
    u64 words[8];
};

/* A string of the process's memory into the scratch; e->length counts its end too. */
static __always_inline void read_string(struct event *e, struct scratch *s, u64 address) {
    struct short_string few;
    s64 length = read_user_string(&few, sizeof few, (void *)address); /* most are short */

    if (length > 0)
        *(struct short_string *)s->data = few;
    if (length == sizeof few)
        length = read_user_string(s->data, sizeof s->data, (void *)address);
    if (length == sizeof s->data) {
        COUNT(unread);
        e->flags |= TRUNCATED;
    }
    if (length < 0) {
        COUNT(unread);
        e->flags |= UNREADABLE;
        length = 0;
    }
    e->length = length;
}
