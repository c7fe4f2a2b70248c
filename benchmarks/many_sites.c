/* many_sites COUNT: waits for a line, then five rounds of COUNT open("/dev/null")+close pairs, from a thousand functions in
 * turn; prints nanoseconds a pair, one figure a round. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SITE(n)                                                                                                        \
  __attribute__((noinline)) static void site_##n(void) {                                                               \
    close(open("/dev/null", O_RDONLY));                                                                                \
    __asm__ volatile("");                                                                                              \
  }
#define NAME(n) site_##n,
#define TEN(of, n) of(n##0) of(n##1) of(n##2) of(n##3) of(n##4) of(n##5) of(n##6) of(n##7) of(n##8) of(n##9)
#define TENS(of, n)                                                                                                    \
  TEN(of, n##0) TEN(of, n##1) TEN(of, n##2) TEN(of, n##3) TEN(of, n##4) TEN(of, n##5) TEN(of, n##6) TEN(of, n##7)      \
  TEN(of, n##8) TEN(of, n##9)
#define THOUSAND(of)                                                                                                   \
  TENS(of, 0) TENS(of, 1) TENS(of, 2) TENS(of, 3) TENS(of, 4) TENS(of, 5) TENS(of, 6) TENS(of, 7) TENS(of, 8)          \
  TENS(of, 9)

THOUSAND(SITE)

static void (*const sites[])(void) = {THOUSAND(NAME)};

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

    for (long i = 0; i < count; i++)
      sites[i % (sizeof sites / sizeof *sites)]();
    printf("%.1f ", (seconds() - start) / count * 1e9);
    fflush(stdout);
  }
  puts("");
}
