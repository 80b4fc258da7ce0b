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
void release(napi_env env, int32_t id);
// From now on the handle goes when the garbage collector has taken `owner`.
void watch(napi_env env, int32_t id, napi_value owner);
// Releases the handles whose owners the garbage collector has taken; returns how many it still watches.
int64_t sweep(napi_env env);
int64_t live_count();
// Memory that handles keep alive, gradients included; what several of them share counts once.
int64_t live_bytes();

int32_t put_generator(at::Generator generator);
const at::Generator& get_generator(int32_t id);
void release_generator(int32_t id);

// What report_memory() calls to have JavaScript's garbage collected.
void set_collector(napi_env env, napi_value function);

// Memory of GPUs is not V8's concern, which would collect garbage all the time for it; once a gigabyte more of it hangs on watched handles, garbage is
// collected. For the rest, tells V8 how much memory the watched handles keep alive, in steps of at least a megabyte, so that it collects garbage in time; collecting could
// not free the others. As it grows it also sweeps: finalizers of JavaScript would wait until the running function returns.
void report_memory(napi_env env);

}  // namespace ivtlr
