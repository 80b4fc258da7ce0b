// What the kernels for bfloat16 on the CPU share. They work on raw bits.
#pragma once
#include <ATen/Functions.h>
#include <c10/core/GradMode.h>
#include <c10/util/BFloat16.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define IVTLR_X86 1
#define AVX512_BF16_FEATURES "avx512f,avx512bw,avx512vl,avx512bf16"
#define AVX512_BF16 __attribute__((target(AVX512_BF16_FEATURES)))
#endif

namespace ivtlr {

inline float widen(uint16_t bits) { return static_cast<float>(c10::BFloat16(bits, c10::BFloat16::from_bits())); }

inline bool has_avx512_bf16() {
#ifdef IVTLR_X86
  static const bool has =
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return has;
#else
  return false;
#endif
}

inline bool is_plain_bf16(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kBFloat16 && tensor.layout() == at::kStrided;
}

// The kernels record no graph.
template <typename... Tensors>
bool in_graph(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (... || (tensors.defined() && tensors.requires_grad()));
}

inline const uint16_t* bits(const at::Tensor& tensor) { return static_cast<const uint16_t*>(tensor.const_data_ptr()); }
inline uint16_t* mutable_bits(const at::Tensor& tensor) { return static_cast<uint16_t*>(tensor.mutable_data_ptr()); }

#ifdef IVTLR_X86
// Sixteen numbers at a time. Rounding to bfloat16 makes numbers below 2^-126 zero, as the instruction does.
AVX512_BF16 inline __m512 widen16(const uint16_t* from, __mmask16 mask = 0xffff) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}
AVX512_BF16 inline __m512 rounded(__m512 x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}
AVX512_BF16 inline void store16(uint16_t* to, __m512 x, __mmask16 mask = 0xffff) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}
AVX512_BF16 inline __m256 fold(__m512 v) {
  return _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
}

// The sums of four vectors, side by side.
AVX512_BF16 inline __m128 reduce_four(const __m512* vectors, int step) {
  const __m256 left = _mm256_hadd_ps(fold(vectors[0]), fold(vectors[step]));
  const __m256 four = _mm256_hadd_ps(left, _mm256_hadd_ps(fold(vectors[2 * step]), fold(vectors[3 * step])));
  return _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1));
}

AVX512_BF16 inline __mmask16 tail(int64_t left) { return left >= 16 ? 0xffff : (1u << left) - 1; }

// e^x within 2 units in the last place: 2^n times the Taylor series of e^r to r^7, where x = n ln 2 + r and |r| <= ln 2 / 2, so that the next
// term is below 1e-8. 0 below -104; infinite above 88.73; NaN of NaN.
AVX512_BF16 inline __m512 exp16(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-110.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts: products of n with the first are exact.
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 sum = _mm512_set1_ps(1.0f / 5040);
  for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(sum, n);
}
#endif

}  // namespace ivtlr
