/* A library that opens a file two calls deep; nobody exports the inner one. */
#include <fcntl.h>

__attribute__((noinline)) static int inner(const char *path) {
  volatile int room[50];

  room[0] = open(path, O_RDONLY);
  return room[0];
}

int library_open(const char *path) {
  volatile int fd = inner(path);

  return fd;
}
