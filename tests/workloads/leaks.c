/* leaks ROUNDS: after a line, a call site that leaks one in seven, one that leaks none, and a pool that fills with 97 and
 * stays; a round every two milliseconds. Prints what leaked, how many seconds it took, and what is open. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define POOL 97

static int pool[POOL], pooled, leaked;

static double seconds(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

__attribute__((noinline)) static void leaks_one_in_seven(int round) {
  int fd = open("/dev/null", O_RDONLY);

  if (round % 7)
    close(fd);
  else
    leaked++;
}

__attribute__((noinline)) static void leaks_none(void) {
  int fd = open("/dev/zero", O_RDONLY);

  close(fd);
}

__attribute__((noinline)) static void fills_a_pool(void) {
  if (pooled < POOL)
    pool[pooled++] = dup(0);
}

/* A table with room for LEFT more: who fails, and where, until it is told to end. */
__attribute__((noinline)) static int fails(void) {
  return open("/dev/full", O_RDONLY);
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 1000, failed = 0;
  struct timespec pause = {.tv_nsec = 2000000};
  struct rlimit limit = {.rlim_cur = 20000, .rlim_max = 20000};
  double start;

  setrlimit(RLIMIT_NOFILE, &limit);
  puts("ready");
  fflush(stdout);
  getchar();
  start = seconds();
  for (int round = 0; round < rounds; round++) {
    leaks_one_in_seven(round);
    leaks_none();
    fills_a_pool();
    nanosleep(&pause, NULL);
  }
  if (argc > 2) { /* a limit just above what is open, and 13 calls more than there is room for */
    limit.rlim_cur = 3 + pooled + leaked + 5;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < 18; i++)
      failed += fails() < 0 && errno == EMFILE;
  }
  printf("{\"leaked\": %d, \"seconds\": %.6f, \"pool\": %d, \"rounds\": %d, \"failed\": %d}\n", leaked,
         seconds() - start, pooled, rounds, failed);
  fflush(stdout);
  getchar();
}
