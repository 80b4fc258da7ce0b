// Tensor and generator handles: JavaScript holds small integers, the tables here own the objects.
#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <node_api.h>

namespace ivtlr {

// Ids start at 1; 0 stands for an undefined tensor.
int32_t put(at::Tensor tensor);
// Throws std::runtime_error when the id names nothing.
const at::Tensor& get(int32_t id);
void release(int32_t id);
int64_t live_count();
int64_t live_bytes();

int32_t put_generator(at::Generator generator);
const at::Generator& get_generator(int32_t id);
void release_generator(int32_t id);

// Tells V8 how much memory the handles keep alive, in steps of at least a megabyte.
void report_memory(napi_env env);

}  // namespace ivtlr
