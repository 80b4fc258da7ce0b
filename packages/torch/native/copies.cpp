#include "copies.h"

#include <ATen/ATen.h>

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <thread>

#include "addon.h"

namespace ivtlr {
namespace {

struct Copies {
  // Only looked at by the JavaScript thread, which frees them: the memory of some belongs to its garbage collector.
  std::vector<at::Tensor> tensors;
  std::thread thread;
  std::shared_ptr<std::atomic<bool>> made = std::make_shared<std::atomic<bool>>(false);
};

struct Stretch {
  void* to;
  const void* from;
  size_t bytes;
};

std::map<int32_t, Copies>& copies = *new std::map<int32_t, Copies>();
int32_t next_copies = 1;

}  // namespace

// startCopies(into, from) -> id. Pairs of contiguous tensors of the CPU, of the same dtype and length. Until `finishCopies` the memory of `from` stays as
// it is, and nobody looks at that of `into`.
napi_value start_copies(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    const uint32_t count = array_length(env, args[0]);
    if (array_length(env, args[1]) != count) throw std::runtime_error("there should be as many tensors to copy into as from");
    Copies batch;
    std::vector<Stretch> stretches;
    for (uint32_t i = 0; i < count; i++) {
      const at::Tensor& into = to_tensor(env, element(env, args[0], i));
      const at::Tensor& from = to_tensor(env, element(env, args[1], i));
      for (const at::Tensor& tensor : {into, from})
        if (!tensor.is_cpu() || !tensor.is_contiguous()) throw std::runtime_error("only contiguous tensors of the CPU are copied by a thread");
      if (into.scalar_type() != from.scalar_type() || into.numel() != from.numel())
        throw std::runtime_error("a copy has the dtype and the length of its tensor");
      // Tensors of their own, since the JavaScript side may dispose of its handles.
      batch.tensors.insert(batch.tensors.end(), {into.detach(), from.detach()});
      if (from.nbytes() > 0) stretches.push_back({into.data_ptr(), from.const_data_ptr(), from.nbytes()});
    }
    batch.thread = std::thread([stretches = std::move(stretches), made = batch.made] {
      for (const auto& [to, from, bytes] : stretches) std::memcpy(to, from, bytes);
      made->store(true);
    });
    const int32_t id = next_copies++;
    copies.emplace(id, std::move(batch));
    return number(env, id);
  }, [] { return std::string("startCopies"); });
}

// copiesMade(id) -> whether finishCopies would not wait
napi_value copies_made(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const auto found = copies.find(static_cast<int32_t>(to_int(env, args[0])));
    napi_value result;
    NAPI_OK(napi_get_boolean(env, found == copies.end() || found->second.made->load(), &result));
    return result;
  }, [] { return std::string("copiesMade"); });
}

// finishCopies(id): waits for the copies.
napi_value finish_copies(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const auto found = copies.extract(static_cast<int32_t>(to_int(env, args[0])));
    if (found.empty()) throw std::runtime_error("these copies are finished already");
    found.mapped().thread.join();
    return undefined(env);
  }, [] { return std::string("finishCopies"); });
}

}  // namespace ivtlr
