/* A child that shares our table ends; then another process, with a table of its own, is
 * left behind; we open OPENED numbers and end at once. Who is left behind ends a second later. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OPENED 7

int main(void) {
    struct timespec second = {.tv_sec = 1};
    pid_t sharer;

    sharer = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (!sharer)
        _exit(0);
    waitpid(sharer, NULL, 0);
    if (!fork()) {
        nanosleep(&second, NULL);
        _exit(0);
    }
    for (int i = 0; i < OPENED; i++)
        if (open("/dev/null", O_RDONLY) < 0)
            return 1;
    _exit(0);
}
