// Sums over processes that read each other's memory, of a buffer that exists nowhere as a whole: tensors at their places in it, such as the gradients
// of a model's parameters. Nothing is copied side by side first.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value start_sum_of_pieces(napi_env env, napi_callback_info info);
napi_value finish_sum_of_pieces(napi_env env, napi_callback_info info);

}  // namespace ivtlr
