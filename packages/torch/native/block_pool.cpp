#include "block_pool.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <list>
#include <mutex>
#include <optional>
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
    const std::lock_guard lock(mutex_);
    const size_t whole = rounded(bytes);
    void* start = take(whole);
    sizes_[start] = whole;
    return {start, start, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  // False for a block that is not of here.
  bool take_back(void* start) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(start);
    if (found == sizes_.end()) return false;
    const size_t bytes = found->second;
    sizes_.erase(found);
    used_ -= bytes;
    spare_ += bytes;
    spares_.push_back({start, bytes});
    by_size_.emplace(bytes, std::prev(spares_.end()));
    give_up(surplus());
    return true;
  }

  void turn(bool on, std::optional<size_t> waiting) {
    const std::lock_guard lock(mutex_);
    on_ = on;
    waiting_ = waiting;
    most_ = used_;
    give_up(surplus());
  }

  void free_in_heap(void* start) const { heap_->raw_deallocate(start); }

 private:
  void* take(size_t bytes) {
    used_ += bytes;
    if (const auto found = by_size_.find(bytes); found != by_size_.end()) {
      void* start = found->second->start;
      spares_.erase(found->second);
      by_size_.erase(found);
      spare_ -= bytes;
      return start;
    }
    most_ = std::max(most_, used_);
    give_up(surplus());
    return mapped(bytes);
  }

  // Where bytes are given that may wait, sizes are rounded up by an eighth at most, so that a block serves requests of about its size too.
  size_t rounded(size_t bytes) const {
    const size_t step = waiting_ ? std::max(page, std::bit_floor(bytes) / 8) : page;
    return (bytes + step - 1) / step * step;
  }

  // Bytes of freed blocks that may not wait any longer.
  size_t surplus() const {
    if (!on_) return spare_;
    const size_t most = waiting_ ? *waiting_ : most_ - std::min(most_, used_);
    return spare_ > most ? spare_ - most : 0;
  }

  // Gives at least so many bytes of freed blocks back to the system, the longest unused ones first.
  void give_up(size_t bytes) {
    const size_t left = bytes < spare_ ? spare_ - bytes : 0;
    while (spare_ > left) {
      const auto oldest = spares_.begin();
      auto at = by_size_.find(oldest->bytes);
      while (at->second != oldest) ++at;
      by_size_.erase(at);
      munmap(oldest->start, oldest->bytes);
      spare_ -= oldest->bytes;
      spares_.erase(oldest);
    }
  }

  c10::Allocator* const heap_ = c10::GetDefaultCPUAllocator();
  std::mutex mutex_;
  bool on_ = false;
  std::optional<size_t> waiting_;
  // Bytes in use now, and at most since it was turned on; bytes that wait.
  size_t used_ = 0, most_ = 0, spare_ = 0;
  std::unordered_map<void*, size_t> sizes_;
  // Oldest first.
  std::list<Block> spares_;
  std::unordered_multimap<size_t, std::list<Block>::iterator> by_size_;
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

// setBlockPool(on, bytes of freed blocks that may wait; negative: no more than keeps them and what is in use within the most that was in use at one
// time): whether tensors take their memory from the pool from now on, or from the heap. What was taken before goes back to where it came from.
napi_value set_block_pool(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    const bool on = to_bool(env, args[0]);
    const int64_t waiting = to_int(env, args[1]);
    c10::SetCPUAllocator(on ? static_cast<c10::Allocator*>(&pool()) : c10::GetDefaultCPUAllocator());
    pool().turn(on, waiting < 0 ? std::nullopt : std::optional<size_t>(waiting));
    return undefined(env);
  }, [] { return std::string("setBlockPool"); });
}

}  // namespace ivtlr
