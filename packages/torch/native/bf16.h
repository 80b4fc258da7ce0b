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

}  // namespace ivtlr
