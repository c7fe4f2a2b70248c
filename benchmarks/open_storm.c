/* open_storm COUNT [calls]: waits for a line, then five rounds of COUNT open("/dev/null")+close pairs, or of getppid
 * calls; prints nanoseconds a pair or call, one figure a round. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double seconds(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  long count = argc > 1 ? atol(argv[1]) : 300000;

  puts("ready");
  fflush(stdout);
  getchar();
  for (int round = 0; round < 5; round++) {
    double start = seconds();

    for (long i = 0; i < count; i++) {
      if (argc > 2)
        syscall(SYS_getppid);
      else
        close(open("/dev/null", O_RDONLY));
    }
    printf("%.1f ", (seconds() - start) / count * 1e9);
    fflush(stdout);
  }
  puts("");
}
