#include "shared.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <numeric>

#include "addon.h"
#include "handles.h"
#include "peers.h"

namespace ivtlr {
namespace {

struct Mapping {
  char* const start;
  const size_t bytes;
  Mapping(char* start, size_t bytes) : start(start), bytes(bytes) {}
  Mapping(const Mapping&) = delete;
  ~Mapping() { munmap(start, bytes); }
};

// Freed when neither a buffer nor a tensor refers to it any more.
using Shared = std::shared_ptr<Mapping>;

struct Buffer {
  Shared memory;
  char* start;
  size_t part;  // bytes of each process's
  int rank, size;
};

std::map<int32_t, Buffer>& buffers = *new std::map<int32_t, Buffer>();
int32_t next_buffer = 1;

const Buffer& buffer_of(napi_env env, napi_value id) {
  const auto found = buffers.find(static_cast<int32_t>(to_int(env, id)));
  if (found == buffers.end()) throw std::runtime_error("the shared buffer is gone");
  return found->second;
}

// The whole buffer as the memory of a tensor. Afterwards the parts of others are unmapped from this process, where their pages would count as its own;
// the next one to look at them finds them again.
c10::DataPtr pointer(const Buffer& buffer) {
  const auto free = [](void* context) {
    const auto* held = static_cast<Buffer*>(context);
    const size_t before = static_cast<size_t>(held->rank) * held->part, whole = static_cast<size_t>(held->size) * held->part;
    if (before > 0) madvise(held->start, before, MADV_DONTNEED);
    if (before + held->part < whole) madvise(held->start + before + held->part, whole - before - held->part, MADV_DONTNEED);
    delete held;
  };
  return {buffer.start, new Buffer(buffer), free, c10::Device(c10::kCPU)};
}

std::vector<size_t> sizes(napi_env env, napi_value array) {
  std::vector<size_t> result(array_length(env, array));
  for (uint32_t i = 0; i < result.size(); i++) result[i] = static_cast<size_t>(to_int(env, element(env, array, i)));
  return result;
}

}  // namespace

// newSharedMemory(bytes) -> file descriptor of this process's parts of all buffers, or -1 where the system has none to give
napi_value new_shared_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    const int file = memfd_create("ivtlr", MFD_CLOEXEC);
    if (file < 0) return number(env, -1);
    if (ftruncate(file, to_int(env, args[0])) == 0) return number(env, file);
    close(file);
    return number(env, -1);
  }, [] { return std::string("newSharedMemory"); });
}

// mapSharedMemory(group, rank, file descriptors by rank, bytes of a part of each buffer) -> ids of the buffers, or null where that is not possible
napi_value map_shared_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto args = arguments(env, info, 4);
    const PeerGroup* peers = peers_of(to_string(env, args[0]));
    const int rank = static_cast<int>(to_int(env, args[1]));
    const std::vector<size_t> parts = sizes(env, args[3]);
    const size_t size = array_length(env, args[2]), page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t total = size * std::accumulate(parts.begin(), parts.end(), size_t{0});
    if (!peers || total == 0) return null(env);
    for (const size_t part : parts)
      if (part % page != 0) return null(env);
    void* start = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return null(env);
    const auto memory = std::make_shared<Mapping>(static_cast<char*>(start), total);
    for (size_t other = 0; other < size; other++) {
      const bool own = static_cast<int>(other) == rank;
      const int64_t theirs = to_int(env, element(env, args[2], static_cast<uint32_t>(other)));
      const std::string path = "/proc/" + std::to_string(own ? getpid() : peers->peers[other].pid) + "/fd/" + std::to_string(theirs);
      const int file = open(path.c_str(), (own ? O_RDWR : O_RDONLY) | O_CLOEXEC);
      if (file < 0) return null(env);
      size_t before = 0;
      bool ok = true;
      for (const size_t part : parts) {
        char* place = memory->start + size * before + other * part;
        ok = ok && mmap(place, part, own ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, file, static_cast<off_t>(before)) != MAP_FAILED;
        if (ok) madvise(place, part, MADV_HUGEPAGE);
        before += part;
      }
      close(file);
      if (!ok) return null(env);
    }
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, parts.size(), &result));
    size_t before = 0;
    for (uint32_t i = 0; i < parts.size(); i++) {
      buffers[next_buffer] = {memory, memory->start + size * before, parts[i], rank, static_cast<int>(size)};
      NAPI_OK(napi_set_element(env, result, i, number(env, next_buffer++)));
      before += parts[i];
    }
    return result;
  }, [] { return std::string("mapSharedMemory"); });
}

// closeSharedMemory(file descriptor): what is mapped stays.
napi_value close_shared_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    close(static_cast<int>(to_int(env, args[0])));
    return undefined(env);
  }, [] { return std::string("closeSharedMemory"); });
}

// dropSharedBuffer(id): its memory goes when no tensor is left in it or its neighbours.
napi_value drop_shared_buffer(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    buffers.erase(static_cast<int32_t>(to_int(env, args[0])));
    return undefined(env);
  }, [] { return std::string("dropSharedBuffer"); });
}

// sharedPart(id, dtype, elements) -> this process's part
napi_value shared_part(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    const Buffer& buffer = buffer_of(env, args[0]);
    const auto options = at::TensorOptions().dtype(dtype_from_name(to_string(env, args[1])));
    const int64_t elements = to_int(env, args[2]);
    if (static_cast<size_t>(elements) * options.dtype().itemsize() > buffer.part) throw std::runtime_error("the part is not that long");
    char* start = buffer.start + static_cast<size_t>(buffer.rank) * buffer.part;
    const auto free = [memory = buffer.memory](void*) mutable { memory.reset(); };
    return number(env, put(at::from_blob(start, {elements}, free, options)));
  }, [] { return std::string("sharedPart"); });
}

// attachSharedBuffer(id, tensor): the whole buffer, the parts of all processes, becomes the memory of the tensor's storage. Counted as read.
napi_value attach_shared_buffer(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    const Buffer& buffer = buffer_of(env, args[0]);
    auto* storage = to_tensor(env, args[1]).storage().unsafeGetStorageImpl();
    if (storage->data() != buffer.start) storage->set_data_ptr_noswap(pointer(buffer));
    storage->set_nbytes(static_cast<size_t>(buffer.size) * buffer.part);
    count_read(static_cast<uint64_t>(buffer.size - 1) * buffer.part);
    return undefined(env);
  }, [] { return std::string("attachSharedBuffer"); });
}

}  // namespace ivtlr
