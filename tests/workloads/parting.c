/* parting: forks, shares its table with another process, parts from it, and executes itself with and without
 * close-on-exec. Says "ready", waits for a line, works, says what is open as the kernel lists it, waits for another.
 * Static, so that its start opens nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char stack[65536];

/* Another process with the same table: what it opens and closes is this table's. */
static int sharer(void *argument) {
  (void)argument;
  for (int i = 0; i < 7; i++)
    open("/dev/null", O_RDONLY);
  close(40);
  _exit(0);
}

static void list(void) {
  for (int fd = 0; fd < 1024; fd++)
    if (fcntl(fd, F_GETFD) != -1)
      printf("%d ", fd);
  puts("");
  fflush(stdout);
  getchar();
}

int main(int argc, char **argv) {
  if (argc > 1) {
    list();
    return 0;
  }
  puts("ready");
  fflush(stdout);
  getchar();
  dup2(0, 40);
  for (int i = 0; i < 3; i++)
    if (!fork()) { /* a copy of the table: what it does is no business of ours */
      for (int j = 0; j < 11; j++)
        open("/dev/null", O_RDONLY);
      _exit(0);
    }
  while (wait(NULL) > 0) {
  }
  int child = clone(sharer, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL);
  waitpid(child, NULL, 0);
  unshare(CLONE_FILES);
  for (int i = 0; i < 5; i++)
    open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(0, 50);
  execl("/proc/self/exe", argv[0], "after", NULL);
}
