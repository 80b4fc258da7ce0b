#include "handles.h"

#include <algorithm>
#include <stdexcept>
#include <unordered_set>
#include <vector>

#include "convert.h"
#include "table.h"

namespace ivtlr {
namespace {

struct Slot {
  at::Tensor tensor;
  int64_t bytes = 0;  // that this handle keeps alive
  bool on_device = false;  // memory of a GPU, not of this process
  napi_ref owner = nullptr;  // weak: the JavaScript object that is the only user of the handle
};

// Never destroyed: libtorch's own statics may be gone when the process ends.
Table<Slot>& tensors = *new Table<Slot>();
Table<at::Generator>& generators = *new Table<at::Generator>();
int64_t bytes_watched = 0;  // of this process, by handles that the garbage collector frees
int64_t device_bytes_watched = 0;  // the same of GPUs
int64_t device_bytes_collected = 0;  // what was left of them when garbage was last collected for their sake
napi_ref collector = nullptr;
int64_t bytes_reported = 0;
int64_t bytes_swept = 0;  // the least watched since the last sweep

}  // namespace

int32_t put(at::Tensor tensor) {
  if (!tensor.defined()) return 0;
  Slot slot;
  // A view shares its base's storage and is not counted again; a result that its own graph has saved shares it too, but is no view.
  // A tensor of the device `meta` has a size but no memory.
  if (tensor.has_storage() && !tensor.is_meta() &&
      (tensor.storage().use_count() == 1 || (tensor.requires_grad() && !tensor.is_leaf() && !tensor.is_view()))) {
    slot.bytes = static_cast<int64_t>(tensor.storage().nbytes());
    slot.on_device = !tensor.device().is_cpu();
  }
  slot.tensor = std::move(tensor);
  return tensors.add(std::move(slot));
}

const at::Tensor& get(int32_t id) {
  if (id <= 0 || static_cast<size_t>(id) >= tensors.slots.size() || !tensors.slots[id].tensor.defined())
    throw std::runtime_error("this tensor was disposed");
  return tensors.slots[id].tensor;
}

void watch(napi_env env, int32_t id, napi_value owner) {
  get(id);
  Slot& slot = tensors.slots[id];
  if (slot.owner) return;
  NAPI_OK(napi_create_reference(env, owner, 0, &slot.owner));
  (slot.on_device ? device_bytes_watched : bytes_watched) += slot.bytes;
}

int64_t sweep(napi_env env) {
  napi_handle_scope handles;
  NAPI_OK(napi_open_handle_scope(env, &handles));
  int64_t left = 0;
  for (size_t id = 1; id < tensors.slots.size(); id++) {
    if (!tensors.slots[id].owner) continue;
    napi_value owner = nullptr;
    NAPI_OK(napi_get_reference_value(env, tensors.slots[id].owner, &owner));
    if (owner) left++;
    else release(env, static_cast<int32_t>(id));
  }
  NAPI_OK(napi_close_handle_scope(env, handles));
  bytes_swept = bytes_watched;
  return left;
}

void release(napi_env env, int32_t id) {
  if (id <= 0 || static_cast<size_t>(id) >= tensors.slots.size()) return;
  Slot& slot = tensors.slots[id];
  if (!slot.tensor.defined()) return;
  if (slot.owner) {
    (slot.on_device ? device_bytes_watched : bytes_watched) -= slot.bytes;
    napi_delete_reference(env, slot.owner);
  }
  slot = Slot();
  tensors.free.push_back(id);
}

int64_t live_count() { return static_cast<int64_t>(tensors.slots.size() - 1 - tensors.free.size()); }

int64_t live_bytes() {
  std::unordered_set<const c10::StorageImpl*> seen;
  int64_t bytes = 0;
  const auto count = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.has_storage() || tensor.is_meta()) return;
    if (seen.insert(tensor.storage().unsafeGetStorageImpl()).second) bytes += static_cast<int64_t>(tensor.storage().nbytes());
  };
  for (const Slot& slot : tensors.slots) {
    count(slot.tensor);
    if (slot.tensor.defined() && slot.tensor.is_leaf()) count(slot.tensor.grad());
  }
  return bytes;
}

int32_t put_generator(at::Generator generator) { return generators.add(std::move(generator)); }

const at::Generator& get_generator(int32_t id) {
  if (id <= 0 || static_cast<size_t>(id) >= generators.slots.size() || !generators.slots[id].defined())
    throw std::runtime_error("this generator was disposed");
  return generators.slots[id];
}

void release_generator(int32_t id) {
  if (id <= 0 || static_cast<size_t>(id) >= generators.slots.size() || !generators.slots[id].defined()) return;
  generators.slots[id] = at::Generator();
  generators.free.push_back(id);
}

void set_collector(napi_env env, napi_value function) { NAPI_OK(napi_create_reference(env, function, 1, &collector)); }

void report_memory(napi_env env) {
  device_bytes_collected = std::min(device_bytes_collected, device_bytes_watched);
  if (device_bytes_watched - device_bytes_collected >= (int64_t{1} << 30)) {
    napi_value collect, global, result;
    NAPI_OK(napi_get_reference_value(env, collector, &collect));
    NAPI_OK(napi_get_global(env, &global));
    NAPI_OK(napi_call_function(env, global, collect, 0, nullptr, &result));
    sweep(env);
    device_bytes_collected = device_bytes_watched;
  }
  bytes_swept = std::min(bytes_swept, bytes_watched);
  const int64_t delta = bytes_watched - bytes_reported;
  if (delta < (1 << 20) && delta > -(1 << 20)) return;
  int64_t total;
  bytes_reported = bytes_watched;
  napi_adjust_external_memory(env, delta, &total);  // may collect garbage
  if (bytes_watched - bytes_swept >= (64 << 20)) sweep(env);
}

}  // namespace ivtlr
