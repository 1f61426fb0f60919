/* Starts a program many times in the time of one: preloaded into it, this waits where all its libraries are loaded and
 * its `main` has not begun, and forks for each run that is asked for. libtorch takes a third of a second to load.
 *
 * The socket with number STARTED_SOCKET carries requests: texts that end with a zero byte, which are the seconds that
 * the run may take, its folder, the file for its stderr, the number of its arguments, these, and its environment. The
 * answer to a request is a line: the status as wait(2) has it, the seconds that it took, those of a core, the peak of
 * memory in KiB, and 1 if it took too long and was killed. The end of the socket is the end of all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_BYTES (1 << 17)
#define MAX_TEXTS 1024

typedef int Main(int, char **, char **);
typedef int Start(Main *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);

extern char **environ;
static char request[MAX_BYTES];
static char *texts[MAX_TEXTS + 1];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void replace(int fd, const char *path, int flags) {
  int opened = open(path, flags, 0644);
  if (opened < 0 || dup2(opened, fd) < 0) _exit(125);
  if (opened != fd) close(opened);
}

static double seconds_of(struct timeval time) {
  return (double)time.tv_sec + (double)time.tv_usec * 1e-6;
}

/* Waits for a run; kills it when its time is over. */
static void answer(int socket, pid_t pid, double began, double seconds) {
  struct rusage usage;
  int status = 0, late = 0;
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  struct pollfd ended = {.fd = fd, .events = POLLIN};
  if (fd < 0) _exit(125);
  while (poll(&ended, 1, (int)((began + seconds - now()) * 1000 + 1)) == 0) {
    if (now() < began + seconds) continue;
    late = 1;
    kill(pid, SIGKILL);
    break;
  }
  close(fd);
  if (wait4(pid, &status, 0, &usage) != pid) _exit(125);
  char line[160];
  double cpu = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
  int length =
      snprintf(line, sizeof line, "%d %.6f %.6f %ld %d\n", status, now() - began, cpu, usage.ru_maxrss, late);
  if (send(socket, line, (size_t)length, MSG_NOSIGNAL) != length) _exit(0);
}

/* Returns in a child that is to become a run, with its arguments; never in the parent. */
static int serve(int socket, char ***argv) {
  for (;;) {
    ssize_t length = recv(socket, request, sizeof request, 0);
    if (length <= 0) _exit(0);
    int count = 0;
    for (char *at = request; at < request + length && count < MAX_TEXTS; at += strlen(at) + 1) texts[count++] = at;
    if (request[length - 1] || count < 4 || count == MAX_TEXTS) _exit(125);
    texts[count] = NULL;
    double began = now(), seconds = atof(texts[0]);
    int num_arguments = atoi(texts[3]);
    pid_t pid = fork();
    if (pid < 0) _exit(125);
    if (pid) {
      answer(socket, pid, began, seconds);
      continue;
    }
    static char *arguments[MAX_TEXTS + 1];
    memcpy(arguments, texts + 4, (size_t)num_arguments * sizeof *arguments);
    close(socket);
    setsid();
    if (chdir(texts[1])) _exit(125);
    replace(0, "/dev/null", O_RDONLY);
    replace(1, "/dev/null", O_WRONLY);
    replace(2, texts[2], O_WRONLY | O_CREAT | O_TRUNC);
    environ = texts + 4 + num_arguments;
    *argv = arguments;
    return num_arguments;
  }
}

int __libc_start_main(
    Main *main, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*rtld_fini)(void), void *stack) {
  Start *start = (Start *)dlsym(RTLD_NEXT, "__libc_start_main");
  const char *socket = getenv("STARTED_SOCKET");
  if (socket) argc = serve(atoi(socket), &argv);
  return start(main, argc, argv, init, fini, rtld_fini, stack);
}
