/* short_turns: 17 threads that share one CPU in short turns, so that each waits for many turns of others.
 *
 * Prints "ready"; a line on standard input starts them. After a second and a half it prints "done", and they end. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static volatile int is_over;

static void *work(void *unused) {
    struct timespec pause = {.tv_nsec = 100000};

    while (!is_over) {
        for (volatile long i = 0; i < 100000; i++)
            ;
        nanosleep(&pause, NULL);
    }
    return unused;
}

int main(void) {
    pthread_t threads[17];
    cpu_set_t one;

    puts("ready");
    fflush(stdout);
    getchar();
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    for (unsigned i = 0; i < sizeof threads / sizeof *threads; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    usleep(1500000);
    is_over = 1;
    for (unsigned i = 0; i < sizeof threads / sizeof *threads; i++)
        pthread_join(threads[i], NULL);
    puts("done");
    fflush(stdout);
    for (;;)
        pause();
}
