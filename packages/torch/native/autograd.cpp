#include "autograd.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include <memory>

#include "addon.h"
#include "convert.h"
#include "handles.h"

namespace ivtlr {
namespace {

std::vector<at::Tensor> to_tensors(napi_env env, napi_value value, bool allow_null) {
  std::vector<at::Tensor> tensors;
  const uint32_t length = array_length(env, value);
  for (uint32_t i = 0; i < length; i++) {
    napi_value item = element(env, value, i);
    if (allow_null && type_of(env, item) == napi_null) tensors.emplace_back();
    else tensors.push_back(to_tensor(env, item));
  }
  return tensors;
}

napi_value boolean(napi_env env, bool value) {
  napi_value result;
  NAPI_OK(napi_get_boolean(env, value, &result));
  return result;
}

std::vector<std::unique_ptr<c10::InferenceMode>>& inference_stack = *new std::vector<std::unique_ptr<c10::InferenceMode>>();

// `which` is a Generator object's id when positive, else the device's default generator.
at::Generator generator_for(napi_env env, napi_value which) {
  if (type_of(env, which) == napi_number) return get_generator(static_cast<int32_t>(to_int(env, which)));
  return at::globalContext().defaultGenerator(c10::Device(to_string(env, which)));
}

}  // namespace

napi_value set_requires_grad(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    at::Tensor tensor = to_tensor(env, args[0]);
    const bool value = to_bool(env, args[1]);
    if (!value && !tensor.is_leaf()) throw std::runtime_error("only a leaf can stop requiring a gradient: use detach()");
    tensor.set_requires_grad(value);
    return undefined(env);
  }, [] { return std::string("Tensor.requiresGrad"); });
}

napi_value get_grad(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    return number(env, put(to_tensor(env, args[0]).grad()));
  }, [] { return std::string("Tensor.grad"); });
}

napi_value set_grad(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    at::Tensor tensor = to_tensor(env, args[0]);
    if (type_of(env, args[1]) == napi_null) {
      tensor.mutable_grad() = at::Tensor();
    } else {
      const at::Tensor& grad = to_tensor(env, args[1]);
      if (!grad.sizes().equals(tensor.sizes())) throw std::runtime_error("a gradient has its tensor's shape");
      tensor.mutable_grad() = grad;
    }
    return undefined(env);
  }, [] { return std::string("Tensor.grad"); });
}

// backward(tensors, gradients (null entries for scalars), retainGraph, createGraph)
napi_value backward(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 4);
    torch::autograd::backward(to_tensors(env, args[0], false), to_tensors(env, args[1], true), to_bool(env, args[2]),
                              to_bool(env, args[3]));
    return undefined(env);
  }, [] { return std::string("backward"); });
}

// gradients(outputs, inputs, output gradients, retainGraph, createGraph, allowUnused) -> handle numbers, 0 where unused
napi_value gradients(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 6);
    const auto result = torch::autograd::grad(to_tensors(env, args[0], false), to_tensors(env, args[1], false),
                                              to_tensors(env, args[2], true), to_bool(env, args[3]), to_bool(env, args[4]),
                                              to_bool(env, args[5]));
    napi_value array;
    NAPI_OK(napi_create_array_with_length(env, result.size(), &array));
    for (uint32_t i = 0; i < result.size(); i++) NAPI_OK(napi_set_element(env, array, i, number(env, put(result[i]))));
    return array;
  }, [] { return std::string("grad"); });
}

napi_value set_grad_enabled(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const bool before = c10::GradMode::is_enabled();
    c10::GradMode::set_enabled(to_bool(env, args[0]));
    return boolean(env, before);
  });
}

// inferenceMode(enter[, on]): opens a stretch with the mode on or off, or closes the last one.
napi_value inference_mode(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    if (to_bool(env, args[0])) inference_stack.push_back(std::make_unique<c10::InferenceMode>(to_bool(env, args[1])));
    else if (!inference_stack.empty()) inference_stack.pop_back();
    return undefined(env);
  });
}

napi_value manual_seed(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    at::manual_seed(static_cast<uint64_t>(to_int(env, args[0])));
    return undefined(env);
  }, [] { return std::string("manualSeed"); });
}

// rngState(device or generator id[, state tensor]): reads the state, or sets it when there is a second argument.
napi_value rng_state(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    at::Generator generator = generator_for(env, args[0]);
    std::lock_guard<std::mutex> lock(generator.mutex());
    if (type_of(env, args[1]) == napi_undefined) return number(env, put(generator.get_state()));
    generator.set_state(to_tensor(env, args[1]));
    return undefined(env);
  }, [] { return std::string("rngState"); });
}

// newGenerator(seed): a CPU generator of its own.
napi_value new_generator(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    return number(env, put_generator(at::detail::createCPUGenerator(static_cast<uint64_t>(to_int(env, args[0])))));
  }, [] { return std::string("Generator"); });
}

napi_value free_generator(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    release_generator(static_cast<int32_t>(to_int(env, args[0])));
    return undefined(env);
  });
}

// threads([count]): sets the number when there is an argument; always returns the number of intra-op threads.
napi_value threads(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    if (type_of(env, args[0]) != napi_undefined) {
      const int64_t count = to_int(env, args[0]);
      if (count < 1 || count > 4096) throw std::runtime_error("the thread count is 1 to 4096");
      at::set_num_threads(static_cast<int>(count));
    }
    return number(env, at::get_num_threads());
  }, [] { return std::string("setNumThreads"); });
}

napi_value flush_denormal(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    return boolean(env, at::globalContext().setFlushDenormal(to_bool(env, args[0])));
  });
}

// buildInfo() -> [libtorch version, CPU capability, CUDA usable, parallel settings, number of GPUs]
napi_value build_info(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, 5, &result));
    NAPI_OK(napi_set_element(env, result, 0, string(env, TORCH_VERSION)));
    NAPI_OK(napi_set_element(env, result, 1, string(env, at::get_cpu_capability())));
    NAPI_OK(napi_set_element(env, result, 2, boolean(env, at::hasCUDA())));
    NAPI_OK(napi_set_element(env, result, 3, string(env, at::get_parallel_info())));
    NAPI_OK(napi_set_element(env, result, 4, number(env, at::hasCUDA() ? static_cast<double>(at::getNumGPUs()) : 0)));
    return result;
  });
}

}  // namespace ivtlr
