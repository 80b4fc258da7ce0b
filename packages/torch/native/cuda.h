// GPUs: what is there, their memory, streams, events, graphs. Everything goes through libtorch's interfaces for any device, so that a build without
// CUDA, or without NVIDIA's headers, has the same functions; where there is no GPU they throw libtorch's own reason.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value cuda_device(napi_env env, napi_callback_info info);
napi_value cuda_memory(napi_env env, napi_callback_info info);
napi_value cuda_reset_peak(napi_env env, napi_callback_info info);
napi_value cuda_empty_cache(napi_env env, napi_callback_info info);
napi_value cuda_synchronize(napi_env env, napi_callback_info info);

napi_value new_stream(napi_env env, napi_callback_info info);
napi_value exchange_stream(napi_env env, napi_callback_info info);
napi_value synchronize_stream(napi_env env, napi_callback_info info);
napi_value free_stream(napi_env env, napi_callback_info info);

napi_value new_event(napi_env env, napi_callback_info info);
napi_value record_event(napi_env env, napi_callback_info info);
napi_value wait_for_event(napi_env env, napi_callback_info info);
napi_value event_done(napi_env env, napi_callback_info info);
napi_value synchronize_event(napi_env env, napi_callback_info info);
napi_value event_seconds(napi_env env, napi_callback_info info);
napi_value free_event(napi_env env, napi_callback_info info);

napi_value new_graph(napi_env env, napi_callback_info info);
napi_value begin_capture(napi_env env, napi_callback_info info);
napi_value end_capture(napi_env env, napi_callback_info info);
napi_value replay_graph(napi_env env, napi_callback_info info);
napi_value free_graph(napi_env env, napi_callback_info info);

napi_value allow_tf32(napi_env env, napi_callback_info info);
napi_value deterministic(napi_env env, napi_callback_info info);

}  // namespace ivtlr
