#include "cuda.h"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <memory>

#include "addon.h"
#include "table.h"

#if __has_include(<ATen/accelerator/Graph.h>)
#include <ATen/accelerator/Graph.h>
#define IVTLR_GRAPHS
using Graph = at::accelerator::Graph;
#elif defined(USE_CUDA)  // an older libtorch has graphs of CUDA only, and needs NVIDIA's headers for them
#include <ATen/cuda/CUDAGraph.h>
#define IVTLR_GRAPHS
using Graph = at::cuda::CUDAGraph;
#endif

namespace ivtlr {
namespace {

// Never destroyed: libtorch's own statics may be gone when the process ends.
Table<std::shared_ptr<c10::Stream>>& streams = *new Table<std::shared_ptr<c10::Stream>>();
Table<std::shared_ptr<c10::Event>>& events = *new Table<std::shared_ptr<c10::Event>>();

c10::impl::VirtualGuardImpl gpus() {
  at::globalContext().lazyInitDevice(c10::kCUDA);  // throws where there is none
  return c10::impl::VirtualGuardImpl(c10::kCUDA);
}

c10::Device gpu(int64_t index) {
  const int64_t count = gpus().deviceCount();
  if (index < 0 || index >= count)
    throw std::runtime_error("there is no cuda:" + std::to_string(index) + ": the devices are cuda:0 to cuda:" + std::to_string(count - 1));
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

c10::DeviceAllocator& allocator() {
  gpus();
  return *c10::getDeviceAllocator(c10::kCUDA);
}

napi_value array_of(napi_env env, const std::vector<napi_value>& values) {
  napi_value result;
  NAPI_OK(napi_create_array_with_length(env, values.size(), &result));
  for (uint32_t i = 0; i < values.size(); i++) NAPI_OK(napi_set_element(env, result, i, values[i]));
  return result;
}

// A function of NVIDIA's driver, whose binary interface is fixed; the driver is loaded already, by libtorch.
template <typename Function>
Function driver(const char* name) {
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  void* found = library ? dlsym(library, name) : nullptr;
  if (!found) throw std::runtime_error(std::string("NVIDIA's driver has no ") + name);
  return reinterpret_cast<Function>(found);
}

void check_driver(int code, const char* what) {
  if (code != 0) throw std::runtime_error(std::string(what) + " failed with code " + std::to_string(code));
}

// Runs a native function's body with its arguments; `name` is what messages begin with.
template <typename Body>
napi_value with_arguments(napi_env env, napi_callback_info info, const char* name, size_t count, Body body) {
  return guarded(env, [&] { return body(arguments(env, info, count)); }, [&] { return std::string(name); });
}

}  // namespace

// cudaDevice(index) -> [name, major, minor of the compute capability]
napi_value cuda_device(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "cudaDevice", 1, [&](const auto& args) {
    const auto device = gpu(to_int(env, args[0]));
    // The driver is set up by the first use of the device, which is asked for here.
    gpus().synchronizeDevice(device.index());
    int handle = 0;
    int capability[2] = {0, 0};
    char name[256] = {0};
    check_driver(driver<int (*)(int*, int)>("cuDeviceGet")(&handle, device.index()), "cuDeviceGet");
    check_driver(driver<int (*)(char*, int, int)>("cuDeviceGetName")(name, sizeof name - 1, handle), "cuDeviceGetName");
    for (int i : {0, 1})  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR is 75, _MINOR 76
      check_driver(driver<int (*)(int*, int, int)>("cuDeviceGetAttribute")(&capability[i], 75 + i, handle), "cuDeviceGetAttribute");
    return array_of(env, {string(env, name), number(env, capability[0]), number(env, capability[1])});
  });
}

// cudaMemory(index) -> [free, total, allocated, reserved, most allocated, most reserved], in bytes
napi_value cuda_memory(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "cudaMemory", 1, [&](const auto& args) {
    const auto index = gpu(to_int(env, args[0])).index();
    const auto [free, total] = allocator().getMemoryInfo(index);
    const auto stats = allocator().getDeviceStats(index);
    std::vector<napi_value> values{number(env, static_cast<double>(free)), number(env, static_cast<double>(total))};
    for (const auto value : {stats.allocated_bytes[0].current, stats.reserved_bytes[0].current, stats.allocated_bytes[0].peak, stats.reserved_bytes[0].peak})
      values.push_back(number(env, static_cast<double>(value)));
    return array_of(env, values);
  });
}

napi_value cuda_reset_peak(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "cudaResetPeakMemory", 1, [&](const auto& args) {
    allocator().resetPeakStats(gpu(to_int(env, args[0])).index());
    return undefined(env);
  });
}

napi_value cuda_empty_cache(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "cudaEmptyCache", 0, [&](const auto&) {
    allocator().emptyCache();
    return undefined(env);
  });
}

napi_value cuda_synchronize(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "cudaSynchronize", 1, [&](const auto& args) {
    gpus().synchronizeDevice(gpu(to_int(env, args[0])).index());
    return undefined(env);
  });
}

// newStream(device index) -> id of a stream of the device's pool
napi_value new_stream(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Stream", 1, [&](const auto& args) {
    return number(env, streams.add(std::make_shared<c10::Stream>(gpus().getStreamFromGlobalPool(gpu(to_int(env, args[0]))))));
  });
}

// exchangeStream(id) -> id of the stream of the same device that was current
napi_value exchange_stream(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Stream", 1, [&](const auto& args) {
    const auto before = gpus().exchangeStream(at(streams, to_int(env, args[0]), "stream"));
    return number(env, streams.add(std::make_shared<c10::Stream>(before)));
  });
}

napi_value synchronize_stream(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Stream", 1, [&](const auto& args) {
    gpus().synchronizeStream(at(streams, to_int(env, args[0]), "stream"));
    return undefined(env);
  });
}

napi_value free_stream(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Stream", 1, [&](const auto& args) {
    drop(streams, to_int(env, args[0]));
    return undefined(env);
  });
}

// newEvent(timed) -> id
napi_value new_event(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 1, [&](const auto& args) {
    gpus();
    const auto flag = to_bool(env, args[0]) ? c10::EventFlag::BACKEND_DEFAULT : c10::EventFlag::PYTORCH_DEFAULT;
    return number(env, events.add(std::make_shared<c10::Event>(c10::kCUDA, flag)));
  });
}

// recordEvent(id, device index): what the device's current stream has been given until now
napi_value record_event(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 2, [&](const auto& args) {
    at(events, to_int(env, args[0]), "event").record(gpus().getStream(gpu(to_int(env, args[1]))));
    return undefined(env);
  });
}

// waitForEvent(id, device index): the device's current stream goes on when the event has come
napi_value wait_for_event(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 2, [&](const auto& args) {
    at(events, to_int(env, args[0]), "event").block(gpus().getStream(gpu(to_int(env, args[1]))));
    return undefined(env);
  });
}

napi_value event_done(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 1, [&](const auto& args) {
    napi_value done;
    NAPI_OK(napi_get_boolean(env, at(events, to_int(env, args[0]), "event").query(), &done));
    return done;
  });
}

napi_value synchronize_event(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 1, [&](const auto& args) {
    at(events, to_int(env, args[0]), "event").synchronize();
    return undefined(env);
  });
}

// eventSeconds(first, second) -> seconds of the device between two timed events that have come
napi_value event_seconds(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 2, [&](const auto& args) {
    const auto& second = at(events, to_int(env, args[1]), "event");
    return number(env, at(events, to_int(env, args[0]), "event").elapsedTime(second) / 1000);
  });
}

napi_value free_event(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Event", 1, [&](const auto& args) {
    drop(events, to_int(env, args[0]));
    return undefined(env);
  });
}

#ifdef IVTLR_GRAPHS
namespace {
struct DeviceGraph {
  explicit DeviceGraph(c10::Device device) : device(device) {}
  c10::Device device;
  Graph graph;
};
Table<std::shared_ptr<DeviceGraph>>& graphs = *new Table<std::shared_ptr<DeviceGraph>>();
}  // namespace

// newGraph(device index) -> id
napi_value new_graph(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Graph", 1, [&](const auto& args) {
    const c10::DeviceGuard guard(gpu(to_int(env, args[0])));
    return number(env, graphs.add(std::make_shared<DeviceGraph>(guard.current_device())));
  });
}

// beginCapture(id, id of a graph whose pool of memory is used, or 0): on the graph's device's current stream, which is not the default one
napi_value begin_capture(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Graph", 2, [&](const auto& args) {
    auto& [device, graph] = at(graphs, to_int(env, args[0]), "graph");
    const c10::DeviceGuard guard(device);
    const int64_t other = to_int(env, args[1]);
    if (other == 0) graph.capture_begin();
    else graph.capture_begin(at(graphs, other, "graph").graph.pool());
    return undefined(env);
  });
}

napi_value end_capture(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Graph", 1, [&](const auto& args) {
    auto& [device, graph] = at(graphs, to_int(env, args[0]), "graph");
    const c10::DeviceGuard guard(device);
    graph.capture_end();
    return undefined(env);
  });
}

napi_value replay_graph(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Graph", 1, [&](const auto& args) {
    auto& [device, graph] = at(graphs, to_int(env, args[0]), "graph");
    const c10::DeviceGuard guard(device);
    graph.replay();
    return undefined(env);
  });
}

napi_value free_graph(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "Graph", 1, [&](const auto& args) {
    drop(graphs, to_int(env, args[0]));
    return undefined(env);
  });
}
#else
namespace {
napi_value no_graphs(napi_env env) {
  throw_error(env, "Graph", "this build has none: graphs need libtorch 2.13, or NVIDIA's headers (the package nvidia-cuda-crt) when it is built");
  return nullptr;
}
}  // namespace
napi_value new_graph(napi_env env, napi_callback_info) { return no_graphs(env); }
napi_value begin_capture(napi_env env, napi_callback_info) { return no_graphs(env); }
napi_value end_capture(napi_env env, napi_callback_info) { return no_graphs(env); }
napi_value replay_graph(napi_env env, napi_callback_info) { return no_graphs(env); }
napi_value free_graph(napi_env env, napi_callback_info) { return no_graphs(env); }
#endif

napi_value allow_tf32(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "setAllowTf32", 1, [&](const auto& args) {
    at::globalContext().setAllowTF32CuBLAS(to_bool(env, args[0]));
    at::globalContext().setAllowTF32CuDNN(to_bool(env, args[0]));
    return undefined(env);
  });
}

// deterministic(on): ops that have no deterministic form throw
napi_value deterministic(napi_env env, napi_callback_info info) {
  return with_arguments(env, info, "setDeterministic", 1, [&](const auto& args) {
    const bool on = to_bool(env, args[0]);
    at::globalContext().setDeterministicAlgorithms(on, false);
    at::globalContext().setDeterministicCuDNN(on);
    return undefined(env);
  });
}

}  // namespace ivtlr
