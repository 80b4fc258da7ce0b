// Collectives of tensors on the CPU by direct messages between each two processes. Gloo's own gather and reduce-scatter go through buffers of
// their own, and its reduce-scatter is an all-reduce of which each process keeps a part: twice the bytes.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value start_gather(napi_env env, napi_callback_info info);
napi_value start_reduce_scatter(napi_env env, napi_callback_info info);
napi_value finish_exchange(napi_env env, napi_callback_info info);

}  // namespace ivtlr
