// The small steps between a decoder's linear layers, each as one operator, for bfloat16 on CPUs with AVX-512 BF16 and outside a graph;
// anything else goes to the ATen ops each comment names, whose roundings these keep. While a model decodes, its weights stream through the
// caches and leave every op to start cold: an ATen composition of five ops then takes 150 us for a row of 1536 numbers.
//   ivtlr::rms_norm(Tensor x, Tensor weight, float eps) -> Tensor
//   ivtlr::rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor
//   ivtlr::attend_row(Tensor query, Tensor keys, Tensor values, Tensor? mask=None) -> Tensor
//   ivtlr::argmax(Tensor x) -> Tensor
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <vector>

#include "bf16.h"

namespace ivtlr {
namespace {

using at::Tensor;

#ifdef IVTLR_X86
AVX512_BF16 void rms_norm_row(const uint16_t* x, const uint16_t* weight, uint16_t* y, int64_t size, float eps) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 value = widen16(x + i, tail(size - i));
    squares = _mm512_fmadd_ps(value, value, squares);
  }
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(size) + eps));
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = tail(size - i);
    store16(y + i, _mm512_mul_ps(widen16(weight + i, mask), rounded(_mm512_mul_ps(widen16(x + i, mask), scale))), mask);
  }
}

AVX512_BF16 inline __m512 angles16(const uint16_t* from, __mmask16 mask) { return widen16(from, mask); }
AVX512_BF16 inline __m512 angles16(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
AVX512_BF16 inline __m512 product(__m512 x, __m512 angles, const uint16_t*) { return rounded(_mm512_mul_ps(x, angles)); }
AVX512_BF16 inline __m512 product(__m512 x, __m512 angles, const float*) { return _mm512_mul_ps(x, angles); }

// Angle: uint16_t for bfloat16, or float.
template <typename Angle>
AVX512_BF16 void rotate_row(const uint16_t* x, const Angle* cos, const Angle* sin, uint16_t* y, int64_t half) {
  for (int64_t i = 0; i < half; i += 16) {
    const __mmask16 mask = tail(half - i);
    const __m512 first = widen16(x + i, mask), second = widen16(x + half + i, mask);
    const __m512 turned = _mm512_sub_ps(_mm512_setzero_ps(), second);
    const __m512 above = product(turned, angles16(sin + i, mask), sin), below = product(first, angles16(sin + half + i, mask), sin);
    store16(y + i, _mm512_add_ps(product(first, angles16(cos + i, mask), cos), above), mask);
    store16(y + half + i, _mm512_add_ps(product(second, angles16(cos + half + i, mask), cos), below), mask);
  }
}

AVX512_BF16 inline __m512bh pairs32(const uint16_t* from) { return (__m512bh)_mm512_loadu_si512(from); }

// Scores of `heads` queries, `step` apart, for keys that they share: the products of `size` numbers times `scale`. Four keys at a time.
AVX512_BF16 void score_keys(const uint16_t* queries, int64_t heads, int64_t step, const uint16_t* keys, int64_t key_stride, int64_t count,
                            int64_t size, float scale, float* scores, int64_t room) {
  int64_t t = 0;
  for (; t + 4 <= count; t += 4)
    for (int64_t h = 0; h < heads; h++) {
      __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
      for (int64_t e = 0; e < size; e += 32) {
        const __m512bh query = pairs32(queries + h * step + e);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[i] = _mm512_dpbf16_ps(sums[i], query, pairs32(keys + (t + i) * key_stride + e));
      }
      _mm_storeu_ps(scores + h * room + t, _mm_mul_ps(reduce_four(sums, 1), _mm_set1_ps(scale)));
    }
  for (; t < count; t++)
    for (int64_t h = 0; h < heads; h++) {
      __m512 sum = _mm512_setzero_ps();
      for (int64_t e = 0; e < size; e += 32) sum = _mm512_dpbf16_ps(sum, pairs32(queries + h * step + e), pairs32(keys + t * key_stride + e));
      scores[h * room + t] = _mm512_reduce_add_ps(sum) * scale;
    }
}

// Softmax of `count` scores in place; those of -infinity become 0.
AVX512_BF16 void softmax_row(float* scores, int64_t count) {
  __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t t = 0; t < count; t += 16) most = _mm512_mask_max_ps(most, tail(count - t), most, _mm512_maskz_loadu_ps(tail(count - t), scores + t));
  const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 totals = _mm512_setzero_ps();
  for (int64_t t = 0; t < count; t += 16) {
    const __mmask16 mask = tail(count - t);
    const __m512 weights = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + t), largest));
    totals = _mm512_mask_add_ps(totals, mask, totals, weights);
    _mm512_mask_storeu_ps(scores + t, mask, weights);
  }
  const __m512 total = _mm512_set1_ps(_mm512_reduce_add_ps(totals));
  for (int64_t t = 0; t < count; t += 16)
    _mm512_mask_storeu_ps(scores + t, tail(count - t), _mm512_div_ps(_mm512_maskz_loadu_ps(tail(count - t), scores + t), total));
}

// Sums of values that kHeads heads share, by the weights of each. Values that the mask hides are not read: there may be no numbers yet.
template <int kHeads>
AVX512_BF16 void weigh_values(const float* weights, int64_t room, const uint16_t* values, int64_t value_stride, const bool* mask, int64_t count,
                              int64_t size, uint16_t* out) {
  for (int64_t e = 0; e < size; e += 32) {
    __m512 sums[kHeads][2];
#pragma GCC unroll 6
    for (int h = 0; h < kHeads; h++) sums[h][0] = sums[h][1] = _mm512_setzero_ps();
    for (int64_t t = 0; t < count; t++) {
      if (mask && !mask[t]) continue;
      const __m512 low = widen16(values + t * value_stride + e), high = widen16(values + t * value_stride + e + 16);
#pragma GCC unroll 6
      for (int h = 0; h < kHeads; h++) {
        const __m512 weight = _mm512_set1_ps(weights[h * room + t]);
        sums[h][0] = _mm512_fmadd_ps(weight, low, sums[h][0]);
        sums[h][1] = _mm512_fmadd_ps(weight, high, sums[h][1]);
      }
    }
#pragma GCC unroll 6
    for (int h = 0; h < kHeads; h++) {
      store16(out + h * size + e, sums[h][0]);
      store16(out + h * size + e + 16, sums[h][1]);
    }
  }
}

// Query heads that share their keys and values: `count` of these of `size` numbers (a multiple of 32), strides apart. scores: room for
// heads * count.
AVX512_BF16 void attend_heads(const uint16_t* queries, int64_t heads, int64_t step, const uint16_t* keys, int64_t key_stride,
                              const uint16_t* values, int64_t value_stride, const bool* mask, int64_t count, int64_t size, float* scores,
                              uint16_t* out) {
  score_keys(queries, heads, step, keys, key_stride, count, size, 1.0f / std::sqrt(static_cast<float>(size)), scores, count);
  for (int64_t h = 0; h < heads; h++) {
    float* row = scores + h * count;
    if (mask)
      for (int64_t t = 0; t < count; t++)
        if (!mask[t]) row[t] = -std::numeric_limits<float>::infinity();
    softmax_row(row, count);
  }
  for (int64_t h = 0; h < heads; h += 6) {
    const auto weigh = [&](auto function) { function(scores + h * count, count, values, value_stride, mask, count, size, out + h * size); };
    switch (std::min<int64_t>(6, heads - h)) {
      case 1: weigh(weigh_values<1>); break;
      case 2: weigh(weigh_values<2>); break;
      case 3: weigh(weigh_values<3>); break;
      case 4: weigh(weigh_values<4>); break;
      case 5: weigh(weigh_values<5>); break;
      default: weigh(weigh_values<6>);
    }
  }
}

// Where the first of the largest of `size` numbers stands; of the first NaN, if there is one, as aten::argmax has it.
AVX512_BF16 int64_t argmax_row(const uint16_t* x, int64_t size) {
  __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = tail(size - i);
    const __m512 value = widen16(x + i, mask);
    if (const __mmask16 nan = _mm512_mask_cmp_ps_mask(mask, value, value, _CMP_UNORD_Q)) return i + __builtin_ctz(nan);
    most = _mm512_mask_max_ps(most, mask, most, value);
  }
  const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t i = 0; i < size; i += 16)
    if (const __mmask16 same = _mm512_mask_cmp_ps_mask(tail(size - i), widen16(x + i, tail(size - i)), largest, _CMP_EQ_OQ)) return i + __builtin_ctz(same);
  return 0;
}
#endif

// x / sqrt(mean(x^2) + eps) over the last dimension, rounded, times weight: as Hugging Face's Qwen2RMSNorm and LlamaRMSNorm round it.
// aten::rms_norm; in 16-bit dtypes without the weight, which is multiplied afterwards.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t size = weight.numel();
#ifdef IVTLR_X86
  if (has_avx512_bf16() && is_plain_bf16(x) && is_plain_bf16(weight) && weight.dim() == 1 && weight.is_contiguous() && x.dim() > 0 &&
      x.size(-1) == size && size > 0 && !in_graph(x, weight)) {
    const Tensor rows = x.contiguous();
    const Tensor y = at::empty(rows.sizes(), rows.options());
    at::parallel_for(0, rows.numel() / size, 1 + 32768 / size, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++)
        rms_norm_row(bits(rows) + row * size, bits(weight), mutable_bits(y) + row * size, size, static_cast<float>(eps));
    });
    return y;
  }
#endif
  if (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble) return at::rms_norm(x, weight.sizes(), weight, eps);
  return at::mul(weight, at::rms_norm(x, weight.sizes(), {}, eps));
}

// x (B, H, S, E) with cos and sin (B or 1, 1, S, E): x * cos + (-second half of x, first half) * sin in the angles' dtype, every step rounded
// to it, the result in x's. aten::to, cat, neg, mul, add.
Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  TORCH_CHECK(x.dim() == 4 && x.size(3) % 2 == 0, "rotate: x should be (B, H, S, E) with E even");
  for (const Tensor& angles : {cos, sin})
    TORCH_CHECK(angles.dim() == 4 && (angles.size(0) == x.size(0) || angles.size(0) == 1) && angles.size(1) == 1 &&
                    angles.size(2) == x.size(2) && angles.size(3) == x.size(3),
                "rotate: cos and sin should be (B or 1, 1, S, E) for x ", x.sizes(), ", not ", angles.sizes());
  const int64_t half = x.size(3) / 2;
#ifdef IVTLR_X86
  const auto fits = [&](const Tensor& angle) {
    return angle.device().is_cpu() && angle.scalar_type() == cos.scalar_type() && angle.dim() == 4 && angle.is_contiguous() &&
           (angle.size(0) == x.size(0) || angle.size(0) == 1) && angle.size(1) == 1 && angle.size(2) == x.size(2) && angle.size(3) == x.size(3);
  };
  const bool wide = cos.scalar_type() == at::kFloat;
  if (has_avx512_bf16() && is_plain_bf16(x) && x.stride(3) == 1 && half > 0 && (wide || is_plain_bf16(cos)) && fits(cos) && fits(sin) &&
      !in_graph(x, cos, sin)) {
    const int64_t H = x.size(1), S = x.size(2), E = 2 * half;
    const int64_t cos_step = cos.size(0) == 1 ? 0 : S * E, sin_step = sin.size(0) == 1 ? 0 : S * E;
    const Tensor y = at::empty(x.sizes(), x.options());
    const auto rotate_all = [&](const auto* cosines, const auto* sines) {
      at::parallel_for(0, x.size(0) * H * S, 1 + 32768 / E, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
          const int64_t b = row / (H * S), h = row / S % H, s = row % S;
          rotate_row(bits(x) + b * x.stride(0) + h * x.stride(1) + s * x.stride(2), cosines + b * cos_step + s * E, sines + b * sin_step + s * E,
                     mutable_bits(y) + row * E, half);
        }
      });
    };
    if (wide) rotate_all(cos.const_data_ptr<float>(), sin.const_data_ptr<float>());
    else rotate_all(bits(cos), bits(sin));
    return y;
  }
#endif
  const Tensor in = x.to(at::result_type(x, cos));
  const Tensor swapped = at::cat({in.slice(3, half).neg(), in.slice(3, 0, half)}, 3);
  return at::add(at::mul(in, cos), at::mul(swapped, sin)).to(x.scalar_type());
}

// Attention of one query row: query (B, H, 1, E), keys and values (B, G, T, E) with H a multiple of G, mask bool (B or 1, 1, 1, T), true where
// the row may attend -> (B, 1, H*E). aten::scaled_dot_product_attention, whose CPU kernel repacks all keys and values first.
Tensor attend_row(const Tensor& query, const Tensor& keys, const Tensor& values, const std::optional<Tensor>& mask) {
  TORCH_CHECK(query.dim() == 4 && query.size(2) == 1 && keys.dim() == 4 && values.dim() == 4, "attend_row: query should be (B, H, 1, E), keys and values (B, G, T, E)");
  const int64_t B = query.size(0), H = query.size(1), E = query.size(3), G = keys.size(1), T = keys.size(2);
  TORCH_CHECK(keys.size(0) == B && keys.size(3) == E && values.sizes().equals(keys.sizes()), "attend_row: keys ", keys.sizes(), " and values ",
              values.sizes(), " do not go with the query ", query.sizes());
  TORCH_CHECK(G > 0 && H % G == 0, "attend_row: ", H, " query heads cannot share ", G, " key heads evenly");
  TORCH_CHECK(T > 0 && E > 0, "attend_row: there is nothing to attend to in keys ", keys.sizes());
#ifdef IVTLR_X86
  const auto fits = [&](const Tensor& x) { return is_plain_bf16(x) && x.size(0) == B && x.size(1) == G && x.size(2) == T && x.size(3) == E && x.stride(3) == 1; };
  const bool masked = mask && mask->defined();
  const bool mask_fits = !masked || (mask->device().is_cpu() && mask->scalar_type() == at::kBool && mask->dim() == 4 && (mask->size(0) == B || mask->size(0) == 1) &&
                                     mask->size(1) == 1 && mask->size(2) == 1 && mask->size(3) == T && mask->is_contiguous());
  if (has_avx512_bf16() && is_plain_bf16(query) && query.stride(3) == 1 && fits(keys) && fits(values) && mask_fits && B > 0 &&
      E % 32 == 0 && !in_graph(query, keys, values)) {
    const Tensor y = at::empty({B, 1, H * E}, query.options());
    // The heads of a group read its keys and values together, but for batches so small that threads would have nothing to do.
    const int64_t heads = H / G, parts = std::min<int64_t>(heads, 1 + (at::get_num_threads() - 1) / (B * G)), each = (heads + parts - 1) / parts;
    at::parallel_for(0, B * G * parts, 1 + 16384 / (T * E * each), [&](int64_t begin, int64_t end) {
      std::vector<float> scores(each * T);
      for (int64_t i = begin; i < end; i++) {
        const int64_t b = i / (G * parts), g = i / parts % G, first = i % parts * each, count = std::min(each, heads - first);
        if (count <= 0) continue;
        const int64_t h = g * heads + first;
        const bool* row = masked ? mask->const_data_ptr<bool>() + (mask->size(0) == 1 ? 0 : b * T) : nullptr;
        attend_heads(bits(query) + b * query.stride(0) + h * query.stride(1), count, query.stride(1), bits(keys) + b * keys.stride(0) + g * keys.stride(1),
                     keys.stride(2), bits(values) + b * values.stride(0) + g * values.stride(1), values.stride(2), row, T, E, scores.data(),
                     mutable_bits(y) + (b * H + h) * E);
      }
    });
    return y;
  }
#endif
  const Tensor out = at::scaled_dot_product_attention(query, keys, values, mask, 0.0, false, std::nullopt, G != H);
  return out.transpose(1, 2).reshape({B, 1, H * E});
}

// Of the last dimension: (.., V) -> (..) int64. aten::argmax, which compares one number after the other on one thread.
Tensor argmax(const Tensor& x) {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) > 0, "argmax: x should have a last dimension of at least one number, not ", x.sizes());
#ifdef IVTLR_X86
  if (has_avx512_bf16() && is_plain_bf16(x) && x.is_contiguous() && !in_graph(x)) {
    const int64_t size = x.size(-1);
    const Tensor y = at::empty(x.sizes().slice(0, x.dim() - 1), x.options().dtype(at::kLong));
    int64_t* places = y.mutable_data_ptr<int64_t>();
    at::parallel_for(0, y.numel(), 1 + 65536 / size, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) places[row] = argmax_row(bits(x) + row * size, size);
    });
    return y;
  }
#endif
  return at::argmax(x, -1);
}

TORCH_LIBRARY_FRAGMENT(ivtlr, library) {
  const auto add = [&](const char* schema, auto function) {
    library.def(schema, torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, std::move(function)));
  };
  add("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", TORCH_FN(rms_norm));
  add("rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor", TORCH_FN(rotate));
  add("attend_row(Tensor query, Tensor keys, Tensor values, Tensor? mask=None) -> Tensor", TORCH_FN(attend_row));
  add("argmax(Tensor x) -> Tensor", TORCH_FN(argmax));
}

}  // namespace
}  // namespace ivtlr
