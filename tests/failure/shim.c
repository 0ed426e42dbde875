/* Stands between a process and its system, by LD_PRELOAD: a wall clock that jumps, and a resolver that hangs.
 *
 * SHIM_CLOCK  a file that holds eight octets: the seconds, a signed integer, that the wall clock is ahead. Written while
 *             the process runs, the clock jumps. The monotonic clock is the machine's own, as it is when somebody sets
 *             the time.
 * SHIM_HANG   a file: while it is there, to look up a name that ends in ".hangs" does not end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t zero = 0;
static volatile int64_t *ahead = &zero;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SHIM_CLOCK");
  int file = path ? open(path, O_RDONLY) : -1;
  if (file < 0) return;
  void *seen = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (seen != MAP_FAILED) ahead = seen;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, at);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *ahead;
  return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int failed = real(at, zone);
  if (!failed) at->tv_sec += *ahead;
  return failed;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
  const char *path = getenv("SHIM_HANG");
  size_t length = name ? strlen(name) : 0;
  if (path && length > 6 && !strcmp(name + length - 6, ".hangs")) {
    while (!access(path, F_OK)) usleep(10000);
    return real("127.0.0.1", service, hints, found);
  }
  return real(name, service, hints, found);
}
