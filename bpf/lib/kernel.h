/* Reading the kernel's memory and the process's, for every program here. */

#define MAPPED 1024  /* BPF_F_MMAPABLE: user space reads and writes these through memory */
#define NO_WAKEUP 1  /* BPF_RB_NO_WAKEUP: whoever reads a ring looks by itself */
#define COMM_BYTES 16 /* include/linux/sched.h, TASK_COMM_LEN */
#define MIX 0x9e3779b97f4a7c15ULL /* an odd number whose products are spread well */

/* bpf_probe_read_user and bpf_probe_read_user_str under names of ours (BPF_FUNC_probe_read_user, _user_str of bpf.h):
 * bcc reads all of /proc/kallsyms wherever it finds theirs, a third of the time to compile. */
static long (*read_user_bytes)(void *to, u32 size, const void *from) = (void *)112;
static long (*read_user_string)(void *to, u32 size, const void *from) = (void *)114;

#if defined IS_TYPED || defined HAS_CASTS
/* Where the kernel knows what a pointer points to it lets a program load from there directly, at a tenth of a helper's
 * cost; what cannot be read is 0. In assembly, because bcc would make helper calls of it. */
#define LOAD(bits, base, offset)                                                                                       \
    ({                                                                                                                 \
        u##bits value_;                                                                                                \
        asm volatile("%0 = *(u" #bits " *)(%1 + %2)" : "=r"(value_) : "r"(base), "i"(offset));                         \
        value_;                                                                                                        \
    })
static void *(*get_typed_task)(void) = (void *)158; /* BPF_FUNC_get_current_task_btf */
#endif

/* The kernel's own functions have numbers that begin at 0x7ff00000 until a program is loaded (trace/kernel/functions.py). */

#ifdef HAS_CASTS
/* Any address can be taken for that of a struct that the kernel knows (bpf_rdonly_cast, Linux 6.2): here of one that begins
 * with a word, so that what is read is a number. */
static void *(*cast)(void *address, u32 type) = (void *)0x7ff00003;
#define READ(bits, base, offset) LOAD(bits, cast((base) + (offset), WORD_TYPE), 0)
#else
#define READ(bits, base, offset)                                                                                       \
    ({                                                                                                                 \
        u##bits value_ = 0;                                                                                            \
        bpf_probe_read_kernel(&value_, sizeof value_, (base) + (offset));                                              \
        value_;                                                                                                        \
    })
#endif

static __always_inline u64 read_u64(void *base, u32 offset) {
    return READ(64, base, offset);
}

static __always_inline u32 read_u32(void *base, u32 offset) {
    return READ(32, base, offset);
}

#ifdef HAS_ITERATORS
/* A loop whose body the verifier follows once, and not once a turn: the kernel's own iterators (Linux 6.4). */
struct iterator {
    u64 opaque;
};
static int (*begin_iterator)(struct iterator *it, int first, int end) = (void *)0x7ff00000;
static int *(*next_of_iterator)(struct iterator *it) = (void *)0x7ff00001;
static void (*destroy_iterator)(struct iterator *it) = (void *)0x7ff00002;

static __always_inline void end_iterator(struct iterator *it) {
    destroy_iterator(it);
}
/* `i` from `first` to `end` - 1; both are constants. A turn costs a call: for what is rare. */
#define EACH(i, first, end)                                                                                            \
    for (struct iterator it_ __attribute__((cleanup(end_iterator))),                                                   \
         *unused_ __attribute__((unused)) = (begin_iterator(&it_, first, end), NULL);                                  \
         ({                                                                                                            \
             int *next_ = next_of_iterator(&it_);                                                                      \
             next_ && ((i) = *next_, (i) < (end));                                                                     \
         });)
#else
#define EACH(i, first, end) for ((i) = (first); (i) < (end); (i)++)
#endif

static __always_inline u32 count_bits(u64 word) {
    word -= word >> 1 & 0x5555555555555555ULL;
    word = (word & 0x3333333333333333ULL) + (word >> 2 & 0x3333333333333333ULL);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
    return word * 0x0101010101010101ULL >> 56;
}

/* The place of the highest bit that is set; value is not 0. Without a branch: the verifier would follow each way. */
static __always_inline u32 log2_of(u64 value) {
    value |= value >> 1;
    value |= value >> 2;
    value |= value >> 4;
    value |= value >> 8;
    value |= value >> 16;
    value |= value >> 32;
    return count_bits(value) - 1;
}
