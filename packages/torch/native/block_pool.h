// An allocator for tensors on the CPU in place of glibc's heap, in which buffers that come and go with the layers of a model leave gaps that the next
// ones do not fit: PyTorch asks for aligned memory, so a gap of the same size is too small. Blocks come from the system one by one, and freed ones wait
// for the next request of their size.
#pragma once
#include <node_api.h>

namespace ivtlr {

napi_value set_block_pool(napi_env env, napi_callback_info info);

}  // namespace ivtlr
