/* Where CPU time goes: at each tick of a CPU's clock the user stack of the traced thread that runs there is copied.
 *
 * Read by src/threadinfo/trace/cpu/tracer.py, whose struct layouts mirror these. Given by the loader: PID_LIMIT,
 * SAMPLE_PAGES, KERNEL_FRAMES, TASK_* (lib/follow.h), and PT_REGS_BYTES, CODE_SEGMENT_AT and STACK_POINTER_AT of the machine. The registers with which the thread was last in user
 * mode are those at the top of its kernel stack, whether the tick came in user mode or in a call: bpf_task_pt_regs finds
 * them (Linux 5.15).
 */
#include <linux/types.h>

#include "lib/kernel.h"
#include "lib/marks.h"
#include "lib/processes.h"
#include "lib/follow.h"

#define USER_PAGE 4096 /* the smallest that there is */
#define COPIED_STACK (4 * USER_PAGE)

struct counts {
    u64 seen;
    u64 lost; /* no room in the buffer */
};
BPF_F_TABLE("array", u32, struct counts, counts, 1, MAPPED);

struct sample {
    u32 tgid;
    u32 tid;
    u32 length;
    u32 is_kernel;
    char comm[COMM_BYTES];
    u64 kernel[KERNEL_FRAMES]; /* where the kernel worked, innermost first; 0 ends it */
    u64 registers[PT_REGS_BYTES / 8];
    u64 stack[COPIED_STACK / 8];
};
BPF_RINGBUF_OUTPUT(samples, SAMPLE_PAGES);

static void *(*get_typed_task)(void) = (void *)158;         /* BPF_FUNC_get_current_task_btf */
static void *(*get_user_registers)(void *task) = (void *)175; /* BPF_FUNC_task_pt_regs */

static long (*get_stack)(void *ctx, void *to, u32 length, u64 flags) = (void *)67; /* BPF_FUNC_get_stack */

/* As much as is mapped: the stack's end may be nearer than what is wanted. */
static __always_inline u32 read_stack(void *to, u64 sp) {
    u32 length = USER_PAGE - (sp & (USER_PAGE - 1));

    if (!read_user_bytes(to, COPIED_STACK, (void *)sp))
        return COPIED_STACK;
    if (!read_user_bytes(to, length + 2 * USER_PAGE, (void *)sp))
        return length + 2 * USER_PAGE;
    if (!read_user_bytes(to, length + USER_PAGE, (void *)sp))
        return length + USER_PAGE;
    return read_user_bytes(to, length, (void *)sp) ? 0 : length;
}

int on_sample(void *ctx) {
    u64 pid_tgid = bpf_get_current_pid_tgid(), segment;
    u32 tgid = pid_tgid >> 32, zero = 0;
    struct counts *c = counts.lookup(&zero);
    struct sample *s;

    if (!c || mark_of(tgid) != TARGET || !is_on())
        return 0;
    __sync_fetch_and_add(&c->seen, 1);
    s = samples.ringbuf_reserve(sizeof *s);
    if (!s) {
        __sync_fetch_and_add(&c->lost, 1);
        return 0;
    }
    /* In assembly, because bcc would make a helper call of it: of the registers that the tick interrupted. */
    asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(segment) : "r"(ctx), "i"(CODE_SEGMENT_AT));
    s->tgid = tgid;
    s->tid = pid_tgid;
    s->is_kernel = !(segment & 3);
    s->length = 0;
    __builtin_memset(s->kernel, 0, sizeof s->kernel);
    if (s->is_kernel)
        get_stack(ctx, s->kernel, sizeof s->kernel, 0);
    bpf_get_current_comm(&s->comm, sizeof s->comm);
    if (bpf_probe_read_kernel(s->registers, sizeof s->registers, get_user_registers(get_typed_task())) == 0)
        s->length = read_stack(s->stack, s->registers[STACK_POINTER_AT / 8]);
    samples.ringbuf_submit(s, NO_WAKEUP);
    return 0;
}
