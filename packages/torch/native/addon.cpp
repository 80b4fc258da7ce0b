#include "addon.h"

#include "autograd.h"
#include "copies.h"
#include "cuda.h"
#include "dispatch.h"
#include "distributed.h"
#include "exchange.h"
#include "handles.h"
#include "peers.h"
#include "pieces.h"
#include "shared.h"
#include "block_pool.h"
#include "storage.h"
#include "tensor.h"

namespace ivtlr {
namespace {

napi_ref make_error = nullptr;

// init(makeError, collectGarbage)
napi_value init(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    NAPI_OK(napi_create_reference(env, args[0], 1, &make_error));
    set_collector(env, args[1]);
    return undefined(env);
  });
}

}  // namespace

void throw_error(napi_env env, const std::string& op, const std::string& message, bool out_of_memory) {
  std::string line = message.substr(0, message.find('\n'));
  const size_t trace = line.find("Exception raised from");
  if (trace != std::string::npos) line.resize(trace);
  // Messages of the dispatcher go on to list every backend; the first sentence says what is wrong. What a device lacks takes several.
  const size_t sentence = line.find(". ", 40);
  if (!out_of_memory && line.size() > 300 && sentence != std::string::npos) line.resize(sentence + 1);
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) return;
  napi_value make, global, args[3], error;
  if (make_error && napi_get_reference_value(env, make_error, &make) == napi_ok && napi_get_global(env, &global) == napi_ok &&
      napi_create_string_utf8(env, op.data(), op.size(), &args[0]) == napi_ok &&
      napi_create_string_utf8(env, line.data(), line.size(), &args[1]) == napi_ok &&
      napi_get_boolean(env, out_of_memory, &args[2]) == napi_ok &&
      napi_call_function(env, global, make, 3, args, &error) == napi_ok) {
    napi_throw(env, error);
    return;
  }
  napi_throw_error(env, nullptr, line.c_str());
}

std::vector<napi_value> arguments(napi_env env, napi_callback_info info, size_t count) {
  std::vector<napi_value> values(count);
  size_t given = count;
  NAPI_OK(napi_get_cb_info(env, info, &given, values.data(), nullptr, nullptr));  // fills the rest with undefined
  return values;
}

}  // namespace ivtlr

NAPI_MODULE_INIT() {
  using namespace ivtlr;
  // Handles and property keys belong to one JavaScript thread.
  static bool loaded = false;
  if (loaded) {
    napi_throw_error(env, nullptr, "@ivtlr/torch is loaded already, on another thread: use child processes instead of worker threads");
    return nullptr;
  }
  loaded = true;
  try {
    init_convert(env);
    const struct {
      const char* name;
      napi_callback function;
    } functions[] = {
        {"init", init},
        {"findOp", find_op},
        {"callOp", call_op},
        {"allOps", all_ops},
        {"tensorInfo", tensor_info},
        {"tensorShape", tensor_shape},
        {"fromBytes", from_bytes},
        {"shareBuffer", share_buffer},
        {"copyBytes", copy_bytes},
        {"release", release_many},
        {"watch", watch_owner},
        {"sweep", sweep_dead},
        {"live", live},
        {"setRequiresGrad", set_requires_grad},
        {"getGrad", get_grad},
        {"setGrad", set_grad},
        {"backward", backward},
        {"gradients", gradients},
        {"setGradEnabled", set_grad_enabled},
        {"inferenceMode", inference_mode},
        {"manualSeed", manual_seed},
        {"rngState", rng_state},
        {"newGenerator", new_generator},
        {"freeGenerator", free_generator},
        {"threads", threads},
        {"flushDenormal", flush_denormal},
        {"buildInfo", build_info},
        {"cudaDevice", cuda_device},
        {"cudaMemory", cuda_memory},
        {"cudaResetPeak", cuda_reset_peak},
        {"cudaEmptyCache", cuda_empty_cache},
        {"cudaSynchronize", cuda_synchronize},
        {"newStream", new_stream},
        {"exchangeStream", exchange_stream},
        {"synchronizeStream", synchronize_stream},
        {"freeStream", free_stream},
        {"newEvent", new_event},
        {"recordEvent", record_event},
        {"waitForEvent", wait_for_event},
        {"eventDone", event_done},
        {"synchronizeEvent", synchronize_event},
        {"eventSeconds", event_seconds},
        {"freeEvent", free_event},
        {"newGraph", new_graph},
        {"beginCapture", begin_capture},
        {"endCapture", end_capture},
        {"replayGraph", replay_graph},
        {"freeGraph", free_graph},
        {"allowTf32", allow_tf32},
        {"deterministic", deterministic},
        {"openStore", open_store},
        {"closeStore", close_store},
        {"storeSet", store_set},
        {"storeGet", store_get},
        {"storeAdd", store_add},
        {"storeWait", store_wait},
        {"storeCheck", store_check},
        {"storeDelete", store_delete},
        {"openGroup", open_group},
        {"closeGroup", close_group},
        {"startGather", start_gather},
        {"startReduceScatter", start_reduce_scatter},
        {"finishExchange", finish_exchange},
        {"startSumOfPieces", start_sum_of_pieces},
        {"finishSumOfPieces", finish_sum_of_pieces},
        {"newSharedMemory", new_shared_memory},
        {"mapSharedMemory", map_shared_memory},
        {"closeSharedMemory", close_shared_memory},
        {"dropSharedBuffer", drop_shared_buffer},
        {"sharedPart", shared_part},
        {"attachSharedBuffer", attach_shared_buffer},
        {"startCopies", start_copies},
        {"copiesMade", copies_made},
        {"finishCopies", finish_copies},
        {"describeMemory", describe_memory},
        {"canReadMemory", can_read_memory},
        {"setPeers", set_peers},
        {"bytesRead", bytes_read_so_far},
        {"dieWithParent", die_with_parent},
        {"hasInput", has_input},
        {"setBlocksFromSystem", set_blocks_from_system},
        {"setStorageBytes", set_storage_bytes},
        {"setBlockPool", set_block_pool},
    };
    for (const auto& entry : functions) {
      napi_value function;
      NAPI_OK(napi_create_function(env, entry.name, NAPI_AUTO_LENGTH, entry.function, nullptr, &function));
      NAPI_OK(napi_set_named_property(env, exports, entry.name, function));
    }
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
    return nullptr;
  }
  return exports;
}
