#include "tensor.h"

#include <ATen/Functions.h>

#include <cstring>
#include <mutex>

#include "addon.h"
#include "convert.h"
#include "handles.h"

namespace ivtlr {
namespace {

// References of shared buffers whose tensors have died, possibly on another thread; dropped on the next call.
std::mutex& dead_mutex = *new std::mutex();
std::vector<napi_ref>& dead_buffers = *new std::vector<napi_ref>();

void drop_dead_buffers(napi_env env) {
  std::lock_guard<std::mutex> lock(dead_mutex);
  for (napi_ref ref : dead_buffers) napi_delete_reference(env, ref);
  dead_buffers.clear();
}

std::vector<int64_t> to_shape(napi_env env, napi_value value) {
  std::vector<int64_t> shape;
  const uint32_t length = array_length(env, value);
  for (uint32_t i = 0; i < length; i++) {
    shape.push_back(to_int(env, element(env, value, i)));
    if (shape.back() < 0) throw std::runtime_error("a shape has no negative sizes");
  }
  return shape;
}

struct Bytes {
  void* data;
  size_t length;
};

Bytes to_bytes(napi_env env, napi_value value) {
  Bytes bytes{};
  napi_value buffer;
  size_t offset;
  napi_typedarray_type type;
  bool is_typed = false;
  NAPI_OK(napi_is_typedarray(env, value, &is_typed));
  if (!is_typed) throw std::runtime_error("expected a Uint8Array");
  NAPI_OK(napi_get_typedarray_info(env, value, &type, &bytes.length, &bytes.data, &buffer, &offset));
  if (type != napi_uint8_array) throw std::runtime_error("expected a Uint8Array");
  bool detached = false;
  NAPI_OK(napi_is_detached_arraybuffer(env, buffer, &detached));
  if (detached) throw std::runtime_error("the array's ArrayBuffer was transferred, so its memory is no longer here");
  return bytes;
}

void check_size(const Bytes& bytes, const std::vector<int64_t>& shape, c10::ScalarType dtype) {
  double wanted = static_cast<double>(c10::elementSize(dtype));
  for (int64_t size : shape) wanted *= static_cast<double>(size);
  if (wanted != static_cast<double>(bytes.length))
    throw std::runtime_error("shape and dtype ask for " + std::to_string(static_cast<int64_t>(wanted)) + " bytes, got " +
                             std::to_string(bytes.length));
}

}  // namespace

// tensorInfo(tensor, what)
napi_value tensor_info(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 2);
    const at::Tensor& tensor = to_tensor(env, args[0]);
    switch (to_int(env, args[1])) {
      case 0: {
        const char* name = dtype_name(tensor.scalar_type());
        return string(env, name ? name : c10::toString(tensor.scalar_type()));
      }
      case 1: return string(env, tensor.device().str());
      case 2: return number(env, static_cast<double>(tensor.numel()));
      case 3: return number(env, static_cast<double>(tensor.dim()));
      case 4: return number(env, tensor.requires_grad());
      case 5: return number(env, tensor.is_leaf());
      case 6: return number(env, tensor.is_contiguous());
      case 7: return number(env, static_cast<double>(tensor.element_size()));
      default: throw std::runtime_error("tensorInfo: unknown field");
    }
  }, [] { return std::string("Tensor"); });
}

napi_value tensor_shape(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 2);
    const at::Tensor& tensor = to_tensor(env, args[0]);
    const auto sizes = to_int(env, args[1]) == 0 ? tensor.sizes() : tensor.strides();
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, sizes.size(), &result));
    for (uint32_t i = 0; i < sizes.size(); i++) NAPI_OK(napi_set_element(env, result, i, number(env, static_cast<double>(sizes[i]))));
    return result;
  }, [] { return std::string("Tensor.shape"); });
}

// fromBytes(bytes, dtype, shape): a CPU tensor holding a copy.
napi_value from_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 3);
    const auto dtype = dtype_from_name(to_string(env, args[1]));
    const auto shape = to_shape(env, args[2]);
    const Bytes bytes = to_bytes(env, args[0]);  // last: a getter in the shape could still move the memory
    check_size(bytes, shape, dtype);
    at::Tensor tensor = at::empty(shape, at::TensorOptions(dtype));
    if (bytes.length) std::memcpy(tensor.mutable_data_ptr(), bytes.data, bytes.length);
    return number(env, put(std::move(tensor)));
  }, [] { return std::string("fromBytes"); });
}

// shareBuffer(bytes, dtype, shape): a CPU tensor over the array's own memory, which stays alive with it.
napi_value share_buffer(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    drop_dead_buffers(env);
    const auto args = arguments(env, info, 3);
    const auto dtype = dtype_from_name(to_string(env, args[1]));
    const auto shape = to_shape(env, args[2]);
    const Bytes bytes = to_bytes(env, args[0]);  // last: a getter in the shape could still move the memory
    check_size(bytes, shape, dtype);
    if (reinterpret_cast<uintptr_t>(bytes.data) % c10::elementSize(dtype) != 0)
      throw std::runtime_error("the array's memory is not aligned for this dtype");
    napi_ref ref;
    NAPI_OK(napi_create_reference(env, args[0], 1, &ref));
    at::Tensor tensor = at::from_blob(bytes.data, shape, [ref](void*) {
      std::lock_guard<std::mutex> lock(dead_mutex);
      dead_buffers.push_back(ref);
    }, at::TensorOptions(dtype));
    return number(env, put(std::move(tensor)));
  }, [] { return std::string("shareBuffer"); });
}

// copyBytes(tensor, bytes): the elements in row-major order into a Uint8Array of exactly their size.
napi_value copy_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 2);
    const Bytes bytes = to_bytes(env, args[1]);
    const at::Tensor tensor = to_tensor(env, args[0]).detach().cpu().contiguous();
    if (tensor.nbytes() != bytes.length) throw std::runtime_error("copyBytes: the array has the wrong size");
    if (bytes.length) std::memcpy(bytes.data, tensor.const_data_ptr(), bytes.length);
    return undefined(env);
  }, [] { return std::string("Tensor.data"); });
}

// release(Int32Array of ids, count)
napi_value release_many(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 2);
    void* data;
    size_t length;
    napi_typedarray_type type;
    napi_value buffer;
    size_t offset;
    if (napi_get_typedarray_info(env, args[0], &type, &length, &data, &buffer, &offset) != napi_ok || type != napi_int32_array)
      throw std::runtime_error("release: expected an Int32Array");
    const size_t count = std::min(static_cast<size_t>(to_int(env, args[1])), length);
    for (size_t i = 0; i < count; i++) release(env, static_cast<int32_t*>(data)[i]);
    report_memory(env);
    return undefined(env);
  });
}

// watch(tensor, id): the handle is released when the garbage collector has taken the object.
napi_value watch_owner(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 2);
    watch(env, static_cast<int32_t>(to_int(env, args[1])), args[0]);
    report_memory(env);
    return undefined(env);
  });
}

// sweep() -> how many tensors are still watched
napi_value sweep_dead(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    const int64_t left = sweep(env);
    report_memory(env);
    return number(env, static_cast<double>(left));
  });
}

// live() -> [tensor count, bytes]
napi_value live(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    drop_dead_buffers(env);
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, 2, &result));
    NAPI_OK(napi_set_element(env, result, 0, number(env, static_cast<double>(live_count()))));
    NAPI_OK(napi_set_element(env, result, 1, number(env, static_cast<double>(live_bytes()))));
    return result;
  });
}

}  // namespace ivtlr
