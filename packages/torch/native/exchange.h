// Gathering, and reducing and scattering, of tensors on the CPU between each two processes of a group. Gloo's own go through buffers of their own, and
// its reduce-scatter is an all-reduce of which each process keeps a part: twice the bytes. Processes of one machine that may read each other's memory
// (process_vm_readv) tell where their part is and are told when it has been read; the others send it.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value start_gather(napi_env env, napi_callback_info info);
napi_value start_reduce_scatter(napi_env env, napi_callback_info info);
napi_value finish_exchange(napi_env env, napi_callback_info info);

}  // namespace ivtlr
