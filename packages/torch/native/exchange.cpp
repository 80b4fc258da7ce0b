#include "exchange.h"

#include <ATen/ATen.h>

#include <map>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "addon.h"
#include "peers.h"
#include "storage.h"

namespace ivtlr {
namespace {

// Smaller tensors are sent: a message is quicker than being told where to read.
constexpr int64_t read_from = 1 << 16;
// Of sums in one go: small enough for the second-level cache.
constexpr int64_t block_bytes = 1 << 18;

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

void read_part(const Other& other, int64_t offset, const at::Tensor& into) {
  read_tensor(other.peer, other.address + static_cast<uint64_t>(offset), into);
}

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
  const PeerGroup* peers = bytes >= read_from ? peers_of(name) : nullptr;
  for (int i = 1; i < size; i++) {
    Other other;
    other.rank = (rank + i) % size;
    if (peers) other.peer = peers->peers[static_cast<size_t>(other.rank)];
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
  if (peers) {
    exchange.mailbox = peers->mailbox;
    lend(*exchange.mailbox, exchange.number, exchange.own.data_ptr());
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
    for (auto& other : exchange.others) {
      if (!other.peer.can_read) {
        other.came->wait();
        continue;
      }
      other.address = await_lent(other.peer, exchange.number, exchange.timeout);
      // Of a buffer that is summed, this process reads its own part.
      if (exchange.sums) other.address += static_cast<uint64_t>(rank * length) * exchange.own.element_size();
      else read_part(other, 0, exchange.out.narrow(0, other.rank * length, length));
    }
    if (exchange.sums) sum_up(exchange, rank);
    if (exchange.mailbox) tell_read(*exchange.mailbox, exchange.number);
    for (const auto& other : exchange.others) {
      if (exchange.sums && !other.peer.can_read) set_bytes(other.part, 0);
      if (other.peer.reads_mine) await_read(other.peer, exchange.number, exchange.timeout);
    }
    for (const auto& work : exchange.works) work->wait();
    return undefined(env);
  }, [] { return std::string("exchange"); });
}

}  // namespace ivtlr
