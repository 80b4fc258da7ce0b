// Gradients, modes, random numbers and process-wide settings.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value set_requires_grad(napi_env env, napi_callback_info info);
napi_value get_grad(napi_env env, napi_callback_info info);
napi_value set_grad(napi_env env, napi_callback_info info);
napi_value backward(napi_env env, napi_callback_info info);
napi_value gradients(napi_env env, napi_callback_info info);
napi_value set_grad_enabled(napi_env env, napi_callback_info info);
napi_value inference_mode(napi_env env, napi_callback_info info);
napi_value manual_seed(napi_env env, napi_callback_info info);
napi_value rng_state(napi_env env, napi_callback_info info);
napi_value new_generator(napi_env env, napi_callback_info info);
napi_value free_generator(napi_env env, napi_callback_info info);
napi_value threads(napi_env env, napi_callback_info info);
napi_value flush_denormal(napi_env env, napi_callback_info info);
napi_value build_info(napi_env env, napi_callback_info info);

}  // namespace ivtlr
