// Vector passes over one row of scores. Include this file only after the target pragma.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "vector.h"

namespace tgi {

constexpr float kCut = -std::numeric_limits<float>::infinity();
constexpr int64_t kGroup = 64;    // scores per group maximum
constexpr int64_t kChunk = 1024;  // floats that are summed in float before the sum becomes a double

static inline __mmask16 lanes_of(int64_t remaining) {
  return remaining >= 16 ? 0xffff : static_cast<__mmask16>((1u << remaining) - 1);
}

static inline __m512 load_scores(const float* x, int64_t remaining) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(kCut), lanes_of(remaining), x);
}

// Computes the maximum of each group of kGroup scores. Returns the maximum of all, or NaN if any
// score is NaN.
static inline float group_maxima(const float* x, int64_t size, float* maxima) {
  __mmask16 unordered = 0;
  float peak = kCut;
  for (int64_t first = 0; first < size; first += kGroup) {
    __m512 highest = _mm512_set1_ps(kCut);
    for (int64_t i = first; i < std::min(first + kGroup, size); i += 16) {
      const __m512 v = load_scores(x + i, size - i);
      unordered |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
      highest = _mm512_max_ps(highest, v);
    }
    const float maximum = _mm512_reduce_max_ps(highest);
    maxima[first / kGroup] = maximum;
    peak = std::max(peak, maximum);
  }
  return unordered ? std::numeric_limits<float>::quiet_NaN() : peak;
}

static inline float maximum_of(const float* x, int64_t size) {
  __m512 highest = _mm512_set1_ps(kCut);
  for (int64_t i = 0; i < size; i += 16)
    highest = _mm512_max_ps(highest, load_scores(x + i, size - i));
  return _mm512_reduce_max_ps(highest);
}

// The lowest index whose score is `peak`, given the maxima of the groups.
static inline int64_t first_index(const float* x, int64_t size, const float* maxima, float peak) {
  int64_t i = 0;
  while (maxima[i / kGroup] != peak) i += kGroup;
  while (i < size - 1 && x[i] != peak) ++i;
  return i;
}

// Calls visit(first, last) for each chunk of [0, size). Returns the sum of the results.
template <typename Visit>
static inline double sum_chunks(int64_t size, Visit&& visit) {
  double sum = 0;
  for (int64_t first = 0; first < size; first += kChunk)
    sum += static_cast<double>(visit(first, std::min(first + kChunk, size)));
  return sum;
}

// weights[i] = e^((x[i] - peak) / temperature), or 0 for a score that was cut. Returns the sum. If
// `weights` is null, only the sum is computed.
static inline double weigh(const float* x, int64_t size, float peak, float temperature,
                           float* weights) {
  const __m512 highest = _mm512_set1_ps(peak), divisor = _mm512_set1_ps(temperature),
               cut = _mm512_set1_ps(kCut);
  return sum_chunks(size, [&](int64_t first, int64_t last) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = first; i < last; i += 16) {
      const __m512 v = load_scores(x + i, last - i);
      const __m512 exponent = _mm512_div_ps(_mm512_sub_ps(v, highest), divisor);
      // Weights that e^x cannot represent are zero. This includes scores that were cut.
      const __mmask16 held = _mm512_cmp_ps_mask(v, cut, _CMP_GT_OQ) &
                             _mm512_cmp_ps_mask(exponent, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
      const __m512 weight = _mm512_maskz_mov_ps(held, exp_ps(exponent));
      if (weights != nullptr) _mm512_mask_storeu_ps(weights + i, lanes_of(last - i), weight);
      sum = _mm512_add_ps(sum, weight);
    }
    return _mm512_reduce_add_ps(sum);
  });
}

static inline double sum_of(const float* weights, int64_t size) {
  return sum_chunks(size, [&](int64_t first, int64_t last) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = first; i < last; i += 16)
      sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes_of(last - i), weights + i));
    return _mm512_reduce_add_ps(sum);
  });
}

// The total weight of the keys that are at least `bound`. Writes their number to `count`.
static inline double mass_from(const float* keys, const float* weights, int64_t size, float bound,
                               int64_t* count) {
  const __m512 least = _mm512_set1_ps(bound);
  int64_t found = 0;
  const double mass = sum_chunks(size, [&](int64_t first, int64_t last) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = first; i < last; i += 16) {
      const __mmask16 lanes = lanes_of(last - i);
      const __mmask16 above =
          _mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, keys + i), least, _CMP_GE_OQ);
      sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(above, weights + i));
      found += __builtin_popcount(above);
    }
    return _mm512_reduce_add_ps(sum);
  });
  *count = found;
  return mass;
}

// The mean of x[i], weighted by weights[i], whose sum is `total`. x[i] may be infinite where the
// weight is zero.
static inline double weighted_mean(const float* x, const float* weights, int64_t size,
                                   double total) {
  const double sum = sum_chunks(size, [&](int64_t first, int64_t last) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = first; i < last; i += 16) {
      const __m512 weight = _mm512_maskz_loadu_ps(lanes_of(last - i), weights + i);
      const __mmask16 held = _mm512_cmp_ps_mask(weight, _mm512_setzero_ps(), _CMP_GT_OQ);
      sum = _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(held, x + i), sum);
    }
    return _mm512_reduce_add_ps(sum);
  });
  return sum / total;
}

// The first index whose cumulative weight exceeds `target`. If there is none because of rounding,
// the last index with a positive weight.
static inline int64_t first_beyond(const float* weights, int64_t size, double target) {
  constexpr double kSlack = 1 + 1e-6;  // sums in different orders differ in their last digits
  double before = 0;
  for (int64_t first = 0; first < size; first += kChunk) {
    const int64_t last = std::min(first + kChunk, size);
    const double chunk = sum_of(weights + first, last - first);
    double cumulative = before;
    if (before + chunk * kSlack > target)
      for (int64_t i = first; i < last; ++i)
        if ((cumulative += static_cast<double>(weights[i])) > target) return i;
    before += chunk;
  }
  int64_t i = size - 1;
  while (i > 0 && weights[i] == 0) --i;
  return i;
}

}  // namespace tgi
