#include "distributed.h"

#include <ATen/ATen.h>
#include <c10/util/Logging.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <future>
#include <map>
#include <thread>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "addon.h"

namespace ivtlr {
namespace {

using Milliseconds = std::chrono::milliseconds;

struct OpenStore {
  c10::intrusive_ptr<c10d::Store> store;
  Milliseconds timeout;
  bool lost = false;  // its server did not answer: a thread may hold its lock for ever
};

// Never destroyed: connections close with the process, and a thread that was left behind may still use them.
std::map<int32_t, OpenStore>& stores = *new std::map<int32_t, OpenStore>();
std::map<std::string, c10::intrusive_ptr<c10d::ProcessGroup>>& groups =
    *new std::map<std::string, c10::intrusive_ptr<c10d::ProcessGroup>>();
int32_t next_store = 1;

OpenStore& store_of(napi_env env, napi_value id) {
  const auto found = stores.find(static_cast<int32_t>(to_int(env, id)));
  if (found == stores.end()) throw std::runtime_error("the store is closed");
  return found->second;
}

struct NoAnswer : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// c10d waits without limit for the answer of a server that is there but does not run (a stopped process, a cut line). So what talks to the
// store does it on a thread of its own, which is left behind when the time is over.
template <typename Body>
auto within(Milliseconds limit, Body body) {
  auto task = std::make_shared<std::packaged_task<decltype(body())()>>(std::move(body));
  auto result = task->get_future();
  std::thread([task] { (*task)(); }).detach();
  if (result.wait_for(limit) != std::future_status::ready)
    throw NoAnswer("no answer within " + std::to_string((limit.count() + 500) / 1000) + " s");
  return result.get();
}

template <typename Body>
auto ask(OpenStore& open, Milliseconds limit, Body body) {
  if (open.lost) throw std::runtime_error("the store's server does not answer");
  try {
    return within(limit, [store = open.store, body] { return body(*store); });
  } catch (const NoAnswer&) {
    open.lost = true;
    throw;
  }
}

// How much longer than its own timeout a wait of c10d may take before it counts as one without an end.
constexpr Milliseconds grace(2000);

std::vector<std::string> texts(napi_env env, napi_value value) {
  std::vector<std::string> result;
  const uint32_t length = array_length(env, value);
  for (uint32_t i = 0; i < length; i++) result.push_back(to_string(env, element(env, value, i)));
  return result;
}

// The first address of this machine that is not for itself alone; empty when there is none.
std::string outside_address() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  std::string result;
  for (const ifaddrs* at = all; at && result.empty(); at = at->ifa_next) {
    if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET || !(at->ifa_flags & IFF_UP) || (at->ifa_flags & IFF_LOOPBACK)) continue;
    char text[NI_MAXHOST];
    if (getnameinfo(at->ifa_addr, sizeof(sockaddr_in), text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0) result = text;
  }
  freeifaddrs(all);
  return result;
}

// The address of this machine as the others reach it: that of the interface which leads to `master`. On the master's own machine its name may
// stand for a loopback address, which other machines cannot reach.
std::string own_address(const std::string& master, bool several_machines) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(master.c_str(), "9", &hints, &found) != 0 || !found) throw std::runtime_error("the address " + master + " is unknown");
  std::string result = "127.0.0.1";
  for (addrinfo* at = found; at; at = at->ai_next) {
    const int handle = socket(at->ai_family, SOCK_DGRAM, 0);
    if (handle < 0) continue;
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    char text[NI_MAXHOST];
    // Connecting a datagram socket sends nothing; it only chooses the way.
    const bool ok = connect(handle, at->ai_addr, at->ai_addrlen) == 0 && getsockname(handle, reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
                    getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0;
    close(handle);
    if (!ok) continue;
    result = text;
    break;
  }
  freeaddrinfo(found);
  if (!several_machines || !(result.starts_with("127.") || result == "::1")) return result;
  const std::string outside = outside_address();
  if (outside.empty()) throw std::runtime_error("this machine has no address that others reach: set GLOO_SOCKET_IFNAME to the interface to use");
  return outside;
}

c10::intrusive_ptr<c10d::Backend> gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, Milliseconds timeout,
                                       const std::string& master, bool several_machines) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  if (const char* names = std::getenv("GLOO_SOCKET_IFNAME")) {
    std::string rest = names;
    while (!rest.empty()) {
      const size_t comma = rest.find(',');
      options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(rest.substr(0, comma)));
      rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    }
  } else {
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(own_address(master, several_machines)));
  }
  options->threads = 2;
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

c10::intrusive_ptr<c10d::Backend> nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, Milliseconds timeout) {
#ifdef USE_C10D_NCCL
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
#else
  throw std::runtime_error(
      "this addon was built without NCCL: GPUs of several processes need a CUDA build of libtorch and the headers of the pip packages "
      "nvidia-nccl-cu13, nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl beside it; then run the set-up again");
#endif
}

}  // namespace

// openStore(host, port, isServer, processes, timeout ms, prefix): a server listens (port 0: on a free one). -> [id, port]
napi_value open_store(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 6);
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(to_int(env, args[1]));
    options.isServer = to_bool(env, args[2]);
    options.numWorkers = static_cast<size_t>(to_int(env, args[3]));
    options.waitWorkers = false;
    options.multiTenant = true;
    options.timeout = Milliseconds(to_int(env, args[4]));
    // c10d logs what it throws once more, with a stack trace.
    if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_FATAL + 1;
    auto tcp = within(options.timeout + grace, [host = to_string(env, args[0]), options] { return c10::make_intrusive<c10d::TCPStore>(host, options); });
    const int port = tcp->getPort();
    const std::string prefix = to_string(env, args[5]);
    c10::intrusive_ptr<c10d::Store> store = tcp;
    if (!prefix.empty()) store = c10::make_intrusive<c10d::PrefixStore>(prefix, store);
    const int32_t id = next_store++;
    stores[id] = {store, options.timeout};
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, 2, &result));
    NAPI_OK(napi_set_element(env, result, 0, number(env, id)));
    NAPI_OK(napi_set_element(env, result, 1, number(env, port)));
    return result;
  }, [] { return std::string("Store"); });
}

napi_value close_store(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    stores.erase(static_cast<int32_t>(to_int(env, args[0])));
    return undefined(env);
  }, [] { return std::string("Store"); });
}

// storeSet(id, key, bytes as a Uint8Array, timeout ms)
napi_value store_set(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 4);
    void* data = nullptr;
    size_t length = 0;
    napi_typedarray_type type;
    NAPI_OK(napi_get_typedarray_info(env, args[2], &type, &length, &data, nullptr, nullptr));
    const auto* bytes = static_cast<const uint8_t*>(data);
    ask(store_of(env, args[0]), Milliseconds(to_int(env, args[3])),
        [key = to_string(env, args[1]), value = std::vector<uint8_t>(bytes, bytes + length)](c10d::Store& store) { store.set(key, value); });
    return undefined(env);
  }, [] { return std::string("Store.set"); });
}

// storeGet(id, key, timeout ms) -> Uint8Array
napi_value store_get(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    const Milliseconds timeout(to_int(env, args[2]));
    const auto value = ask(store_of(env, args[0]), timeout + grace, [key = to_string(env, args[1]), timeout](c10d::Store& store) {
      store.wait({key}, timeout);
      return store.get(key);
    });
    void* data = nullptr;
    napi_value buffer, result;
    NAPI_OK(napi_create_arraybuffer(env, value.size(), &data, &buffer));
    std::copy(value.begin(), value.end(), static_cast<uint8_t*>(data));
    NAPI_OK(napi_create_typedarray(env, napi_uint8_array, value.size(), buffer, 0, &result));
    return result;
  }, [] { return std::string("Store.get"); });
}

// storeAdd(id, key, amount) -> the sum
napi_value store_add(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    auto& open = store_of(env, args[0]);
    const auto add = [key = to_string(env, args[1]), amount = to_int(env, args[2])](c10d::Store& store) { return store.add(key, amount); };
    return number(env, static_cast<double>(ask(open, open.timeout, add)));
  }, [] { return std::string("Store.add"); });
}

// storeWait(id, keys, timeout ms)
napi_value store_wait(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    const Milliseconds timeout(to_int(env, args[2]));
    ask(store_of(env, args[0]), timeout + grace, [keys = texts(env, args[1]), timeout](c10d::Store& store) { store.wait(keys, timeout); });
    return undefined(env);
  }, [] { return std::string("Store.wait"); });
}

// storeCheck(id, keys, timeout ms) -> whether all are there
napi_value store_check(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    const auto check = [keys = texts(env, args[1])](c10d::Store& store) { return store.check(keys); };
    napi_value result;
    NAPI_OK(napi_get_boolean(env, ask(store_of(env, args[0]), Milliseconds(to_int(env, args[2])), check), &result));
    return result;
  }, [] { return std::string("Store.check"); });
}

napi_value store_delete(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    auto& open = store_of(env, args[0]);
    const auto remove = [key = to_string(env, args[1])](c10d::Store& store) { return store.deleteKey(key); };
    napi_value result;
    NAPI_OK(napi_get_boolean(env, ask(open, open.timeout, remove), &result));
    return result;
  }, [] { return std::string("Store.delete"); });
}

// openGroup(store id, name, rank, size, backend, timeout ms, master address, whether there are several machines)
napi_value open_group(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 8);
    const std::string name = to_string(env, args[1]);
    if (groups.count(name)) throw std::runtime_error("there is a group \"" + name + "\" already");
    const int rank = static_cast<int>(to_int(env, args[2]));
    const int size = static_cast<int>(to_int(env, args[3]));
    const bool on_gpus = to_string(env, args[4]) == "nccl";
    const Milliseconds timeout(to_int(env, args[5]));
    const auto make = [=, master = to_string(env, args[6]), several_machines = to_bool(env, args[7])](c10d::Store& shared) {
      const auto store = c10::make_intrusive<c10d::PrefixStore>(name, c10::intrusive_ptr<c10d::Store>::reclaim_copy(&shared));
      // Gloo waits for the others' addresses as long as the store says.
      store->setTimeout(timeout);
      auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
      if (on_gpus) group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl(store, rank, size, timeout));
      // Numbers that processes agree on are on the CPU whatever the model is on.
      group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo(store, rank, size, timeout, master, several_machines));
      group->setDefaultBackend(on_gpus ? c10d::ProcessGroup::BackendType::NCCL : c10d::ProcessGroup::BackendType::GLOO);
      group->setGroupName(name);
      return group;
    };
    const auto group = ask(store_of(env, args[0]), timeout + grace, make);
    c10d::register_process_group(name, group);
    groups[name] = group;
    return undefined(env);
  }, [] { return std::string("initProcessGroup"); });
}

// closeGroup(name, timeout ms): Gloo first ends the collectives under way, which may last until their timeouts; after `timeout` that goes on without us.
napi_value close_group(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    const std::string name = to_string(env, args[0]);
    auto found = groups.extract(name);
    if (found.empty()) return undefined(env);
    c10d::unregister_process_group(name);
    auto group = std::make_shared<c10::intrusive_ptr<c10d::ProcessGroup>>(std::move(found.mapped()));
    try {
      within(Milliseconds(to_int(env, args[1])), [group = std::move(group)] {
        (*group)->shutdown();
        group->reset();
      });
    } catch (const std::exception&) {  // it closes later, at the latest with the process
    }
    return undefined(env);
  }, [] { return std::string("ProcessGroup.destroy"); });
}

// dieWithParent(pid of the parent): the kernel ends this process when its parent has ended. False where the parent is gone already.
napi_value die_with_parent(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const bool ok = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == static_cast<pid_t>(to_int(env, args[0]));
    napi_value result;
    NAPI_OK(napi_get_boolean(env, ok, &result));
    return result;
  }, [] { return std::string("dieWithParent"); });
}

// hasInput(fd): whether reading the file descriptor would not wait; also at its end.
napi_value has_input(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    pollfd asked{static_cast<int>(to_int(env, args[0])), POLLIN, 0};
    napi_value result;
    NAPI_OK(napi_get_boolean(env, poll(&asked, 1, 0) > 0, &result));
    return result;
  }, [] { return std::string("hasInput"); });
}

}  // namespace ivtlr
