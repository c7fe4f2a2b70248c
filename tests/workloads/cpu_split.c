/* cpu_split MILLISECONDS: two functions that share the CPU about 70 to 30, and a thread that makes calls all the time.
 *
 * Prints "ready"; a line on standard input starts them. After so much CPU time each prints one line, the nanoseconds of
 * CPU time that "heavy" and "light" took by the thread's own clock; then both wait for ever. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long sum;
static long wanted_ns;

static long cpu_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

__attribute__((noinline)) static void spin(int times) {
    for (int i = 0; i < times; i++)
        sum += i;
}

__attribute__((noinline)) void heavy(void) {
    spin(700000);
    __asm__ volatile("");
}

__attribute__((noinline)) void light(void) {
    spin(300000);
    __asm__ volatile("");
}

__attribute__((noinline)) void calling(void) {
    char byte;

    for (int i = 0; i < 1000; i++)
        if (pread(0, &byte, 1, 0) == 1)
            sum++;
    __asm__ volatile("");
}

static void *caller(void *unused) {
    prctl(PR_SET_NAME, "caller");
    while (cpu_ns() < wanted_ns)
        calling();
    return unused;
}

int main(int argc, char **argv) {
    long took[2] = {0, 0};
    pthread_t other;

    wanted_ns = (argc > 1 ? atol(argv[1]) : 1000) * 1000000L;
    puts("ready");
    fflush(stdout);
    getchar();
    pthread_create(&other, NULL, caller, NULL);
    while (took[0] + took[1] < wanted_ns) {
        long from = cpu_ns(), between;

        heavy();
        between = cpu_ns();
        light();
        took[0] += between - from;
        took[1] += cpu_ns() - between;
    }
    pthread_join(other, NULL);
    printf("%ld %ld\n", took[0], took[1]);
    fflush(stdout);
    for (;;)
        pause();
}
