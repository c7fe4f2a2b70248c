/* Seven sockets bound to loopback, every second one closed, and five milliseconds; prints nothing and waits for nobody. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timespec pause = {.tv_nsec = 4000000};

  for (int i = 0; i < 7; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    bind(fd, (struct sockaddr *)&address, sizeof address);
    if (i % 2)
      close(fd);
  }
  nanosleep(&pause, NULL);
}
