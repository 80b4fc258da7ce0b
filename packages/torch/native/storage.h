// Memory that large buffers take and give back again and again. Fresh memory of the system costs as much to clear as to fill; and the heap would not
// find the gap of a freed buffer large enough for the next one of the same size, since aligned requests ask for more than they keep, and would grow.
#pragma once
#include <ATen/ATen.h>
#include <node_api.h>

namespace ivtlr {

napi_value set_storage_bytes(napi_env env, napi_callback_info info);
napi_value set_blocks_from_system(napi_env env, napi_callback_info info);

// Gives the tensor's storage so much memory, of undefined content, or with 0 none. Memory of the CPU comes from what was given back before, where
// there is enough, and goes back there.
void set_bytes(const at::Tensor& tensor, size_t bytes);

}  // namespace ivtlr
