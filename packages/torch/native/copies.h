// Copies of tensors made by a thread while JavaScript goes on.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value start_copies(napi_env env, napi_callback_info info);
napi_value copies_made(napi_env env, napi_callback_info info);
napi_value finish_copies(napi_env env, napi_callback_info info);

}  // namespace ivtlr
