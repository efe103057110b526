// Quantizes weights once, while a checkpoint is read.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "quantized.h"
#include "vector.h"

namespace tgi {
namespace {

constexpr int64_t kMaxGroup = 128;

// Rounds values / scale to the nearest integers within [-zero, zero - 1]. Returns the sum of the
// squared errors.
float round_to_integers(const float* values, int64_t count, float scale, int zero,
                        int32_t* integers) {
  const float inverse = std::fabs(scale) < FLT_MIN ? 0.0f : 1.0f / scale;
  __m512 error = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 x = _mm512_loadu_ps(values + i);
    __m512i nearest = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
    nearest = _mm512_min_epi32(_mm512_max_epi32(nearest, _mm512_set1_epi32(-zero)),
                               _mm512_set1_epi32(zero - 1));
    const __m512 left = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(nearest), _mm512_set1_ps(scale), x);
    error = _mm512_fmadd_ps(left, left, error);
    _mm512_storeu_si512(integers + i, nearest);
  }
  return _mm512_reduce_add_ps(error);
}

float greatest_magnitude(const float* values, int64_t count) {
  float greatest = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (!(std::fabs(values[i]) <= std::fabs(greatest))) greatest = values[i];
    if (greatest != greatest) break;  // no later value may replace NaN
  }
  return greatest;
}

// Chooses the scale with the smallest error. The candidates are the scales that map the value with
// the greatest magnitude to one of the anchors.
bf16 quantize_group(const float* values, int64_t count, int zero, const float* anchors,
                    int64_t num_anchors, int32_t* integers) {
  const float greatest = greatest_magnitude(values, count);
  bf16 best_scale = 0;
  float best_error = 0;
  for (int64_t i = 0; i < num_anchors; ++i) {
    int32_t tried[kMaxGroup];
    const bf16 scale = to_bf16(greatest / anchors[i]);
    const float error = round_to_integers(values, count, to_float(scale), zero, tried);
    if (i != 0 && !(error < best_error)) continue;
    best_scale = scale;
    best_error = error;
    std::copy(tried, tried + count, integers);
  }
  return best_scale;
}

// Writes the integers of one column and group to the column's bytes in the group's vectors.
void store_codes(const int32_t* integers, const QuantizedWeight& weight, uint8_t* codes) {
  const int zero = weight.zero();
  for (int64_t vector = 0; vector < weight.group_vectors(); ++vector, codes += kVectorBytes) {
    for (int byte = 0; byte < 4; ++byte)
      codes[byte] = static_cast<uint8_t>(weight.bits == 8 ? integers[byte] + zero
                                                          : (integers[byte] + zero) |
                                                                (integers[byte + 4] + zero) << 4);
    integers += 32 / weight.bits;
  }
}

}  // namespace
}  // namespace tgi

extern "C" {

// Quantizes a row-major f32 piece [rows][inputs] of a weight. The piece begins at column
// `first_column` and at input `first_input`, a multiple of the group size. `total_inputs` is the
// number of inputs of the whole weight. `gate_half` has the same meaning as in `tgi_pack`.
void tgi_quantize(const float* piece, int64_t rows, int64_t inputs,
                  const tgi::QuantizedWeight* target, int64_t total_inputs, int64_t first_column,
                  int64_t first_input, int32_t gate_half, const float* anchors,
                  int64_t num_anchors) {
  const int64_t group_size = target->group_size, groups = target->num_groups(total_inputs),
                vectors = target->group_vectors();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = first_column + row;
    const int64_t column = gate_half < 0 ? at : at / 16 * 32 + gate_half * 16 + at % 16;
    const int64_t half_panel = column / tgi::kHalfPanel, place = column % tgi::kHalfPanel;
    for (int64_t first = 0; first < inputs; first += group_size) {
      const int64_t block = half_panel * groups + (first_input + first) / group_size;
      float values[tgi::kMaxGroup] = {};
      int32_t integers[tgi::kMaxGroup];
      std::copy(piece + row * inputs + first,
                piece + row * inputs + std::min(first + group_size, inputs), values);
      target->scales[block * tgi::kHalfPanel + place] =
          tgi::quantize_group(values, group_size, target->zero(), anchors, num_anchors, integers);
      tgi::store_codes(integers, *target,
                       target->codes + block * vectors * tgi::kVectorBytes + place * 4);
    }
  }
}
}
