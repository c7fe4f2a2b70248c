/* shared_storm SECONDS: four threads open, duplicate and close numbers of one table as fast as they can; then all park.
 *
 * Says "ready", waits for a line, works, says how many births and deaths there were, and waits for another line. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double seconds;
static volatile int stop;
static long births[4], deaths[4];

static void *work(void *argument) {
  long me = (long)argument;
  unsigned random = 7 + me;

  while (!stop) {
    int fds[5];
    for (int i = 0; i < 5; i++) {
      fds[i] = i % 2 ? dup(fds[i - 1]) : open("/dev/null", O_RDONLY);
      births[me]++;
    }
    for (int i = 0; i < 5; i++) {
      close(fds[(i + random) % 5]);
      deaths[me]++;
    }
    random = random * 1103515245 + 12345;
  }
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t threads[4];
  long born = 0, died = 0;

  seconds = argc > 1 ? atof(argv[1]) : 2;
  puts("ready");
  fflush(stdout);
  getchar();
  for (long i = 0; i < 4; i++)
    pthread_create(&threads[i], NULL, work, (void *)i);
  usleep(seconds * 1e6);
  stop = 1;
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    born += births[i];
    died += deaths[i];
  }
  int kept = 0;
  for (; kept < 13; kept++)
    open("/dev/null", O_RDONLY);
  printf("%ld %ld\n", born + kept, died);
  fflush(stdout);
  getchar();
}
