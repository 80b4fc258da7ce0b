// What the kernels behind `ivtlr::linear` share (linear.cpp, linear_amx.cpp).
#pragma once
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

// Whether this CPU has matrix tiles for bfloat16 (Intel's AMX) and the system lets this process use them.
bool has_amx();
// Whole tiles only.
inline bool fits_amx(int64_t inputs, int64_t outputs) { return inputs % 32 == 0 && outputs % 16 == 0; }
void linear_amx(const Product& product);

}  // namespace ivtlr
