/* sequence SCRIPT REGION DIRECTORY [from-start|at-once]: plays a script of everything that a ledger of descriptors must know, and says
 * what the kernel answered to every call.
 *
 * A line of the script is "LANE STEP ARGUMENT": a lane is what one thread or one process plays, in order; lane 0 is the
 * program itself, the others are begun by `thread`, `fork`, `vfork` and `share` with their number. Any subset of the
 * lines is a script too, so that a script can be shrunk. A line "round" ends a round: all that it left is closed.
 *
 * Every call is noted by the thread that made it, when it has returned, in REGION: a file that all processes of the
 * program map, and that outlives exec. Nobody else counts: what is noted is exact, whatever threads do to each other. A
 * thread uses its own numbers alone (numbers are given out by the kernel to whoever asks, so they do wander from thread to
 * thread), and has sixteen high ones that only it dup2()s onto: so whether a number was open is known.
 *
 * Says "ready PID..." when `go` is met, waits for a line, works, prints the notes as JSON, waits for another, and ends.
 * "from-start": all counts from its first call, and it does not wait at `go`; "at-once": nor at the end. Static, and without calls of the C library that open anything or use errno, since threads
 * are made by clone(2) with less than the C library wants. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LANES 24
#define MOST_OPEN 10      /* low numbers that a lane keeps */
#define PRIVATE 16        /* high numbers of each lane */
#define FIRST_PRIVATE 320 /* above all that the kernel gives out of itself here */
#define NUMBERS 1024
#define NEVER_OPEN 1000
#define NOTES 60000
#define STEPS 4000
#define STACK_BYTES 65536

/* What the ledger calls them. */
#define CALLS                                                                                                          \
  X(open) X(openat) X(openat2) X(creat) X(memfd_create) X(eventfd) X(eventfd2) X(epoll_create) X(epoll_create1)         \
  X(timerfd_create) X(signalfd) X(signalfd4) X(inotify_init) X(inotify_init1) X(pidfd_open) X(pidfd_getfd) X(dup)       \
  X(dup2) X(dup3) X(fcntl) X(ioctl) X(pipe) X(pipe2) X(socket) X(socketpair) X(accept) X(accept4) X(recvmsg)           \
  X(recvmmsg) X(getsockopt) X(bind) X(connect) X(listen) X(shutdown) X(close) X(close_range) X(clone) X(io_uring_setup)  \
  X(io_uring_openat) X(io_uring_accept) X(io_uring_socket) X(io_uring_close) X(execve) X(exit)
enum call {
#define X(name) C_##name,
  CALLS
#undef X
};
static const char *const call_names[] = {
#define X(name) #name,
  CALLS
#undef X
};

#define TYPES                                                                                                          \
  X(unknown) X(file) X(device) X(directory) X(fifo) X(memfd) X(eventfd) X(epoll) X(timerfd) X(signalfd) X(inotify)      \
  X(pidfd) X(pipe) X(socket) X(io_uring)
enum type {
#define X(name) T_##name,
  TYPES
#undef X
};
static const char *const type_names[] = {
#define X(name) #name,
  TYPES
#undef X
};

/* birth, death of the number `fd`; a failure with `error`; close-on-exec set or cleared (`error` 1, 0); use of a socket, with
 * or without an error; a fork (`fd` the child's tid, `error` 0: a thread, 1: a process, 2: one that shares the table); a new
 * table for a thread; an exec; an end of a thread; what is open at the begin and at the end; a table is about to be left. */
#define KINDS                                                                                                          \
  X(birth) X(close) X(replaced) X(exec) X(exit) X(failure) X(mark) X(use) X(forked) X(parted) X(executed) X(ended)       \
  X(open_at_go) X(open_at_end) X(go) X(parting) X(leaving)
enum kind {
#define X(name) K_##name,
  KINDS
#undef X
};
static const char *const kind_names[] = {
#define X(name) #name,
  KINDS
#undef X
};

struct note {
  int pid, tid, serial, fd;
  short error, table;
  unsigned char kind, call, type, path;
};

struct step {
  int lane, what, argument;
};

struct held {
  int fd, type;
};

struct lane {
  int index, pid, tid, table, serial, at;
  int is_process;  /* it is the first thread of one */
  int is_sharer;   /* it began with its parent's table */
  int shares;      /* the table is its parent's, or its process's */
  int has_sharers; /* processes that use its table and go on doing so */
  int claimed, state;
  int tid_word; /* the kernel clears it when the thread ends */
  int held_count;
  struct held held[256];
  int child_count, children[LANES], thread_count, threads[LANES]; /* their lanes */
  int dying_count, dying[256], parts; /* what exec is going to close, and whether in a table that it makes */
};

struct region {
  int note_count, table_count, went, is_over, never;
  int round, is_from_start, ends; /* it waits for nothing: at `go`, at its end */
  char is_older[NUMBERS]; /* than the program */
  int step_count, round_count, round_start[256];
  char directory[200], path[200], file[220], absent[220], fifo[220], beyond[240];
  struct step steps[STEPS];
  struct lane lanes[LANES];
  struct note notes[NOTES];
};
static struct region *region;
static char stacks[LANES][STACK_BYTES] __attribute__((aligned(64)));
static char drain_stacks[LANES][STACK_BYTES] __attribute__((aligned(64)));
static char *self_name, *region_path;
extern char **environ;

/* The kernel's answer, as it is. */
static long raw(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;

  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define SYS(name, a, b, c, d, e) raw(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static void fail(const char *words) {
  SYS(write, 2, words, strlen(words), 0, 0);
  SYS(write, 2, "\n", 1, 0, 0);
  SYS(exit_group, 99, 0, 0, 0, 0);
}

static void note(struct lane *lane, enum kind kind, enum call call, int fd, int error, int type, int path) {
  int index = __atomic_fetch_add(&region->note_count, 1, __ATOMIC_SEQ_CST);

  if (index >= NOTES)
    fail("too many notes");
  region->notes[index] = (struct note){lane->pid, lane->tid, lane->serial, fd, error, lane->table, kind, call, type, path};
}

static int is_open(int fd) { return SYS(fcntl, fd, F_GETFD, 0, 0, 0) >= 0; }

static void hold(struct lane *lane, int fd, int type) {
  if (lane->held_count == 256)
    fail("too many held");
  lane->held[lane->held_count++] = (struct held){fd, type};
}

/* A call that makes one descriptor, or fails. */
static long made(struct lane *lane, enum call call, long result, int type, int path) {
  lane->serial++;
  if (result < 0) {
    note(lane, K_failure, call, -1, -result, 0, 0);
    return result;
  }
  note(lane, K_birth, call, result, 0, type, path);
  hold(lane, result, type);
  return result;
}

static void drop(struct lane *lane, int fd) {
  for (int i = 0; i < lane->held_count; i++)
    if (lane->held[i].fd == fd) {
      memmove(&lane->held[i], &lane->held[i + 1], (--lane->held_count - i) * sizeof lane->held[0]);
      return;
    }
}

static int type_of(struct lane *lane, int fd) {
  for (int i = 0; i < lane->held_count; i++)
    if (lane->held[i].fd == fd)
      return lane->held[i].type;
  return -1;
}

static void let_go(struct lane *lane, int fd) {
  long result = SYS(close, fd, 0, 0, 0, 0);

  lane->serial++;
  if (result == -EBADF) {
    note(lane, K_failure, C_close, fd, EBADF, 0, 0);
    return;
  }
  if (result < 0)
    note(lane, K_failure, C_close, fd, -result, 0, 0);
  note(lane, K_close, C_close, fd, 0, 0, 0);
  drop(lane, fd);
}

/* A number of this lane's own; -1 where it has none. */
static int pick(struct lane *lane, int argument) {
  return lane->held_count ? lane->held[(argument & 0xff) % lane->held_count].fd : -1;
}

static void keep_few(struct lane *lane) {
  for (int low = 0, i = lane->held_count - 1; i >= 0; i--)
    if (lane->held[i].fd < FIRST_PRIVATE && ++low > MOST_OPEN)
      let_go(lane, lane->held[i].fd);
}

static int private_number(struct lane *lane, int argument) {
  return FIRST_PRIVATE + lane->index * PRIVATE + argument % PRIVATE;
}

static void use(struct lane *lane, enum call call, int fd, long result) {
  lane->serial++;
  note(lane, K_use, call, fd, result < 0 ? -result : 0, 0, 0);
}

/* --- births --------------------------------------------------------------------------------------------------------- */

static void open_one(struct lane *lane, int argument) {
  static const char *const devices[] = {"/dev/null", "/dev/zero"};
  int flags = argument & 64 ? O_CLOEXEC : 0;
  const char *path = region->file;
  int type = T_file, index = 1;
  struct open_how how = {.flags = O_RDONLY | flags};

  switch (argument >> 2 & 3) {
  case 0:
    path = devices[0], type = T_device, index = 2;
    break;
  case 1:
    path = region->directory, type = T_directory, index = 3;
    break;
  case 2:
    path = region->fifo, type = T_fifo, index = 4;
    flags |= O_RDWR, how.flags |= O_RDWR;
    break;
  }
  switch (argument & 3) {
  case 0:
    made(lane, C_open, SYS(open, path, flags, 0, 0, 0), type, index);
    break;
  case 1:
    made(lane, C_openat, SYS(openat, AT_FDCWD, path, flags, 0, 0), type, index);
    break;
  case 2:
    made(lane, C_openat2, SYS(openat2, AT_FDCWD, path, &how, sizeof how, 0), type, index);
    break;
  case 3:
    made(lane, C_creat, SYS(creat, region->file, 0600, 0, 0, 0), T_file, 1);
    break;
  }
}

static void make_one(struct lane *lane, int argument) {
  uint64_t mask = 0;

  switch (argument % 14) {
  case 0:
    made(lane, C_memfd_create, SYS(memfd_create, "m", argument & 64 ? MFD_CLOEXEC : 0, 0, 0, 0), T_memfd, 0);
    break;
  case 1:
    made(lane, C_eventfd, SYS(eventfd, 0, 0, 0, 0, 0), T_eventfd, 0);
    break;
  case 2:
    made(lane, C_eventfd2, SYS(eventfd2, 0, argument & 64 ? O_CLOEXEC : 0, 0, 0, 0), T_eventfd, 0);
    break;
  case 3:
    made(lane, C_epoll_create, SYS(epoll_create, 1, 0, 0, 0, 0), T_epoll, 0);
    break;
  case 4:
    made(lane, C_epoll_create1, SYS(epoll_create1, argument & 64 ? O_CLOEXEC : 0, 0, 0, 0, 0), T_epoll, 0);
    break;
  case 5:
    made(lane, C_timerfd_create, SYS(timerfd_create, CLOCK_MONOTONIC, 0, 0, 0, 0), T_timerfd, 0);
    break;
  case 6:
    made(lane, C_signalfd, SYS(signalfd, -1, &mask, 8, 0, 0), T_signalfd, 0);
    break;
  case 7:
    made(lane, C_signalfd4, SYS(signalfd4, -1, &mask, 8, argument & 64 ? O_CLOEXEC : 0, 0), T_signalfd, 0);
    break;
  case 8:
    made(lane, C_inotify_init, SYS(inotify_init, 0, 0, 0, 0, 0), T_inotify, 0);
    break;
  case 9:
    made(lane, C_inotify_init1, SYS(inotify_init1, argument & 64 ? O_CLOEXEC : 0, 0, 0, 0, 0), T_inotify, 0);
    break;
  case 10: { /* a pidfd, and what it gets */
    long pidfd = made(lane, C_pidfd_open, SYS(pidfd_open, SYS(getpid, 0, 0, 0, 0, 0), 0, 0, 0, 0), T_pidfd, 0);

    if (pidfd >= 0 && argument & 32)
      made(lane, C_pidfd_getfd, SYS(pidfd_getfd, pidfd, 0, 0, 0, 0), T_unknown, 0);
    break;
  }
  case 11:
    made(lane, C_socket, SYS(socket, AF_UNIX, SOCK_DGRAM | (argument & 64 ? SOCK_CLOEXEC : 0), 0, 0, 0), T_socket, 0);
    break;
  case 12:
    made(lane, C_socket, SYS(socket, AF_INET, argument & 32 ? SOCK_STREAM : SOCK_DGRAM, 0, 0, 0), T_socket, 0);
    break;
  case 13:
    made(lane, C_socket, SYS(socket, AF_NETLINK, SOCK_RAW, 0, 0, 0), T_socket, 0);
    break;
  }
}

static int make_pair(struct lane *lane, enum call call, long result, int *numbers, int type) {
  lane->serial++;
  if (result < 0) {
    note(lane, K_failure, call, -1, -result, 0, 0);
    return 0;
  }
  for (int i = 0; i < 2; i++) {
    note(lane, K_birth, call, numbers[i], 0, type, 0);
    hold(lane, numbers[i], type);
  }
  return 1;
}

static int unix_pair(struct lane *lane, int *numbers, int type) {
  return make_pair(lane, C_socketpair, SYS(socketpair, AF_UNIX, type, 0, numbers, 0), numbers, T_socket);
}

static void pair(struct lane *lane, int argument) {
  int numbers[2];

  switch (argument % 3) {
  case 0:
    make_pair(lane, C_pipe, SYS(pipe, numbers, 0, 0, 0, 0), numbers, T_pipe);
    break;
  case 1:
    make_pair(lane, C_pipe2, SYS(pipe2, numbers, argument & 64 ? O_CLOEXEC : 0, 0, 0, 0), numbers, T_pipe);
    break;
  case 2:
    unix_pair(lane, numbers, SOCK_STREAM);
    break;
  }
}

static void duplicate(struct lane *lane, int argument) {
  int fd = pick(lane, argument >> 4), type = fd < 0 ? 0 : type_of(lane, fd);

  if (fd < 0)
    fd = NEVER_OPEN;
  switch (argument & 3) {
  case 0:
    made(lane, C_dup, SYS(dup, fd, 0, 0, 0, 0), type, 0);
    break;
  case 1:
    made(lane, C_fcntl, SYS(fcntl, fd, F_DUPFD, argument & 4 ? 40 : 0, 0, 0), type, 0);
    break;
  default:
    made(lane, C_fcntl, SYS(fcntl, fd, F_DUPFD_CLOEXEC, argument & 4 ? 60 : 0, 0, 0), type, 0);
    break;
  }
}

/* dup2 and dup3 onto one of its high numbers, open or not, onto another number of its own, or onto itself. */
static void onto(struct lane *lane, int argument) {
  int fd = pick(lane, argument >> 4), new = argument & 4 ? pick(lane, argument >> 8) : private_number(lane, argument >> 8);
  int type = fd < 0 ? 0 : type_of(lane, fd), was = type_of(lane, new) >= 0;
  enum call call = argument & 1 ? C_dup3 : C_dup2;
  long result;

  if (fd < 0 || new < 0)
    return;
  result = argument & 1 ? SYS(dup3, fd, new, argument & 2 ? O_CLOEXEC : 0, 0, 0) : SYS(dup2, fd, new, 0, 0, 0);
  lane->serial++;
  if (result < 0) {
    note(lane, K_failure, call, -1, -result, 0, 0);
    return;
  }
  if (fd == new)
    return; /* dup2(7, 7) does nothing */
  if (was) {
    note(lane, K_replaced, call, new, 0, 0, 0);
    drop(lane, new);
  }
  note(lane, K_birth, call, new, 0, type, 0);
  hold(lane, new, type);
}

/* A listener with an address of the kernel's choice, in `address`. */
static int listener(struct lane *lane, int family, int flags, void *address, unsigned *length) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  long fd = made(lane, C_socket, SYS(socket, family, SOCK_STREAM | flags, 0, 0, 0), T_socket, 0), result;

  if (fd < 0)
    return fd;
  if (family == AF_INET)
    result = SYS(bind, fd, &in, sizeof in, 0, 0);
  else
    result = SYS(bind, fd, &un, sizeof un.sun_family, 0, 0); /* autobind: unix(7) */
  use(lane, C_bind, fd, result);
  use(lane, C_listen, fd, SYS(listen, fd, 8, 0, 0, 0));
  SYS(getsockname, fd, address, length, 0, 0);
  return fd;
}

static int connected(struct lane *lane, int family, void *address, unsigned length) {
  long fd = made(lane, C_socket, SYS(socket, family, SOCK_STREAM, 0, 0, 0), T_socket, 0);

  if (fd >= 0)
    use(lane, C_connect, fd, SYS(connect, fd, address, length, 0, 0));
  return fd;
}

static void accept_one(struct lane *lane, int argument) {
  struct sockaddr_storage address, peer;
  unsigned length = sizeof address, peer_length = sizeof peer;
  int family = argument & 1 ? AF_INET : AF_UNIX;
  int fd = listener(lane, family, 0, &address, &length), client;

  if (fd < 0)
    return;
  client = connected(lane, family, &address, length);
  if (client >= 0) {
    if (argument & 2)
      made(lane, C_accept, SYS(accept, fd, &peer, &peer_length, 0, 0), T_socket, 0);
    else
      made(lane, C_accept4, SYS(accept4, fd, argument & 4 ? &peer : NULL, argument & 4 ? &peer_length : NULL, SOCK_CLOEXEC, 0),
           T_socket, 0);
    if (argument & 8)
      use(lane, C_shutdown, client, SYS(shutdown, client, argument >> 4 & 1 ? SHUT_RDWR : SHUT_WR, 0, 0, 0));
    if (argument & 32)
      let_go(lane, client);
  }
  let_go(lane, fd);
}

static void note_received(struct lane *lane, enum call call, struct msghdr *message) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
      for (unsigned i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
        int fd = ((int *)CMSG_DATA(c))[i];

        note(lane, K_birth, call, fd, 0, T_unknown, 0);
        hold(lane, fd, T_unknown);
      }
}

/* SCM_RIGHTS, as they come, peeked at (which makes descriptors as well), two messages at once. */
static void receive(struct lane *lane, int argument) {
  int numbers[2], sent[3], count = 1 + argument % 3;
  char data[2] = "x", control[2][CMSG_SPACE(sizeof sent)];
  struct iovec vector = {data, 1};
  struct mmsghdr messages[2] = {};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control[0], .msg_controllen = CMSG_SPACE(count * sizeof(int))};
  struct cmsghdr *c = (void *)control[0];
  long result;

  memset(control, 0, sizeof control);
  if (!unix_pair(lane, numbers, SOCK_DGRAM))
    return;
  c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(count * sizeof(int));
  for (int i = 0; i < count; i++)
    ((int *)CMSG_DATA(c))[i] = numbers[i & 1];
  for (int i = 0; i < (argument & 8 ? 2 : 1); i++)
    SYS(sendmsg, numbers[0], &message, 0, 0, 0);
  for (int i = 0; i < 2; i++)
    messages[i].msg_hdr = (struct msghdr){
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
  lane->serial++;
  if (argument & 8) {
    result = SYS(recvmmsg, numbers[1], messages, 2, MSG_DONTWAIT, NULL);
    for (int i = 0; i < result; i++)
      note_received(lane, C_recvmmsg, &messages[i].msg_hdr);
  } else {
    result = SYS(recvmsg, numbers[1], &messages[0].msg_hdr, MSG_DONTWAIT | (argument & 16 ? MSG_PEEK : 0), 0, 0);
    if (result >= 0)
      note_received(lane, C_recvmsg, &messages[0].msg_hdr);
  }
  let_go(lane, numbers[0]);
  let_go(lane, numbers[1]);
}

static void peer_pidfd(struct lane *lane, int argument) {
  int numbers[2], pidfd = -1;
  unsigned size = sizeof pidfd;
  long result;

  (void)argument;
  if (!unix_pair(lane, numbers, SOCK_STREAM))
    return;
  result = SYS(getsockopt, numbers[0], SOL_SOCKET, 77 /* SO_PEERPIDFD */, &pidfd, &size);
  made(lane, C_getsockopt, result < 0 ? result : pidfd, T_pidfd, 0);
}

/* --- io_uring by hand: io_uring(7) ------------------------------------------------------------------------------------ */

struct ring {
  int fd;
  char *rings, *entries;
  struct io_uring_params parameters;
};

static long submit(struct ring *ring, struct io_uring_sqe *entry) {
  unsigned *tail = (void *)(ring->rings + ring->parameters.sq_off.tail);
  unsigned *array = (void *)(ring->rings + ring->parameters.sq_off.array);
  unsigned *head = (void *)(ring->rings + ring->parameters.cq_off.head);
  unsigned *ready = (void *)(ring->rings + ring->parameters.cq_off.tail);
  struct io_uring_cqe *completed;
  long result;

  memcpy(ring->entries, entry, sizeof *entry);
  array[*tail & (ring->parameters.sq_entries - 1)] = 0;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  while (raw(SYS_io_uring_enter, ring->fd, *tail - *(unsigned *)(ring->rings + ring->parameters.sq_off.head), 1, 1, 0, 0) == -EINTR)
    ;
  while (__atomic_load_n(ready, __ATOMIC_ACQUIRE) == *head)
    ;
  completed = (void *)(ring->rings + ring->parameters.cq_off.cqes);
  result = completed[*head & (ring->parameters.cq_entries - 1)].res;
  __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
  return result;
}

static void ring(struct lane *lane, int argument) {
  struct ring ring = {};
  struct sockaddr_storage address;
  unsigned length = sizeof address;
  long made_one = -1;

  ring.fd = made(lane, C_io_uring_setup, SYS(io_uring_setup, 4, &ring.parameters, 0, 0, 0), T_io_uring, 0);
  if (ring.fd < 0)
    return;
  ring.rings = (char *)raw(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
  ring.entries = (char *)raw(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
  if ((unsigned long)ring.rings > -4096UL || (unsigned long)ring.entries > -4096UL)
    fail("no ring");
  switch (argument & 3) {
  case 0: {
    struct io_uring_sqe entry = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uint64_t)"/dev/null"};

    made_one = made(lane, C_io_uring_openat, submit(&ring, &entry), T_device, 2);
    break;
  }
  case 1: {
    struct io_uring_sqe entry = {.opcode = 45 /* IORING_OP_SOCKET */, .fd = AF_INET, .off = SOCK_STREAM};

    made_one = made(lane, C_io_uring_socket, submit(&ring, &entry), T_socket, 0);
    break;
  }
  case 2: {
    int fd = listener(lane, AF_UNIX, 0, &address, &length);
    struct io_uring_sqe entry = {.opcode = IORING_OP_ACCEPT, .fd = fd};

    if (fd >= 0 && connected(lane, AF_UNIX, &address, length) >= 0)
      made_one = made(lane, C_io_uring_accept, submit(&ring, &entry), T_socket, 0);
    break;
  }
  case 3: {
    struct io_uring_sqe entry = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uint64_t)region->absent};

    made(lane, C_io_uring_openat, submit(&ring, &entry), T_file, 5);
    break;
  }
  }
  if (made_one >= 0 && argument & 4) {
    struct io_uring_sqe entry = {.opcode = IORING_OP_CLOSE, .fd = made_one};
    long result = submit(&ring, &entry);

    lane->serial++;
    if (result < 0) {
      note(lane, K_failure, C_io_uring_close, -1, -result, 0, 0);
    } else {
      note(lane, K_close, C_io_uring_close, made_one, 0, 0, 0);
      drop(lane, made_one);
    }
  }
  SYS(munmap, ring.rings, 4096, 0, 0, 0);
  SYS(munmap, ring.entries, 4096, 0, 0, 0);
  let_go(lane, ring.fd);
}

/* --- deaths, marks, failures ----------------------------------------------------------------------------------------- */

static void close_one(struct lane *lane, int argument) {
  int fd = pick(lane, argument);

  if (fd >= 0)
    let_go(lane, fd);
}

/* Of its high numbers: a part, all, or (CLOSE_RANGE_CLOEXEC) none; or one of its numbers, which others may be given at once. */
static void close_some(struct lane *lane, int argument) {
  int first = private_number(lane, 0) + (argument >> 4 & 3), last = private_number(lane, PRIVATE - 1) - (argument >> 6 & 3);
  unsigned flags = argument & 3 ? 0 : CLOSE_RANGE_CLOEXEC;
  long result;

  if (argument & 8 && lane->held_count)
    first = last = pick(lane, argument >> 4);
  result = SYS(close_range, first, last, flags, 0, 0);
  lane->serial++;
  if (result < 0)
    note(lane, K_failure, C_close_range, -1, -result, 0, 0);
  else if (!flags)
    for (int fd = first; fd <= last; fd++)
      if (type_of(lane, fd) >= 0) {
        note(lane, K_close, C_close_range, fd, 0, 0, 0);
        drop(lane, fd);
      }
}

static void mark(struct lane *lane, int argument) {
  int fd = pick(lane, argument >> 4), is_set = argument & 1;
  long result;

  if (fd < 0)
    return;
  if (argument & 2)
    result = SYS(ioctl, fd, is_set ? FIOCLEX : FIONCLEX, 0, 0, 0);
  else
    result = SYS(fcntl, fd, F_SETFD, is_set, 0, 0);
  lane->serial++;
  if (!result)
    note(lane, K_mark, argument & 2 ? C_ioctl : C_fcntl, fd, is_set, 0, 0);
}

static void fail_one(struct lane *lane, int argument) {
  struct sockaddr_storage address;
  unsigned length = sizeof address;
  int numbers[2], new, one;
  uint64_t mask = 0;
  struct open_how how = {.flags = O_RDONLY, .mode = 1};

  switch (argument % 36) {
  case 0:
    made(lane, C_openat, SYS(openat, AT_FDCWD, region->absent, O_RDONLY, 0, 0), 0, 0);
    break;
  case 1:
    made(lane, C_open, SYS(open, region->beyond, O_RDONLY, 0, 0, 0), 0, 0); /* ENOTDIR */
    break;
  case 2:
    made(lane, C_creat, SYS(creat, region->directory, 0600, 0, 0, 0), 0, 0); /* EISDIR */
    break;
  case 3:
    made(lane, C_openat, SYS(openat, AT_FDCWD, region->file, O_CREAT | O_EXCL, 0600, 0), 0, 0); /* EEXIST */
    break;
  case 4:
    made(lane, C_openat2, SYS(openat2, AT_FDCWD, region->file, &how, sizeof how, 0), 0, 0); /* EINVAL */
    break;
  case 5:
    let_go(lane, NEVER_OPEN);
    break;
  case 6:
    made(lane, C_dup, SYS(dup, NEVER_OPEN, 0, 0, 0, 0), 0, 0);
    break;
  case 7:
    made(lane, C_fcntl, SYS(fcntl, NEVER_OPEN, F_DUPFD, 0, 0, 0), 0, 0);
    break;
  case 8:
    made(lane, C_fcntl, SYS(fcntl, 1, F_DUPFD_CLOEXEC, 1 << 30, 0, 0), 0, 0); /* EINVAL */
    break;
  case 9:
    made(lane, C_dup2, SYS(dup2, NEVER_OPEN, private_number(lane, 0), 0, 0, 0), 0, 0);
    break;
  case 10:
    made(lane, C_dup3, SYS(dup3, 1, 1, 0, 0, 0), 0, 0); /* EINVAL */
    break;
  case 11:
    made(lane, C_eventfd2, SYS(eventfd2, 0, 1 << 30, 0, 0, 0), 0, 0);
    break;
  case 12:
    made(lane, C_epoll_create1, SYS(epoll_create1, 1, 0, 0, 0, 0), 0, 0);
    break;
  case 13:
    make_pair(lane, C_pipe2, SYS(pipe2, numbers, 1 << 30, 0, 0, 0), numbers, 0);
    break;
  case 14:
    make_pair(lane, C_pipe, SYS(pipe, 8, 0, 0, 0, 0), numbers, 0); /* EFAULT */
    break;
  case 15:
    make_pair(lane, C_socketpair, SYS(socketpair, AF_INET, SOCK_STREAM, 0, numbers, 0), numbers, 0); /* EOPNOTSUPP */
    break;
  case 16:
    made(lane, C_socket, SYS(socket, 63, SOCK_STREAM, 0, 0, 0), 0, 0); /* EAFNOSUPPORT */
    break;
  case 17:
    made(lane, C_socket, SYS(socket, AF_INET, SOCK_STREAM, IPPROTO_UDP, 0, 0), 0, 0); /* EPROTONOSUPPORT */
    break;
  case 18:
    made(lane, C_memfd_create, SYS(memfd_create, "m", 1 << 30, 0, 0, 0), 0, 0);
    break;
  case 19:
    made(lane, C_timerfd_create, SYS(timerfd_create, 77, 0, 0, 0, 0), 0, 0);
    break;
  case 20:
    made(lane, C_signalfd4, SYS(signalfd4, -1, &mask, 7, 0, 0), 0, 0);
    break;
  case 21:
    made(lane, C_inotify_init1, SYS(inotify_init1, 1, 0, 0, 0, 0), 0, 0);
    break;
  case 22:
    made(lane, C_pidfd_open, SYS(pidfd_open, 1 << 29, 0, 0, 0, 0), 0, 0); /* ESRCH */
    break;
  case 23:
    made(lane, C_pidfd_getfd, SYS(pidfd_getfd, NEVER_OPEN, 0, 0, 0, 0), 0, 0);
    break;
  case 24: /* EAGAIN */
    new = listener(lane, argument & 64 ? AF_INET : AF_UNIX, SOCK_NONBLOCK, &address, &length);
    if (new >= 0) {
      made(lane, C_accept4, SYS(accept4, new, NULL, NULL, 0, 0), 0, 0);
      let_go(lane, new);
    }
    break;
  case 25:
    made(lane, C_accept, SYS(accept, NEVER_OPEN, NULL, NULL, 0, 0), 0, 0);
    break;
  case 26:
    made(lane, C_accept, SYS(accept, 0, NULL, NULL, 0, 0), 0, 0); /* ENOTSOCK */
    break;
  case 27:
    lane->serial++;
    note(lane, K_failure, C_close_range, -1, -SYS(close_range, 9, 8, 0, 0, 0), 0, 0);
    break;
  case 28:
    made(lane, C_io_uring_setup, SYS(io_uring_setup, 0, 8, 0, 0, 0), 0, 0);
    break;
  case 29:
    made(lane, C_epoll_create, SYS(epoll_create, 0, 0, 0, 0, 0), 0, 0);
    break;
  case 30: /* a listener that is gone: ECONNREFUSED */
    new = listener(lane, argument & 64 ? AF_INET : AF_UNIX, 0, &address, &length);
    if (new >= 0) {
      let_go(lane, new);
      one = connected(lane, argument & 64 ? AF_INET : AF_UNIX, &address, length);
      if (one >= 0)
        let_go(lane, one);
    }
    break;
  case 31: /* EINVAL, EINVAL, ENOTCONN */
    new = made(lane, C_socket, SYS(socket, AF_INET, SOCK_STREAM, 0, 0, 0), T_socket, 0);
    if (new >= 0) {
      use(lane, C_bind, new, SYS(bind, new, &address, 1, 0, 0));
      use(lane, C_shutdown, new, SYS(shutdown, new, SHUT_WR, 0, 0, 0));
      use(lane, C_shutdown, new, SYS(shutdown, new, 99, 0, 0, 0));
      let_go(lane, new);
    }
    break;
  case 32: /* EOPNOTSUPP */
    new = made(lane, C_socket, SYS(socket, AF_INET, SOCK_DGRAM, 0, 0, 0), T_socket, 0);
    if (new >= 0) {
      use(lane, C_listen, new, SYS(listen, new, 8, 0, 0, 0));
      let_go(lane, new);
    }
    break;
  case 33: /* no peer has a PID there */
    new = made(lane, C_socket, SYS(socket, AF_INET, SOCK_STREAM, 0, 0, 0), T_socket, 0);
    if (new >= 0) {
      one = sizeof one;
      lane->serial++;
      note(lane, K_failure, C_getsockopt, -1, -SYS(getsockopt, new, SOL_SOCKET, 77, numbers, &one), 0, 0);
      let_go(lane, new);
    }
    break;
  case 34:
    made(lane, C_openat, SYS(openat, AT_FDCWD, 8, O_RDONLY, 0, 0), 0, 0); /* EFAULT */
    break;
  case 35: /* nobody reads: ENXIO */
    made(lane, C_open, SYS(open, region->path, O_WRONLY | O_NONBLOCK, 0, 0, 0), 0, 0);
    break;
  }
}

/* What is asked of descriptors and neither makes nor closes one, nor is a failure to. */
static void ask(struct lane *lane, int argument) {
  int fd = pick(lane, argument >> 4), size = sizeof size, value;
  char data[1], control[64];
  struct iovec vector = {data, 1};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  uint64_t mask = 0;

  SYS(fcntl, fd, F_GETFD, 0, 0, 0);
  SYS(fcntl, NEVER_OPEN, F_SETFD, 1, 0, 0);
  SYS(ioctl, fd, 0x5401 /* TCGETS */, control, 0, 0);
  SYS(ioctl, NEVER_OPEN, FIOCLEX, 0, 0, 0);
  SYS(getsockopt, fd, SOL_SOCKET, SO_TYPE, &value, &size);
  if (SYS(recvmsg, fd, &message, MSG_DONTWAIT, 0, 0) >= 0) { /* what was peeked at, once more */
    lane->serial++;
    note_received(lane, C_recvmsg, &message);
  }
  SYS(signalfd4, 1, &mask, 8, 0, 0);
  SYS(unshare, 1, 0, 0, 0, 0);
}

/* Until no more may be open. */
static void limit(struct lane *lane, int argument) {
  struct rlimit few = {argument % 5, 20000}, all = {2048, 2048};
  int numbers[2];

  raw(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&all, 0, 0);
  few.rlim_max = all.rlim_max;
  raw(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&few, 0, 0, 0);
  for (int i = 0; i < 3; i++)
    open_one(lane, (argument >> 3) + i);
  make_one(lane, argument >> 3);
  make_pair(lane, C_pipe2, SYS(pipe2, numbers, 0, 0, 0, 0), numbers, T_pipe);
  made(lane, C_dup, SYS(dup, 1, 0, 0, 0, 0), T_unknown, 0);
  made(lane, C_fcntl, SYS(fcntl, 1, F_DUPFD, 0, 0, 0), T_unknown, 0);
  raw(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&all, 0, 0, 0);
  keep_few(lane);
}

static void on_signal(int number) { (void)number; }

/* Blocks in accept or in the open of a FIFO: signals that begin it anew, and then one that ends it (EINTR). */
static void interrupt(struct lane *lane, int argument) {
  struct sockaddr_storage address;
  unsigned length = sizeof address;
  struct sigevent restarts = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
  struct sigevent ends = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
  struct itimerspec often = {{0, 700000}, {0, 700000}}, late = {{0, 2500000}, {0, 2500000}}, never = {};
  int timers[2], fd = -1;

  restarts._sigev_un._tid = ends._sigev_un._tid = SYS(gettid, 0, 0, 0, 0, 0);
  if (!(argument & 1)) {
    fd = listener(lane, argument & 2 ? AF_INET : AF_UNIX, 0, &address, &length);
    if (fd < 0)
      return;
  }
  SYS(timer_create, CLOCK_MONOTONIC, &restarts, &timers[0], 0, 0);
  SYS(timer_create, CLOCK_MONOTONIC, &ends, &timers[1], 0, 0);
  if (argument & 4)
    SYS(timer_settime, timers[0], 0, &often, NULL, 0);
  SYS(timer_settime, timers[1], 0, &late, NULL, 0);
  if (argument & 1)
    made(lane, C_openat, SYS(openat, AT_FDCWD, region->path, O_RDONLY, 0, 0), T_fifo, 0);
  else
    made(lane, C_accept, SYS(accept, fd, NULL, NULL, 0, 0), T_socket, 0);
  SYS(timer_settime, timers[0], 0, &never, NULL, 0);
  SYS(timer_settime, timers[1], 0, &never, NULL, 0);
  SYS(timer_delete, timers[0], 0, 0, 0, 0);
  SYS(timer_delete, timers[1], 0, 0, 0, 0);
  if (fd >= 0)
    let_go(lane, fd);
}

/* Numbers that come and go fast, so that threads are given each other's. */
static void storm(struct lane *lane, int argument) {
  for (int i = 0; i < 20 + argument % 60; i++) {
    long one = made(lane, C_openat, SYS(openat, AT_FDCWD, "/dev/null", O_RDONLY, 0, 0), T_device, 2);
    long other = i % 3 ? -1 : made(lane, C_dup, SYS(dup, one, 0, 0, 0, 0), T_device, 0);

    if (one >= 0)
      let_go(lane, one);
    if (other >= 0)
      let_go(lane, other);
  }
}

/* --- closes that take their time: the number is free long before close(2) returns ----------------------------------------- */

#define AS_THREAD                                                                                                      \
  (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

static void wait_while(int *word, int value) {
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value)
    raw(SYS_futex, (long)word, FUTEX_WAIT, value, 0, 0, 0);
}

static void set_and_wake(int *word, int value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
  raw(SYS_futex, (long)word, FUTEX_WAKE, 1 << 30, 0, 0, 0);
}

struct drain {
  int peer, running;
  long pause_ns;
};

/* A thread that makes and closes nothing: it reads, late, to the end. */
static int drain(void *argument) {
  struct drain *d = argument;
  struct timespec pause = {0, d->pause_ns};
  char data[4096];

  SYS(nanosleep, &pause, NULL, 0, 0, 0);
  while (SYS(read, d->peer, data, sizeof data, 0, 0) > 0)
    ;
  return 0;
}

/* close(2) waits until the other side has taken what was sent (SO_LINGER), and it takes it late. */
static void linger(struct lane *lane, int argument) {
  struct sockaddr_storage address;
  unsigned length = sizeof address;
  struct linger until = {1, 5};
  int fd = listener(lane, AF_INET, 0, &address, &length), client, buffer = 4096;
  struct drain d = {-1, 1, 2000000 + argument % 7 * 2000000};
  char data[4096] = {};

  if (fd < 0)
    return;
  SYS(setsockopt, fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  client = connected(lane, AF_INET, &address, length);
  if (client >= 0)
    d.peer = made(lane, C_accept, SYS(accept, fd, NULL, NULL, 0, 0), T_socket, 0);
  if (d.peer >= 0) {
    SYS(setsockopt, client, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    SYS(setsockopt, client, SOL_SOCKET, SO_LINGER, &until, sizeof until);
    while (raw(SYS_sendto, client, (long)data, sizeof data, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0) > 0)
      ;
    int tid = clone(drain, drain_stacks[lane->index] + STACK_BYTES, AS_THREAD, &d, &d.running, NULL, &d.running);

    if (tid < 0)
      fail("no thread");
    lane->serial++;
    note(lane, K_forked, C_clone, tid, 0, 0, 0);
    if (argument & 8 && type_of(lane, 1) < 0) { /* replaced, which waits as long */
      int other = made(lane, C_eventfd2, SYS(eventfd2, 0, 0, 0, 0, 0), T_eventfd, 0);

      if (other >= 0) {
        long result = SYS(dup2, other, client, 0, 0, 0);

        lane->serial++;
        if (result < 0) {
          note(lane, K_failure, C_dup2, -1, -result, 0, 0);
        } else {
          note(lane, K_replaced, C_dup2, client, 0, 0, 0);
          drop(lane, client);
          note(lane, K_birth, C_dup2, client, 0, T_eventfd, 0);
          hold(lane, client, T_eventfd);
        }
        client = other;
      }
    }
    let_go(lane, client);
    for (int running; (running = __atomic_load_n(&d.running, __ATOMIC_ACQUIRE));)
      wait_while(&d.running, running);
  }
  let_go(lane, fd);
}

static void watch(struct lane *lane, int argument) {
  long fd = made(lane, C_inotify_init1, SYS(inotify_init1, 0, 0, 0, 0, 0), T_inotify, 0);

  (void)argument;
  if (fd < 0)
    return;
  SYS(inotify_add_watch, fd, region->directory, IN_ALL_EVENTS, 0, 0);
  SYS(inotify_add_watch, fd, "/tmp", IN_ALL_EVENTS, 0, 0);
  let_go(lane, fd);
}

/* --- threads and processes -------------------------------------------------------------------------------------------- */

enum state { NOT_BEGUN, RUNS, ENDED, STAYS, LISTED };

static void play(struct lane *lane);

/* What is open in the lane's table, as the kernel says. */
static void list_open(struct lane *lane, enum kind kind, int is_of_thread) {
  lane->serial++;
  for (int fd = 0; fd < NUMBERS; fd++)
    if (is_open(fd))
      note(lane, kind, C_exit, fd, is_of_thread, 0, 0);
}

/* A table of its own from now on. */
static void part(struct lane *lane) {
  int old = lane->table;

  lane->table = __atomic_fetch_add(&region->table_count, 1, __ATOMIC_SEQ_CST);
  lane->shares = 0;
  lane->has_sharers = 0;
  note(lane, K_parted, C_exit, old, 0, 0, 0);
  list_open(lane, K_open_at_go, 0);
}

static struct lane *claim(struct lane *lane, int index) {
  struct lane *other;

  if (index <= 0 || index >= LANES)
    return NULL;
  other = &region->lanes[index];
  if (__atomic_exchange_n(&other->claimed, 1, __ATOMIC_SEQ_CST))
    return NULL;
  other->index = index;
  other->pid = lane->pid;
  other->table = lane->table;
  other->serial = other->at = 0;
  other->held_count = other->child_count = other->thread_count = 0;
  other->is_process = other->has_sharers = 0;
  other->shares = 1;
  other->state = RUNS;
  return other;
}

static void join(struct lane *lane);
static void reap(struct lane *lane);

static int run_thread(void *argument) {
  struct lane *lane = argument;

  lane->tid = SYS(gettid, 0, 0, 0, 0, 0);
  wait_while(&region->went, 0);
  play(lane);
  join(lane);
  reap(lane);
  if (!lane->shares)
    list_open(lane, K_exit, 1);
  note(lane, K_ended, C_exit, -1, 0, 0, 0);
  lane->state = ENDED;
  return 0;
}

static void begin_thread(struct lane *lane, int index) {
  struct lane *other = claim(lane, index);
  int tid;

  if (!other)
    return;
  other->tid_word = 1;
  lane->threads[lane->thread_count++] = index;
  tid = clone(run_thread, stacks[index] + STACK_BYTES, AS_THREAD, other, &other->tid_word, NULL, &other->tid_word);
  if (tid < 0)
    fail("no thread");
  lane->serial++;
  note(lane, K_forked, C_clone, tid, 0, 0, 0);
}

/* The numbers of one that used the same table are this lane's now. */
static void inherit(struct lane *lane, struct lane *other) {
  if (other->table == lane->table)
    for (int i = 0; i < other->held_count; i++)
      hold(lane, other->held[i].fd, other->held[i].type);
  other->held_count = 0;
  keep_few(lane);
}

static void join(struct lane *lane) {
  for (int i = 0; i < lane->thread_count; i++) {
    struct lane *other = &region->lanes[lane->threads[i]];

    for (int running; (running = __atomic_load_n(&other->tid_word, __ATOMIC_ACQUIRE));)
      wait_while(&other->tid_word, running);
    inherit(lane, other);
  }
  lane->thread_count = 0;
}

static void reap(struct lane *lane) {
  for (int i = 0; i < lane->child_count; i++) {
    struct lane *other = &region->lanes[lane->children[i]];

    wait_while(&other->state, RUNS);
    if (other->state == STAYS)
      continue;
    while (SYS(wait4, other->pid, NULL, 0, NULL, 0) == -EINTR)
      ;
    if (lane->has_sharers && other->is_sharer)
      lane->has_sharers--;
    inherit(lane, other);
  }
  lane->child_count = 0;
}

static void end_process(struct lane *lane) {
  join(lane);
  reap(lane);
  if (!lane->shares && !lane->has_sharers)
    list_open(lane, K_exit, 0);
  note(lane, K_ended, C_exit, -1, 0, 0, 0);
  set_and_wake(&lane->state, ENDED);
  SYS(exit_group, 0, 0, 0, 0, 0);
}

static int run_process(void *argument) {
  struct lane *lane = argument;

  lane->pid = lane->tid = SYS(getpid, 0, 0, 0, 0, 0);
  if (!lane->shares)
    part(lane);
  wait_while(&region->went, 0);
  play(lane);
  end_process(lane);
  return 0;
}

/* fork, vfork (of which the parent waits for the exec or the end), or a child that uses the same table. */
static void begin_process(struct lane *lane, int index, int flags) {
  struct lane *other;
  int pid;

  if ((flags & CLONE_VFORK && !region->went) || (flags & CLONE_FILES && !lane->is_process))
    return;
  other = claim(lane, index);
  if (!other)
    return;
  other->is_process = 1;
  other->is_sharer = !!(flags & CLONE_FILES);
  if (flags & CLONE_FILES) {
    lane->has_sharers += 1;
  } else { /* a copy, in which this lane's numbers are its own */
    other->shares = 0;
    for (int i = 0; i < lane->held_count; i++)
      hold(other, lane->held[i].fd, lane->held[i].type);
  }
  lane->children[lane->child_count++] = index;
  pid = clone(run_process, stacks[index] + STACK_BYTES, flags | SIGCHLD, other, NULL, NULL, NULL);
  if (pid < 0)
    fail("no process");
  other->pid = pid;
  lane->serial++;
  note(lane, K_forked, C_clone, pid, flags & CLONE_FILES ? 2 : 1, 0, 0);
}

static void leave_table(struct lane *lane) {
  if (lane->is_process) { /* or others would go on with the old one: of whom it is, nobody could say */
    join(lane);
    reap(lane);
  }
  note(lane, K_leaving, C_exit, -1, 0, 0, 0);
  if (SYS(unshare, CLONE_FILES, 0, 0, 0, 0))
    fail("unshare");
  part(lane);
}

/* close_range that parts from the table as it closes. */
static void leave_and_close(struct lane *lane, int argument) {
  int first = private_number(lane, 0) + argument % 8, held = 0, numbers[64];

  if (lane->is_process) {
    join(lane);
    reap(lane);
  }
  for (int fd = first; fd < private_number(lane, PRIVATE - 1); fd++)
    if (type_of(lane, fd) >= 0)
      numbers[held++] = fd;
  note(lane, K_leaving, C_exit, -1, 0, 0, 0);
  if (SYS(close_range, first, private_number(lane, PRIVATE - 1) - 1, CLOSE_RANGE_UNSHARE, 0, 0))
    fail("close_range");
  part(lane);
  for (int i = 0; i < held; i++) {
    note(lane, K_parting, C_close_range, numbers[i], 0, 0, 0);
    drop(lane, numbers[i]);
  }
}

/* --- exec of itself: the lane goes on in the new program ---------------------------------------------------------------- */

static void become(struct lane *lane) {
  char index[8] = {'0' + lane->index / 10, '0' + lane->index % 10};
  char *arguments[] = {self_name, region_path, index, NULL};

  lane->dying_count = 0;
  for (int fd = 0; fd < NUMBERS; fd++)
    if (SYS(fcntl, fd, F_GETFD, 0, 0, 0) == FD_CLOEXEC) {
      if (lane->dying_count == 256)
        fail("too many die by exec");
      lane->dying[lane->dying_count++] = fd;
    }
  lane->parts = lane->shares;
  if (lane->parts)
    note(lane, K_leaving, C_exit, -1, 0, 0, 0);
  SYS(execve, self_name, arguments, environ, 0, 0);
  fail("exec");
}

static int become_in_thread(void *argument) {
  struct lane *lane = argument;

  lane->serial++;
  note(lane, K_forked, C_clone, SYS(gettid, 0, 0, 0, 0, 0), 0, 0, 0);
  become(lane);
  return 0;
}

static int may_exec(struct lane *lane) {
  if (!lane->is_process || !region->went)
    return 0;
  join(lane);
  reap(lane);
  return !lane->has_sharers;
}

static void execute(struct lane *lane, int by_thread) {
  static int running;
  int tid;

  if (!may_exec(lane))
    return;
  if (!by_thread)
    become(lane);
  running = 1;
  tid = clone(become_in_thread, drain_stacks[lane->index] + STACK_BYTES, AS_THREAD, lane, &running, NULL, &running);
  if (tid < 0)
    fail("no thread");
  for (;;)
    wait_while(&region->never, 0);
}

/* The region, mapped: descriptors that come and go are noted once that is possible. */
static void map_region(const char *path) {
  long fd = SYS(openat, AT_FDCWD, path, O_RDWR, 0, 0);

  region = (struct region *)raw(SYS_mmap, 0, sizeof *region, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (fd < 0 || (unsigned long)region > -4096UL)
    fail("no region");
  SYS(close, fd, 0, 0, 0, 0);
  region_path = (char *)path;
}

static void prepare(void) {
  struct sigaction ends = {.sa_handler = on_signal}, restarts = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  struct rlimit all = {2048, 2048};

  raw(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&all, 0, 0, 0);
  sigaction(SIGUSR1, &ends, NULL);
  sigaction(SIGUSR2, &restarts, NULL);
}

static void go_on(struct lane *lane) {
  long fd = 0;

  for (int i = 0; i < lane->dying_count; i++)
    drop(lane, lane->dying[i]);
  lane->tid = lane->pid;
  lane->serial++;
  if (lane->parts) {
    lane->table = __atomic_fetch_add(&region->table_count, 1, __ATOMIC_SEQ_CST);
    lane->shares = 0;
    note(lane, K_parted, C_exit, -1, 0, 0, 0);
  }
  for (int i = 0; i < lane->dying_count; i++)
    note(lane, K_exec, C_execve, lane->dying[i], lane->parts, 0, 0);
  note(lane, K_executed, C_execve, -1, 0, 0, 0);
  while (is_open(fd)) /* the number that the mapping of the region had */
    fd++;
  made(lane, C_openat, fd, T_file, 0);
  lane->serial++;
  note(lane, K_close, C_close, fd, 0, 0, 0);
  drop(lane, fd);
  if (lane->parts)
    list_open(lane, K_open_at_go, 0);
}

/* --- the script ------------------------------------------------------------------------------------------------------ */

static void go(struct lane *lane);
static void stay(struct lane *lane) {
  char byte;

  if (!lane->is_process || lane == &region->lanes[0] || !region->went || (region->is_from_start && region->ends))
    return;
  join(lane);
  reap(lane);
  set_and_wake(&lane->state, STAYS);
  wait_while(&region->is_over, 0); /* until then others may use its table */
  list_open(lane, K_open_at_end, 0);
  set_and_wake(&lane->state, LISTED);
  while (SYS(read, 0, &byte, 1, 0, 0)) /* until nobody is left who could say anything */
    ;
  SYS(exit_group, 0, 0, 0, 0, 0);
}

static void pause_shortly(struct lane *lane, int argument) {
  struct timespec pause = {0, argument % 100 * 20000};

  (void)lane;
  SYS(nanosleep, &pause, NULL, 0, 0, 0);
}

static void leave(struct lane *lane) {
  if (lane == &region->lanes[0])
    region->ends = 1;
}

#define WORDS                                                                                                          \
  X(open, open_one(lane, argument)) X(make, make_one(lane, argument)) X(pair, pair(lane, argument))                    \
  X(duplicate, duplicate(lane, argument)) X(onto, onto(lane, argument)) X(accept, accept_one(lane, argument))          \
  X(receive, receive(lane, argument)) X(peer_pidfd, peer_pidfd(lane, argument)) X(ring, ring(lane, argument))          \
  X(close, close_one(lane, argument)) X(close_range, close_some(lane, argument)) X(mark, mark(lane, argument))         \
  X(fail, fail_one(lane, argument)) X(ask, ask(lane, argument)) X(limit, limit(lane, argument))                        \
  X(interrupt, interrupt(lane, argument)) X(storm, storm(lane, argument)) X(linger, linger(lane, argument))            \
  X(watch, watch(lane, argument)) X(thread, begin_thread(lane, argument)) X(join, join(lane)) X(reap, reap(lane))       \
  X(fork, begin_process(lane, argument, 0)) X(vfork, begin_process(lane, argument, CLONE_VM | CLONE_VFORK))            \
  X(share, begin_process(lane, argument, CLONE_FILES)) X(unshare, leave_table(lane))                                   \
  X(unshare_range, leave_and_close(lane, argument)) X(exec, execute(lane, 0)) X(thread_exec, execute(lane, 1))         \
  X(stay, stay(lane)) X(pause, pause_shortly(lane, argument)) X(go, go(lane)) X(exit, leave(lane))
#undef X
enum word {
#define X(name, does) W_##name,
  WORDS
#undef X
      W_round
};
static const char *const words[] = {
#define X(name, does) #name,
    WORDS
#undef X
    "round"};

static void play(struct lane *lane) {
  int first = region->round_start[region->round], last = region->round_start[region->round + 1];

  while (first + lane->at < last) {
    struct step *step = &region->steps[first + lane->at++];
    int argument = step->argument;

    if (step->lane != lane->index)
      continue;
    switch (step->what) {
#define X(name, does)                                                                                                  \
  case W_##name:                                                                                                       \
    does;                                                                                                              \
    break;
      WORDS
#undef X
    }
    keep_few(lane);
  }
}

static void read_script(const char *path, struct lane *lane) {
  static char text[STEPS * 24];
  long fd = made(lane, C_openat, SYS(openat, AT_FDCWD, path, O_RDONLY, 0, 0), T_file, 0), length;

  length = SYS(read, fd, text, sizeof text - 1, 0, 0);
  if (length < 0)
    fail("no script");
  let_go(lane, fd);
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    struct step *step = &region->steps[region->step_count++];
    char word[32] = "";
    size_t i;

    if (region->step_count >= STEPS || region->round_count >= 250)
      fail("too many steps");
    if (sscanf(line, "%d %31s %d", &step->lane, word, &step->argument) != 3)
      fail("a line is not LANE STEP ARGUMENT");
    for (i = 0; i < sizeof words / sizeof words[0] && strcmp(word, words[i]); i++)
      ;
    if (i == sizeof words / sizeof words[0])
      fail(word);
    step->what = i;
    if (i == W_round)
      region->round_start[++region->round_count] = region->step_count;
  }
  region->round_start[++region->round_count] = region->step_count;
}

/* --- what it says --------------------------------------------------------------------------------------------------- */

static char said[65536];
static int said_length;

static void flush(void) {
  for (int at = 0; at < said_length;) {
    long result = SYS(write, 1, said + at, said_length - at, 0, 0);

    if (result < 0 && result != -EINTR)
      SYS(exit_group, 98, 0, 0, 0, 0);
    at += result > 0 ? result : 0;
  }
  said_length = 0;
}

static void say(const char *format, ...) {
  va_list arguments;

  if (said_length > (int)sizeof said - 512)
    flush();
  va_start(arguments, format);
  said_length += vsnprintf(said + said_length, 512, format, arguments);
  va_end(arguments);
}

static void wait_for_line(void) {
  char byte = 0;
  long result;

  do
    result = SYS(read, 0, &byte, 1, 0, 0);
  while (result == -EINTR || (result == 1 && byte != '\n'));
}

static void go(struct lane *lane) {
  if (lane != &region->lanes[0] || region->went)
    return;
  if (!region->is_from_start) {
    say("ready %d", lane->pid);
    for (int i = 0; i < lane->child_count; i++)
      say(" %d", region->lanes[lane->children[i]].pid);
    say("\n");
    flush();
    wait_for_line();
    list_open(lane, K_open_at_go, 0);
    note(lane, K_go, C_exit, -1, 0, 0, 0);
  }
  set_and_wake(&region->went, 1);
}

static void tell(void) {
  say("[");
  for (int i = 0; i < region->note_count; i++) {
    struct note *n = &region->notes[i];

    say("%s[\"%s\",\"%s\",%d,%d,%d,%d,%d,%d,\"%s\",%d]", i ? "," : "", kind_names[n->kind], call_names[n->call], n->pid, n->tid,
        n->table, n->serial, n->fd, n->error, type_names[n->type], n->path);
  }
  say("]\n");
  flush();
}

/* SCRIPT REGION DIRECTORY [from-start|at-once], or after exec: REGION LANE. */
int main(int argc, char **argv) {
  struct lane *lane;

  self_name = argv[0];
  prepare();
  if (argc == 3) {
    map_region(argv[1]);
    lane = &region->lanes[atoi(argv[2])];
    go_on(lane);
  } else {
    map_region(argv[2]);
    lane = &region->lanes[0];
    for (int fd = 0; fd < NUMBERS; fd++)
      region->is_older[fd] = is_open(fd);
    lane->pid = lane->tid = SYS(getpid, 0, 0, 0, 0, 0);
    lane->is_process = lane->claimed = 1;
    region->table_count = 1;
    region->is_from_start = argc > 4;
    region->ends = argc > 4 && !strcmp(argv[4], "at-once");
    snprintf(region->directory, sizeof region->directory, "%s", argv[3]);
    snprintf(region->file, sizeof region->file, "%s/file", argv[3]);
    snprintf(region->absent, sizeof region->absent, "%s/absent", argv[3]);
    snprintf(region->fifo, sizeof region->fifo, "%s/fifo", argv[3]);
    snprintf(region->path, sizeof region->path, "%s/nobody", argv[3]);
    snprintf(region->beyond, sizeof region->beyond, "%s/beyond", region->file);
    if (region->is_from_start) {
      list_open(lane, K_open_at_go, 0);
      note(lane, K_go, C_exit, -1, 0, 0, 0);
    }
    lane->serial++;
    for (int fd = 0;; fd++)
      if (!is_open(fd)) {
        note(lane, K_birth, C_openat, fd, 0, T_file, 0);
        lane->serial++;
        note(lane, K_close, C_close, fd, 0, 0, 0);
        break;
      }
    read_script(argv[1], lane);
  }
  if (lane != &region->lanes[0]) {
    play(lane);
    end_process(lane);
  }
  for (;;) {
    play(lane);
    if (!region->went)
      go(lane);
    join(lane);
    reap(lane);
    if (region->round + 1 == region->round_count)
      break;
    for (int fd = 0; fd < NUMBERS; fd++) /* those of threads that parted as well, which nobody holds */
      if (!region->is_older[fd] && is_open(fd))
        let_go(lane, fd);
    lane->at = 0;
    lane->serial++;
    for (int i = 1; i < LANES; i++)
      if (region->lanes[i].state != STAYS)
        region->lanes[i].claimed = 0;
    region->round++;
  }
  set_and_wake(&region->is_over, 1);
  for (int i = 1; i < LANES; i++)
    wait_while(&region->lanes[i].state, STAYS);
  if (lane->has_sharers) /* its table would outlive it, and nobody would say what becomes of it */
    region->ends = 0;
  if (region->ends) {
    list_open(lane, K_exit, 0);
  } else {
    list_open(lane, K_open_at_end, 0);
  }
  tell();
  if (!region->ends)
    wait_for_line();
  SYS(exit_group, 0, 0, 0, 0, 0);
}
