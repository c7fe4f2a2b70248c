/* Opens descriptors from places that are hard to tell apart, as often as it says: a JSON object, how often by place. With
 * -DWITH_LIBRARY one of them is in a library (call_sites_library.c), built without frame pointers and stripped. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef WITH_LIBRARY
int library_open(const char *path);
#endif

/* Two sites in one function: the frames are of one size, the stack pointer is the same. */
__attribute__((noinline)) static void two_in_one(int which) {
  int fd;

  if (which)
    fd = open("/dev/null", O_RDONLY);
  else
    fd = open("/dev/zero", O_RDONLY);
  close(fd);
}

__attribute__((noinline)) static int wrapper(const char *path) {
  volatile int fd = open(path, O_RDONLY);

  return fd;
}

__attribute__((noinline)) static void first_caller(void) {
  close(wrapper("/dev/null"));
}

__attribute__((noinline)) static void second_caller(void) {
  close(wrapper("/dev/null"));
}

__attribute__((noinline)) static int recursive(int depth) {
  volatile int fd = depth;

  if (depth)
    return recursive(depth - 1) + (fd & 0);
  fd = open("/dev/null", O_RDONLY);
  close(fd);
  return 0;
}

static void on_signal(int number) {
  int fd = open("/dev/null", O_RDONLY);

  close(fd);
  (void)number;
}

/* Its frame is of another size every time. */
__attribute__((noinline)) static int varies(int size) {
  char room[size];

  memset(room, size, size);
  __asm__ volatile("" ::"r"(room) : "memory");
  close(open("/dev/null", O_RDONLY));
  return room[0];
}

static void *in_thread(void *unused) {
  for (int i = 0; i < 23; i++)
    first_caller();
  return unused;
}

int main(void) {
  pthread_t thread;
  int count = 0;

  signal(SIGUSR1, on_signal);
  puts("ready");
  fflush(stdout);
  getchar();
  for (int i = 0; i < 101; i++)
    two_in_one(0);
  for (int i = 0; i < 103; i++)
    two_in_one(1);
  for (int i = 0; i < 107; i++)
    first_caller();
  for (int i = 0; i < 109; i++)
    second_caller();
  for (int i = 0; i < 113; i++)
    recursive(i % 11);
  for (int i = 0; i < 127; i++)
    raise(SIGUSR1);
  for (int i = 0; i < 131; i++)
    count += varies(1 + i * 16);
  pthread_create(&thread, NULL, in_thread, NULL);
  pthread_join(thread, NULL);
#ifdef WITH_LIBRARY
  for (int i = 0; i < 137; i++)
    close(library_open("/dev/null"));
#endif
  puts("done");
  fflush(stdout);
  getchar();
}
