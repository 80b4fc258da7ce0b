// Linear layers over few rows of bfloat16 on the CPU, which is what decoding is made of: each weight is read once and the time is that of
// reading it. ATen hands these shapes to oneDNN, which reaches about a third of the memory's speed for one row and reorders the weight anew
// at every call for some tens of rows.
//
// The operator it registers, `ivtlr::linear(Tensor input, Tensor weight, Tensor? bias=None, str? kernel=None)`, takes everything
// `aten::linear` takes and hands over to it whatever these kernels are not for: other dtypes and devices, many rows, graphs.
// Products are summed in float32 and rounded once, as ATen does, in another order. `kernel` forces one of the names below and throws when
// the call is not for it; it is there for tests and measurements.
//   amx          up to 640 rows; inputs in 32s, outputs in 16s (linear_amx.cpp)
//   avx512_bf16  up to 96 rows: one row streams the weight; 4 to 8 rows stream it through register tiles of all rows by some outputs; other numbers
//                of rows work in tiles of 8 outputs by up to 3 rows
//   avx2         one row, an even number of inputs
//   aten         aten::linear
#include <torch/library.h>

#include <vector>

#include "linear.h"

namespace ivtlr {
namespace {

using at::Tensor;

// Rows from which oneDNN's reordering of the weight pays off.
constexpr int64_t kRows = 96;
// The same for matrix tiles.
constexpr int64_t kAmxRows = 640;
// Outputs of one unit of parallel work; a multiple of the height of every tile.
constexpr int64_t kUnit = 24;

#ifdef IVTLR_X86
#define AVX2 __attribute__((target("avx2,fma")))

AVX512_BF16 inline __m512bh load(const uint16_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
AVX512_BF16 inline __m512bh load(const uint16_t* from, __mmask32 mask) { return (__m512bh)_mm512_maskz_loadu_epi16(mask, from); }

// Eight outputs of M rows, held in registers. Meanwhile the weights of `kAhead` outputs from `ahead` on are asked for: rows of a weight are too
// short for the hardware to see the next ones coming.
template <int M, int kAhead>
AVX512_BF16 inline void tile(const Product& p, int64_t output, int64_t row, const uint16_t* ahead) {
  const int64_t K = p.inputs;
  const uint16_t* w = p.weight + output * K;
  const uint16_t* x = p.x + row * K;
  __m512 sum[8][M];
#pragma GCC unroll 8
  for (int n = 0; n < 8; n++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) sum[n][m] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 32 <= K; k += 32) {
    __m512bh values[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) values[m] = load(x + m * K + k);
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) {
      const __m512bh weight = load(w + n * K + k);
      if (n < kAhead) _mm_prefetch(reinterpret_cast<const char*>(ahead + n * K + k), _MM_HINT_T1);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) sum[n][m] = _mm512_dpbf16_ps(sum[n][m], weight, values[m]);
    }
  }
  if (k < K) {
    const __mmask32 mask = (1u << (K - k)) - 1;
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++)
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) sum[n][m] = _mm512_dpbf16_ps(sum[n][m], load(w + n * K + k, mask), load(x + m * K + k, mask));
  }
  __m256 bias = _mm256_setzero_ps();
  if (p.bias) bias = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.bias + output))), 16));
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
    const __m256 sums = _mm256_add_ps(_mm256_set_m128(reduce_four(&sum[4][m], M), reduce_four(&sum[0][m], M)), bias);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p.y + (row + m) * p.outputs + output), (__m128i)_mm256_cvtneps_pbh(sums));
  }
}

// One row: a single stream through the weight with four sums in flight, which is what the hardware's own prefetching likes best.
AVX512_BF16 void stream(const Product& p, int64_t begin, int64_t end, int64_t row) {
  const int64_t K = p.inputs;
  const uint16_t* w = p.weight + begin * K;
  const uint16_t* x = p.x + row * K;
  for (int64_t output = begin; output < end; output++, w += K) {
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t k = 0;
    for (; k + 128 <= K; k += 128)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) sum[i] = _mm512_dpbf16_ps(sum[i], load(w + k + 32 * i), load(x + k + 32 * i));
    for (; k + 32 <= K; k += 32) sum[0] = _mm512_dpbf16_ps(sum[0], load(w + k), load(x + k));
    if (k < K) {
      const __mmask32 mask = (1u << (K - k)) - 1;
      sum[1] = _mm512_dpbf16_ps(sum[1], load(w + k, mask), load(x + k, mask));
    }
    p.store(row, output, _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]))));
  }
}

// The tiles of all rows share the prefetching of the next eight outputs, so that memory works as long as the products do.
template <int M>
AVX512_BF16 void tile(const Product& p, int64_t output, int64_t row) {
  const bool shared = p.rows > 3;
  const int64_t first = shared ? row : 0;
  const uint16_t* ahead = p.weight + (output + 8 + first) * p.inputs;
  if (first >= 8 || output + 16 > p.outputs) tile<M, 0>(p, output, row, ahead);
  else if (shared) tile<M, 3>(p, output, row, ahead);
  else tile<M, 8>(p, output, row, ahead);
}

// N outputs of all M rows: each weight is loaded once, so that memory is waited for as evenly as can be. The weights of the next N outputs are asked
// for meanwhile.
template <int N, int M>
AVX512_BF16 inline void tile_of_all(const Product& p, int64_t output) {
  const int64_t K = p.inputs;
  const uint16_t* w = p.weight + output * K;
  const uint16_t* ahead = w + (output + 2 * N <= p.outputs ? N * K : 0);
  __m512 sum[N][8];
#pragma GCC unroll 8
  for (int n = 0; n < N; n++)
#pragma GCC unroll 8
    for (int m = 0; m < 8; m++) sum[n][m] = _mm512_setzero_ps();
  const auto add = [&](int64_t k, __mmask32 mask) AVX512_BF16 __attribute__((always_inline)) {
    __m512bh weights[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) weights[n] = load(w + n * K + k, mask);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const __m512bh values = load(p.x + m * K + k, mask);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) sum[n][m] = _mm512_dpbf16_ps(sum[n][m], weights[n], values);
    }
  };
  int64_t k = 0;
  for (; k + 32 <= K; k += 32) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) _mm_prefetch(reinterpret_cast<const char*>(ahead + n * K + k), _MM_HINT_T1);
    add(k, ~0u);
  }
  if (k < K) add(k, (1u << (K - k)) - 1);
#pragma GCC unroll 8
  for (int n = 0; n < N; n++) {
    alignas(32) float sums[8];
    _mm256_store_ps(sums, _mm256_set_m128(M > 4 ? reduce_four(&sum[n][4], 1) : _mm_setzero_ps(), reduce_four(&sum[n][0], 1)));
    for (int m = 0; m < M; m++) p.store(m, output + n, sums[m]);
  }
}

template <int N, int M>
AVX512_BF16 void all_rows(const Product& p, int64_t begin, int64_t end) {
  int64_t output = begin;
  for (; output + N <= end; output += N) tile_of_all<N, M>(p, output);
  for (int64_t row = 0; row < M; row++) stream(p, output, end, row);
}

AVX512_BF16 void avx512_bf16(const Product& p, int64_t begin, int64_t end) {
  // Beyond this length a row of x no longer stays in the first-level cache beside the stream, and eight outputs share each load of it.
  if (p.rows == 1 && p.inputs <= 4096) return stream(p, begin, end, 0);
  switch (p.rows) {
    case 4: return all_rows<6, 4>(p, begin, end);
    case 5: return all_rows<4, 5>(p, begin, end);
    case 6: return all_rows<4, 6>(p, begin, end);
    case 7: return all_rows<3, 7>(p, begin, end);
    case 8: return all_rows<3, 8>(p, begin, end);
  }
  int64_t output = begin;
  // Weights outside, rows inside: the eight rows of the weight stay in cache while all of x passes.
  for (; output + 8 <= end; output += 8) {
    int64_t row = 0;
    for (; row + 3 <= p.rows; row += 3) tile<3>(p, output, row);
    if (p.rows - row == 2) tile<2>(p, output, row);
    else if (p.rows - row == 1) tile<1>(p, output, row);
  }
  for (int64_t row = 0; row < p.rows; row++) stream(p, output, end, row);
}

// One row without bfloat16 instructions: even and odd elements are widened to float32 by a shift and a mask. `wide` holds x so widened, the
// even elements and then the odd ones.
AVX2 void avx2(const Product& p, const float* wide, int64_t begin, int64_t end) {
  const int64_t K = p.inputs;
  const float* even = wide;
  const float* odd = wide + K / 2;
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  for (int64_t output = begin; output < end; output++) {
    const uint16_t* w = p.weight + output * K;
    __m256 low_sum = _mm256_setzero_ps(), high_sum = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + 16 <= K; k += 16) {
      const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + k));
      low_sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_loadu_ps(even + k / 2), low_sum);
      high_sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(pairs, high)), _mm256_loadu_ps(odd + k / 2), high_sum);
    }
    alignas(32) float parts[8];
    _mm256_store_ps(parts, _mm256_add_ps(low_sum, high_sum));
    float sum = 0;
    for (float part : parts) sum += part;
    for (; k < K; k++) sum += widen(w[k]) * (k % 2 ? odd : even)[k / 2];
    p.store(0, output, sum);
  }
}
#endif

enum class Kernel { aten, avx2, avx512_bf16, amx };
constexpr c10::string_view kNames[] = {"aten", "avx2", "avx512_bf16", "amx"};

Kernel best_kernel() {
#ifdef IVTLR_X86
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has_amx() ? Kernel::amx : has_avx512_bf16() ? Kernel::avx512_bf16 : has_avx2 ? Kernel::avx2 : Kernel::aten;
#else
  return Kernel::aten;
#endif
}

bool fits(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Kernel kernel) {
  if (kernel == Kernel::aten || !is_plain_bf16(weight) || !is_plain_bf16(input)) return false;
  if (weight.dim() != 2 || !weight.is_contiguous() || input.dim() < 1 || input.size(-1) != weight.size(1)) return false;
  const int64_t inputs = weight.size(1), rows = inputs > 0 ? input.numel() / inputs : 0;
  if (kernel == Kernel::amx && (rows > kAmxRows || !fits_amx(inputs, weight.size(0)))) return false;
  if (rows < 1 || (kernel != Kernel::amx && rows > (kernel == Kernel::avx512_bf16 ? kRows : 1))) return false;
  if (kernel == Kernel::avx2 && inputs % 2 != 0) return false;
  if (bias && bias->defined() && !(is_plain_bf16(*bias) && bias->is_contiguous() && bias->numel() == weight.size(0))) return false;
  return !in_graph(input, weight, bias ? *bias : Tensor());
}

Tensor few_rows(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Kernel kernel) {
  const Tensor x = input.contiguous();
  const int64_t inputs = weight.size(1), outputs = weight.size(0), rows = x.numel() / inputs;
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  Tensor y = at::empty(shape, x.options());
  const Product product{bits(x), bits(weight), bias && bias->defined() ? bits(*bias) : nullptr, mutable_bits(y), rows, inputs, outputs};
#ifdef IVTLR_X86
  if (kernel == Kernel::amx) {
    linear_amx(product);
    return y;
  }
  std::vector<float> wide;
  if (kernel == Kernel::avx2) {
    wide.resize(inputs);
    for (int64_t k = 0; k < inputs; k++) wide[k / 2 + k % 2 * (inputs / 2)] = widen(product.x[k]);
  }
  const int64_t units = (outputs + kUnit - 1) / kUnit;
  share_units(units, std::max<int64_t>(1, kGrain / (kUnit * inputs * rows)), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kUnit, last = std::min(outputs, end * kUnit);
    if (kernel == Kernel::avx2) avx2(product, wide.data(), first, last);
    else avx512_bf16(product, first, last);
  });
#endif
  return y;
}

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, std::optional<c10::string_view> forced) {
  const Kernel best = best_kernel();
  if (forced) {
    const auto name = std::find(std::begin(kNames), std::end(kNames), *forced);
    TORCH_CHECK(name != std::end(kNames), "there is no kernel '", *forced, "': amx, avx512_bf16, avx2 or aten");
    const Kernel asked = static_cast<Kernel>(name - std::begin(kNames));
    TORCH_CHECK(asked <= best, "this CPU has no ", *forced);
    if (asked == Kernel::aten) return at::linear(input, weight, bias);
    TORCH_CHECK(fits(input, weight, bias, asked), "the call is not for the kernel ", *forced);
    return few_rows(input, weight, bias, asked);
  }
  for (const Kernel kernel : {Kernel::amx, Kernel::avx512_bf16, Kernel::avx2})
    if (kernel <= best && fits(input, weight, bias, kernel)) return few_rows(input, weight, bias, kernel);
  return at::linear(input, weight, bias);
}

TORCH_LIBRARY_FRAGMENT(ivtlr, library) {
  library.def("linear(Tensor input, Tensor weight, Tensor? bias=None, str? kernel=None) -> Tensor",
              torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(linear)));
}

}  // namespace
}  // namespace ivtlr
