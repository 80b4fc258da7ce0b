#include "pieces.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "addon.h"
#include "peers.h"

namespace ivtlr {
namespace {

// Of sums in one go: small enough for the second-level cache.
constexpr int64_t block_bytes = 1 << 18;

// Elements `start` to `end` of the buffer.
struct Piece {
  int64_t start, end;
  at::Tensor tensor;  // flat; undefined stands for zeros
};

struct Sum {
  Mailbox* mailbox = nullptr;
  std::vector<Peer> peers;  // by rank, this process among them
  int rank = 0;
  uint64_t number = 0;  // from 1, the same in all processes; it and the next one are this sum's
  Milliseconds timeout;
  int64_t part = 0;  // elements of the buffer that each process sums
  at::Tensor out;    // (part); undefined: the sums go back into the pieces, of all processes
  bool add = false;  // to what `out` holds
  std::vector<Piece> pieces;
  std::vector<uint64_t> addresses;  // of the pieces, 0 for those that are not there; this is what the others read first
  at::ScalarType dtype;
};

std::map<int32_t, Sum>& sums = *new std::map<int32_t, Sum>();
int32_t next_sum = 1;

using Addresses = std::vector<std::vector<uint64_t>>;

// Puts the sum over all processes of `count` elements of a piece from `offset` on into `goal`, or adds it to what is there; added up in the order of
// ranks. False, with `goal` as it was, where no process has the piece. `goal` may be this process's own block.
bool sum_block(const Sum& sum, size_t piece, int64_t offset, int64_t count, const Addresses& addresses, const at::Tensor& scratch, at::Tensor goal) {
  const at::Tensor& own = sum.pieces[piece].tensor;
  const at::Tensor read = scratch[0].narrow(0, 0, count), spare = scratch[1].narrow(0, 0, count);
  // Low precision is summed as float32 and rounded once.
  const bool low = c10::isFloatingType(sum.dtype) && c10::elementSize(sum.dtype) < 4;
  at::Tensor total;
  for (const Peer& peer : sum.peers) {
    at::Tensor part;
    if (peer.rank == sum.rank) {
      if (!own.defined()) continue;
      part = own.narrow(0, offset, count);
    } else {
      const uint64_t address = addresses[static_cast<size_t>(peer.rank)][piece];
      if (address == 0) continue;
      part = total.defined() ? read : spare;
      read_tensor(peer, address + static_cast<uint64_t>(offset) * c10::elementSize(sum.dtype), part);
    }
    // This process's own block is needed until its turn.
    at::Tensor into = sum.add || peer.rank < sum.rank ? spare : goal;
    if (!total.defined()) total = low ? part.to(at::kFloat) : part;
    else total = low ? total.add_(part) : at::add_out(into, total, part);
  }
  if (!total.defined()) return false;
  if (sum.add) goal.add_(total.to(sum.dtype));
  else if (!total.is_same(goal)) goal.copy_(total);
  return true;
}

void sum_own_part(const Sum& sum, const Addresses& addresses) {
  const int64_t from = sum.rank * sum.part, to = from + sum.part, most = block_bytes / static_cast<int64_t>(c10::elementSize(sum.dtype));
  const at::Tensor scratch = at::empty({2, std::min(most, sum.part)}, at::TensorOptions().dtype(sum.dtype));
  int64_t filled = from;
  const auto clear = [&](int64_t end) {
    if (sum.out.defined() && !sum.add && end > filled) sum.out.narrow(0, filled - from, end - filled).zero_();
  };
  for (size_t i = 0; i < sum.pieces.size(); i++) {
    const auto& [start, end, tensor] = sum.pieces[i];
    const int64_t last = std::min(end, to);
    for (int64_t at = std::max(start, from); at < last;) {
      const int64_t count = std::min(most, last - at);
      const at::Tensor goal = sum.out.defined() ? sum.out.narrow(0, at - from, count) : tensor.narrow(0, at - start, count);
      if (sum_block(sum, i, at - start, count, addresses, scratch, goal)) {
        clear(at);
        filled = at + count;
      }
      at += count;
    }
  }
  clear(to);
}

// What the others have summed.
void fetch_parts(const Sum& sum, const Addresses& addresses) {
  for (const Peer& peer : sum.peers) {
    if (peer.rank == sum.rank) continue;
    const int64_t from = peer.rank * sum.part, to = from + sum.part;
    for (size_t i = 0; i < sum.pieces.size(); i++) {
      const auto& [start, end, tensor] = sum.pieces[i];
      const int64_t first = std::max(start, from), last = std::min(end, to);
      if (first >= last) continue;
      const uint64_t address = addresses[static_cast<size_t>(peer.rank)][i];
      read_tensor(peer, address + static_cast<uint64_t>(first - start) * c10::elementSize(sum.dtype), tensor.narrow(0, first - start, last - first));
    }
  }
}

template <typename Body>
void each_other(const Sum& sum, Body body) {
  for (const Peer& peer : sum.peers)
    if (peer.rank != sum.rank) body(peer);
}

}  // namespace

// startSumOfPieces(group, tensors or nulls, their offsets in the buffer, elements of each, elements of a process's part, out (part) or null, whether
// to add to `out`, number of the exchange from 1, timeout ms) -> id. Without `out` the sums go back into the tensors, all of which must be there.
// The tensors stay as they are until the sum is finished.
napi_value start_sum_of_pieces(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 9);
    const std::string name = to_string(env, args[0]);
    const PeerGroup* peers = peers_of(name);
    if (!peers) throw std::runtime_error("the processes do not read each other's memory");
    Sum sum;
    sum.mailbox = peers->mailbox;
    sum.peers = peers->peers;
    sum.rank = c10d::resolve_process_group(name)->getRank();
    sum.part = to_int(env, args[4]);
    if (type_of(env, args[5]) != napi_null) sum.out = to_tensor(env, args[5]).view({-1});
    sum.add = to_bool(env, args[6]);
    sum.number = static_cast<uint64_t>(to_int(env, args[7]));
    sum.timeout = Milliseconds(to_int(env, args[8]));
    const uint32_t count = array_length(env, args[1]);
    for (uint32_t i = 0; i < count; i++) {
      const napi_value given = element(env, args[1], i);
      const int64_t start = to_int(env, element(env, args[2], i)), numel = to_int(env, element(env, args[3], i));
      at::Tensor tensor;
      if (type_of(env, given) != napi_null) {
        const at::Tensor& whole = to_tensor(env, given);
        if (!whole.is_contiguous() || whole.numel() != numel) throw std::runtime_error("a piece is not contiguous or has another length");
        tensor = whole.detach().view({-1});
      } else if (!sum.out.defined()) {
        throw std::runtime_error("a piece is missing that should get its sum");
      }
      const auto address = tensor.defined() ? reinterpret_cast<uintptr_t>(tensor.data_ptr()) : 0;
      sum.addresses.push_back(static_cast<uint64_t>(address));
      if (tensor.defined()) sum.dtype = tensor.scalar_type();
      sum.pieces.push_back({start, start + numel, std::move(tensor)});
    }
    if (sum.out.defined()) sum.dtype = sum.out.scalar_type();
    if (sum.out.defined() && sum.out.numel() != sum.part) throw std::runtime_error("the result should be as long as one part");
    const int32_t id = next_sum++;
    const auto& placed = sums[id] = std::move(sum);
    lend(*placed.mailbox, placed.number, placed.addresses.data());
    return number(env, id);
  }, [] { return std::string("sum of pieces"); });
}

// finishSumOfPieces(id): waits for the others, each at most as long as the timeout. Afterwards all tensors are the caller's again.
napi_value finish_sum_of_pieces(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto found = sums.extract(static_cast<int32_t>(to_int(env, args[0])));
    if (found.empty()) throw std::runtime_error("the sum is over");
    const Sum& sum = found.mapped();
    Addresses addresses(sum.peers.size());
    each_other(sum, [&](const Peer& peer) {
      auto& theirs = addresses[static_cast<size_t>(peer.rank)];
      theirs.resize(sum.pieces.size());
      const uint64_t table = await_lent(peer, sum.number, sum.timeout);
      read_or_throw(peer, table, theirs.data(), theirs.size() * sizeof(uint64_t));
    });
    sum_own_part(sum, addresses);
    tell_read(*sum.mailbox, sum.number);
    each_other(sum, [&](const Peer& peer) { await_read(peer, sum.number, sum.timeout); });
    if (sum.out.defined()) return undefined(env);
    // All have read what they sum and written their sums.
    fetch_parts(sum, addresses);
    tell_read(*sum.mailbox, sum.number + 1);
    each_other(sum, [&](const Peer& peer) { await_read(peer, sum.number + 1, sum.timeout); });
    return undefined(env);
  }, [] { return std::string("sum of pieces"); });
}

}  // namespace ivtlr
