/* first_event NAME PORT LISTENER SOCKET PIPE DATAGRAMS [wait]: does one thing first of all, then opens /dev/null, and ends. With "wait" it says "ready" and waits
 * for a line before it, and says "done" and waits for another after it. "each": a child for every thing but those that end it.
 *
 * It is given the numbers of a TCP listener that does not block, a TCP socket, a pipe, and a Unix datagram socket that does not
 * block; nobody listens on PORT. Static, so that its start opens nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static struct sockaddr_in address = {.sin_family = AF_INET};
static char **words;
static int listener, one_socket, a_pipe, datagrams;

static void refuse(void) { connect(one_socket, (struct sockaddr *)&address, sizeof address); }
static void accept_nobody(void) { accept4(listener, NULL, NULL, 0); }
static void close_closed(void) { close(99); }
static void duplicate_closed(void) { fcntl(99, F_DUPFD, 0); }
static void ask_terminal(void) {
  struct termios settings;

  ioctl(a_pipe, TCGETS, &settings);
}
static void bind_badly(void) { bind(one_socket, (struct sockaddr *)&address, 1); }
static void bind_well(void) {
  address.sin_port = 0;
  bind(one_socket, (struct sockaddr *)&address, sizeof address);
}
static void listen_badly(void) { listen(datagrams, 1); }
static void listen_well(void) { listen(one_socket, 1); }
static void ask_option(void) {
  int type;
  socklen_t length = sizeof type;

  getsockopt(one_socket, SOL_SOCKET, SO_TYPE, &type, &length);
}
static void ask_flags(void) { fcntl(99, F_GETFD); }
static void close_none(void) { syscall(SYS_close_range, 50, 60, 0); }
static void close_backwards(void) { syscall(SYS_close_range, 9, 8, 0); }
static void receive_nothing(void) {
  char data[1];
  struct iovec vector = {data, 1};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

  recvmsg(datagrams, &message, 0);
}
static void open_absent(void) { open("/absent/file", O_RDONLY); }
static void fork_one(void) {
  pid_t child = fork();

  if (!child)
    _exit(0);
  waitpid(child, NULL, 0);
}
static void become(void) {
  words[1] = "resumed";
  execv("/proc/self/exe", words);
}
static void nothing(void) {}
static void leave(void) { _exit(7); }
static void be_killed(void) { kill(getpid(), SIGKILL); }

static const struct {
  const char *name;
  void (*does)(void);
} things[] = {
    {"connect_refused", refuse},     {"accept_eagain", accept_nobody}, {"close_ebadf", close_closed},
    {"fcntl_ebadf", duplicate_closed}, {"ioctl_enotty", ask_terminal},   {"bind_einval", bind_badly},
    {"bind", bind_well},             {"listen_refused", listen_badly}, {"listen", listen_well},
    {"getsockopt", ask_option},      {"getfd", ask_flags},             {"close_range", close_none},
    {"close_range_einval", close_backwards}, {"recvmsg_eagain", receive_nothing}, {"open_enoent", open_absent},
    {"fork", fork_one},              {"exec", become},                 {"nothing", nothing},
    {"exit", leave},                 {"kill", be_killed},
};
#define COUNT (sizeof things / sizeof things[0])
#define LASTING (COUNT - 2)

static void say(const char *word) {
  if (write(1, word, strlen(word)) < 0)
    _exit(9);
}

static void wait_for_line(void) {
  char byte = 0;

  while (read(0, &byte, 1) == 1 && byte != '\n')
    ;
}

static int do_all(int is_waiting) {
  char said[32];

  for (size_t i = 0; i < LASTING; i++) {
    pid_t child = fork();

    if (!child) {
      words[1] = (char *)things[i].name;
      words[7] = NULL;
      things[i].does();
      _exit(open("/dev/null", O_RDONLY) < 0);
    }
    waitpid(child, NULL, 0);
    snprintf(said, sizeof said, "%d %s\n", child, things[i].name);
    say(said);
  }
  say("done\n");
  if (is_waiting)
    wait_for_line();
  return 0;
}

int main(int argc, char **argv) {
  int is_waiting = argc > 7;

  words = argv;
  listener = atoi(argv[3]), one_socket = atoi(argv[4]), a_pipe = atoi(argv[5]), datagrams = atoi(argv[6]);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(atoi(argv[2]));
  if (is_waiting && strcmp(argv[1], "resumed")) { /* after exec it has waited already */
    say("ready\n");
    wait_for_line();
  }
  if (!strcmp(argv[1], "each"))
    return do_all(is_waiting);
  for (size_t i = 0; i < COUNT; i++)
    if (!strcmp(argv[1], things[i].name))
      things[i].does();
  open("/dev/null", O_RDONLY);
  if (is_waiting) {
    say("done\n");
    wait_for_line();
  }
}
