/* every_socket: a library that opens one socket per case, each by a function of its own, built without frame pointers and
 * stripped; every_socket.py loads it. open_case(number) gives a descriptor or -errno; helpers stay open too. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define AF_VSOCK_ 40
#define AF_XDP_ 44

static struct sockaddr_in loopback(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int port_of(int fd) {
  struct sockaddr_in name = {0};
  socklen_t size = sizeof name;
  getsockname(fd, (struct sockaddr *)&name, &size);
  return ntohs(name.sin_port);
}

static int made(int fd) { return fd < 0 ? -errno : fd; }

static int bind_to(int fd, int port) {
  struct sockaddr_in name = loopback(port);
  return bind(fd, (struct sockaddr *)&name, sizeof name);
}

static int connect_to(int fd, int port) {
  struct sockaddr_in name = loopback(port);
  return connect(fd, (struct sockaddr *)&name, sizeof name);
}

static int bound(int family_type, int protocol) {
  int fd = socket(AF_INET, family_type, protocol);
  return fd >= 0 && bind_to(fd, 0) == 0 ? fd : -errno;
}

static int listener(int protocol) {
  int fd = bound(SOCK_STREAM, protocol);
  return fd >= 0 && listen(fd, 7) ? -errno : fd;
}

static int tcp(void) { return made(socket(AF_INET, SOCK_STREAM, 0)); }
static int tcp6(void) { return made(socket(AF_INET6, SOCK_STREAM, 0)); }
static int tcp_bound(void) { return bound(SOCK_STREAM, 0); }
static int tcp_listening(void) { return listener(0); }

static int tcp_bind_failed(void) {
  int taken = listener(0), fd = tcp();
  return bind_to(fd, port_of(taken)) == 0 || errno != EADDRINUSE ? -EPROTO : fd;
}

/* Both ends of a connection. */
static int pair(int ends[2]) {
  int server = listener(0);
  ends[0] = tcp();
  if (server < 0 || connect_to(ends[0], port_of(server)))
    return -errno;
  ends[1] = accept(server, NULL, NULL);
  return close(server);
}

static void wait_for_peer(int fd) {
  struct pollfd wanted = {.fd = fd, .events = POLLRDHUP};
  poll(&wanted, 1, 1000);
}

static int tcp_connected(void) {
  int ends[2];
  return pair(ends) ? -errno : ends[0];
}

static int tcp_close_wait(void) {
  int ends[2];
  pair(ends);
  close(ends[0]);
  wait_for_peer(ends[1]);
  return ends[1];
}

static int tcp_closed_both(void) {
  int ends[2];
  pair(ends);
  shutdown(ends[0], SHUT_RDWR);
  wait_for_peer(ends[1]);
  shutdown(ends[1], SHUT_RDWR);
  usleep(50000);
  return ends[1];
}

static int reset(int *other) {
  struct linger abort_it = {.l_onoff = 1, .l_linger = 0};
  int ends[2];
  pair(ends);
  setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &abort_it, sizeof abort_it);
  close(ends[0]);
  wait_for_peer(ends[1]);
  return *other = ends[1];
}

static int tcp_reset_unread(void) {
  int fd;
  return reset(&fd);
}

static int tcp_reset_read(void) {
  char byte;
  int fd;
  reset(&fd);
  return read(fd, &byte, 1) < 0 && errno == ECONNRESET ? fd : -EPROTO;
}

static int free_port(void) {
  int fd = bound(SOCK_STREAM, 0), port = port_of(fd);
  close(fd);
  return port;
}

static int tcp_refused(void) {
  int fd = tcp();
  return connect_to(fd, free_port()) == 0 ? -EPROTO : fd;
}

static int tcp_refused_unread(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  connect_to(fd, free_port());
  wait_for_peer(fd);
  return fd;
}

static int tcp_listener_shut_down(void) {
  int fd = tcp();
  bind_to(fd, free_port()); /* a port of its own choice stays bound */
  listen(fd, 7);
  shutdown(fd, SHUT_RDWR);
  return fd;
}

static int tcp_any_listener_shut_down(void) {
  int fd = listener(0);
  shutdown(fd, SHUT_RDWR);
  return fd;
}

static int mptcp(void) { return made(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)); }
static int mptcp_listening(void) { return listener(IPPROTO_MPTCP); }
static int udp(void) { return made(socket(AF_INET, SOCK_DGRAM, 0)); }
static int udp6(void) { return made(socket(AF_INET6, SOCK_DGRAM, 0)); }
static int udp_bound(void) { return bound(SOCK_DGRAM, 0); }
static int udplite(void) { return made(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE)); }
static int udplite_bound(void) { return bound(SOCK_DGRAM, IPPROTO_UDPLITE); }
static int raw(void) { return made(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }
static int raw6(void) { return made(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6)); }
static int ping(void) { return made(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)); }
static int ping_bound(void) { return bound(SOCK_DGRAM, IPPROTO_ICMP); }

static int packet_idle(void) { return made(socket(AF_PACKET, SOCK_RAW, 0)); }
static int packet_all(void) { return made(socket(AF_PACKET, SOCK_RAW, htons(3))); }

static int packet_interface(void) {
  struct sockaddr_ll name = {.sll_family = AF_PACKET, .sll_protocol = htons(3), .sll_ifindex = if_nametoindex("lo")};
  int fd = packet_idle();
  return fd < 0 ? fd : bind(fd, (struct sockaddr *)&name, sizeof name) ? -errno : fd;
}

static int netlink(int protocol, unsigned groups, int flags) {
  struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_groups = groups};
  int fd = socket(AF_NETLINK, SOCK_RAW | flags, protocol);
  return fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) ? -errno : fd;
}

static int netlink_routing(void) { return netlink(NETLINK_ROUTE, 0x551, 0); }
static int netlink_port(void) { return netlink(NETLINK_ROUTE, 0, SOCK_CLOEXEC); }
static int netlink_created(void) { return made(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)); }

static int netlink_uevent(void) {
  return netlink(NETLINK_KOBJECT_UEVENT, 1, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static int unix_named(const char *text, int length, int type) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, type, 0);
  memcpy(name.sun_path, text, length);
  return bind(fd, (struct sockaddr *)&name, offsetof(struct sockaddr_un, sun_path) + length) ? -errno : fd;
}

static int unix_unnamed(void) { return made(socket(AF_UNIX, SOCK_STREAM, 0)); }
static int unix_datagram(void) { return made(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)); }

static int unix_pair(void) {
  int ends[2];
  return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) ? -errno : ends[0];
}

static int unix_widow(void) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
    return -errno;
  close(ends[1]);
  return ends[0];
}

static int unix_abstract(void) {
  char name[64] = "";
  int length = 1 + snprintf(name + 1, sizeof name - 1, "every-socket-%d", getpid());
  int fd = unix_named(name, length, SOCK_STREAM);
  return fd < 0 ? fd : listen(fd, 3) ? -errno : fd;
}

static int unix_path(void) {
  char name[64];
  int length = 1 + snprintf(name, sizeof name, "/tmp/every-socket-%d", getpid());
  int fd = unix_named(name, length, SOCK_DGRAM);
  unlink(name);
  return fd;
}

static int vsock(void) { return made(socket(AF_VSOCK_, SOCK_STREAM, 0)); }
static int xdp(void) { return made(socket(AF_XDP_, SOCK_RAW, 0)); }

/* Made in another network namespace, and kept after the return from it. */
static int elsewhere(int (*make)(void)) {
  int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (unshare(CLONE_NEWNET))
    return -errno;
  int fd = make();
  setns(home, CLONE_NEWNET);
  close(home);
  return fd;
}

/* Who may make one is said a namespace; a new one lets nobody. */
static int ping_anywhere(void) {
  int range = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY | O_CLOEXEC);
  if (write(range, "0 2147483647", 12) < 0)
    return -errno;
  close(range);
  return ping();
}

static int any_listener(void) {
  struct sockaddr_in name = {.sin_family = AF_INET};
  int fd = tcp();
  bind(fd, (struct sockaddr *)&name, sizeof name);
  return listen(fd, 7) ? -errno : fd;
}

static int netns_listener(void) { return elsewhere(any_listener); }
static int netns_netlink(void) { return elsewhere(netlink_routing); }
static int netns_tcp(void) { return elsewhere(tcp); }
static int netns_ping(void) { return elsewhere(ping_anywhere); }

static const struct {
  const char *name;
  int (*make)(void);
} cases[] = {
#define CASE(name) {#name, name}
    CASE(tcp), CASE(tcp6), CASE(tcp_bind_failed), CASE(tcp_bound), CASE(tcp_listening), CASE(tcp_connected),
    CASE(tcp_close_wait), CASE(tcp_closed_both), CASE(tcp_reset_unread), CASE(tcp_reset_read), CASE(tcp_refused),
    CASE(tcp_refused_unread), CASE(tcp_listener_shut_down), CASE(tcp_any_listener_shut_down), CASE(mptcp),
    CASE(mptcp_listening), CASE(udp), CASE(udp6), CASE(udp_bound), CASE(udplite), CASE(udplite_bound), CASE(raw),
    CASE(raw6), CASE(ping), CASE(ping_bound), CASE(packet_idle), CASE(packet_all), CASE(packet_interface),
    CASE(netlink_routing), CASE(netlink_port), CASE(netlink_created), CASE(netlink_uevent), CASE(unix_unnamed),
    CASE(unix_datagram), CASE(unix_pair), CASE(unix_widow), CASE(unix_abstract), CASE(unix_path), CASE(vsock),
    CASE(xdp), CASE(netns_listener), CASE(netns_netlink), CASE(netns_tcp), CASE(netns_ping),
};

int case_count(void) { return sizeof cases / sizeof *cases; }
const char *case_name(int number) { return cases[number].name; }
int open_case(int number) { return cases[number].make(); }
