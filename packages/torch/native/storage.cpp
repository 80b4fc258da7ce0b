#include "storage.h"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "addon.h"

namespace ivtlr {
namespace {

struct Block {
  c10::DataPtr memory;
  size_t bytes;
};

// Smaller requests are the heap's.
constexpr size_t least = 1 << 20;
// As many as are in use at one time: parts of a model that are there, one that is being fetched, and gradients on their way.
constexpr size_t spares_kept = 3;
std::vector<Block>& spares = *new std::vector<Block>();
// How much a block in use really has, by its address: it may be lent to a buffer that needs less.
std::unordered_map<void*, size_t>& sizes = *new std::unordered_map<void*, size_t>();

// Straight from the system, which gets it back when it is freed.
c10::DataPtr mapped(size_t bytes) {
  struct Mapping {
    void* start;
    size_t bytes;
  };
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::runtime_error("there is no memory for " + std::to_string(bytes) + " bytes");
  madvise(start, bytes, MADV_HUGEPAGE);
  const auto free = [](void* context) {
    const auto* mapping = static_cast<Mapping*>(context);
    munmap(mapping->start, mapping->bytes);
    delete mapping;
  };
  return {start, new Mapping{start, bytes}, free, c10::Device(c10::kCPU)};
}

// glibc's heap raises the size from which blocks come from the system by themselves up to this one, with every larger block that is freed.
constexpr int most_of_heap = 32 << 20;

void trim() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

bool smaller(const Block& a, const Block& b) { return a.bytes < b.bytes; }

c10::DataPtr take(size_t bytes) {
  auto best = spares.end();
  for (auto at = spares.begin(); at != spares.end(); ++at) {
    if (at->bytes >= bytes && (best == spares.end() || smaller(*at, *best))) best = at;
  }
  // Where none is large enough the largest one makes way, so that there are never more blocks than were in use at one time.
  const bool found = best != spares.end();
  if (!found) best = std::max_element(spares.begin(), spares.end(), smaller);
  Block block{{}, bytes};
  if (found) block = std::move(*best);
  if (best != spares.end()) spares.erase(best);
  if (!found) block.memory = mapped(bytes);
  sizes[block.memory.get()] = block.bytes;
  return std::move(block.memory);
}

void give_back(c10::DataPtr memory) {
  const auto found = sizes.find(memory.get());
  if (found == sizes.end()) return;  // memory that came another way is freed
  spares.push_back({std::move(memory), found->second});
  sizes.erase(found);
  if (spares.size() > spares_kept) {
    spares.erase(std::min_element(spares.begin(), spares.end(), smaller));
  }
}

}  // namespace

void set_bytes(const at::Tensor& tensor, size_t bytes) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  if (!storage->resizable()) throw std::runtime_error("the memory of this tensor belongs to somebody else");
  const auto device = storage->device();
  if (!device.is_cpu()) {  // whose allocator keeps memory itself
    if (bytes == 0) storage->set_data_ptr_noswap(c10::DataPtr(nullptr, device));
    else if (storage->nbytes() != bytes) storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  } else if (storage->nbytes() != bytes) {
    auto before = storage->set_data_ptr(c10::DataPtr(nullptr, device));
    if (before.get() != nullptr) give_back(std::move(before));
    if (bytes > 0) storage->set_data_ptr_noswap(bytes < least ? storage->allocator()->allocate(bytes) : take(bytes));
  }
  storage->set_nbytes(bytes);
}

// setBlocksFromSystem(on): whether blocks of 128 KB and more are taken from the system one by one. Switching it off gives the system what is free.
napi_value set_blocks_from_system(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const bool on = to_bool(env, arguments(env, info, 1)[0]);
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, on ? 128 << 10 : most_of_heap);
    mallopt(M_TRIM_THRESHOLD, on ? 128 << 10 : 2 * most_of_heap);
#endif
    if (on) return undefined(env);
    spares.clear();
    trim();
    return undefined(env);
  }, [] { return std::string("setBlocksFromSystem"); });
}

// setStorageBytes(tensor, bytes): see set_bytes. Views see the new memory too, and no version is counted.
napi_value set_storage_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    set_bytes(to_tensor(env, args[0]), static_cast<size_t>(to_int(env, args[1])));
    return undefined(env);
  }, [] { return std::string("setStorageBytes"); });
}

}  // namespace ivtlr
