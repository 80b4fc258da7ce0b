// Every operator of the linked libtorch, through the dispatcher's boxed calling convention.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value find_op(napi_env env, napi_callback_info info);
napi_value call_op(napi_env env, napi_callback_info info);
napi_value all_ops(napi_env env, napi_callback_info info);

}  // namespace ivtlr
