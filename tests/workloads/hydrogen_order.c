/* The sockets of the Hydrogen server, in its order and by its libraries: libmicrohttpd on port 5000, libwebsockets on 5002
 * in a thread of its own, and mDNS on UDP port 5353. Needs -lmicrohttpd -lwebsockets -lpthread. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <libwebsockets.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_barrier_t served;

static enum MHD_Result answer(void *c, struct MHD_Connection *to, const char *url, const char *method, const char *version,
                              const char *data, size_t *size, void **state) {
  (void)c, (void)to, (void)url, (void)method, (void)version, (void)data, (void)size, (void)state;
  return MHD_NO;
}

__attribute__((noinline)) struct MHD_Daemon *start_web_server(void) {
  return MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 5000, NULL, NULL, answer, NULL, MHD_OPTION_END);
}

static int ignore_all(struct lws *w, enum lws_callback_reasons r, void *u, void *in, size_t n) {
  (void)w, (void)r, (void)u, (void)in, (void)n;
  return 0;
}

static struct lws_protocols protocols[] = {{.name = "hydrogen", .callback = ignore_all}, {.name = NULL}};

__attribute__((noinline)) struct lws_context *start_websocket_server(void) {
  struct lws_context_creation_info info = {.port = 5002, .iface = "lo", .protocols = protocols};

  return lws_create_context(&info);
}

static void *websocket_thread(void *unused) {
  struct lws_context *context = start_websocket_server();

  pthread_barrier_wait(&served);
  while (context && lws_service(context, 0) >= 0) {
  }
  return unused;
}

__attribute__((noinline)) int start_mdns_server(void) {
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(5353)};
  struct ip_mreq group = {.imr_multiaddr.s_addr = inet_addr("224.0.0.251")};
  int yes = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);

  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  bind(fd, (struct sockaddr *)&any, sizeof any);
  setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group);
  return fd;
}

int main(void) {
  pthread_t thread;

  lws_set_log_level(0, NULL);
  pthread_barrier_init(&served, NULL, 2);
  puts("ready");
  fflush(stdout);
  getchar();
  start_web_server();
  pthread_create(&thread, NULL, websocket_thread, NULL);
  pthread_setname_np(thread, "websocket");
  pthread_barrier_wait(&served);
  start_mdns_server();
  puts("serving");
  fflush(stdout);
  pause();
}
