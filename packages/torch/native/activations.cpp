// Activations that are several ATen ops, each as one operator, for bfloat16 on CPUs with AVX-512 BF16 and outside a graph; anything else goes to
// the ATen ops each comment names, whose roundings these keep. Between products of matrices an op over millions of numbers is bound by memory.
//   ivtlr::quick_gelu(Tensor x) -> Tensor
//   ivtlr::silu_mul(Tensor gate, Tensor up) -> Tensor
//   ivtlr::scaled_softmax(Tensor logits, float scale) -> Tensor
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "bf16.h"

namespace ivtlr {
namespace {

using at::Tensor;

#ifdef IVTLR_X86
// Numbers that one thread takes at least.
constexpr int64_t GRAIN = 16384;

AVX512_BF16 inline __m512 sigmoid16(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

AVX512_BF16 void quick_gelu_part(const uint16_t* x, uint16_t* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    const __mmask16 mask = tail(end - i);
    const __m512 value = widen16(x + i, mask);
    const __m512 scaled = rounded(_mm512_mul_ps(value, _mm512_set1_ps(1.702f)));
    store16(y + i, _mm512_mul_ps(value, rounded(sigmoid16(scaled))), mask);
  }
}

AVX512_BF16 void silu_mul_part(const uint16_t* gate, const uint16_t* up, uint16_t* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    const __mmask16 mask = tail(end - i);
    const __m512 value = widen16(gate + i, mask), one = _mm512_set1_ps(1.0f);
    const __m512 silu = rounded(_mm512_div_ps(value, _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), value)))));
    store16(y + i, _mm512_mul_ps(silu, widen16(up + i, mask)), mask);
  }
}

// scratch: room for size floats.
AVX512_BF16 void scaled_softmax_row(const uint16_t* logits, uint16_t* y, int64_t size, float scale, float* scratch) {
  __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = tail(size - i);
    const __m512 scaled = rounded(_mm512_mul_ps(widen16(logits + i, mask), _mm512_set1_ps(scale)));
    largest = _mm512_mask_max_ps(largest, mask, largest, scaled);
    _mm512_mask_storeu_ps(scratch + i, mask, scaled);
  }
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = tail(size - i);
    const __m512 weight = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scratch + i), shift));
    sum = _mm512_mask_add_ps(sum, mask, sum, weight);
    _mm512_mask_storeu_ps(scratch + i, mask, weight);
  }
  const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = tail(size - i);
    store16(y + i, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scratch + i), share), mask);
  }
}
#endif

// x * sigmoid(1.702 x). aten::mul, sigmoid, mul.
Tensor quick_gelu(const Tensor& x) {
#ifdef IVTLR_X86
  if (has_avx512_bf16() && is_plain_bf16(x) && x.is_contiguous() && !in_graph(x)) {
    const Tensor y = at::empty(x.sizes(), x.options());
    at::parallel_for(0, x.numel(), GRAIN, [&](int64_t begin, int64_t end) { quick_gelu_part(bits(x), mutable_bits(y), begin, end); });
    return y;
  }
#endif
  return at::mul(x, at::sigmoid(at::mul(x, 1.702)));
}

// silu(gate) * up, of one shape. aten::silu, mul.
Tensor silu_mul(const Tensor& gate, const Tensor& up) {
  TORCH_CHECK(gate.sizes().equals(up.sizes()), "silu_mul: gate ", gate.sizes(), " and up ", up.sizes(), " should be of one shape");
#ifdef IVTLR_X86
  if (has_avx512_bf16() && is_plain_bf16(gate) && is_plain_bf16(up) && gate.is_contiguous() && up.is_contiguous() && !in_graph(gate, up)) {
    const Tensor y = at::empty(gate.sizes(), gate.options());
    at::parallel_for(0, gate.numel(), GRAIN, [&](int64_t begin, int64_t end) { silu_mul_part(bits(gate), bits(up), mutable_bits(y), begin, end); });
    return y;
  }
#endif
  return at::mul(at::silu(gate), up);
}

// softmax(logits * scale) over the last dimension. aten::mul, softmax.
Tensor scaled_softmax(const Tensor& logits, double scale) {
  TORCH_CHECK(logits.dim() > 0, "scaled_softmax: logits should have a dimension to sum over");
#ifdef IVTLR_X86
  const int64_t size = logits.size(-1);
  if (has_avx512_bf16() && is_plain_bf16(logits) && logits.is_contiguous() && size > 0 && !in_graph(logits)) {
    const Tensor y = at::empty(logits.sizes(), logits.options());
    at::parallel_for(0, logits.numel() / size, 1 + GRAIN / size, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(size);
      for (int64_t row = begin; row < end; row++)
        scaled_softmax_row(bits(logits) + row * size, mutable_bits(y) + row * size, size, static_cast<float>(scale), scratch.data());
    });
    return y;
  }
#endif
  return at::softmax(at::mul(logits, scale), -1);
}

TORCH_LIBRARY_FRAGMENT(ivtlr, library) {
  const auto add = [&](const char* schema, auto function) {
    library.def(schema, torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, std::move(function)));
  };
  add("quick_gelu(Tensor x) -> Tensor", TORCH_FN(quick_gelu));
  add("silu_mul(Tensor gate, Tensor up) -> Tensor", TORCH_FN(silu_mul));
  add("scaled_softmax(Tensor logits, float scale) -> Tensor", TORCH_FN(scaled_softmax));
}

}  // namespace
}  // namespace ivtlr
