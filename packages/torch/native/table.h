// Objects that JavaScript holds by a small integer. Ids start at 1; 0 stands for none.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ivtlr {

template <typename T>
struct Table {
  std::vector<T> slots{1};  // slot 0 stays empty
  std::vector<int32_t> free;

  int32_t add(T value) {
    if (!free.empty()) {
      const int32_t id = free.back();
      free.pop_back();
      slots[id] = std::move(value);
      return id;
    }
    slots.push_back(std::move(value));
    return static_cast<int32_t>(slots.size() - 1);
  }
};

// For tables of pointers: what an id stands for, and its end.
template <typename T>
T& at(const Table<std::shared_ptr<T>>& table, int64_t id, const char* what) {
  if (id <= 0 || static_cast<size_t>(id) >= table.slots.size() || !table.slots[id])
    throw std::runtime_error(std::string("this ") + what + " was disposed");
  return *table.slots[id];
}

template <typename T>
void drop(Table<std::shared_ptr<T>>& table, int64_t id) {
  if (id <= 0 || static_cast<size_t>(id) >= table.slots.size() || !table.slots[id]) return;
  table.slots[id] = nullptr;
  table.free.push_back(static_cast<int32_t>(id));
}

}  // namespace ivtlr
