/* leaving_together: two processes that share a table of descriptors end at the same moment. The child has much memory to give
 * back, which the kernel does before it takes the table from it; the parent ends meanwhile. Neither is the last by the
 * kernel's count of users when its end is seen. Says "ready", waits for a line, prints how many
 * descriptors are open, waits for another, and ends. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define OPENED 23
#define BYTES (256UL << 20)
static char stack[65536] __attribute__((aligned(64)));
static int begins[2], is_ready[2];

static int child(void *memory) {
    char byte;

    memset(memory, 1, BYTES); /* its own: the parent's is copied as it is written to */
    if (write(is_ready[1], "", 1) != 1 || read(begins[0], &byte, 1) != 1)
        return 1;
    _exit(0);
}

/* Whether a process is about its end, by its flags: proc_pid_stat(5). */
static int is_ending(int stat) {
    char text[1024] = "", *rest;
    unsigned flags = 0;

    if (pread(stat, text, sizeof text - 1, 0) <= 0 || !(rest = strrchr(text, ')')))
        return 1; /* it is no more */
    sscanf(rest, ") %*c %*d %*d %*d %*d %*d %u", &flags);
    return flags & 4 /* PF_EXITING */;
}

int main(void) {
    struct rlimit limit;
    int open_count = 0, pid, stat;
    char path[64], byte, *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    puts("ready");
    fflush(stdout);
    if (memory == MAP_FAILED || read(0, &byte, 1) != 1 || pipe(begins) || pipe(is_ready))
        return 1;
    madvise(memory, BYTES, MADV_NOHUGEPAGE);
    for (int i = 0; i < OPENED; i++)
        if (eventfd(0, 0) < 0)
            return 1;
    signal(SIGCHLD, SIG_IGN);
    pid = clone(child, stack + sizeof stack, CLONE_FILES | SIGCHLD, memory);
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    stat = open(path, O_RDONLY);
    if (pid < 0 || stat < 0 || read(is_ready[0], &byte, 1) != 1)
        return 1;
    getrlimit(RLIMIT_NOFILE, &limit);
    for (int fd = 0; fd < (int)limit.rlim_cur && fd < 65536; fd++)
        open_count += fcntl(fd, F_GETFD) >= 0;
    printf("%d\n", open_count);
    fflush(stdout);
    if (read(0, &byte, 1) != 1 || write(begins[1], "", 1) != 1)
        return 1;
    while (!is_ending(stat))
        ;
    _exit(0);
}
