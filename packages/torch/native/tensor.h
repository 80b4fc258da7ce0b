// What a Tensor object needs beyond operators: metadata, bytes in and out, life time.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value tensor_info(napi_env env, napi_callback_info info);
napi_value tensor_shape(napi_env env, napi_callback_info info);
napi_value from_bytes(napi_env env, napi_callback_info info);
napi_value share_buffer(napi_env env, napi_callback_info info);
napi_value copy_bytes(napi_env env, napi_callback_info info);
napi_value release_many(napi_env env, napi_callback_info info);
napi_value watch_owner(napi_env env, napi_callback_info info);
napi_value sweep_dead(napi_env env, napi_callback_info info);
napi_value live(napi_env env, napi_callback_info info);

}  // namespace ivtlr
