// What the kernels behind `ivtlr::linear` share (linear.cpp, linear_amx.cpp).
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "bf16.h"

namespace ivtlr {

// Raw bits of bfloat16 values, row-major: x (rows, inputs), weight (outputs, inputs), bias (outputs) or null, y (rows, outputs).
struct Product {
  const uint16_t* x;
  const uint16_t* weight;
  const uint16_t* bias;
  uint16_t* y;
  int64_t rows, inputs, outputs;

  void store(int64_t row, int64_t output, float sum) const {
    if (bias) sum += widen(bias[output]);
    y[row * outputs + output] = c10::BFloat16(sum).x;
  }
};

// Elements of weight times rows below which a second thread costs more than it saves.
constexpr int64_t kGrain = 1 << 17;

// Runs `body(begin, end)` over all units. Threads take a few at a time as they become free, so that one which another program holds up for a while
// takes fewer of them instead of keeping the others waiting.
template <typename Body>
void share_units(int64_t units, int64_t grain, const Body& body) {
  constexpr int64_t kTurns = 32;
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), (units + grain - 1) / grain);
  if (threads <= 1 || at::in_parallel_region()) return body(0, units);
  const int64_t turn = std::max(grain, units / (threads * kTurns));
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin = next.fetch_add(turn); begin < units; begin = next.fetch_add(turn)) body(begin, std::min(units, begin + turn));
  });
}

// Whether this CPU has matrix tiles for bfloat16 (Intel's AMX) and the system lets this process use them.
bool has_amx();
// Whole tiles only.
inline bool fits_amx(int64_t inputs, int64_t outputs) { return inputs % 32 == 0 && outputs % 16 == 0; }
void linear_amx(const Product& product);

}  // namespace ivtlr
