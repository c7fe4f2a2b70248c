/* Says "ready", waits for a line, works, and waits for another: closes that return late, of numbers that dup2 was used onto. Prints how many were closed by close and how
 * many were replaced, in between.
 *
 * First, a number is replaced and closed, slowly (SO_LINGER); before that close returns, another thread is given the
 * number by a call that has not returned either: clone with CLONE_PIDFD and CLONE_VFORK returns when the child has ended.
 * Second, a number is closed slowly, and dup2 onto it returns first: nothing was replaced. Third, close_range is as slow,
 * because it closes thousands, and the first of them is given to such a clone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THOUSANDS 6007
#define FIRST_OF_MANY 1009
#define ROUNDS 11
static int closed_count, may_end[2];
static int number, peer, pidfd = -1;
static char child_stack[65536] __attribute__((aligned(64)));

static void need(int is_so, const char *what) {
    if (!is_so) {
        perror(what);
        exit(1);
    }
}

static void shut(int fd) {
    need(!close(fd), "close");
    __atomic_fetch_add(&closed_count, 1, __ATOMIC_SEQ_CST);
}

static int is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

/* A socket whose close waits until `peer` has read. */
static int lingering(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0), few = 4096;
    static char data[65536];
    struct linger until = {1, 60};
    socklen_t length = sizeof address;

    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &few, sizeof few);
    need(!bind(listener, (void *)&address, length) && !listen(listener, 1), "listen");
    need(!getsockname(listener, (void *)&address, &length), "getsockname");
    need(!connect(fd, (void *)&address, length), "connect");
    peer = accept(listener, NULL, NULL);
    need(peer >= 0, "accept");
    need(!setsockopt(fd, SOL_SOCKET, SO_LINGER, &until, sizeof until), "SO_LINGER");
    while (send(fd, data, sizeof data, MSG_DONTWAIT) > 0)
        ;
    shut(listener);
    return fd;
}

static void *close_slowly(void *nothing) {
    shut(number);
    return nothing;
}

/* Begins to close the number, and waits until it is free. */
static pthread_t begin_to_close(void) {
    pthread_t thread;

    need(!pthread_create(&thread, NULL, close_slowly, NULL), "thread");
    while (is_open(number))
        ;
    return thread;
}

static void read_all(void) {
    static char data[65536];
    while (read(peer, data, sizeof data) > 0)
        ;
}

static int wait_for_a_byte(void *nothing) {
    char byte;

    (void)nothing;
    return read(may_end[0], &byte, 1) != 1;
}

static void *close_thousands(void *nothing) {
    need(!close_range(number, number + THOUSANDS, 0), "close_range");
    closed_count += 1 + THOUSANDS;
    return nothing;
}

static void *be_given_the_number(void *nothing) {
    int pid;

    while (is_open(number))
        ;
    pid = clone(wait_for_a_byte, child_stack + sizeof child_stack, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
                    NULL, &pidfd);

    need(pid > 0, "clone");
    waitpid(pid, NULL, 0);
    return nothing;
}

int main(void) {
    int replaced_count = 0, source, other;
    pthread_t closer, taker;
    struct rlimit limit;
    char byte;

    need(!getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    need(!setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
    puts("ready");
    fflush(stdout);
    need(read(0, &byte, 1) == 1, "begin");
    need(!pipe(may_end), "pipe");
    /* The lowest free number is the one that is replaced. */
    number = eventfd(0, 0);
    source = lingering();
    need(dup2(source, number) == number, "dup2");
    replaced_count++;
    shut(source);
    need(number < source, "a number that is low");
    other = eventfd(0, 0); /* so that no lower one is free */
    closer = begin_to_close();
    need(!pthread_create(&taker, NULL, be_given_the_number, NULL), "thread");
    while (!is_open(number))
        ;
    read_all();
    pthread_join(closer, NULL);
    need(write(may_end[1], "", 1) == 1, "write");
    pthread_join(taker, NULL);
    need(pidfd == number, "the number is another");
    shut(pidfd);
    shut(peer);
    /* And the other one. */
    number = lingering();
    closer = begin_to_close();
    need(dup2(other, number) == number, "dup2");
    read_all();
    pthread_join(closer, NULL);
    shut(peer);
    shut(number);
    shut(other);
    /* Of thousands the first, some times: whether the clone has it before the others are closed is chance. */
    while ((number = dup(may_end[0])) < FIRST_OF_MANY) /* no lower one is free */
        ;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 1; i <= THOUSANDS; i++)
            need(fcntl(number, F_DUPFD, number + i) == number + i, "F_DUPFD");
        need(!pthread_create(&taker, NULL, be_given_the_number, NULL), "thread");
        need(!pthread_create(&closer, NULL, close_thousands, NULL), "thread");
        pthread_join(closer, NULL);
        while (!is_open(number))
            ;
        need(write(may_end[1], "", 1) == 1, "write");
        pthread_join(taker, NULL);
        need(pidfd == number, "the number is another");
    }
    shut(number);
    printf("%d %d\n", closed_count, replaced_count);
    fflush(stdout);
    need(read(0, &byte, 1) == 1, "end");
    return 0;
}
