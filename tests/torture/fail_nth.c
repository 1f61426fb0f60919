/* Makes the n-th call that changes a file under one of the given folders fail, and tells which one it was.
 *
 * Preloaded into a process, it reads
 *
 *   FAIL_UNDER   folders, separated by colons: calls on other files are passed on uncounted
 *   FAIL_AT      number of the call that fails, from 1; 0 only counts
 *   FAIL_STAYS   1: all later calls that need room fail, too, as on a disk that is full or gone
 *   FAIL_ERRNO   the error
 *   FAIL_LOG     file for a line "count N" at the end, and a line "failed NAME PATH" for each call that failed
 *
 * Calls of the C library that reach the kernel without a symbol that can be replaced, such as those of stdio's own
 * buffers, are not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *under;
static const char *log_path;
static long fail_at;
static int fail_stays;
static int fail_errno = EIO;
static atomic_long count;

static void append(const char *text) {
  static int (*open_)(const char *, int, ...);
  static ssize_t (*write_)(int, const void *, size_t);
  if (!open_) open_ = dlsym(RTLD_NEXT, "open");
  if (!write_) write_ = dlsym(RTLD_NEXT, "write");
  if (!log_path) return;
  int fd = open_(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return;
  if (write_(fd, text, strlen(text)) < 0) { /* nothing to be done about it */
  }
  close(fd);
}

__attribute__((constructor)) static void begin(void) {
  under = getenv("FAIL_UNDER");
  log_path = getenv("FAIL_LOG");
  fail_at = getenv("FAIL_AT") ? atol(getenv("FAIL_AT")) : 0;
  fail_stays = getenv("FAIL_STAYS") && atoi(getenv("FAIL_STAYS"));
  if (getenv("FAIL_ERRNO")) fail_errno = atoi(getenv("FAIL_ERRNO"));
}

__attribute__((destructor)) static void end(void) {
  char text[64];
  snprintf(text, sizeof text, "count %ld\n", (long)count);
  append(text);
}

/* Destructors do not run then. */
void _exit(int status) {
  end();
  syscall(SYS_exit_group, status);
  abort();
}

static int is_under(const char *path) {
  for (const char *at = under; at && *at;) {
    size_t length = strcspn(at, ":");
    if (length && strncmp(path, at, length) == 0 && (path[length] == '/' || !path[length])) return 1;
    at += length + (at[length] == ':');
  }
  return 0;
}

/* Counts a call on `path`; 1 if it has to fail. */
static int fails(const char *name, const char *path, int needs_room) {
  char absolute[PATH_MAX], text[PATH_MAX + 64];
  if (!under || !path) return 0;
  if (path[0] != '/') {
    char folder[PATH_MAX / 2];
    if (!getcwd(folder, sizeof folder)) return 0;
    snprintf(absolute, sizeof absolute, "%s/%s", folder, path);
    path = absolute;
  }
  if (!is_under(path)) return 0;
  long number = ++count;
  if (!fail_at || number < fail_at || (number > fail_at && !(fail_stays && needs_room))) return 0;
  snprintf(text, sizeof text, "failed %s %s\n", name, path);
  append(text);
  errno = fail_errno;
  return 1;
}

static int fails_fd(const char *name, int fd, int needs_room) {
  char link[64], path[PATH_MAX];
  if (fd == STDERR_FILENO) return 0; /* where it says what failed */
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  if (path[0] != '/') return 0; /* a pipe or a socket */
  int kept = errno;
  int failed = fails(name, path, needs_room);
  if (!failed) errno = kept;
  return failed;
}

#define NEXT(name) \
  static __typeof__(&name) next; \
  if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t size) {
  NEXT(write);
  return fails_fd("write", fd, 1) ? -1 : next(fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int num_parts) {
  NEXT(writev);
  return fails_fd("writev", fd, 1) ? -1 : next(fd, parts, num_parts);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
  NEXT(pwrite64);
  return fails_fd("pwrite", fd, 1) ? -1 : next(fd, bytes, size, at);
}

int fsync(int fd) {
  NEXT(fsync);
  return fails_fd("fsync", fd, 1) ? -1 : next(fd);
}

int fdatasync(int fd) {
  NEXT(fdatasync);
  return fails_fd("fdatasync", fd, 1) ? -1 : next(fd);
}

int ftruncate64(int fd, off64_t size) {
  NEXT(ftruncate64);
  return fails_fd("ftruncate", fd, 0) ? -1 : next(fd, size);
}

int mkdir(const char *path, mode_t mode) {
  NEXT(mkdir);
  return fails("mkdir", path, 1) ? -1 : next(path, mode);
}

int rename(const char *from, const char *to) {
  NEXT(rename);
  return fails("rename", to, 1) ? -1 : next(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  NEXT(renameat);
  return fails("renameat", to, 1) ? -1 : next(from_fd, from, to_fd, to);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
  NEXT(renameat2);
  return fails("renameat2", to, 1) ? -1 : next(from_fd, from, to_fd, to, flags);
}

int link(const char *from, const char *to) {
  NEXT(link);
  return fails("link", to, 1) ? -1 : next(from, to);
}

/* The mode of a call that may create a file. */
#define MODE(flags, mode) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

static int is_new(int flags) { return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE; }

int open(const char *path, int flags, ...) {
  NEXT(open);
  MODE(flags, mode);
  return is_new(flags) && fails("open", path, 1) ? -1 : next(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  NEXT(open64);
  MODE(flags, mode);
  return is_new(flags) && fails("open", path, 1) ? -1 : next(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  NEXT(openat);
  MODE(flags, mode);
  return is_new(flags) && path[0] == '/' && fails("openat", path, 1) ? -1 : next(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
  NEXT(openat64);
  MODE(flags, mode);
  return is_new(flags) && path[0] == '/' && fails("openat", path, 1) ? -1 : next(folder, path, flags, mode);
}
