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
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
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
static int raw_ipip(void) { return made(socket(AF_INET, SOCK_RAW, IPPROTO_IPIP)); }
static int raw_nameless(void) { return made(socket(AF_INET, SOCK_RAW, 211)); }
static int raw_send_only(void) { return made(socket(AF_INET, SOCK_RAW, IPPROTO_RAW)); }

static int raw_bound(void) {
  int fd = raw();
  return fd < 0 ? fd : bind_to(fd, 0) ? -errno : fd;
}

static int raw_connected(void) {
  int fd = raw();
  return fd < 0 ? fd : connect_to(fd, 0) ? -errno : fd;
}

static int connected6(int type) {
  struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int fd = socket(AF_INET6, type, IPPROTO_ICMPV6);
  return fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof name) ? -errno : fd;
}

static int raw6_connected(void) { return connected6(SOCK_RAW); }
static int ping6_connected(void) { return connected6(SOCK_DGRAM); }
static int ping(void) { return made(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)); }
static int ping_bound(void) { return bound(SOCK_DGRAM, IPPROTO_ICMP); }

static int packet_idle(void) { return made(socket(AF_PACKET, SOCK_RAW, 0)); }
static int packet_all(void) { return made(socket(AF_PACKET, SOCK_RAW, htons(3))); }

static int packet_interface(void) {
  struct sockaddr_ll name = {.sll_family = AF_PACKET, .sll_protocol = htons(3), .sll_ifindex = if_nametoindex("lo")};
  int fd = packet_idle();
  return fd < 0 ? fd : bind(fd, (struct sockaddr *)&name, sizeof name) ? -errno : fd;
}

static int packet_arp(void) { return made(socket(AF_PACKET, SOCK_DGRAM, htons(0x0806))); }

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

static int netlink_datagram(void) {
  struct sockaddr_nl name = {.nl_family = AF_NETLINK};
  int fd = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
  return fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) ? -errno : fd;
}

static int netlink_netfilter(void) { return netlink(NETLINK_NETFILTER, 1 << 0 | 1 << 2 | 1 << 6, 0); }

static int netlink_group_36(void) { /* above those that an address can name */
  int group = 36, fd = netlink(NETLINK_ROUTE, 0, 0);
  return fd < 0 ? fd : setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) ? -errno : fd;
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

/* Names: a path, an abstract one, or one that the kernel chooses. `to` gets the name that it has in the end. */
enum how { PATH, ABSTRACT, CHOSEN };

static int unix_bound_as(enum how how, int type, struct sockaddr_un *to, socklen_t *size) {
  static int count;
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, type, 0), start = how == ABSTRACT;
  int length = snprintf(name.sun_path + start, sizeof name.sun_path - 1, "/tmp/every-socket-%d-%d", getpid(), ++count);
  *size = offsetof(struct sockaddr_un, sun_path) + (how == CHOSEN ? 0 : how == ABSTRACT ? length + 1 : length);
  if (fd < 0 || bind(fd, (struct sockaddr *)&name, *size))
    return -errno;
  *size = sizeof *to;
  return getsockname(fd, (struct sockaddr *)to, size) ? -errno : fd;
}

/* A listener, its client, and what was accepted unless the client is to wait. */
struct unix_trio {
  int listener, client, accepted;
};

static int unix_trio(enum how how, int type, int client_has_name, int accepts, struct unix_trio *trio) {
  struct sockaddr_un name, own;
  socklen_t size, own_size;
  trio->listener = unix_bound_as(how, type, &name, &size);
  if (trio->listener < 0 || listen(trio->listener, 5))
    return -errno;
  trio->client = client_has_name ? unix_bound_as(ABSTRACT, type, &own, &own_size) : socket(AF_UNIX, type, 0);
  if (trio->client < 0 || connect(trio->client, (struct sockaddr *)&name, size))
    return -errno;
  if (how == PATH)
    unlink(name.sun_path);
  return trio->accepted = accepts ? made(accept(trio->listener, NULL, NULL)) : 0;
}

static int unix_client(enum how how, int type, int client_has_name, int accepts) {
  struct unix_trio trio;
  int problem = unix_trio(how, type, client_has_name, accepts, &trio);
  return problem < 0 ? problem : trio.client;
}

static int unix_accepted(enum how how, int type, int client_has_name) {
  struct unix_trio trio;
  int problem = unix_trio(how, type, client_has_name, 1, &trio);
  return problem < 0 ? problem : trio.accepted;
}

static int unix_listening_path(void) {
  struct unix_trio trio;
  return unix_trio(PATH, SOCK_STREAM, 0, 0, &trio) < 0 ? -errno : trio.listener;
}

static int unix_bound(void) {
  struct sockaddr_un name;
  socklen_t size;
  return unix_bound_as(ABSTRACT, SOCK_STREAM, &name, &size);
}

static int unix_listener_shut_down(void) {
  int fd = unix_bound();
  listen(fd, 5);
  return shutdown(fd, SHUT_RDWR) ? -errno : fd;
}

static int unix_client_path(void) { return unix_client(PATH, SOCK_STREAM, 0, 1); }
static int unix_client_abstract(void) { return unix_client(ABSTRACT, SOCK_STREAM, 0, 1); }
static int unix_client_chosen(void) { return unix_client(CHOSEN, SOCK_STREAM, 0, 1); }
static int unix_client_named(void) { return unix_client(PATH, SOCK_STREAM, 1, 1); }
static int unix_client_packet(void) { return unix_client(PATH, SOCK_SEQPACKET, 0, 1); }
static int unix_accepted_path(void) { return unix_accepted(PATH, SOCK_STREAM, 0); }
static int unix_accepted_abstract(void) { return unix_accepted(ABSTRACT, SOCK_STREAM, 0); }
static int unix_accepted_chosen(void) { return unix_accepted(CHOSEN, SOCK_STREAM, 0); }
static int unix_accepted_named(void) { return unix_accepted(PATH, SOCK_STREAM, 1); }
static int unix_accepted_packet(void) { return unix_accepted(PATH, SOCK_SEQPACKET, 0); }
static int unix_waiting_path(void) { return unix_client(PATH, SOCK_STREAM, 0, 0); }
static int unix_waiting_abstract(void) { return unix_client(ABSTRACT, SOCK_STREAM, 0, 0); }

static int unix_accepted_widow(void) {
  struct unix_trio trio;
  int fd = unix_trio(PATH, SOCK_STREAM, 0, 1, &trio);
  return fd < 0 ? fd : close(trio.client) ? -errno : fd;
}

static int unix_client_widow(void) {
  struct unix_trio trio;
  int fd = unix_trio(PATH, SOCK_STREAM, 0, 1, &trio);
  return fd < 0 ? fd : close(fd) ? -errno : trio.client;
}

static int unix_waiting_widow(void) { /* its listener closed before it accepted */
  struct unix_trio trio;
  return unix_trio(PATH, SOCK_STREAM, 0, 0, &trio) < 0 || close(trio.listener) ? -errno : trio.client;
}

static int shut_pair(int how, int end) {
  int ends[2];
  return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || shutdown(ends[0], how) ? -errno : ends[end];
}

static int unix_sends_no_more(void) { return shut_pair(SHUT_WR, 0); }
static int unix_receives_no_more(void) { return shut_pair(SHUT_WR, 1); }
static int unix_shut_both(void) { return shut_pair(SHUT_RDWR, 0); }

static int pair_of(int type) {
  int ends[2];
  return socketpair(AF_UNIX, type, 0, ends) ? -errno : ends[0];
}

static int unix_datagram_pair(void) { return pair_of(SOCK_DGRAM); }
static int unix_packet_pair(void) { return pair_of(SOCK_SEQPACKET); }

/* Datagrams: the sender is connected, its receiver is not. */
static int unix_one_way(int ends[2]) {
  struct sockaddr_un name;
  socklen_t size;
  ends[1] = unix_bound_as(ABSTRACT, SOCK_DGRAM, &name, &size);
  ends[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
  return ends[1] < 0 || connect(ends[0], (struct sockaddr *)&name, size) ? -errno : 0;
}

static int unix_datagram_sender(void) {
  int ends[2];
  return unix_one_way(ends) ? -errno : ends[0];
}

static int unix_datagram_receiver(void) {
  int ends[2];
  return unix_one_way(ends) ? -errno : ends[1];
}

static int unix_datagram_widow(void) {
  int ends[2];
  return unix_one_way(ends) || close(ends[1]) ? -errno : ends[0];
}

/* Leaves a descriptor to a child that lives as long as we do. */
static int given_away(int fd, int kept) {
  if (fork() == 0) {
    setresuid(65534, 65534, 65534); /* of root none but root may be killed, and we may become nobody */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
      pause();
  }
  close(fd);
  return kept;
}

static int unix_pair_elsewhere(void) {
  int ends[2];
  return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) ? -errno : given_away(ends[1], ends[0]);
}

static int unix_client_elsewhere(void) {
  struct unix_trio trio;
  int fd = unix_trio(PATH, SOCK_STREAM, 0, 1, &trio);
  return fd < 0 ? fd : given_away(trio.client, fd);
}

static int unix_server_elsewhere(void) {
  struct unix_trio trio;
  int fd = unix_trio(PATH, SOCK_STREAM, 0, 1, &trio);
  return fd < 0 ? fd : given_away(trio.listener, given_away(fd, trio.client));
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

static int loopback_up(void) {
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  int fd = socket(AF_INET, SOCK_DGRAM, 0), result = ioctl(fd, SIOCSIFFLAGS, &request);
  return close(fd), result;
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

#define ELSEWHERE(make)                                                                                              \
  static int netns_##make(void) { return elsewhere(make); }
#define ELSEWHERE_UP(make)                                                                                           \
  static int up_##make(void) { return loopback_up() ? -errno : make(); }                                               \
  static int netns_##make(void) { return elsewhere(up_##make); }

static int netns_listener(void) { return elsewhere(any_listener); }
static int netns_netlink(void) { return elsewhere(netlink_routing); }
static int netns_ping(void) { return elsewhere(ping_anywhere); }

static int ping6_anywhere(void) {
  int first = ping_anywhere();
  return first < 0 || loopback_up() ? -errno : ping6_connected();
}

static int netns_ping6_connected(void) { return elsewhere(ping6_anywhere); }
ELSEWHERE(tcp)
ELSEWHERE_UP(tcp_bound)
ELSEWHERE_UP(tcp_connected)
ELSEWHERE(udp)
ELSEWHERE_UP(udp_bound)
ELSEWHERE(raw)
ELSEWHERE_UP(raw_connected)
ELSEWHERE(packet_all)
ELSEWHERE(packet_interface)
ELSEWHERE(netlink_datagram)
ELSEWHERE(netlink_created)
ELSEWHERE(unix_unnamed)
ELSEWHERE(unix_pair)
ELSEWHERE(unix_path)
ELSEWHERE(unix_listening_path)
ELSEWHERE(unix_accepted_path)
ELSEWHERE(unix_client_abstract)
ELSEWHERE(unix_waiting_path)
ELSEWHERE(unix_sends_no_more)
ELSEWHERE(unix_widow)
ELSEWHERE(unix_datagram_sender)
ELSEWHERE(unix_datagram_receiver)

/* A path leads from one network namespace to another, an abstract name does not. */
static struct sockaddr_un far_name;
static socklen_t far_size;

static int far_listener(void) {
  int fd = unix_bound_as(PATH, SOCK_STREAM, &far_name, &far_size);
  return fd < 0 ? fd : listen(fd, 5) ? -errno : fd;
}

static int far_client(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  return connect(fd, (struct sockaddr *)&far_name, far_size) ? -errno : fd;
}

/* The client is here, the listener and with it what is accepted there. */
static int unix_client_across(void) {
  int listener = elsewhere(far_listener), client = far_client();
  unlink(far_name.sun_path);
  return listener < 0 || client < 0 || accept(listener, NULL, NULL) < 0 ? -errno : client;
}

static int unix_accepted_across(void) {
  int listener = far_listener(), client = elsewhere(far_client);
  unlink(far_name.sun_path);
  return listener < 0 || client < 0 ? -errno : made(accept(listener, NULL, NULL));
}

static const struct {
  const char *name;
  int (*make)(void);
} cases[] = {
#define CASE(name) {#name, name}
    CASE(tcp), CASE(tcp6), CASE(tcp_bind_failed), CASE(tcp_bound), CASE(tcp_listening), CASE(tcp_connected),
    CASE(tcp_close_wait), CASE(tcp_closed_both), CASE(tcp_reset_unread), CASE(tcp_reset_read), CASE(tcp_refused),
    CASE(tcp_refused_unread), CASE(tcp_listener_shut_down), CASE(tcp_any_listener_shut_down), CASE(mptcp),
    CASE(mptcp_listening), CASE(udp), CASE(udp6), CASE(udp_bound), CASE(udplite), CASE(udplite_bound), CASE(raw),
    CASE(raw6), CASE(raw_ipip), CASE(raw_nameless), CASE(raw_send_only), CASE(raw_bound), CASE(raw_connected),
    CASE(raw6_connected), CASE(ping), CASE(ping_bound), CASE(ping6_connected), CASE(packet_idle), CASE(packet_all),
    CASE(packet_interface), CASE(packet_arp), CASE(netlink_routing), CASE(netlink_port), CASE(netlink_created),
    CASE(netlink_uevent), CASE(netlink_datagram), CASE(netlink_netfilter), CASE(netlink_group_36), CASE(unix_unnamed),
    CASE(unix_datagram), CASE(unix_pair), CASE(unix_widow), CASE(unix_abstract), CASE(unix_path),
    CASE(unix_listening_path), CASE(unix_bound), CASE(unix_listener_shut_down), CASE(unix_client_path),
    CASE(unix_client_abstract), CASE(unix_client_chosen), CASE(unix_client_named), CASE(unix_client_packet),
    CASE(unix_accepted_path), CASE(unix_accepted_abstract), CASE(unix_accepted_chosen), CASE(unix_accepted_named),
    CASE(unix_accepted_packet), CASE(unix_waiting_path), CASE(unix_waiting_abstract), CASE(unix_accepted_widow),
    CASE(unix_client_widow), CASE(unix_waiting_widow), CASE(unix_sends_no_more), CASE(unix_receives_no_more),
    CASE(unix_shut_both), CASE(unix_datagram_pair), CASE(unix_packet_pair), CASE(unix_datagram_sender),
    CASE(unix_datagram_receiver), CASE(unix_datagram_widow), CASE(unix_pair_elsewhere), CASE(unix_client_elsewhere),
    CASE(unix_server_elsewhere), CASE(vsock), CASE(xdp), CASE(netns_listener), CASE(netns_netlink), CASE(netns_tcp),
    CASE(netns_ping), CASE(netns_ping6_connected), CASE(netns_tcp_bound), CASE(netns_tcp_connected), CASE(netns_udp), CASE(netns_udp_bound),
    CASE(netns_raw), CASE(netns_raw_connected), CASE(netns_packet_all), CASE(netns_packet_interface),
    CASE(netns_netlink_datagram), CASE(netns_netlink_created), CASE(netns_unix_unnamed), CASE(netns_unix_pair),
    CASE(netns_unix_path), CASE(netns_unix_listening_path), CASE(netns_unix_accepted_path),
    CASE(netns_unix_client_abstract), CASE(netns_unix_waiting_path), CASE(netns_unix_sends_no_more),
    CASE(netns_unix_widow), CASE(netns_unix_datagram_sender), CASE(netns_unix_datagram_receiver),
    CASE(unix_client_across), CASE(unix_accepted_across),
};

int case_count(void) { return sizeof cases / sizeof *cases; }
const char *case_name(int number) { return cases[number].name; }
int open_case(int number) { return cases[number].make(); }
