/* run_time_code [map]: makes a function at run time that calls `work`, and with "map" names it in /tmp/perf-PID.map.
 *
 * Prints "ready"; a line on standard input starts it. It works for a second of CPU time below that function, waits 23
 * times, 5 ms each, below the same, prints "done" and waits for the end of its standard input. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long sum;

__attribute__((noinline)) static void work(void) {
    clock_t until = clock() + CLOCKS_PER_SEC;

    while (clock() < until)
        for (int i = 0; i < 10000; i++)
            sum += i;
    for (int i = 0; i < 23; i++)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    sum++;
}

int main(int argc, char **argv) {
    /* push rbp; mov rbp, rsp; mov rax, work; call rax; pop rbp; ret */
    unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0, 0x5d, 0xc3};
    void (*address)(void) = work;
    void *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char path[64];

    if (made == MAP_FAILED)
        return 1;
    memcpy(code + 6, &address, sizeof address);
    memcpy(made, code, sizeof code);
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    if (argc > 1) {
        FILE *map = fopen(path, "w");

        if (!map)
            return 1;
        fprintf(map, "no line\n%lx %zx LazyCompile:*shop.total /srv/shop.js:17\nffff", (unsigned long)made, sizeof code);
        fclose(map);
    }
    puts("ready");
    fflush(stdout);
    getchar();
    ((void (*)(void))made)();
    unlink(path);
    puts("done");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
