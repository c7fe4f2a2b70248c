/* waits DIRECTORY ROUNDS: threads that wait, each for one thing, and count themselves how often and how long.
 *
 * Prints "ready"; a line on standard input starts them. When all are done it prints a line of JSON: for each waiter its
 * thread id, the call and what it waited for, its count and the nanoseconds that its own clock says, who held the lock or
 * released it; then it sleeps until it is killed. What a thread does between its waits is a read of a pipe of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_NS 6000000L

static const char *directory;
static int rounds;
static pthread_mutex_t printing = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t gate;
static char lines[1 << 16];

static long now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void rest(void) {
    struct timespec t = {.tv_nsec = PAUSE_NS};

    nanosleep(&t, NULL);
}

static void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(1);
    }
}

static void begin(const char *name) {
    prctl(PR_SET_NAME, name);
    pthread_barrier_wait(&gate);
}

/* `gate`: where all waited for the start. `other`: who held the lock, or released the thread; 0: nobody that is known. */
static void tell(const char *name, const char *call, long fd, void *address, long child, int count, long ns, int other) {
    pthread_mutex_lock(&printing);
    sprintf(lines + strlen(lines),
            "%s{\"name\": \"%s\", \"tid\": %d, \"call\": \"%s\", \"fd\": %ld, \"address\": %lu, \"child\": %ld, "
            "\"count\": %d, \"ns\": %ld, \"other\": %d, \"gate\": %lu}",
            *lines ? ", " : "", name, gettid(), call, fd, (unsigned long)address, child, count, ns, other,
            (unsigned long)&gate);
    pthread_mutex_unlock(&printing);
}

struct pair {
    int to_waiter[2], to_partner[2];
    pthread_t waiter, partner;
    int partner_tid;
    const char *name;
    int kind;
    pthread_mutex_t mutex;
    pthread_rwlock_t rwlock;
    pthread_cond_t condition;
    sem_t semaphore;
    pthread_barrier_t barrier;
    volatile int flag;
    int fd, epoll;
    pthread_t joined;
};

static void hand(int fd) {
    check(write(fd, "", 1) != 1, "write");
}

static void take(int fd) {
    char byte;

    check(read(fd, &byte, 1) != 1, "read");
}

enum kind { MUTEX, RWLOCK, CONDITION, SEMAPHORE, BARRIER, PIPE, EPOLL, POLL, FUTEX };

static void *partner(void *argument) {
    struct pair *p = argument;
    char name[16];

    snprintf(name, sizeof name, "p-%s", p->name);
    p->partner_tid = gettid();
    begin(name);
    for (int i = 0; i < rounds; i++) {
        if (p->kind == MUTEX)
            check(pthread_mutex_lock(&p->mutex), "pthread_mutex_lock");
        if (p->kind == RWLOCK)
            pthread_rwlock_wrlock(&p->rwlock);
        hand(p->to_waiter[1]);
        rest();
        switch (p->kind) {
        case MUTEX:
            pthread_mutex_unlock(&p->mutex);
            break;
        case RWLOCK:
            pthread_rwlock_unlock(&p->rwlock);
            break;
        case CONDITION:
            pthread_mutex_lock(&p->mutex);
            p->flag = 1;
            pthread_mutex_unlock(&p->mutex);
            pthread_cond_signal(&p->condition);
            break;
        case SEMAPHORE:
            sem_post(&p->semaphore);
            break;
        case BARRIER:
            pthread_barrier_wait(&p->barrier);
            break;
        case PIPE:
        case EPOLL:
        case POLL: {
            unsigned long one = 1;

            check(write(p->fd, &one, sizeof one) != sizeof one, "write");
            break;
        }
        case FUTEX:
            p->flag = 1;
            syscall(SYS_futex, &p->flag, FUTEX_WAKE, 1, NULL, NULL, 0);
        }
        take(p->to_partner[0]);
    }
    return NULL;
}

static void *waiter(void *argument) {
    struct pair *p = argument;
    long ns = 0;
    unsigned long value;
    int count = 0, fd = p->epoll;
    const char *call = "futex";
    void *address = NULL;

    begin(p->name);
    for (int i = 0; i < rounds; i++) {
        long from;

        take(p->to_waiter[0]);
        from = now();
        switch (p->kind) {
        case MUTEX:
            check(pthread_mutex_lock(&p->mutex), "pthread_mutex_lock");
            ns += now() - from;
            pthread_mutex_unlock(&p->mutex);
            address = &p->mutex;
            break;
        case RWLOCK:
            pthread_rwlock_rdlock(&p->rwlock);
            ns += now() - from;
            pthread_rwlock_unlock(&p->rwlock);
            break;
        case CONDITION:
            pthread_mutex_lock(&p->mutex);
            while (!p->flag)
                pthread_cond_wait(&p->condition, &p->mutex);
            p->flag = 0;
            ns += now() - from;
            pthread_mutex_unlock(&p->mutex);
            break;
        case SEMAPHORE:
            sem_wait(&p->semaphore);
            ns += now() - from;
            address = &p->semaphore;
            break;
        case BARRIER:
            pthread_barrier_wait(&p->barrier);
            ns += now() - from;
            break;
        case PIPE:
            check(read(fd, &value, sizeof value) != sizeof value, "read");
            ns += now() - from;
            call = "read";
            break;
        case EPOLL: {
            struct epoll_event event;

            check(epoll_wait(fd, &event, 1, -1) != 1, "epoll_wait");
            ns += now() - from;
            check(read(p->fd, &value, sizeof value) != sizeof value, "read");
            call = "epoll_wait";
            break;
        }
        case POLL: {
            struct pollfd one = {.fd = fd, .events = POLLIN};

            check(poll(&one, 1, -1) != 1, "poll");
            ns += now() - from;
            check(read(fd, &value, sizeof value) != sizeof value, "read");
            call = "poll";
            break;
        }
        case FUTEX:
            while (!p->flag)
                syscall(SYS_futex, &p->flag, FUTEX_WAIT, 0, NULL, NULL, 0);
            p->flag = 0;
            ns += now() - from;
            address = (void *)&p->flag;
        }
        count++;
        hand(p->to_partner[1]);
    }
    tell(p->name, call, p->kind == PIPE || p->kind == EPOLL || p->kind == POLL ? fd : -1, address, 0, count, ns,
         p->partner_tid);
    return NULL;
}

static void *sleeper(void *unused) {
    long from, ns = 0;

    begin("sleeper");
    for (int i = 0; i < rounds; i++) {
        from = now();
        rest();
        ns += now() - from;
    }
    tell("sleeper", "clock_nanosleep", -1, NULL, 0, rounds, ns, 0);
    return unused;
}

static void *parent(void *unused) {
    long from, ns = 0;
    pid_t child = 0;

    begin("parent");
    for (int i = 0; i < 3; i++) {
        child = fork();
        if (!child) {
            for (int j = 0; j < 5; j++)
                rest();
            _exit(0);
        }
        from = now();
        waitpid(child, NULL, 0);
        ns = now() - from;
    }
    tell("parent", "wait4", -1, NULL, child, 1, ns, 0);
    return unused;
}

static void *syncer(void *unused) {
    char path[4096], data[4096] = {1};
    int fd, count = 0;
    long from, ns = 0;

    snprintf(path, sizeof path, "%s/synced", directory);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    check(fd < 0, path);
    begin("syncer");
    for (int i = 0; i < rounds; i++) {
        check(pwrite(fd, data, sizeof data, i * sizeof data) < 0, "pwrite");
        from = now();
        check(fsync(fd), "fsync");
        ns += now() - from;
        count++;
    }
    tell("syncer", "fsync", fd, NULL, 0, count, ns, 0);
    return unused;
}

static void *nap(void *tid) {
    *(int *)tid = gettid();
    rest();
    return NULL;
}

static void *joiner(void *unused) {
    long from, ns = 0;

    begin("joiner");
    for (int i = 0; i < rounds; i++) {
        pthread_t other;
        int tid;

        from = now(); /* making one can be waiting for the C library's own locks */
        pthread_create(&other, NULL, nap, &tid);
        pthread_join(other, NULL);
        ns += now() - from;
    }
    tell("joiner", "futex", -1, NULL, 0, rounds, ns, 0);
    return unused;
}

static int faults = -1;
static char *missing;

static void *fault_handler(void *unused) {
    struct uffd_msg message;

    begin("fault-handler");
    for (int i = 0; i < rounds; i++) {
        struct uffdio_zeropage page = {};

        check(read(faults, &message, sizeof message) != sizeof message, "read of the userfaultfd");
        rest();
        page.range.start = message.arg.pagefault.address & ~4095UL;
        page.range.len = 4096;
        check(ioctl(faults, UFFDIO_ZEROPAGE, &page), "UFFDIO_ZEROPAGE");
    }
    return unused;
}

static void *faulter(void *unused) {
    long from, ns = 0;
    volatile char sum = 0;

    begin("faulter");
    for (int i = 0; i < rounds; i++) {
        from = now();
        sum += missing[i * 4096L];
        ns += now() - from;
    }
    tell("faulter", "", -1, NULL, 0, rounds, ns, 0);
    return unused;
}

static int open_faults(void) {
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register area = {.mode = UFFDIO_REGISTER_MODE_MISSING};

    faults = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faults < 0)
        return 0;
    missing = mmap(NULL, rounds * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area.range.start = (unsigned long)missing;
    area.range.len = rounds * 4096L;
    return !ioctl(faults, UFFDIO_API, &api) && !ioctl(faults, UFFDIO_REGISTER, &area);
}

static void lone(void *(*run)(void *), pthread_t *thread) {
    pthread_create(thread, NULL, run, NULL);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int kind, type, protocol, robust;
    } kinds[] = {
        {"normal", MUTEX, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED},
        {"recursive", MUTEX, PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED},
        {"errorcheck", MUTEX, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED},
        {"adaptive", MUTEX, PTHREAD_MUTEX_ADAPTIVE_NP, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED},
        {"inheriting", MUTEX, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED},
        {"robust", MUTEX, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_ROBUST},
        {.name = "rwlock", .kind = RWLOCK},
        {.name = "condition", .kind = CONDITION},
        {.name = "semaphore", .kind = SEMAPHORE},
        {.name = "barrier", .kind = BARRIER},
        {.name = "futex", .kind = FUTEX},
        {.name = "pipe", .kind = PIPE},
        {.name = "epoll", .kind = EPOLL},
        {.name = "poll", .kind = POLL},
    };
    enum { PAIRS = sizeof kinds / sizeof *kinds };
    static struct pair pairs[PAIRS];
    pthread_t threads[8];
    int others = 0, has_faults;

    directory = argc > 1 ? argv[1] : ".";
    rounds = argc > 2 ? atoi(argv[2]) : 31;
    has_faults = open_faults();
    pthread_barrier_init(&gate, NULL, 1 + 2 * PAIRS + 4 + 2 * has_faults);
    for (int i = 0; i < PAIRS; i++) {
        struct pair *p = &pairs[i];
        pthread_mutexattr_t attributes;

        p->name = kinds[i].name;
        p->kind = kinds[i].kind;
        check(pipe2(p->to_waiter, O_CLOEXEC) || pipe2(p->to_partner, O_CLOEXEC), "pipe");
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_settype(&attributes, kinds[i].type);
        pthread_mutexattr_setprotocol(&attributes, kinds[i].protocol);
        pthread_mutexattr_setrobust(&attributes, kinds[i].robust);
        pthread_mutex_init(&p->mutex, &attributes);
        pthread_rwlock_init(&p->rwlock, NULL);
        pthread_cond_init(&p->condition, NULL);
        sem_init(&p->semaphore, 0, 0);
        pthread_barrier_init(&p->barrier, NULL, 2);
        p->fd = p->epoll = eventfd(0, EFD_CLOEXEC);
        if (p->kind == EPOLL) {
            struct epoll_event event = {.events = EPOLLIN};

            p->epoll = epoll_create1(EPOLL_CLOEXEC);
            epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->fd, &event);
        }
        pthread_create(&p->partner, NULL, partner, p);
        pthread_create(&p->waiter, NULL, waiter, p);
    }
    lone(sleeper, &threads[others++]);
    lone(parent, &threads[others++]);
    lone(syncer, &threads[others++]);
    lone(joiner, &threads[others++]);
    if (has_faults) {
        lone(fault_handler, &threads[others++]);
        lone(faulter, &threads[others++]);
    }
    puts("ready");
    fflush(stdout);
    getchar();
    pthread_barrier_wait(&gate);
    for (int i = 0; i < PAIRS; i++) {
        pthread_join(pairs[i].waiter, NULL);
        pthread_join(pairs[i].partner, NULL);
    }
    for (int i = 0; i < others; i++)
        pthread_join(threads[i], NULL);
    printf("[%s]\n", lines);
    fflush(stdout);
    for (;;)
        pause();
}
