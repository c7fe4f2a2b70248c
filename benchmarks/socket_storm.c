/* socket_storm COUNT: waits for a line, then five rounds in which COUNT sockets are made, bound to loopback and closed;
 * prints nanoseconds a socket, one figure a round. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double seconds(void) {
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  long count = argc > 1 ? atol(argv[1]) : 100000;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

  puts("ready");
  fflush(stdout);
  getchar();
  for (int round = 0; round < 5; round++) {
    double start = seconds();

    for (long i = 0; i < count; i++) {
      int fd = socket(AF_INET, SOCK_STREAM, 0);

      bind(fd, (struct sockaddr *)&address, sizeof address);
      close(fd);
    }
    printf("%.1f ", (seconds() - start) / count * 1e9);
    fflush(stdout);
  }
  puts("");
}
