#include "exchange.h"

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "addon.h"
#include "distributed.h"

namespace ivtlr {
namespace {

struct Exchange {
  // Alive until the messages have gone.
  std::vector<at::Tensor> tensors;
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  // Of a reduce-scatter: what comes from each process in the order of ranks, its own part among them, and where the sum goes.
  std::vector<at::Tensor> pieces;
  at::Tensor sum;
};

// Never destroyed: an exchange that was broken off may still have messages under way.
std::map<int32_t, Exchange>& exchanges = *new std::map<int32_t, Exchange>();
int32_t next_exchange = 1;

void send(Exchange& exchange, c10d::ProcessGroup& group, const at::Tensor& tensor, int rank, int tag) {
  std::vector<at::Tensor> message{tensor};
  exchange.works.push_back(group.send(message, rank, tag));
  exchange.tensors.push_back(tensor);
}

void receive(Exchange& exchange, c10d::ProcessGroup& group, const at::Tensor& tensor, int rank, int tag) {
  std::vector<at::Tensor> message{tensor};
  exchange.works.push_back(group.recv(message, rank, tag));
  exchange.tensors.push_back(tensor);
}

// All elements side by side. It is an error for a tensor with gaps, which the caller would not see filled.
at::Tensor flat(const at::Tensor& tensor) {
  if (!tensor.is_contiguous()) throw std::runtime_error("the tensor is not contiguous");
  return tensor.view({-1});
}

// Uninitialised elements side by side; many of them outside the heap.
at::Tensor buffer(int64_t count, const at::TensorOptions& options) {
  const auto bytes = static_cast<size_t>(count) * options.dtype().itemsize();
  if (bytes < (1 << 20)) return at::empty({count}, options);
  auto memory = mapped(bytes);
  void* start = memory.get();
  return at::from_blob(start, {count}, [held = std::make_shared<c10::DataPtr>(std::move(memory))](void*) {}, options);
}

napi_value keep_exchange(napi_env env, Exchange exchange) {
  const int32_t id = next_exchange++;
  exchanges[id] = std::move(exchange);
  return number(env, id);
}

// Sums of low precision are rounded once, at their end.
void sum_up(const Exchange& exchange) {
  const auto& pieces = exchange.pieces;
  const bool low = exchange.sum.element_size() < 4 && exchange.sum.is_floating_point();
  if (!low && pieces.size() > 1) {
    auto out = exchange.sum;
    at::add_out(out, pieces[0], pieces[1]);
    for (size_t i = 2; i < pieces.size(); i++) out.add_(pieces[i]);
    return;
  }
  at::Tensor total = low ? pieces[0].to(at::kFloat) : pieces[0];
  for (size_t i = 1; i < pieces.size(); i++) total.add_(pieces[i]);
  exchange.sum.copy_(total);
}

}  // namespace

// startGather(group, out (size * n), tensor (n), tag) -> id. Versions of `out` are not counted.
napi_value start_gather(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 4);
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto group = c10d::resolve_process_group(to_string(env, args[0]));
    const at::Tensor out = flat(to_tensor(env, args[1])), own = flat(to_tensor(env, args[2]));
    const int tag = static_cast<int>(to_int(env, args[3])), rank = group->getRank(), size = group->getSize();
    const int64_t length = own.numel();
    if (out.numel() != size * length || out.scalar_type() != own.scalar_type())
      throw std::runtime_error("the result has no room for just the tensors of all ranks");
    Exchange exchange;
    for (int other = 0; other < size; other++) {
      if (other != rank) receive(exchange, *group, out.narrow(0, other * length, length), other, tag);
    }
    for (int i = 1; i < size; i++) send(exchange, *group, own, (rank + i) % size, tag);
    const at::Tensor place = out.narrow(0, rank * length, length);
    if (place.data_ptr() != own.data_ptr()) place.copy_(own);
    return keep_exchange(env, std::move(exchange));
  }, [] { return std::string("all_gather"); });
}

// startReduceScatter(group, out (n), tensor (size * n), tag) -> id. `tensor` must stay as it is until the exchange is finished.
napi_value start_reduce_scatter(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 4);
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto group = c10d::resolve_process_group(to_string(env, args[0]));
    const at::Tensor out = flat(to_tensor(env, args[1])), own = flat(to_tensor(env, args[2]));
    const int tag = static_cast<int>(to_int(env, args[3])), rank = group->getRank(), size = group->getSize();
    const int64_t length = out.numel();
    if (own.numel() != size * length || out.scalar_type() != own.scalar_type())
      throw std::runtime_error("the result is not a rank's part of the tensor");
    Exchange exchange;
    exchange.sum = out;
    const at::Tensor received = buffer((size - 1) * length, own.options());
    for (int other = 0, place = 0; other < size; other++) {
      exchange.pieces.push_back(other == rank ? own.narrow(0, rank * length, length) : received.narrow(0, place++ * length, length));
      if (other != rank) receive(exchange, *group, exchange.pieces.back(), other, tag);
    }
    for (int i = 1; i < size; i++) {
      const int other = (rank + i) % size;
      send(exchange, *group, own.narrow(0, other * length, length), other, tag);
    }
    return keep_exchange(env, std::move(exchange));
  }, [] { return std::string("reduce_scatter"); });
}

// finishExchange(id): waits for its messages, at most as long as the group's timeout.
napi_value finish_exchange(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const at::AutoDispatchBelowADInplaceOrView below;
    auto found = exchanges.extract(static_cast<int32_t>(to_int(env, args[0])));
    if (found.empty()) throw std::runtime_error("the exchange is over");
    for (const auto& work : found.mapped().works) work->wait();
    if (!found.mapped().pieces.empty()) sum_up(found.mapped());
    return undefined(env);
  }, [] { return std::string("exchange"); });
}

}  // namespace ivtlr
