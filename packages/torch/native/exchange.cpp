#include "exchange.h"

#include <ATen/ATen.h>
#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <map>
#include <thread>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "addon.h"
#include "storage.h"

namespace ivtlr {
namespace {

using Milliseconds = std::chrono::milliseconds;

// Exchanges that can be under way at one time; the places of older ones are used again.
constexpr int64_t slots = 1024;

// Where the others look, in this process's memory: what it lends to which exchange, and which exchanges it has read all for. Exchanges count from 1.
struct Mailbox {
  std::atomic<uint64_t> probe;  // what others try to read, to see whether they may
  struct Slot {
    std::atomic<uint64_t> exchange;
    std::atomic<uint64_t> address;
  };
  Slot lent[slots];
  std::atomic<uint64_t> read[slots];
};

// What a process knows of another one of its machine.
struct Peer {
  pid_t pid = 0;
  bool can_read = false;    // this process may read its memory
  bool reads_mine = false;  // it may read the memory of this one
  uint64_t mailbox = 0;     // address in its memory
};

// By the group's name; without an entry everything goes by messages. Never destroyed: others may look there until the end of the process.
std::map<std::string, std::vector<Peer>>& peers_of_group = *new std::map<std::string, std::vector<Peer>>();
std::map<std::string, Mailbox*>& mailboxes = *new std::map<std::string, Mailbox*>();

// Smaller tensors are sent: a message is quicker than being told where to read.
constexpr int64_t read_from = 1 << 16;
// Of sums in one go: small enough for the second-level cache.
constexpr int64_t block_bytes = 1 << 18;

uint64_t bytes_read = 0;

struct Other {
  int rank = 0;
  Peer peer;         // with can_read, its part is read from its memory
  uint64_t address;  // where
  at::Tensor part;   // else what it sends
  c10::intrusive_ptr<c10d::Work> came;
};

struct Exchange {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  Mailbox* mailbox = nullptr;
  bool sums = false;
  at::Tensor out, own;
  uint64_t number = 0;  // from 1, the same in all processes
  Milliseconds timeout;
  std::vector<Other> others;
  // Messages on their way, and what they hold.
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  std::vector<at::Tensor> alive;
};

// Never destroyed: an exchange that was broken off may still have messages under way.
std::map<int32_t, Exchange>& exchanges = *new std::map<int32_t, Exchange>();
int32_t next_exchange = 1;

c10::intrusive_ptr<c10d::Work> send(Exchange& exchange, const at::Tensor& tensor, int rank, int tag) {
  std::vector<at::Tensor> message{tensor};
  exchange.alive.push_back(tensor);
  return exchange.group->send(message, rank, tag);
}

c10::intrusive_ptr<c10d::Work> receive(Exchange& exchange, const at::Tensor& tensor, int rank, int tag) {
  std::vector<at::Tensor> message{tensor};
  exchange.alive.push_back(tensor);
  return exchange.group->recv(message, rank, tag);
}

// All elements side by side. It is an error for a tensor with gaps, which the caller would not see filled.
at::Tensor flat(const at::Tensor& tensor) {
  if (!tensor.is_contiguous()) throw std::runtime_error("the tensor is not contiguous");
  return tensor.view({-1});
}

bool read_memory(pid_t pid, uint64_t address, void* into, size_t bytes) {
  auto* to = static_cast<char*>(into);
  while (bytes > 0) {
    iovec local{to, bytes}, remote{reinterpret_cast<void*>(address), bytes};
    const ssize_t count = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (count <= 0) return false;
    to += count;
    address += static_cast<uint64_t>(count);
    bytes -= static_cast<size_t>(count);
  }
  return true;
}

void read_or_throw(const Other& other, uint64_t address, void* into, size_t bytes) {
  if (!read_memory(other.peer.pid, address, into, bytes))
    throw std::runtime_error("the memory of rank " + std::to_string(other.rank) + " cannot be read: " + std::strerror(errno));
}

void read_part(const Other& other, int64_t offset, const at::Tensor& into) {
  read_or_throw(other, other.address + static_cast<uint64_t>(offset), into.data_ptr(), into.nbytes());
  bytes_read += into.nbytes();
}

// Looks at a number in another process's memory until it is the wanted one. Processes arrive at about the same time, so it first looks again at once,
// and then ever less often.
void await_number(const Other& other, uint64_t address, uint64_t wanted, Milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int looks = 0;; looks++) {
    uint64_t found = 0;
    read_or_throw(other, address, &found, sizeof found);
    if (found == wanted) return;
    const auto waited = Clock::now() - start;
    if (waited > timeout)
      throw std::runtime_error("Timed out waiting " + std::to_string(timeout.count()) + " ms for rank " + std::to_string(other.rank));
    if (waited < std::chrono::microseconds(200)) sched_yield();
    else std::this_thread::sleep_for(waited < Milliseconds(20) ? std::chrono::microseconds(50) : std::chrono::microseconds(500));
  }
}

uint64_t address_of(const at::Tensor& tensor) { return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(tensor.data_ptr())); }

// Starts what comes from and goes to each other process: the part of `out` or of the sum it gives, and the part of `own` it gets.
napi_value start(napi_env env, napi_callback_info info, bool sums) {
  const auto args = arguments(env, info, 5);
  const at::AutoDispatchBelowADInplaceOrView below;
  const std::string name = to_string(env, args[0]);
  Exchange exchange;
  exchange.group = c10d::resolve_process_group(name);
  exchange.sums = sums;
  exchange.out = flat(to_tensor(env, args[1]));
  exchange.own = flat(to_tensor(env, args[2]));
  exchange.number = static_cast<uint64_t>(to_int(env, args[3]));
  exchange.timeout = Milliseconds(to_int(env, args[4]));
  const int rank = exchange.group->getRank(), size = exchange.group->getSize();
  const int tag = static_cast<int>(exchange.number % (1 << 30));
  const auto& [whole, part] = sums ? std::tie(exchange.own, exchange.out) : std::tie(exchange.out, exchange.own);
  const int64_t length = part.numel(), bytes = part.nbytes();
  if (whole.numel() != size * length || whole.scalar_type() != part.scalar_type())
    throw std::runtime_error("the one tensor should be as long as the parts of all ranks together");
  const auto found = peers_of_group.find(name);
  const auto mailbox = mailboxes.find(name);
  const bool reads = found != peers_of_group.end() && mailbox != mailboxes.end() && bytes >= read_from;
  for (int i = 1; i < size; i++) {
    Other other;
    other.rank = (rank + i) % size;
    if (reads) other.peer = found->second[static_cast<size_t>(other.rank)];
    if (!other.peer.can_read) {
      if (sums) {
        // Borrowed, like the caller's own buffers: see set_bytes.
        other.part = at::empty({0}, part.options());
        set_bytes(other.part, static_cast<size_t>(bytes));
        other.part.unsafeGetTensorImpl()->set_sizes_contiguous({length});
      } else {
        other.part = whole.narrow(0, other.rank * length, length);
      }
      other.came = receive(exchange, other.part, other.rank, tag);
    }
    exchange.others.push_back(std::move(other));
  }
  if (reads) {
    exchange.mailbox = mailbox->second;
    auto& slot = exchange.mailbox->lent[exchange.number % slots];
    slot.address.store(address_of(exchange.own));
    slot.exchange.store(exchange.number);
  }
  for (const auto& other : exchange.others) {
    if (other.peer.reads_mine) continue;
    exchange.works.push_back(send(exchange, sums ? whole.narrow(0, other.rank * length, length) : part, other.rank, tag));
  }
  if (!sums) {
    const at::Tensor place = whole.narrow(0, rank * length, length);
    if (place.data_ptr() != part.data_ptr()) place.copy_(part);
  }
  const int32_t id = next_exchange++;
  exchanges[id] = std::move(exchange);
  return number(env, id);
}

// Adds up the parts of all ranks in their order, a block at a time. Sums of low precision are rounded once, at their end.
void sum_up(Exchange& exchange, int rank) {
  const at::Tensor& out = exchange.out;
  const int64_t length = out.numel(), item = static_cast<int64_t>(out.element_size()), most = block_bytes / item;
  const bool low = item < 4 && out.is_floating_point();
  const at::Tensor scratch = at::empty({std::min(most, length)}, out.options());
  std::vector<const Other*> in_order(static_cast<size_t>(exchange.group->getSize()), nullptr);
  for (const auto& other : exchange.others) in_order[static_cast<size_t>(other.rank)] = &other;
  for (int64_t start = 0; start < length; start += most) {
    const int64_t count = std::min(most, length - start);
    const at::Tensor goal = out.narrow(0, start, count);
    at::Tensor total = goal;
    for (size_t i = 0; i < in_order.size(); i++) {
      const Other* other = in_order[i];
      at::Tensor part;
      if (!other) {
        part = exchange.own.narrow(0, rank * length + start, count);
      } else if (other->peer.can_read) {
        part = scratch.narrow(0, 0, count);
        read_part(*other, start * item, part);
      } else {
        part = other->part.narrow(0, start, count);
      }
      if (i > 0) total.add_(part);
      else if (low) total = part.to(at::kFloat);
      else total.copy_(part);
    }
    if (low) goal.copy_(total);
  }
}

}  // namespace

// startGather(group, out (size * n), tensor (n), number of the exchange from 1, timeout ms) -> id. Versions of `out` are not counted.
napi_value start_gather(napi_env env, napi_callback_info info) {
  return guarded(env, [&] { return start(env, info, false); }, [] { return std::string("all_gather"); });
}

// startReduceScatter(group, out (n), tensor (size * n), number of the exchange from 1, timeout ms) -> id. `tensor` must stay as it is until the exchange is finished.
napi_value start_reduce_scatter(napi_env env, napi_callback_info info) {
  return guarded(env, [&] { return start(env, info, true); }, [] { return std::string("reduce_scatter"); });
}

// finishExchange(id): waits for the others, each at most as long as the group's timeout. Afterwards both tensors are the caller's again.
napi_value finish_exchange(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const at::AutoDispatchBelowADInplaceOrView below;
    auto found = exchanges.extract(static_cast<int32_t>(to_int(env, args[0])));
    if (found.empty()) throw std::runtime_error("the exchange is over");
    Exchange& exchange = found.mapped();
    const int rank = exchange.group->getRank();
    const int64_t length = exchange.sums ? exchange.out.numel() : exchange.own.numel();
    const uint64_t slot = exchange.number % slots;
    for (auto& other : exchange.others) {
      if (!other.peer.can_read) {
        other.came->wait();
        continue;
      }
      const uint64_t lent = other.peer.mailbox + offsetof(Mailbox, lent) + slot * sizeof(Mailbox::Slot);
      await_number(other, lent + offsetof(Mailbox::Slot, exchange), exchange.number, exchange.timeout);
      read_or_throw(other, lent + offsetof(Mailbox::Slot, address), &other.address, sizeof other.address);
      // Of a buffer that is summed, this process reads its own part.
      if (exchange.sums) other.address += static_cast<uint64_t>(rank * length) * exchange.own.element_size();
      else read_part(other, 0, exchange.out.narrow(0, other.rank * length, length));
    }
    if (exchange.sums) sum_up(exchange, rank);
    if (exchange.mailbox) exchange.mailbox->read[slot].store(exchange.number);
    for (const auto& other : exchange.others) {
      if (exchange.sums && !other.peer.can_read) set_bytes(other.part, 0);
      if (other.peer.reads_mine)
        await_number(other, other.peer.mailbox + offsetof(Mailbox, read) + slot * sizeof(uint64_t), exchange.number, exchange.timeout);
    }
    for (const auto& work : exchange.works) work->wait();
    return undefined(env);
  }, [] { return std::string("exchange"); });
}

// describeMemory(group) -> what another process of it needs to know to find out whether it may read this one's memory
napi_value describe_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    std::string boot;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
    char space[64] = "";
    if (readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0) space[0] = 0;
    auto* mailbox = new Mailbox();
    mailboxes[to_string(env, args[0])] = mailbox;
    const auto address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(mailbox));
    // Another process's memory hardly holds the same number in this place.
    const uint64_t probe = static_cast<uint64_t>(getpid()) << 32 ^ address ^ static_cast<uint64_t>(time(nullptr)) << 16;
    mailbox->probe.store(probe);
    return string(env, boot + " " + space + " " + std::to_string(getpid()) + " " + std::to_string(address) + " " + std::to_string(probe));
  }, [] { return std::string("describeMemory"); });
}

// canReadMemory(pid, address of the mailbox and its probe as described) -> whether this process may read that one's memory
napi_value can_read_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    uint64_t found = 0;
    const bool ok = read_memory(static_cast<pid_t>(to_int(env, args[0])), std::stoull(to_string(env, args[1])), &found, sizeof found) &&
                    found == std::stoull(to_string(env, args[2]));
    napi_value result;
    NAPI_OK(napi_get_boolean(env, ok, &result));
    return result;
  }, [] { return std::string("canReadMemory"); });
}

// setPeers(group, for every rank: [pid, address of its mailbox, whether this process reads its memory, whether it reads this one's])
napi_value set_peers(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    std::vector<Peer> peers;
    for (uint32_t i = 0; i < array_length(env, args[1]); i++) {
      const napi_value entry = element(env, args[1], i);
      Peer peer;
      peer.pid = static_cast<pid_t>(to_int(env, element(env, entry, 0)));
      peer.mailbox = std::stoull(to_string(env, element(env, entry, 1)));
      peer.can_read = to_bool(env, element(env, entry, 2));
      peer.reads_mine = to_bool(env, element(env, entry, 3));
      // Who is read must also be able to see that it was.
      peer.can_read = peer.can_read && peer.reads_mine;
      peer.reads_mine = peer.can_read;
      peers.push_back(peer);
    }
    peers_of_group[to_string(env, args[0])] = std::move(peers);
    return undefined(env);
  }, [] { return std::string("setPeers"); });
}

// bytesRead() -> bytes that this process has read from the memory of others
napi_value bytes_read_so_far(napi_env env, napi_callback_info) {
  return guarded(env, [&] { return number(env, static_cast<double>(bytes_read)); }, [] { return std::string("bytesRead"); });
}

}  // namespace ivtlr
