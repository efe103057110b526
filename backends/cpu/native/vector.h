// Vector functions over AVX-512 that several kernels use. Include this file only after the target
// pragma.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "program.h"

namespace tgi {

// e^x to about 2 ulp. x is limited to [-87.33, 88.37], so that the result is positive and finite.
static inline __m512 exp_ps(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.33f)), _mm512_set1_ps(88.37f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// 2^x with a relative error of 3e-6, enough for results that are rounded to bf16. 0 for minus
// infinity.
static inline __m512 exp2_ps(__m512 x) {
  const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(1.34266844e-2f);
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(5.22424739e-2f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(2.41280205e-1f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(6.93044845e-1f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);
}

static inline __m512 sigmoid_ps(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

static inline __m512 tanh_ps(__m512 x) {
  const __m512 two = _mm512_set1_ps(2.0f);
  return _mm512_fmsub_ps(two, sigmoid_ps(_mm512_mul_ps(two, x)), _mm512_set1_ps(1.0f));
}

// erf, approximated as in Abramowitz and Stegun 7.1.26. The absolute error is below 2e-7.
static inline __m512 erf_ps(__m512 x) {
  const __m512 sign =
      _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN)));
  const __m512 a = _mm512_abs_ps(x);
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_set1_ps(0.3275911f), a, one));
  __m512 p = _mm512_set1_ps(1.061405429f);
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
  const __m512 tail = _mm512_mul_ps(
      _mm512_mul_ps(p, t), exp_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), a), a)));
  return _mm512_castsi512_ps(
      _mm512_or_epi32(_mm512_castps_si512(_mm512_sub_ps(one, tail)), _mm512_castps_si512(sign)));
}

static inline __m512 activate(__m512 x, Activation activation) {
  const __m512 half = _mm512_set1_ps(0.5f);
  switch (activation) {
    case Activation::kSilu:
      return _mm512_mul_ps(x, sigmoid_ps(x));
    case Activation::kGelu:
      return _mm512_mul_ps(_mm512_mul_ps(half, x),
                           _mm512_add_ps(_mm512_set1_ps(1.0f),
                                         erf_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.70710678f)))));
    case Activation::kGeluTanh: {
      const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
      const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.79788456f),
                                         _mm512_fmadd_ps(_mm512_set1_ps(0.044715f), cube, x));
      return _mm512_mul_ps(_mm512_mul_ps(half, x),
                           _mm512_add_ps(_mm512_set1_ps(1.0f), tanh_ps(inner)));
    }
    case Activation::kRelu:
      return _mm512_max_ps(x, _mm512_setzero_ps());
    case Activation::kReluSquared: {
      const __m512 positive = _mm512_max_ps(x, _mm512_setzero_ps());
      return _mm512_mul_ps(positive, positive);
    }
    case Activation::kNone:
      break;
  }
  return x;
}

static inline void store_bf16(bf16* target, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), (__m256i)_mm512_cvtneps_pbh(x));
}

static inline __m512 load_bf16(const bf16* source) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static inline float to_float(bf16 value) {
  union {
    uint32_t bits;
    float number;
  } both{static_cast<uint32_t>(value) << 16};
  return both.number;
}

// Rounds to the nearest bf16, ties to even. NaN stays NaN.
static inline bf16 to_bf16(float value) {
  union {
    float number;
    uint32_t bits;
  } both{value};
  if (value != value) return static_cast<bf16>((both.bits >> 16) | 0x40);
  return static_cast<bf16>((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
}

static inline __m512 broadcast_pair(const bf16* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
}

// sums[m] += a[m] x b for M rows and Z vectors of 16 columns, two vectors per panel. Meanwhile
// prefetches the data at `next`, one address per panel. Null prefetches nothing.
template <int M, int Z>
static inline void multiply(const bf16* a, int64_t a_stride, const bf16* const (&b)[Z / 2],
                            int64_t pairs, __m512 (&sums)[M][Z], const bf16* const (&next)[Z / 2]) {
  for (int64_t pair = 0; pair < pairs; ++pair) {
    __m512bh columns[Z];
    if (next[0] != nullptr)
      for (int z = 0; z < Z; ++z)
        _mm_prefetch(
            reinterpret_cast<const char*>(next[z / 2] + pair * 2 * kPanelColumns + (z % 2) * 32),
            _MM_HINT_T1);
    for (int z = 0; z < Z; ++z)
      columns[z] = (__m512bh)_mm512_loadu_si512(b[z / 2] + pair * 2 * kPanelColumns + (z % 2) * 32);
    for (int m = 0; m < M; ++m) {
      const __m512bh row = (__m512bh)broadcast_pair(a + m * a_stride + pair * 2);
      for (int z = 0; z < Z; ++z) sums[m][z] = _mm512_dpbf16_ps(sums[m][z], row, columns[z]);
    }
  }
}

}  // namespace tgi
