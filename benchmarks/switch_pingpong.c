/* switch_pingpong TRIPS: two threads on one CPU hand a byte to and fro, four rounds; prints ns a context switch, one
 * figure a round. Waits for a line on standard input first, so that a tracer can attach. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int ping[2], pong[2];
static long trips;

static double seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *partner(void *unused) {
    char byte;

    for (long i = 0; i < trips; i++)
        if (read(ping[0], &byte, 1) != 1 || write(pong[1], &byte, 1) != 1)
            break;
    return unused;
}

int main(int argc, char **argv) {
    cpu_set_t cpus;

    trips = argc > 1 ? atol(argv[1]) : 200000;
    puts("ready");
    fflush(stdout);
    getchar();
    CPU_ZERO(&cpus);
    CPU_SET(1, &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    for (int round = 0; round < 4; round++) {
        pthread_t thread;
        char byte = 0;
        double start;

        if (pipe(ping) || pipe(pong))
            return 1;
        pthread_create(&thread, NULL, partner, NULL);
        start = seconds();
        for (long i = 0; i < trips; i++)
            if (write(ping[1], &byte, 1) != 1 || read(pong[0], &byte, 1) != 1)
                return 1;
        printf("%.0f ", (seconds() - start) / trips / 2 * 1e9);
        fflush(stdout);
        pthread_join(thread, NULL);
        close(ping[0]), close(ping[1]), close(pong[0]), close(pong[1]);
    }
    puts("");
}
