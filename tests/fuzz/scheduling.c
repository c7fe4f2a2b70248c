/* scheduling SEED: random threads that sleep, spin, hold locks, play ping-pong through pipes, yield, are born and end, and
 * what the kernel counted of each, taken while all of them are parked.
 *
 * Prints "ready" when all are parked; at a line on standard input they do what the seed says; when all are parked again it
 * prints one line of JSON, and waits for its standard input to close.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 24
#define MOST_BORN 512
#define COUNT(array) (sizeof(array) / sizeof *(array))

enum kind { SLEEPER, SPINNER, LOCKER, PINGER, PONGER, YIELDER, MAKER, SIGNALLER, TIMED, MOVER, POLICY, TOUCHER, KINDS };
static const char *const names[] = {"sleeper", "spinner", "locker", "pinger", "ponger", "yielder",
                                    "maker", "signaller", "timed", "mover", "policy", "toucher"};

struct counts {
    uint64_t cpu_ns, wall_ns;
    long voluntary, involuntary;
};

struct worker {
    enum kind kind;
    pthread_t thread;
    int tid, rounds, length_us, read_fd, write_fd;
    uint64_t random;
    struct worker *other;
    uint32_t gate; /* 0: parked at the start, 1: working */
    volatile bool is_done;
    struct counts parked[2]; /* by /proc and the thread's CPU clock, read by the first thread */
    struct counts own[2];    /* by getrusage and its clock, before it parks */
};

static struct worker workers[MOST];
static int worker_count, cpu_count;
static pthread_mutex_t locks[3] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};

struct born {
    int tid;
    struct counts own;
};
static struct born born[MOST_BORN];
static int born_count; /* atomic */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static int below(uint64_t *state, int limit) {
    return (int)(next_random(state) % (uint64_t)limit);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;

    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static struct counts own_counts(void) {
    struct rusage usage;

    getrusage(RUSAGE_THREAD, &usage);
    return (struct counts){clock_ns(CLOCK_THREAD_CPUTIME_ID), clock_ns(CLOCK_MONOTONIC), usage.ru_nvcsw, usage.ru_nivcsw};
}

static void spin(int us) {
    uint64_t until = clock_ns(CLOCK_THREAD_CPUTIME_ID) + us * 1000ull;

    while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < until)
        ;
}

static void sleep_us(int us) {
    nanosleep(&(struct timespec){0, us * 1000l}, NULL);
}

static void park(uint32_t *gate, uint32_t value) {
    while (__atomic_load_n(gate, __ATOMIC_ACQUIRE) == value)
        syscall(SYS_futex, gate, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void *short_lived(void *argument) {
    uint64_t random = (uintptr_t)argument;
    struct counts first = own_counts(), last;
    int index;

    for (int i = below(&random, 6); i > 0; i--)
        switch (below(&random, 3)) {
        case 0:
            sleep_us(20 + below(&random, 1000));
            break;
        case 1:
            spin(10 + below(&random, 500));
            break;
        default:
            sched_yield();
        }
    index = __atomic_fetch_add(&born_count, 1, __ATOMIC_RELAXED);
    last = own_counts();
    if (index < MOST_BORN)
        born[index] = (struct born){gettid(), {last.cpu_ns, last.wall_ns - first.wall_ns, last.voluntary, last.involuntary}};
    return NULL;
}

static void make(struct worker *w) {
    while (w->rounds > 0) {
        pthread_t threads[5];
        int count = 1 + below(&w->random, 5);

        for (int i = 0; i < count; i++)
            pthread_create(&threads[i], NULL, short_lived, (void *)(uintptr_t)(next_random(&w->random) >> 16));
        for (int i = 0; i < count; i++)
            pthread_join(threads[i], NULL);
        w->rounds -= count;
    }
}

static void set_policy(int policy) {
    struct sched_param parameters = {.sched_priority = policy == SCHED_FIFO || policy == SCHED_RR};

    sched_setscheduler(0, policy, &parameters); /* without the privilege it stays as it is */
}

static void move(uint64_t *random) {
    cpu_set_t set;
    int cpu = below(random, cpu_count + 1);

    CPU_ZERO(&set);
    for (int i = 0; i < cpu_count; i++)
        if (cpu == cpu_count || cpu == i)
            CPU_SET(i, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void work_once(struct worker *w) {
    static const int policies[] = {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_FIFO, SCHED_RR};
    pthread_mutex_t *lock = &locks[below(&w->random, COUNT(locks))];
    char byte = 'x';

    switch (w->kind) {
    case SLEEPER:
        sleep_us(20 + below(&w->random, w->length_us));
        break;
    case SPINNER:
        spin(w->length_us);
        if (!below(&w->random, 3))
            sleep_us(100);
        break;
    case LOCKER:
        pthread_mutex_lock(lock);
        spin(5 + below(&w->random, 50));
        if (!below(&w->random, 8))
            sleep_us(200);
        pthread_mutex_unlock(lock);
        break;
    case PINGER:
        if (write(w->write_fd, &byte, 1) != 1 || read(w->read_fd, &byte, 1) != 1)
            abort();
        break;
    case PONGER:
        if (read(w->read_fd, &byte, 1) != 1 || write(w->write_fd, &byte, 1) != 1)
            abort();
        break;
    case YIELDER:
        sched_yield();
        spin(below(&w->random, 20));
        break;
    case SIGNALLER:
        sleep_us(50 + below(&w->random, 500));
        for (int i = below(&w->random, worker_count), tries = 0; tries < worker_count; tries++, i = (i + 1) % worker_count)
            if (workers[i].kind == SLEEPER) {
                pthread_kill(workers[i].thread, SIGUSR1);
                break;
            }
        break;
    case TIMED: {
        uint32_t word = 0;

        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &(struct timespec){0, 1000l * (20 + below(&w->random, 900))}, NULL, 0);
        break;
    }
    case MOVER:
        move(&w->random);
        spin(below(&w->random, 300));
        if (!below(&w->random, 2))
            sleep_us(100);
        break;
    case POLICY:
        set_policy(policies[below(&w->random, COUNT(policies))]);
        spin(below(&w->random, 500));
        sleep_us(50 + below(&w->random, 200));
        break;
    case TOUCHER: { /* page faults, and the address space's lock, for which others wait too */
        size_t size = 4096u * (1 + below(&w->random, 64));
        char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (memory == MAP_FAILED)
            abort();
        for (size_t at = 0; at < size; at += 4096)
            memory[at] = 1;
        munmap(memory, size);
        break;
    }
    default:
        abort();
    }
}

static void *run(void *argument) {
    struct worker *w = argument;

    w->own[0] = own_counts();
    w->tid = gettid();
    park(&w->gate, 0);
    if (w->kind == MAKER)
        make(w);
    else
        for (int i = 0; i < w->rounds; i++)
            work_once(w);
    set_policy(SCHED_OTHER);
    w->own[1] = own_counts();
    w->is_done = true;
    park(&w->gate, 1);
    return NULL;
}

static struct counts parked_counts(const struct worker *w, char *state) {
    struct counts counts = {.wall_ns = clock_ns(CLOCK_MONOTONIC)};
    char path[64], line[256];
    clockid_t clock;
    FILE *file;

    snprintf(path, sizeof path, "/proc/self/task/%d/status", w->tid);
    file = fopen(path, "r");
    if (!file)
        abort();
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "State: %c", state);
        sscanf(line, "voluntary_ctxt_switches: %ld", &counts.voluntary);
        sscanf(line, "nonvoluntary_ctxt_switches: %ld", &counts.involuntary);
    }
    fclose(file);
    if (pthread_getcpuclockid(w->thread, &clock))
        abort();
    counts.cpu_ns = clock_ns(clock);
    return counts;
}

/* Reads what the kernel counted of all of them, when none moves any more. */
static void read_parked(int at) {
    bool moved = true;

    while (moved) {
        moved = false;
        sleep_us(2000);
        for (int i = 0; i < worker_count; i++) {
            struct worker *w = &workers[i];
            char state = '?';
            struct counts now;

            if (!w->tid || (at && !w->is_done)) {
                moved = true;
                continue;
            }
            now = parked_counts(w, &state);
            moved |= state != 'S' || now.voluntary != w->parked[at].voluntary || now.involuntary != w->parked[at].involuntary ||
                     now.cpu_ns != w->parked[at].cpu_ns;
            w->parked[at] = now;
        }
    }
}

static void add(enum kind kind, uint64_t *random) {
    static const int rounds[] = {60, 5, 150, 300, 0, 400, 30, 30, 60, 20, 20, 40};
    struct worker *w = &workers[worker_count++];
    int ping[2], pong[2];

    w->kind = kind;
    w->random = next_random(random);
    w->rounds = kind == PONGER ? w->rounds : 1 + below(random, rounds[kind]);
    w->length_us = kind == SPINNER ? 100 + below(random, 4000) : 20 + below(random, 2000);
    if (kind == PINGER) {
        struct worker *other = &workers[worker_count];

        if (pipe(ping) || pipe(pong))
            abort();
        other->rounds = w->rounds;
        w->write_fd = ping[1], other->read_fd = ping[0];
        other->write_fd = pong[1], w->read_fd = pong[0];
        add(PONGER, random);
    }
}

static void print_counts(const struct counts *first, const struct counts *last) {
    printf("\"cpu_ns\":%llu,\"wall_ns\":%llu,\"voluntary\":%ld,\"involuntary\":%ld", (unsigned long long)(last->cpu_ns - first->cpu_ns),
           (unsigned long long)(last->wall_ns - first->wall_ns), last->voluntary - first->voluntary,
           last->involuntary - first->involuntary);
}

static void on_signal(int number) {
    (void)number;
}

int main(int argc, char **argv) {
    uint64_t random = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    struct counts nothing = {0};
    char line[8];
    int wanted;

    cpu_count = sysconf(_SC_NPROCESSORS_ONLN);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
    for (wanted = 1 + below(&random, 13); worker_count < wanted;) {
        enum kind kind = below(&random, KINDS);

        if (kind != PONGER)
            add(kind, &random);
    }
    for (int i = 0; i < worker_count; i++) {
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]))
            abort();
        pthread_setname_np(workers[i].thread, names[workers[i].kind]);
    }
    read_parked(0);
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    for (int i = 0; i < worker_count; i++) {
        __atomic_store_n(&workers[i].gate, 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &workers[i].gate, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    read_parked(1);
    printf("{\"lived\":[");
    for (int i = 0; i < worker_count; i++) {
        struct worker *w = &workers[i];

        printf("%s{\"tid\":%d,\"kind\":\"%s\",\"own\":{", i ? "," : "", w->tid, names[w->kind]);
        print_counts(&w->own[0], &w->own[1]);
        printf("},\"parked\":{");
        print_counts(&w->parked[0], &w->parked[1]);
        printf("}}");
    }
    printf("],\"ended\":[");
    for (int i = 0; i < born_count && i < MOST_BORN; i++) {
        printf("%s{\"tid\":%d,", i ? "," : "", born[i].tid);
        print_counts(&nothing, &born[i].own);
        printf("}");
    }
    printf("]}\n");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) != NULL;
}
