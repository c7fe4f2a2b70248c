/* Every call that makes, closes or marks a descriptor, seen when it returns: one raw tracepoint, sys_exit.
 *
 * What is traced is a table of descriptors (task->files), which threads and even processes share; the calls of everyone
 * who uses it are seen. Records have a fixed size in each of four ring buffers, by how much data they carry, so that
 * user space reads them in bulk; nobody is woken for a record.
 * Read by src/threadinfo/trace/descriptor_records.py, whose layouts and constants mirror these.
 *
 * Given by the loader: CPU_COUNT, PID_LIMIT (pid_max), the pages of each buffer (SMALL_PAGES, MEDIUM_PAGES, LARGE_PAGES, HUGE_PAGES), the
 * machine's registers (REGISTERS_FROM, REGISTERS_BYTES and in them REGISTER_CALL, REGISTER_0 to REGISTER_3, and where
 * call sites are known for it REGISTER_IP, REGISTER_SP: offsets in struct pt_regs; PT_REGS_BYTES), LONG_STACK_PAGES, SHORT_STACK_PAGES, the 32-bit mark (COMPAT_OFFSET, COMPAT_MASK), and from the running kernel's BTF TASK_*, FILES_*, TABLE_*, FILE_*, INODE_*, and RING_*
 * where it has io_uring.
 */
#include <linux/types.h>

#define COMM_BYTES 16 /* include/linux/sched.h, TASK_COMM_LEN */
#define CALLS 1024    /* numbers of system calls, and room */
#define MAPPED 1024   /* BPF_F_MMAPABLE: user space reads and writes these through memory */
#define NO_WAKEUP 1   /* BPF_RB_NO_WAKEUP */
#define BITMAP_BYTES 4096
#define MOST_BITMAPS 32  /* 1,048,576 descriptors, the default fs.nr_open */
#define MMSGHDR_BYTES 64
#define ADDRESS_BYTES 128 /* sizeof(struct sockaddr_storage) */
#define MOST_MESSAGES 64 /* of one recvmmsg whose control data is looked at */

/* include/linux/errno.h: -ERESTARTSYS to -ERESTART_RESTARTBLOCK, a call that a signal interrupted and that begins anew */
#define IS_RESTARTED(result) ((result) <= -512 && (result) >= -516)

/* What to do with a call. Mirrored by trace/calls.py. */
enum action {
    ACTION_NOTHING,
    ACTION_COMPAT_ONLY, /* of interest only as a 32-bit call, where the number means another */
    ACTION_NUMBER,      /* the result is a new descriptor */
    ACTION_NUMBER_PATH_0,
    ACTION_NUMBER_PATH_1,
    ACTION_CLOSE,
    ACTION_CLOSE_RANGE,
    ACTION_DUP,
    ACTION_DUP_ONTO,
    ACTION_FCNTL,
    ACTION_IOCTL,
    ACTION_PAIR_0,
    ACTION_PAIR_3,
    ACTION_SOCKET,
    ACTION_ACCEPT,
    ACTION_SIGNALFD,
    ACTION_BPF_CALL,
    ACTION_CLONE,
    ACTION_CLONE3,
    ACTION_SECCOMP,
    ACTION_LANDLOCK,
    ACTION_RECVMSG,
    ACTION_RECVMMSG,
    ACTION_GETSOCKOPT,
    ACTION_UNSHARE,
    ACTION_ADDRESS, /* bind, connect */
    ACTION_NUMBER_OF_SOCKET, /* listen, shutdown: and an argument */
};
/* Beside the action: of what calls the stack is wanted, and of what calls all of it, down to the thread's start. */
#define WITH_STACK 0x100
#define WITH_WHOLE_STACK 0x200

/* What is not a system call has a number of its own. */
#define URING 1024 /* and its opcode */
#define FORK 2000
#define EXEC 2001
#define EXIT 2002
#define TABLE 2003  /* a table that was not known is used by a traced process */
#define BITMAP 2004 /* which numbers of a table are open: data, from number fd on; argument 1 after exec, 0 after TABLE */

#define TRUNCATED 1  /* the data is longer than what is here */
#define UNREADABLE 2 /* the data could not be read from the process's memory */
#define SHARES 4     /* FORK: the child uses the same table */
#define MARKS 256     /* argument: it sets close-on-exec (1) or takes it away (0) */
#define FOLLOWED 16  /* FORK: the child is traced from now on; argument: the address of its own table, 0: it shares */
#define LAST 8       /* EXIT: the last thread of its process; BITMAP: no more follow */

struct event {
    u64 at_ns;
    u64 table; /* the address of the files_struct, as a name */
    u32 tid;
    u32 tgid;
    u16 call;
    u8 flags;
    u8 file_type; /* of what was opened: the highest four bits of its st_mode, 0 where it is not known */
    s32 result;
    s32 fd;
    s32 fd2;
    u32 length; /* of the data */
    u32 stack;  /* the number of a copied stack that came the same way; 0: none was taken */
    u64 argument;
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

/* The action of each call, written by user space. */
BPF_F_TABLE("array", u32, u64, actions, CALLS, MAPPED);

struct control {
    u64 is_on;
    s64 copies_left; /* of stacks: user space gives more as it gets on with them */
};
BPF_F_TABLE("array", u32, struct control, control, 1, MAPPED);

/* Counted where it happens, one element a CPU. */
struct counts {
    u64 seen;
    u64 lost;        /* no room in a buffer */
    u64 map_full;    /* no room for another table */
    u64 compat;      /* 32-bit calls, which are not decoded */
    u64 unread;      /* data that could not be read, or was longer than we read */
    u64 uncopied;    /* stacks that were new and had no room, or came too fast */
};
BPF_F_TABLE("array", u32, struct counts, counts, CPU_COUNT, MAPPED);

/* The tables that are traced, and a mark for each process: that it is traced (1), or that it may use such a table (2).
 * The marks are asked first, of every system call on the machine: an array costs a bystander a third of what a hash does,
 * and of what reading memory does. 32 processes an element, two bits each. */
BPF_HASH(tables, u64, u32, 4096);
BPF_F_TABLE("array", u32, u64, marks, PID_LIMIT / 32 + 1, MAPPED);

#define TARGET 1
#define SHARER 2

static __always_inline u32 mark_of(u32 tgid) {
    u32 index = tgid / 32;
    u64 *group = marks.lookup(&index);

    return group ? *group >> (tgid % 32 * 2) & 3 : 0;
}

static __always_inline void mark(u32 tgid, u64 as) {
    u32 index = tgid / 32;
    u64 *group = marks.lookup(&index);

    if (group)
        __sync_fetch_and_add(group, mark_of(tgid) ? 0 : as << (tgid % 32 * 2));
}

/* Where data is put before its length is known. */
struct scratch {
    u64 data[512];
};
BPF_PERCPU_ARRAY(scratches, struct scratch, 1);

/* bpf_probe_read_user and bpf_probe_read_user_str under names of ours (BPF_FUNC_probe_read_user, _user_str of bpf.h):
 * bcc reads all of /proc/kallsyms wherever it finds theirs, a third of the time to compile. */
static long (*read_user_bytes)(void *to, u32 size, const void *from) = (void *)112;
static long (*read_user_string)(void *to, u32 size, const void *from) = (void *)114;

static __always_inline u64 read_u64(void *base, u32 offset) {
    u64 value = 0;

    bpf_probe_read_kernel(&value, sizeof value, base + offset);
    return value;
}

static __always_inline u32 read_u32(void *base, u32 offset) {
    u32 value = 0;

    bpf_probe_read_kernel(&value, sizeof value, base + offset);
    return value;
}

static __always_inline struct counts *this_cpu_counts(void) {
    u32 cpu = bpf_get_smp_processor_id();

    return counts.lookup(&cpu);
}

static __always_inline void count_lost(void) {
    struct counts *c = this_cpu_counts();

    if (c)
        c->lost++;
}

static __always_inline void count_unread(void) {
    struct counts *c = this_cpu_counts();

    if (c)
        c->unread++;
}

static __always_inline bool is_on(void) {
    u32 zero = 0;
    struct control *c = control.lookup(&zero);

    return c && c->is_on;
}

/* --- handing over ------------------------------------------------------------------------------------------------- */

static __always_inline void emit(struct event *e) {
    struct event *record = small_events.ringbuf_reserve(sizeof *record);

    if (!record) {
        count_lost();
        return;
    }
    *record = *e;
    small_events.ringbuf_submit(record, NO_WAKEUP);
}

/* With the first e->length bytes of the scratch. */
static __always_inline void emit_with(struct event *e, struct scratch *s) {
    if (e->length <= sizeof ((struct medium *)0)->data) {
        struct medium *record = medium_events.ringbuf_reserve(sizeof *record);

        if (!record) {
            count_lost();
            return;
        }
        record->event = *e;
        __builtin_memcpy(record->data, s->data, sizeof record->data);
        medium_events.ringbuf_submit(record, NO_WAKEUP);
    } else if (e->length <= sizeof ((struct large *)0)->data) {
        struct large *record = large_events.ringbuf_reserve(sizeof *record);

        if (!record) {
            count_lost();
            return;
        }
        record->event = *e;
        __builtin_memcpy(record->data, s->data, sizeof record->data);
        large_events.ringbuf_submit(record, NO_WAKEUP);
    } else {
        struct huge *record = huge_events.ringbuf_reserve(sizeof *record);

        if (!record) {
            count_lost();
            return;
        }
        record->event = *e;
        bpf_probe_read_kernel(record->data, sizeof record->data, s->data);
        huge_events.ringbuf_submit(record, NO_WAKEUP);
    }
}

static __always_inline struct scratch *get_scratch(void) {
    u32 zero = 0;

    return scratches.lookup(&zero);
}

/* What to add to an event from the memory of the process. */
enum payload_kind {
    PAYLOAD_NONE,
    PAYLOAD_STRING,
    PAYLOAD_BYTES,
    PAYLOAD_NUMBER, /* of a new descriptor, which the kernel has written there */
    PAYLOAD_PAIR,
    PAYLOAD_NO_EVENT, /* not even the event */
};

struct payload {
    u32 kind;
    u64 address;
    u64 length; /* of PAYLOAD_BYTES */
};

/* Most strings are short: those are read into their record at once. Says whether it was one. */
static __always_inline bool emit_short_string(struct event *e, u64 address) {
    struct medium *record = medium_events.ringbuf_reserve(sizeof *record);
    long length;

    if (!record) {
        count_lost();
        return true;
    }
    length = read_user_string(record->data, sizeof record->data, (void *)address);
    if (length == sizeof record->data) {
        medium_events.ringbuf_discard(record, NO_WAKEUP);
        return false;
    }
    record->event = *e;
    if (length < 0) {
        count_unread();
        record->event.flags = UNREADABLE;
        length = 0;
    }
    record->event.length = length;
    medium_events.ringbuf_submit(record, NO_WAKEUP);
    return true;
}

static __always_inline void emit_with_payload(struct event *e, struct payload *p) {
    struct scratch *s;
    s32 numbers[2] = {-1, -1};
    s64 length = 0, problem = 0;

    if (p->kind == PAYLOAD_NONE) {
        emit(e);
        return;
    }
    if (p->kind == PAYLOAD_STRING && emit_short_string(e, p->address))
        return;
    s = get_scratch();
    if (!s)
        return;
    e->length = 0;
    if (p->kind == PAYLOAD_STRING) {
        length = read_user_string(s->data, sizeof s->data, (void *)p->address);
        problem = length < 0;
        if (length == sizeof s->data) {
            count_unread();
            e->flags |= TRUNCATED;
        }
    } else if (p->kind == PAYLOAD_BYTES) {
        length = p->length;
        if (p->length > sizeof s->data - 1) {
            count_unread();
            e->flags |= TRUNCATED;
            length = sizeof s->data - 1;
        }
        asm volatile("" : "+r"(length)); /* or clang drops the mask below, which the verifier needs */
        length &= sizeof s->data - 1;
        problem = read_user_bytes(s->data, length, (void *)p->address);
    } else if (p->kind == PAYLOAD_NUMBER || p->kind == PAYLOAD_PAIR) {
        if (e->result >= 0)
            problem = read_user_bytes(numbers, p->kind == PAYLOAD_PAIR ? 8 : 4, (void *)p->address);
        e->fd = numbers[0];
        if (p->kind == PAYLOAD_PAIR)
            e->fd2 = numbers[1];
    }
    if (problem) {
        count_unread();
        e->flags |= UNREADABLE;
        length = 0;
    }
    if (length > 0) {
        e->length = length;
        emit_with(e, s);
    } else {
        emit(e);
    }
}

/* --- which tables are traced -------------------------------------------------------------------------------------- */

/* The numbers that are open now, as bitmaps: what a table holds that no earlier event tells. */
static __always_inline void emit_bitmaps(struct event *model, u64 files) {
    void *table = (void *)read_u64((void *)files, FILES_FDT);
    void *bits = (void *)read_u64(table, TABLE_OPEN_FDS);
    u32 bytes = read_u32(table, TABLE_MAX_FDS) / 8, offset = 0;

    for (int i = 0; i < MOST_BITMAPS; i++) {
        struct huge *record = huge_events.ringbuf_reserve(sizeof *record);
        u32 length = bytes - offset;

        if (!record) {
            count_lost();
            return;
        }
        if (length > BITMAP_BYTES)
            length = BITMAP_BYTES;
        record->event = *model;
        record->event.at_ns = bpf_ktime_get_ns();
        record->event.call = BITMAP;
        record->event.fd = offset * 8;
        record->event.length = length;
        record->event.flags = offset + length >= bytes ? LAST : 0;
        asm volatile("" : "+r"(length));
        length &= 2 * BITMAP_BYTES - 1;
        if (length > BITMAP_BYTES || bpf_probe_read_kernel(record->data, length, bits + offset)) {
            record->event.flags |= UNREADABLE;
            count_unread();
        }
        huge_events.ringbuf_submit(record, NO_WAKEUP);
        offset += BITMAP_BYTES;
        if (offset >= bytes)
            return;
    }
    count_unread();
}

/* The current task's table, where it is traced. `is_new`: a traced process uses it, and nobody knew. */
static __always_inline u64 find_table(void *task, bool *is_new) {
    u64 files = read_u64(task, TASK_FILES);
    u32 tgid, one = 1;

    *is_new = false;
    if (tables.lookup(&files))
        return files;
    tgid = bpf_get_current_pid_tgid() >> 32;
    if (!files || mark_of(tgid) != TARGET)
        return 0;
    if (tables.update(&files, &one)) {
        struct counts *c = this_cpu_counts();

        if (c)
            c->map_full++;
    }
    *is_new = true;
    return files;
}

static __always_inline void begin(struct event *e, u64 table, u16 call, s32 result) {
    u64 id = bpf_get_current_pid_tgid();
    struct counts *c = this_cpu_counts();

    e->at_ns = bpf_ktime_get_ns();
    e->table = table;
    e->tid = id;
    e->tgid = id >> 32;
    e->call = call;
    e->result = result;
    e->fd = result;
    e->fd2 = -1;
    if (c)
        c->seen++;
}

static __always_inline void introduce(struct event *e) {
    struct event known = *e;

    known.call = TABLE;
    known.result = 0; /* that of the call that made it known may be an error */
    known.fd = known.fd2 = -1;
    known.length = 0;
    known.flags = 0;
    known.argument = 0;
    emit(&known);
    emit_bitmaps(&known, e->table);
}

/* --- call sites --------------------------------------------------------------------------------------------------- */

#ifdef REGISTER_IP
/* Copying a stack and finding the frames in it is for user space, and costs microseconds; so it is done once for every
 * way that leads to a call. What user space finds, it teaches: how far from each return address the next one lies. With
 * that a stack is walked here, and the return addresses, hashed, tell the ways apart (instruction and stack pointer do
 * not: the first is always libc's, the second the same for frames of one size). */
#define MOST_FRAMES 16
#define MOST_FRAMES_WHOLE 32
#define PAGE 4096 /* the smallest that there is */
#define COPIED_STACK (2 * PAGE)
#define COPIED_STACK_SHORT 1024 /* of a way that user space is busy learning */

struct frame {
    u32 step; /* from where the frame begins (for the innermost: the stack pointer) to its return address */
    u32 flags;
};
#define IS_PROGRAM 1   /* not of a C library, whose callers are meant */
#define IS_END 2       /* what lies beyond is not walked */
#define IS_OUTERMOST 4 /* nothing lies beyond */
#define IS_ROOT 8      /* beyond lies only what started the thread */
BPF_HASH(frames, u64, struct frame, 32768); /* by the address, mixed with what says which program it is of */
BPF_HASH(ways, u64, u32, 16384);                    /* to the number of the stack that was copied */
BPF_TABLE("lru_hash", u64, u32, unlearnt, 4096); /* ways, as far as they are known, of which a long copy was made */

struct copied_stack {
    u32 number;
    u32 tgid;
    u32 tid;
    u32 length;
    u32 exec_id;
    u32 unused;
    u64 registers[PT_REGS_BYTES / 8];
};
struct long_stack {
    struct copied_stack head;
    u64 data[COPIED_STACK / 8];
};
struct short_stack {
    struct copied_stack head;
    u64 data[COPIED_STACK_SHORT / 8];
};
BPF_RINGBUF_OUTPUT(long_stacks, LONG_STACK_PAGES);
BPF_RINGBUF_OUTPUT(short_stacks, SHORT_STACK_PAGES);
BPF_F_TABLE("array", u32, u64, stack_number, 1, MAPPED);

static __always_inline u32 count_uncopied(void) {
    struct counts *c = this_cpu_counts();

    if (c)
        c->uncopied++;
    return 0;
}

static __always_inline void fill_head(struct copied_stack *head, u32 number, u32 exec_id, void *registers) {
    u64 id = bpf_get_current_pid_tgid();

    head->number = number;
    head->tgid = id >> 32;
    head->tid = id;
    head->length = 0;
    head->exec_id = exec_id;
    head->unused = 0;
    bpf_probe_read_kernel(head->registers, sizeof head->registers, registers);
}

/* As much of it as is mapped: up to the end of what is wanted, or of the next page, or of this one. */
static __always_inline u32 read_stack(void *to, u64 sp) {
    u32 length = PAGE - (sp & (PAGE - 1));

    if (!read_user_bytes(to, COPIED_STACK, (void *)sp))
        return COPIED_STACK;
    if (!read_user_bytes(to, length + PAGE, (void *)sp))
        return length + PAGE;
    return read_user_bytes(to, length, (void *)sp) ? 0 : length;
}

/* Gives the copy's number; 0 where there is no room. */
static __always_inline u32 copy_stack(void *registers, u64 sp, u32 exec_id, bool is_long) {
    u32 zero = 0, number;
    struct control *c = control.lookup(&zero);
    u64 *last = stack_number.lookup(&zero);

    if (!c || !last || __sync_fetch_and_add(&c->copies_left, -1) <= 0)
        return count_uncopied();
    if (is_long) {
        struct long_stack *record = long_stacks.ringbuf_reserve(sizeof *record);

        if (!record)
            return count_uncopied();
        number = __sync_fetch_and_add(last, 1) + 1;
        fill_head(&record->head, number, exec_id, registers);
        record->head.length = read_stack(record->data, sp);
        long_stacks.ringbuf_submit(record, NO_WAKEUP);
    } else {
        struct short_stack *record = short_stacks.ringbuf_reserve(sizeof *record);

        if (!record)
            return count_uncopied();
        number = __sync_fetch_and_add(last, 1) + 1;
        fill_head(&record->head, number, exec_id, registers);
        if (!read_user_bytes(record->data, sizeof record->data, (void *)sp))
            record->head.length = sizeof record->data;
        short_stacks.ringbuf_submit(record, NO_WAKEUP);
    }
    return number;
}

#define MIX 0x9e3779b97f4a7c15ULL

/* The number of the copied stack of the way that led to this call, copied now where it is new. The way of a whole stack
 * goes down to the thread's start; where it cannot be walked so far, every call has a copy of its own. */
static __always_inline u32 stack_of_call(void *registers, u64 ip, u64 sp, void *task, bool is_whole) {
    u32 exec_id = read_u32(task, TASK_EXEC_ID), one = 1, number, *known;
    /* Another process, or one that has called exec, has other frames. Mirrored by trace/stack_records.py. */
    u64 program = ((bpf_get_current_pid_tgid() >> 32) << 32 | exec_id) * MIX;
    u64 way = program ^ is_whole, at = sp, pc = ip, key;
    bool is_program = false, is_exact = !is_whole;
    struct frame *frame;

    for (int i = 0; i < MOST_FRAMES_WHOLE; i++) {
        way = (way ^ pc) * MIX;
        way ^= way >> 32;
        key = pc ^ program;
        frame = frames.lookup(&key);
        if (!frame)
            goto unlearnt;
        if (frame->flags & IS_END) {
            is_exact |= frame->flags & IS_OUTERMOST;
            break;
        }
        if (!is_whole) {
            if (i == MOST_FRAMES - 1 || frame->flags & IS_ROOT || (is_program && !(frame->flags & IS_PROGRAM)))
                break; /* the last: the library that called the program, for example qsort */
            is_program = frame->flags & IS_PROGRAM;
        }
        at += frame->step;
        if (read_user_bytes(&pc, sizeof pc, (void *)at))
            break;
        at += sizeof pc;
    }
    known = ways.lookup(&way);
    if (known && is_exact)
        return *known;
    number = copy_stack(registers, sp, exec_id, true);
    if (number)
        ways.update(&way, &number);
    return number ? number : known ? *known : 0;
unlearnt:
    known = unlearnt.lookup(&way);
    if (!known)
        unlearnt.update(&way, &one);
    return copy_stack(registers, sp, exec_id, is_whole || !known);
}
#endif

/* --- system calls ------------------------------------------------------------------------------------------------- */

/* The registers that hold a call's number and arguments, fetched at once: calling a helper costs more than the bytes. */
struct registers {
    u8 bytes[REGISTERS_BYTES];
} __attribute__((aligned(8)));

#define REGISTER(registers, type, offset) (*(type *)&(registers).bytes[(offset) - REGISTERS_FROM])
#define ARGUMENT_0 REGISTER(r, u64, REGISTER_0)
#define ARGUMENT_1 REGISTER(r, u64, REGISTER_1)
#define ARGUMENT_2 REGISTER(r, u64, REGISTER_2)
#define ARGUMENT_3 REGISTER(r, u64, REGISTER_3)

/* S_IFMT of a new descriptor: at open's return another thread may have closed it already. */
static __always_inline u8 file_type_of(u64 files, s32 fd) {
    void *file, *inode;

    if (fd < 0)
        return 0;
    file = (void *)read_u64((void *)files, FILES_FDT);
    file = (void *)read_u64((void *)read_u64(file, TABLE_FD), (u32)fd * 8);
    inode = file ? (void *)read_u64(file, FILE_INODE) : NULL;
    return inode ? (read_u32(inode, INODE_MODE) & 0xffff) >> 12 : 0;
}

/* What the arguments of socket(2) were that made it, as ACTION_SOCKET has them; 0 where it is none. */
static __always_inline u64 socket_kind_of(u64 files, s32 fd) {
    void *file, *socket;

    if (file_type_of(files, fd) != 0xc /* S_IFSOCK >> 12 */)
        return 0;
    file = (void *)read_u64((void *)files, FILES_FDT);
    file = (void *)read_u64((void *)read_u64(file, TABLE_FD), (u32)fd * 8);
    socket = (void *)read_u64((void *)read_u64(file, FILE_PRIVATE), SOCKET_SK);
    return (u16)read_u32(socket, SOCK_FAMILY) | (u64)(u16)read_u32(socket, SOCK_TYPE) << 16 |
           (u64)(u16)read_u32(socket, SOCK_PROTOCOL) << 32;
}

/* struct user_msghdr: msg_control and msg_controllen are at 32 and 40 on every 64-bit machine */
static __always_inline bool find_control(u64 message, struct payload *p) {
    u64 control_data[2] = {};

    if (read_user_bytes(control_data, sizeof control_data, (void *)message + 32) || !control_data[1])
        return false;
    p->kind = PAYLOAD_BYTES;
    p->address = control_data[0];
    p->length = control_data[1];
    return true;
}

static __always_inline bool bpf_makes_descriptor(u64 command) {
    /* enum bpf_cmd: MAP_CREATE, PROG_LOAD, OBJ_GET, *_GET_FD_BY_ID, RAW_TRACEPOINT_OPEN, BTF_LOAD, LINK_CREATE,
     * ENABLE_STATS, ITER_CREATE, TOKEN_CREATE */
    const u64 makers = 1ULL << 0 | 1ULL << 5 | 1ULL << 7 | 1ULL << 13 | 1ULL << 14 | 1ULL << 17 | 1ULL << 18 |
                       1ULL << 19 | 1ULL << 28 | 1ULL << 30 | 1ULL << 32 | 1ULL << 33 | 1ULL << 36;

    return command < 64 && (makers >> command & 1);
}

#ifdef REGISTER_IP
/* Whether a call of that action bore a descriptor, or would have, had the table not been full; what makes a socket, or uses
 * one, has a stack even where it failed. It is asked before the
 * call is decoded: afterwards the verifier would follow the walk anew for every action. */
static __always_inline bool needs_stack(u64 action, struct registers *registers, s64 result) {
    struct registers r = *registers;
    struct payload p;

    if (action == ACTION_ADDRESS || action == ACTION_NUMBER_OF_SOCKET || action == ACTION_SOCKET ||
        action == ACTION_PAIR_3)
        return true;
    if (result < 0 && result != -24 /* EMFILE */ && result != -23 /* ENFILE */)
        return false;
    switch (action) {
    case ACTION_FCNTL:
        return ARGUMENT_1 == 0 /* F_DUPFD */ || ARGUMENT_1 == 1030 /* F_DUPFD_CLOEXEC */;
    case ACTION_SIGNALFD:
        return (s32)ARGUMENT_0 == -1;
    case ACTION_BPF_CALL:
        return bpf_makes_descriptor(ARGUMENT_0);
    case ACTION_CLONE:
        return ARGUMENT_0 & 0x1000 /* CLONE_PIDFD */ && result > 0;
    case ACTION_CLONE3: {
        u64 flags = 0; /* the first of struct clone_args */

        read_user_bytes(&flags, sizeof flags, (void *)ARGUMENT_0);
        return flags & 0x1000 && result > 0;
    }
    case ACTION_SECCOMP:
        return ARGUMENT_1 & 8 /* SECCOMP_FILTER_FLAG_NEW_LISTENER */;
    case ACTION_LANDLOCK:
        return !ARGUMENT_2;
    case ACTION_RECVMSG:
    case ACTION_RECVMMSG:
        return find_control(ARGUMENT_1, &p);
    case ACTION_GETSOCKOPT:
        return (s32)ARGUMENT_1 == 1 /* SOL_SOCKET */ && (s32)ARGUMENT_2 == 77 /* SO_PEERPIDFD */;
    }
    return true;
}
#endif

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx) {
    struct registers r;
    s64 result = ctx->args[1];
    struct event e = {};
    struct payload p = {};
    u64 table, first, second = 0, third, *action_of, action;
    u32 number, index;
    bool is_new;
    void *task;

    if (!mark_of(bpf_get_current_pid_tgid() >> 32)) /* a bystander pays for no more than this */
        return 0;
    if (bpf_probe_read_kernel(&r, sizeof r, (void *)ctx->args[0] + REGISTERS_FROM))
        return 0;
    number = REGISTER(r, u32, REGISTER_CALL);
    index = number & (CALLS - 1);
    action_of = actions.lookup(&index);
    if (!action_of || !*action_of || !is_on())
        return 0;
    action = *action_of & (WITH_STACK - 1);
    task = (void *)bpf_get_current_task();
    table = find_table(task, &is_new);
    if (!table || IS_RESTARTED(result))
        return 0;
    if (number >= CALLS || read_u32(task, COMPAT_OFFSET) & COMPAT_MASK) {
        struct counts *c = this_cpu_counts();

        if (c)
            c->compat++;
        return 0;
    }
    if (action == ACTION_COMPAT_ONLY)
        return 0;
    begin(&e, table, number, result);
    first = ARGUMENT_0;
#ifdef REGISTER_IP
    if (*action_of & (WITH_STACK | WITH_WHOLE_STACK) && needs_stack(action, &r, result))
        e.stack = stack_of_call((void *)ctx->args[0], REGISTER(r, u64, REGISTER_IP), REGISTER(r, u64, REGISTER_SP),
                                task, *action_of & WITH_WHOLE_STACK);
#endif
    switch (action) {
    case ACTION_NUMBER:
        e.argument = first;
        break;
    case ACTION_NUMBER_PATH_0:
        e.file_type = file_type_of(table, e.result);
        e.argument = ARGUMENT_1;
        p.kind = PAYLOAD_STRING;
        p.address = first;
        break;
    case ACTION_NUMBER_PATH_1:
        e.file_type = file_type_of(table, e.result);
        e.argument = ARGUMENT_2;
        p.kind = PAYLOAD_STRING;
        p.address = ARGUMENT_1;
        break;
    case ACTION_CLOSE:
        e.fd = first;
        break;
    case ACTION_CLOSE_RANGE:
        e.fd = (u32)first > 0x7fffffff ? 0x7fffffff : first;
        second = (u32)ARGUMENT_1;
        e.fd2 = second > 0x7fffffff ? 0x7fffffff : second;
        e.argument = ARGUMENT_2;
        break;
    case ACTION_DUP:
        e.fd2 = first;
        break;
    case ACTION_DUP_ONTO:
        e.fd2 = first;
        e.argument = ARGUMENT_1;
        break;
    case ACTION_FCNTL:
        second = ARGUMENT_1;
        e.fd2 = first;
        if (second == 2 /* F_SETFD */ && !result) {
            e.fd = -1;
            e.argument = MARKS | (ARGUMENT_2 & 1);
        } else if (second != 0 /* F_DUPFD */ && second != 1030 /* F_DUPFD_CLOEXEC */) {
            p.kind = PAYLOAD_NO_EVENT;
        }
        break;
    case ACTION_IOCTL:
        second = (u32)ARGUMENT_1;
        e.fd = -1;
        e.fd2 = first;
        e.argument = MARKS | (second & 1);
        if ((second != 0x5450 /* FIONCLEX */ && second != 0x5451 /* FIOCLEX */) || result)
            p.kind = PAYLOAD_NO_EVENT;
        break;
    case ACTION_PAIR_0:
        p.kind = PAYLOAD_PAIR;
        p.address = first;
        break;
    case ACTION_PAIR_3:
        p.kind = PAYLOAD_PAIR;
        p.address = ARGUMENT_3;
        /* fall through */
    case ACTION_SOCKET:
        e.argument = (u16)first | (ARGUMENT_1 & 0xffff) << 16 | ARGUMENT_2 << 32;
        break;
    case ACTION_ACCEPT:
        e.fd2 = first;
        second = ARGUMENT_1;
        third = ARGUMENT_2;
        if (result >= 0 && second && third) {
            u32 length = 0;

            read_user_bytes(&length, sizeof length, (void *)third);
            p.kind = PAYLOAD_BYTES;
            p.address = second;
            p.length = length > ADDRESS_BYTES ? ADDRESS_BYTES : length;
        }
        break;
    case ACTION_SIGNALFD: /* otherwise it changes one that there is */
        if ((s32)first != -1)
            p.kind = PAYLOAD_NO_EVENT;
        break;
    case ACTION_BPF_CALL:
        e.argument = first;
        if (!bpf_makes_descriptor(first))
            p.kind = PAYLOAD_NO_EVENT;
        break;
    case ACTION_CLONE:
        e.argument = result;
        p.kind = first & 0x1000 /* CLONE_PIDFD */ && result > 0 ? PAYLOAD_NUMBER : PAYLOAD_NO_EVENT;
        p.address = ARGUMENT_2;
        break;
    case ACTION_CLONE3: {
        u64 arguments[2] = {}; /* struct clone_args: flags, pidfd */

        read_user_bytes(arguments, sizeof arguments, (void *)first);
        e.argument = result;
        p.kind = arguments[0] & 0x1000 && result > 0 ? PAYLOAD_NUMBER : PAYLOAD_NO_EVENT;
        p.address = arguments[1];
        break;
    }
    case ACTION_SECCOMP:
        if (!(ARGUMENT_1 & 8 /* SECCOMP_FILTER_FLAG_NEW_LISTENER */))
            p.kind = PAYLOAD_NO_EVENT;
        break;
    case ACTION_LANDLOCK: /* otherwise it asks for a version */
        if (ARGUMENT_2)
            p.kind = PAYLOAD_NO_EVENT;
        break;
    case ACTION_RECVMSG:
    case ACTION_RECVMMSG:
        e.fd = -1;
        e.fd2 = first;
        second = ARGUMENT_1;
        if (result < 0 || !find_control(second, &p))
            p.kind = PAYLOAD_NO_EVENT;
        break;
    case ACTION_GETSOCKOPT:
        e.fd2 = first;
        p.kind = PAYLOAD_NO_EVENT;
        if ((s32)ARGUMENT_1 == 1 /* SOL_SOCKET */ && (s32)ARGUMENT_2 == 77 /* SO_PEERPIDFD */) {
            p.kind = PAYLOAD_NUMBER;
            p.address = ARGUMENT_3;
        }
        break;
    case ACTION_ADDRESS:
        e.fd = first;
        e.argument = socket_kind_of(table, first);
        p.kind = PAYLOAD_BYTES;
        p.address = ARGUMENT_1;
        p.length = (u32)ARGUMENT_2 > ADDRESS_BYTES ? ADDRESS_BYTES : (u32)ARGUMENT_2;
        break;
    case ACTION_NUMBER_OF_SOCKET:
        e.fd = first;
        e.fd2 = ARGUMENT_1;
        e.argument = socket_kind_of(table, first);
        break;
    case ACTION_UNSHARE: /* that the table is another one is found above */
        p.kind = PAYLOAD_NO_EVENT;
        break;
    }
    for (int message = 0; message < MOST_MESSAGES; message++) {
        if (p.kind != PAYLOAD_NO_EVENT)
            emit_with_payload(&e, &p);
        if (action != ACTION_RECVMMSG || message + 1 >= result)
            break;
        if (!find_control(second + (message + 1) * MMSGHDR_BYTES, &p))
            p.kind = PAYLOAD_NO_EVENT;
    }
    if (action == ACTION_RECVMMSG && result > MOST_MESSAGES)
        count_unread();
    if (is_new)
        introduce(&e);
    return 0;
}

/* --- processes and threads ---------------------------------------------------------------------------------------- */

/* How many processes that traced ones make are traced too. Mirrored by trace/following.py. */
struct following {
    u64 limit;
    u64 count; /* of those that were to be, beyond the limit as well */
};
BPF_F_TABLE("array", u32, struct following, following, 1, MAPPED);

static __always_inline bool is_following(void) {
    u32 zero = 0;
    struct following *f = following.lookup(&zero);

    return f && f->limit;
}

static __always_inline bool may_follow(void) {
    u32 zero = 0;
    struct following *f = following.lookup(&zero);

    return f && f->limit && __sync_fetch_and_add(&f->count, 1) < f->limit;
}

static __always_inline void unmark(u32 tgid) {
    u32 index = tgid / 32;
    u64 *group = marks.lookup(&index);

    if (group)
        __sync_fetch_and_add(group, -((u64)mark_of(tgid) << (tgid % 32 * 2)));
}

int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
    void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
    u64 files = read_u64(child, TASK_FILES), parents_files = read_u64(parent, TASK_FILES);
    struct scratch *s = get_scratch();
    struct event e = {};
    u32 one = 1;

    if (!is_on() || !s)
        return 0;
    if (files != parents_files && tables.lookup(&files))
        tables.delete(&files); /* the table of that name is gone, and its memory is used again */
    if (!tables.lookup(&parents_files))
        return 0;
    begin(&e, parents_files, FORK, 0);
    e.fd = read_u32(child, TASK_PID);
    e.fd2 = read_u32(child, TASK_TGID);
    e.flags = files == parents_files ? SHARES : 0;
    if (e.fd2 != e.tgid && mark_of(e.tgid) == TARGET && may_follow()) {
        mark(e.fd2, TARGET);
        e.argument = e.flags ? 0 : files;
        e.flags |= FOLLOWED;
    } else if (e.flags && e.fd2 != e.tgid) {
        mark(e.fd2, SHARER);
    }
    bpf_probe_read_kernel(s->data, COMM_BYTES, child + TASK_COMM);
    e.length = COMM_BYTES;
    emit_with(&e, s);
    if (!e.argument)
        return 0;
    if (tables.update(&files, &one)) { /* it does not run yet: what it has is what it begins with */
        struct counts *c = this_cpu_counts();

        if (c)
            c->map_full++;
    }
    e.table = files;
    e.tid = e.tgid = e.fd2;
    e.fd2 = -1;
    e.argument = 0;
    emit_bitmaps(&e, files);
    return 0;
}

/* A process that has not begun: the next that has this name when it calls exec is traced. Mirrored by trace/awaited.py. */
struct awaited {
    u64 name[2]; /* as the kernel has it, padded with zeroes */
    s64 left;    /* 1 while it is waited for */
    u64 pid;
    u64 at_ns;
};
BPF_F_TABLE("array", u32, struct awaited, awaited, 1, MAPPED);

/* Whether the process that has just called exec is the one. */
static __always_inline bool is_awaited(void) {
    u32 zero = 0;
    struct awaited *a = awaited.lookup(&zero);
    u64 name[2] = {};

    if (!a || a->left <= 0)
        return false;
    bpf_get_current_comm(&name, sizeof name);
    if (name[0] != a->name[0] || name[1] != a->name[1] || __sync_fetch_and_add(&a->left, -1) != 1)
        return false;
    a->at_ns = bpf_ktime_get_ns();
    a->pid = bpf_get_current_pid_tgid() >> 32;
    return true;
}

/* Close-on-exec has been done: what is open now is what the new program has. */
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    struct scratch *s = get_scratch();
    struct event e = {};
    bool is_new, has_come;
    u64 table;
    long length;

    if (!is_on() || !s)
        return 0;
    has_come = is_awaited();
    if (has_come)
        mark(bpf_get_current_pid_tgid() >> 32, TARGET);
    table = find_table((void *)bpf_get_current_task(), &is_new);
    if (!table)
        return 0;
    begin(&e, table, EXEC, 0);
    e.fd = (u32)ctx->args[1]; /* the number that the thread had before */
    length = bpf_probe_read_kernel_str(s->data, sizeof s->data, (void *)read_u64((void *)ctx->args[2], BINARY_NAME));
    e.length = length < 0 ? 0 : length;
    emit_with(&e, s);
    /* or it is what the table was when it came to us: awaited, or parted from the one that a followed child shared */
    e.argument = !(has_come || (is_new && is_following()));
    emit_bitmaps(&e, table);
    return 0;
}

int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx) {
    void *task = (void *)ctx->args[0];
    u64 files = read_u64(task, TASK_FILES);
    u32 tgid = read_u32(task, TASK_TGID);
    struct scratch *s = get_scratch();
    struct event e = {};

    if (!is_on() || !s || (!tables.lookup(&files) && mark_of(tgid) != TARGET))
        return 0;
    begin(&e, files, EXIT, 0);
    if (!read_u32((void *)read_u64(task, TASK_SIGNAL), SIGNAL_LIVE))
        e.flags = LAST;
    if (read_u32((void *)files, FILES_COUNT) == 1)
        tables.delete(&files);
    if (e.flags && is_following()) /* its number will be another's */
        unmark(tgid);
    bpf_probe_read_kernel(s->data, COMM_BYTES, task + TASK_COMM);
    e.length = COMM_BYTES;
    emit_with(&e, s);
    return 0;
}

/* --- io_uring ------------------------------------------------------------------------------------------------------ */

#ifdef RING_OPCODE
#define OP_ACCEPT 13 /* include/uapi/linux/io_uring.h */
#define OP_OPENAT 18
#define OP_CLOSE 19
#define OP_OPENAT2 28
#define OP_SOCKET 45
#define OP_FIXED_FD_INSTALL 54

/* Requests that go on: (ring, user data) of an accept that completes many times, without the request itself. */
struct multishot {
    u64 ring;
    u64 user_data;
};
struct waiting {
    u64 table;
    s32 fd;
    u32 unused;
};
BPF_TABLE("lru_hash", struct multishot, struct waiting, multishots, 4096);

/* Names, which are freed before the request completes. */
struct name {
    u64 data[32];
};
BPF_TABLE("lru_hash", u64, struct name, names, 1024);
BPF_PERCPU_ARRAY(name_scratch, struct name, 1);

static __always_inline u64 table_of_request(void *request) {
#ifdef RING_TASK
    void *task = (void *)read_u64(request, RING_TASK);
#else
    void *task = (void *)read_u64((void *)read_u64(request, RING_CONTEXT), RING_CONTEXT_TASK);
#endif
    u64 files = read_u64(task, TASK_FILES);
    u32 tgid = read_u32(task, TASK_TGID), one = 1;

    if (tables.lookup(&files))
        return files;
    if (!files || mark_of(tgid) != TARGET)
        return 0;
    tables.update(&files, &one);
    return files;
}

int on_io_uring_submit_req(struct bpf_raw_tracepoint_args *ctx) {
    void *request = (void *)ctx->args[0];
    u64 key = ctx->args[0], table;
    u8 opcode = 0;
    u32 zero = 0;

    if (!is_on())
        return 0;
    bpf_probe_read_kernel(&opcode, 1, request + RING_OPCODE);
    if (opcode != OP_OPENAT && opcode != OP_OPENAT2 && opcode != OP_ACCEPT)
        return 0;
    table = table_of_request(request);
    if (!table)
        return 0;
    if (opcode == OP_ACCEPT) {
        struct multishot which = {.ring = read_u64(request, RING_OF), .user_data = read_u64(request, RING_RESULT)};
        struct waiting waits = {.table = table, .fd = -1};

        if (read_u32(request, ACCEPT_FLAGS) & 1 /* IORING_ACCEPT_MULTISHOT */ && !read_u32(request, ACCEPT_SLOT))
            multishots.update(&which, &waits);
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
    void *request = (void *)ctx->args[1];
    struct event e = {};
    u8 opcode = OP_ACCEPT;
    u32 slot = 0;
    u64 table = 0, key = ctx->args[1];
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
        struct waiting *waits = multishots.lookup(&which);

        if (!waits)
            return 0;
        table = waits->table;
    }
    switch (opcode) {
    case OP_ACCEPT:
        slot = request ? read_u32(request, ACCEPT_SLOT) : 0;
        break;
    case OP_OPENAT:
    case OP_OPENAT2:
        slot = read_u32(request, OPEN_SLOT);
        break;
    case OP_CLOSE:
        slot = read_u32(request, CLOSE_SLOT);
        break;
    case OP_SOCKET:
        slot = read_u32(request, SOCKET_SLOT);
        break;
    case OP_FIXED_FD_INSTALL:
        break;
    default:
        return 0;
    }
    if (slot) /* a descriptor of the ring, not of the table */
        return 0;
    if (!table)
        table = table_of_request(request);
    if (!table || result == -125 /* -ECANCELED */)
        return 0;
    begin(&e, table, URING + opcode, result);
    if (opcode == OP_CLOSE)
        e.fd = read_u32(request, CLOSE_NUMBER);
    if (opcode == OP_OPENAT || opcode == OP_OPENAT2) {
        struct scratch *s = get_scratch();
        struct name *n = names.lookup(&key);

        e.file_type = file_type_of(table, result);
        if (s && n) {
            long length = bpf_probe_read_kernel_str(s->data, sizeof n->data, n->data);

            e.length = length < 0 ? 0 : length;
            emit_with(&e, s);
            names.delete(&key);
            return 0;
        }
    }
    emit(&e);
    return 0;
}
#endif
