/* big_process THREADS DESCRIPTORS: holds that many threads and calls that make descriptors (files, unbound TCP sockets,
 * eventfds, socket pairs, bound UDP sockets, epolls), prints "ready" and waits to be killed. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static void *sleep_forever(void *unused) {
    for (;;)
        pause();
    return unused;
}

static int open_kind(int kind) {
    int pair[2];

    switch (kind) {
    case 0:
        return open("/etc/passwd", O_RDONLY);
    case 1:
        return socket(AF_INET, SOCK_STREAM, 0);
    case 2:
        return eventfd(0, 0);
    case 3:
        return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ? -1 : pair[0];
    case 4: {
        struct sockaddr_in any_port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);

        if (fd >= 0 && bind(fd, (struct sockaddr *)&any_port, sizeof any_port))
            return -1;
        return fd;
    }
    default:
        return epoll_create1(0);
    }
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 2000, descriptors = argc > 2 ? atoi(argv[2]) : 17000;
    struct rlimit limit;
    pthread_attr_t small;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int i = 1; i < threads; i++) {
        pthread_t thread;

        if (pthread_create(&thread, &small, sleep_forever, NULL)) {
            perror("thread");
            return 1;
        }
    }
    for (int i = 0; i < descriptors; i++)
        if (open_kind(i % 6) < 0) {
            perror("descriptor");
            return 1;
        }
    puts("ready");
    fflush(stdout);
    sleep_forever(NULL);
}
