/* Every call that makes, closes or marks a descriptor, seen when it returns: one raw tracepoint, sys_exit.
 *
 * A ledger of each traced table is kept here, with everything that is counted (descriptors/ledger.h); only words travel
 * (descriptors/events.h). Read by src/threadinfo/trace/descriptors/ledger.py and recorder.py, whose layouts mirror
 * these. The loader puts the files that are included here into this text: bcc knows maps in the main file alone.
 *
 * Given by the loader: the sizes of the maps (PID_LIMIT, PROCESSES, TABLES, PAGES, THREADS, FREE_SLOTS, SHARDS,
 * CPU_COUNT, CALL_CODES, TYPE_CODES, SITES, SITE_HISTOGRAMS, FAILURES, PATHS, and the pages of each ring buffer), the
 * codes of kinds (TYPE_*), the machine's registers (REGISTERS_FROM, REGISTERS_BYTES and in them REGISTER_CALL,
 * REGISTER_0 to REGISTER_3, and where stacks are known for it REGISTER_IP, REGISTER_SP: offsets in struct pt_regs;
 * PT_REGS_BYTES), the 32-bit mark (COMPAT_OFFSET, COMPAT_MASK), and from the running kernel's BTF TASK_*, FILES_*,
 * TABLE_*, FILE_*, INODE_*, and RING_* where it has io_uring.
 */
#include <linux/types.h>

#include "lib/kernel.h"
#include "lib/histogram.h"
#include "lib/marks.h"
#include "lib/processes.h"

#define CALLS 1024 /* numbers of system calls, and room */
#define ADDRESS_BYTES 128 /* sizeof(struct sockaddr_storage) */

/* Counted where it happens, one element a CPU. */
struct counts {
    u64 seen;
    u64 lost;     /* no room in a buffer */
    u64 map_full; /* no room in a map */
    u64 compat;   /* 32-bit calls, which are not decoded */
    u64 unread;   /* data that could not be read, or was longer than we read */
    u64 uncopied; /* stacks that were new and had no room, or came too fast */
    u64 omitted;  /* records that user space did not want so many of */
    u64 forgotten; /* no count: forget() */
};
BPF_F_TABLE("array", u32, struct counts, counts, CPU_COUNT, MAPPED);

static __always_inline struct counts *this_cpu_counts(void) {
    u32 cpu = bpf_get_smp_processor_id();

    return counts.lookup(&cpu);
}

#define COUNT(name)                                                                                                    \
    ({                                                                                                                 \
        struct counts *counts_ = this_cpu_counts();                                                                    \
        if (counts_)                                                                                                   \
            counts_->name++;                                                                                           \
    })

/* What user space says, and the next of each kind that is given out. */
struct control {
    u64 is_on;
    s64 copies_left;  /* of stacks: user space gives more as it gets on with them */
    s64 records_left; /* likewise */
    u64 records;      /* which are wanted beside those of processes and paths: RECORDS_* */
    u64 started_ns;
    u64 seed; /* so that nobody can name files that collide */
    u64 next_process;
    u64 next_table;
    u64 next_page;
    u64 next_thread;
    u64 next_stack;
    u64 next_failure;
    u64 next_path;
    u64 thread_changes; /* of what threads use, or who is one: what is remembered from before is not believed */
};
#define RECORDS_NONE 0
#define RECORDS_OF_SOCKETS 1
#define RECORDS_ALL 2
BPF_F_TABLE("array", u32, struct control, control, 1, MAPPED);
/* Of each kind of record, by the code of the call and whether it failed: what may come although none is left. User space
 * gives more now and then. */
BPF_F_TABLE("array", u32, s64, kind_records_left, 2 * CALL_CODES, MAPPED);

static __always_inline struct control *get_control(void) {
    u32 zero = 0;

    return control.lookup(&zero);
}

static __always_inline bool is_on(void) {
    struct control *c = get_control();

    return c && c->is_on;
}

#include "descriptors/events.h"
#include "descriptors/tables.h"
#include "descriptors/ledger.h"
#ifdef REGISTER_IP
#define STACKS SITES
#include "lib/stacks.h"
#endif

/* What to do with a call. Mirrored by trace/descriptors/calls.py. */
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
    ACTION_ADDRESS,          /* bind, connect */
    ACTION_NUMBER_OF_SOCKET, /* listen, shutdown: and an argument */
};
/* What user space writes of each call: the action, the call's code in counts, and the code of the type that it makes. */
#define ACTION_MASK 0xff
#define WITH_STACK 0x100       /* the stack is wanted */
#define WITH_WHOLE_STACK 0x200 /* all of it, down to the thread's start */
#define CALL_SHIFT 16
#define TYPE_SHIFT 24
BPF_F_TABLE("array", u32, u64, actions, CALLS, MAPPED);

/* Codes of calls that are none, at fixed places. Mirrored by trace/descriptors/calls.py. */
#define CODE_EXEC 1
#define CODE_EXIT 2
#define CODE_URING 3 /* and the place in URING_OPS */

static __always_inline void begin_event(struct event *e, struct actor *a, u16 call, s32 result) {
    __builtin_memset(e, 0, sizeof *e);
    e->at_ns = a->now;
    e->process = a->process;
    e->table = a->table;
    e->tid = a->tid;
    e->tgid = a->tgid;
    e->call = call;
    e->result = result;
    e->fd = -1;
    e->fd2 = -1;
    COUNT(seen);
}

/* connect(2) of a connection that is being made, or is made by now: EINPROGRESS, EALREADY, EISCONN. */
static __always_inline bool is_under_way(s32 result) {
    return result == -115 || result == -114 || result == -106;
}

/* Whether a record of the event is wanted; `call`: the code of the call. */
static __always_inline bool is_wanted(struct event *e, u32 call) {
    struct control *c = get_control();
    u32 kind = call * 2 + (e->flags & FAILED || (e->flags & ON_SOCKET && e->result < 0 && !is_under_way(e->result)));
    bool is_out_of_order;
    s64 *left;

    if (!c || c->records == RECORDS_NONE)
        return false;
    /* A close that comes in another order than the kernel did it, and what opened its number: only both together tell
     * what was closed. */
    is_out_of_order = e->flags & (OWED | LATE) || !(e->flags & (OPENED | CLOSED | FAILED | CLOSE_ON_EXEC));
    if (c->records == RECORDS_OF_SOCKETS && e->type != TYPE_SOCKET && e->ended_type != TYPE_SOCKET &&
        !(e->flags & ON_SOCKET) && !is_out_of_order)
        return false;
    if (c->records_left > 0 && __sync_fetch_and_add(&c->records_left, -1) > 0)
        return true;
    left = kind_records_left.lookup(&kind);
    if (left && *left > 0 && __sync_fetch_and_add(left, -1) > 0)
        return true;
    COUNT(omitted);
    return false;
}

/* Codes of anonymous inodes, by how their names begin; user space writes it. */
struct anonymous_name {
    char text[16];
};
BPF_HASH(anonymous_names, struct anonymous_name, u8, 64);

static __always_inline u8 type_of_anonymous(void *file) {
    struct anonymous_name name = {};
    u8 *type;

    bpf_probe_read_kernel_str(name.text, sizeof name.text,
                              (void *)read_u64((void *)read_u64(file, FILE_DENTRY), DENTRY_NAME));
    type = anonymous_names.lookup(&name);
    return type ? *type : TYPE_ANON_INODE;
}

/* Anonymous memory is a file of tmpfs that is in no directory: memfd_create(2) names it. */
static __always_inline bool is_memfd(void *file) {
    void *dentry = (void *)read_u64(file, FILE_DENTRY);
    u64 name = read_u64((void *)read_u64(dentry, DENTRY_NAME), 0);

    return read_u64(dentry, DENTRY_PARENT) == (u64)dentry && (name & 0xffffffffffff) == 0x3a64666d656d /* memfd: */;
}

/* The code of what has the mode of a file, or none, by its file system: include/uapi/linux/magic.h. */
static __always_inline u8 type_of_regular(void *file, void *inode) {
    switch (read_u64((void *)read_u64(inode, INODE_SUPER), SUPER_MAGIC)) {
    case 0x09041934: /* ANON_INODE_FS_MAGIC */
        return type_of_anonymous(file);
    case 0x50494446: /* PID_FS_MAGIC */
        return TYPE_PIDFD;
    case 0x6e736673: /* NSFS_MAGIC */
        return TYPE_NAMESPACE;
    case 0x19800202: /* ipc/mqueue.c, MQUEUE_MAGIC */
        return TYPE_MQUEUE;
    case 0x5345434d: /* SECRETMEM_MAGIC */
        return TYPE_MEMFD_SECRET;
    case 0x01021994: /* TMPFS_MAGIC */
    case 0x958458f6: /* HUGETLBFS_MAGIC */
        return is_memfd(file) ? TYPE_MEMFD : TYPE_FILE;
    }
    return TYPE_FILE;
}

/* The code of what a new descriptor is, by its inode; at open's return another thread may have closed it already. */
static __always_inline u8 type_of_inode(void *file) {
    void *inode;

    if (!file)
        return 0;
    inode = (void *)read_u64(file, FILE_INODE);
    switch (read_u32(inode, INODE_MODE) & 0xf000) {
    case 0x1000:
        if (read_u64((void *)read_u64(inode, INODE_SUPER), SUPER_MAGIC) == 0x50495045 /* PIPEFS_MAGIC */)
            return TYPE_PIPE;
        return TYPE_FIFO;
    case 0x2000: /* include/uapi/linux/major.h: UNIX98_PTY_SLAVE_MAJOR and seven more */
        return (read_u32(inode, INODE_DEVICE) >> 20 & ~7) == 136 ? TYPE_TERMINAL : TYPE_DEVICE;
    case 0x6000:
        return TYPE_DEVICE;
    case 0x4000:
        return TYPE_DIRECTORY;
    case 0x8000:
    case 0:
        return type_of_regular(file, inode);
    case 0xa000:
        return TYPE_SYMLINK;
    case 0xc000: /* the name of a Unix socket, opened with O_PATH, is no socket */
        return read_u64((void *)read_u64(inode, INODE_SUPER), SUPER_MAGIC) == 0x534f434b /* SOCKFS_MAGIC */
                   ? TYPE_SOCKET
                   : TYPE_FILE;
    }
    return 0;
}

static __always_inline u8 type_of_file(u64 files, s32 fd) {
    return type_of_inode(kernel_file(files, fd));
}

static __always_inline void *sock_of(u64 files, s32 fd) {
    return (void *)read_u64((void *)read_u64(kernel_file(files, fd), FILE_PRIVATE), SOCKET_SK);
}

/* What the arguments of socket(2) were that made it, as ACTION_SOCKET has them; 0 where it is none. */
static __always_inline u64 socket_kind_of(u64 files, s32 fd) {
    void *socket;

    if (fd < 0 || type_of_file(files, fd) != TYPE_SOCKET)
        return 0;
    socket = sock_of(files, fd);
    return (u16)read_u32(socket, SOCK_FAMILY) | (u64)(u16)read_u32(socket, SOCK_TYPE) << 16 |
           (u64)(u16)read_u32(socket, SOCK_PROTOCOL) << 32;
}

/* Which socket a number is, whatever other numbers it has: sockfs gives 32 bits (get_next_ino). */
static __always_inline u32 inode_of(u64 files, s32 fd) {
    void *file = kernel_file(files, fd);

    return file ? read_u64((void *)read_u64(file, FILE_INODE), INODE_NUMBER) : 0;
}

/* What a call has done. */
enum effect {
    EFFECT_NONE,
    EFFECT_OPEN,
    EFFECT_OPEN_ONTO,
    EFFECT_OPEN_PAIR,
    EFFECT_CLOSE_RANGE,
    EFFECT_RECEIVE,
    EFFECT_CLOSE_ON_EXEC,
    EFFECT_ON_SOCKET,
    EFFECT_COPY, /* it made a table */
    EFFECT_FAIL,
};

/* What of the process's memory belongs to the event. */
enum payload {
    PAYLOAD_NONE,
    PAYLOAD_PATH,
    PAYLOAD_BYTES,
    PAYLOAD_NAME, /* a path that is in the scratch already */
    PAYLOAD_ACCEPTED, /* the addresses of a connection, or PAYLOAD_BYTES where its family has others */
};

/* The registers that hold a call's number and arguments, fetched at once: calling a helper costs more than the bytes. */
struct registers {
    u8 bytes[REGISTERS_BYTES];
} __attribute__((aligned(8)));

/* Handed from one part of a program to the next (tail calls). */
struct work {
    struct actor actor;
    struct event event;
    u64 action; /* of the call, with its flags */
    u32 effect;
    u32 payload;
    u64 address; /* of the payload */
    u64 length;
    s32 fd;
    s32 fd2;    /* of a pair */
    s32 source; /* of a duplicate; -1 otherwise */
    u32 type;   /* of what was opened; 0: ask the inode */
    u64 messages; /* recvmmsg: the address of struct mmsghdr */
    u32 next;     /* number, or message, that comes next */
    u32 last;
    u32 is_exec;  /* or close_range */
    u32 is_first; /* message */
    u32 from;     /* slot of the table whose types are copied */
    u32 to;
    u32 page;     /* that comes next */
    u32 then_sweeps; /* when they are copied */
    struct registers registers;
};
BPF_PERCPU_ARRAY(works, struct work, 1);
BPF_PROG_ARRAY(parts, 5);
#define PART_SWEEP 0
#define PART_RECEIVE 1
#define PART_OPEN 2
#define PART_APPLY 3
#define PART_COPY 4

static __always_inline struct work *get_work(void) {
    u32 zero = 0;

    return works.lookup(&zero);
}

#include "descriptors/system_calls.h"
#include "descriptors/processes.h"
#ifdef RING_OPCODE
#include "descriptors/io_uring.h"
#endif
