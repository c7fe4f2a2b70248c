/* thread_churn COUNT: threads that come and go, and one that stays, by their own counts.
 *
 * Prints "ready"; a line on standard input starts COUNT threads, 16 alive at a time, each named "brief" and sleeping
 * for 2 ms. Then a thread named "late" begins, works for a fifth of a second of CPU time, and stays. Prints its id and
 * its nanoseconds on the CPU, and waits for ever. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define TOGETHER 16

static void *brief(void *unused) {
    struct timespec t = {.tv_nsec = 2000000};

    prctl(PR_SET_NAME, "brief");
    nanosleep(&t, NULL);
    return unused;
}

static void *late(void *unused) {
    struct timespec t;

    prctl(PR_SET_NAME, "late");
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    while (t.tv_sec * 1000000000L + t.tv_nsec < 200000000L);
    printf("%d %ld\n", gettid(), t.tv_sec * 1000000000L + t.tv_nsec);
    fflush(stdout);
    for (;;)
        pause();
    return unused;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 10000;
    pthread_t threads[TOGETHER];

    puts("ready");
    fflush(stdout);
    getchar();
    for (int made = 0; made < count;) {
        int batch = 0;

        for (; batch < TOGETHER && made < count; batch++, made++)
            if (pthread_create(&threads[batch], NULL, brief, NULL))
                return 1;
        while (batch--)
            pthread_join(threads[batch], NULL);
    }
    pthread_create(&threads[0], NULL, late, NULL);
    pthread_join(threads[0], NULL);
}
