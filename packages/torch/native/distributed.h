// Processes that compute together: c10d's store and process groups. The collectives themselves are operators of the dispatcher
// (`_c10d_functional::..`), called by the group's name, except for those of exchange.h.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value open_store(napi_env env, napi_callback_info info);
napi_value close_store(napi_env env, napi_callback_info info);
napi_value store_set(napi_env env, napi_callback_info info);
napi_value store_get(napi_env env, napi_callback_info info);
napi_value store_add(napi_env env, napi_callback_info info);
napi_value store_wait(napi_env env, napi_callback_info info);
napi_value store_check(napi_env env, napi_callback_info info);
napi_value store_delete(napi_env env, napi_callback_info info);
napi_value open_group(napi_env env, napi_callback_info info);
napi_value close_group(napi_env env, napi_callback_info info);
napi_value die_with_parent(napi_env env, napi_callback_info info);
napi_value has_input(napi_env env, napi_callback_info info);

}  // namespace ivtlr
