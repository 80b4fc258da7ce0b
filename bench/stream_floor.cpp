// What telling each written token costs at least (see stream-floor.mjs): THREADS threads read MIB of memory, as a pass of a model reads its weights;
// then a line goes through a pipe to another process, which writes a chunk of HTTP to a connection that nobody reads.
//   stream_floor THREADS MIB TOKENS -> {"pass": .., "write": .., "relay": ..}, medians and the relay's mean processor time, milliseconds a token
#include <arpa/inet.h>
#include <omp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// A 2-billion-parameter decoder's linear layers: so many stretches of parallel work a pass.
constexpr size_t kLayers = 196;
constexpr size_t kLine = 178, kChunk = 250;

double milliseconds() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void check(bool good, const char* what) {
  if (good) return;
  perror(what);
  exit(1);
}

// Milliseconds of processor time of a process with one thread.
double processor(pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
  FILE* file = fopen(path, "r");
  double nanoseconds = 0;
  check(file && fscanf(file, "%lf", &nanoseconds) == 1, path);
  fclose(file);
  return nanoseconds / 1e6;
}

// A connected pair of TCP sockets on this machine.
void connection(int ends[2]) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* where = reinterpret_cast<sockaddr*>(&address);
  check(bind(listener, where, size) == 0 && getsockname(listener, where, &size) == 0 && listen(listener, 1) == 0, "listen");
  ends[0] = socket(AF_INET, SOCK_STREAM, 0);
  check(connect(ends[0], where, size) == 0, "connect");
  ends[1] = accept(listener, nullptr, nullptr);
  check(ends[1] >= 0, "accept");
  close(listener);
}

[[noreturn]] void relay(int from, int to) {
  const int poll = epoll_create1(0);
  epoll_event event{EPOLLIN, {}};
  check(epoll_ctl(poll, EPOLL_CTL_ADD, from, &event) == 0, "epoll");
  char line[kLine], chunk[kChunk] = {};
  for (;;) {
    epoll_wait(poll, &event, 1, -1);
    const ssize_t size = read(from, line, kLine);
    if (size <= 0) _exit(0);
    memcpy(chunk, line, size);
    check(write(to, chunk, kChunk) == static_cast<ssize_t>(kChunk), "write");
  }
}

uint64_t pass(const uint64_t* memory, size_t count) {
  uint64_t sum = 0;
  for (size_t layer = 0; layer < kLayers; layer++) {
    const size_t begin = count / kLayers * layer, end = begin + count / kLayers;
#pragma omp parallel for simd reduction(^ : sum) schedule(static)
    for (size_t i = begin; i < end; i++) sum ^= memory[i];
  }
  return sum;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
  check(count == 4, "stream_floor THREADS MIB TOKENS");
  omp_set_num_threads(atoi(arguments[1]));
  const size_t bytes = static_cast<size_t>(atoi(arguments[2])) << 20;
  const int tokens = atoi(arguments[3]);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "mmap");
  madvise(memory, bytes, MADV_HUGEPAGE);
  memset(memory, 1, bytes);
  int pipes[2], ends[2];
  check(pipe(pipes) == 0, "pipe");
  connection(ends);
  const pid_t child = fork();
  check(child >= 0, "fork");
  if (child == 0) {
    close(pipes[1]);
    relay(pipes[0], ends[1]);
  }
  close(pipes[0]);
  char line[kLine] = {};
  std::vector<double> passes, writes;
  volatile uint64_t sum = pass(static_cast<uint64_t*>(memory), bytes / 8);
  const double before = processor(child);
  for (int i = 0; i < tokens; i++) {
    const double started = milliseconds();
    sum = sum ^ pass(static_cast<uint64_t*>(memory), bytes / 8);
    const double read = milliseconds();
    check(write(pipes[1], line, kLine) == static_cast<ssize_t>(kLine), "write");
    writes.push_back(milliseconds() - read);
    passes.push_back(read - started);
  }
  usleep(10000);
  const double used = (processor(child) - before) / tokens;
  printf("{\"pass\": %.4g, \"write\": %.4g, \"relay\": %.4g}\n", median(passes), median(writes), used);
  close(pipes[1]);
  waitpid(child, nullptr, 0);
}
