/* wait_places: a thread that waits for one pipe, and one lock, from two functions each, and counts itself how long.
 *
 * Prints "ready"; a line on standard input starts it. When it is done it prints a line of JSON: of each function its name,
 * the call, how often it waited and the nanoseconds that its own clock says; then it sleeps until it is killed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int to_waiter[2], to_partner[2];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile int done;

static long now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void rest(int milliseconds) {
    struct timespec t = {.tv_nsec = milliseconds * 1000000L};

    nanosleep(&t, NULL);
}

static void hand(int fd) {
    if (write(fd, "", 1) != 1)
        exit(1);
}

#define NOT_INLINED __attribute__((noinline, noclone))
#define WAIT_IN(name, wait)                                                                                            \
    NOT_INLINED static long name(void) {                                                                               \
        long from = now(), ns;                                                                                         \
        char byte;                                                                                                     \
                                                                                                                       \
        hand(to_partner[1]);                                                                                           \
        if (wait)                                                                                                      \
            exit(1);                                                                                                   \
        ns = now() - from;                                                                                             \
        done += byte;                                                                                                  \
        return ns;                                                                                                     \
    }

WAIT_IN(read_often, read(to_waiter[0], &byte, 1) != 1)
WAIT_IN(read_long, read(to_waiter[0], &byte, 1) != 1)

#define LOCK_IN(name)                                                                                                  \
    NOT_INLINED static long name(void) {                                                                               \
        char byte;                                                                                                     \
        long from, ns;                                                                                                 \
                                                                                                                       \
        hand(to_partner[1]);                                                                                           \
        if (read(to_waiter[0], &byte, 1) != 1) /* the partner has the lock */                                          \
            exit(1);                                                                                                   \
        from = now();                                                                                                  \
        pthread_mutex_lock(&mutex);                                                                                    \
        ns = now() - from;                                                                                             \
        pthread_mutex_unlock(&mutex);                                                                                  \
        done += byte;                                                                                                  \
        return ns;                                                                                                     \
    }

LOCK_IN(lock_often)
LOCK_IN(lock_long)

static const struct {
    const char *name, *call;
    long (*wait)(void);
    int count, milliseconds, is_lock;
} places[] = {
    {"read_often", "read", read_often, 23, 3, 0},
    {"read_long", "read", read_long, 7, 31, 0},
    {"lock_often", "futex", lock_often, 19, 5, 1},
    {"lock_long", "futex", lock_long, 5, 37, 1},
};
enum { PLACES = sizeof places / sizeof *places };

static void *partner(void *unused) {
    for (int place = 0; place < PLACES; place++)
        for (int i = 0; i < places[place].count; i++) {
            char byte;

            if (read(to_partner[0], &byte, 1) != 1)
                exit(1);
            if (places[place].is_lock) {
                pthread_mutex_lock(&mutex);
                hand(to_waiter[1]);
            }
            rest(places[place].milliseconds);
            if (places[place].is_lock)
                pthread_mutex_unlock(&mutex);
            else
                hand(to_waiter[1]);
        }
    return unused;
}

int main(void) {
    pthread_t thread;
    long ns[PLACES] = {0};

    if (pipe(to_waiter) || pipe(to_partner))
        return 1;
    puts("ready");
    fflush(stdout);
    getchar();
    pthread_create(&thread, NULL, partner, NULL);
    for (int place = 0; place < PLACES; place++)
        for (int i = 0; i < places[place].count; i++)
            ns[place] += places[place].wait();
    pthread_join(thread, NULL);
    putchar('[');
    for (int place = 0; place < PLACES; place++)
        printf("%s{\"name\": \"%s\", \"call\": \"%s\", \"count\": %d, \"ns\": %ld}", place ? ", " : "",
               places[place].name, places[place].call, places[place].count, ns[place]);
    puts("]");
    fflush(stdout);
    for (;;)
        pause();
}
