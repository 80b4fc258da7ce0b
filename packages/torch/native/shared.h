// Memory that the processes of one machine have in common: buffers of which each process has a part, which it alone writes and all others read in
// place. They map each other's memory by /proc/PID/fd, which asks for less permission than reading it does (peers.h).
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value new_shared_memory(napi_env env, napi_callback_info info);
napi_value map_shared_memory(napi_env env, napi_callback_info info);
napi_value close_shared_memory(napi_env env, napi_callback_info info);
napi_value drop_shared_buffer(napi_env env, napi_callback_info info);
napi_value shared_part(napi_env env, napi_callback_info info);
napi_value attach_shared_buffer(napi_env env, napi_callback_info info);

}  // namespace ivtlr
