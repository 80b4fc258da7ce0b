#include "block_pool.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <list>
#include <mutex>
#include <unordered_map>

#include "addon.h"

namespace ivtlr {
namespace {

// Smaller requests are the heap's.
constexpr size_t least = 16 << 10;
constexpr size_t page = 4096;

struct Block {
  void* start;
  size_t bytes;
};

void* mapped(size_t bytes) {
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::runtime_error("there is no memory for " + std::to_string(bytes) + " bytes");
  madvise(start, bytes, MADV_HUGEPAGE);
  return start;
}

// Frees memory of the pool or of the heap.
void release(void* start);

class BlockPool final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    // Of memory from the heap too the context is the memory itself, as `raw_deleter` promises.
    if (bytes < least) return heap_->allocate(bytes);
    const size_t whole = (bytes + page - 1) / page * page;
    void* start = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = by_size_.find(whole); found != by_size_.end()) {
        start = found->second->start;
        spares_.erase(found->second);
        by_size_.erase(found);
        spare_bytes_ -= whole;
      }
    }
    if (start == nullptr) start = mapped(whole);
    {
      const std::lock_guard lock(mutex_);
      in_use_[start] = whole;
    }
    return {start, start, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  // Takes a block back; false for one that is not of here.
  bool take_back(void* start) {
    const std::lock_guard lock(mutex_);
    const auto found = in_use_.find(start);
    if (found == in_use_.end()) return false;
    spares_.push_back({start, found->second});
    by_size_.emplace(found->second, std::prev(spares_.end()));
    spare_bytes_ += found->second;
    in_use_.erase(found);
    give_up_more_than(kept_);
    return true;
  }

  void keep(size_t bytes) {
    const std::lock_guard lock(mutex_);
    kept_ = bytes;
    give_up_more_than(bytes);
  }

  void free_in_heap(void* start) const { heap_->raw_deallocate(start); }

 private:
  // The longest unused ones go first.
  void give_up_more_than(size_t bytes) {
    while (spare_bytes_ > bytes) {
      const auto oldest = spares_.begin();
      const auto [from, to] = by_size_.equal_range(oldest->bytes);
      for (auto at = from; at != to; ++at) {
        if (at->second == oldest) {
          by_size_.erase(at);
          break;
        }
      }
      munmap(oldest->start, oldest->bytes);
      spare_bytes_ -= oldest->bytes;
      spares_.erase(oldest);
    }
  }

  c10::Allocator* const heap_ = c10::GetDefaultCPUAllocator();
  std::mutex mutex_;
  std::unordered_map<void*, size_t> in_use_;
  // Oldest first.
  std::list<Block> spares_;
  std::unordered_multimap<size_t, std::list<Block>::iterator> by_size_;
  size_t spare_bytes_ = 0;
  size_t kept_ = 0;
};

// Never destroyed: tensors may outlive everything.
BlockPool& pool() {
  static BlockPool& it = *new BlockPool();
  return it;
}

void release(void* start) {
  if (start != nullptr && !pool().take_back(start)) pool().free_in_heap(start);
}

}  // namespace

// setBlockPool(bytes): from now on tensors take their memory from the pool, which keeps so many bytes of freed blocks; 0: from the heap again. What
// was taken before goes back to where it came from.
napi_value set_block_pool(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const int64_t bytes = to_int(env, arguments(env, info, 1)[0]);
    c10::SetCPUAllocator(bytes > 0 ? static_cast<c10::Allocator*>(&pool()) : c10::GetDefaultCPUAllocator());
    pool().keep(static_cast<size_t>(bytes));
    return undefined(env);
  }, [] { return std::string("setBlockPool"); });
}

}  // namespace ivtlr
