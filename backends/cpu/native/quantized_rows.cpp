// Prepares the activations of a step for products with quantized weights.
//
// Activations become 16-bit integers for byte products. These are more precise than the bfloat16
// activations, unless a group contains a value that is 256 times as large as the others.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>

#include "quantized.h"
#include "vector.h"

namespace tgi {
namespace {

// Rounding the low byte away may increase the high byte, which must still fit in a signed byte.
constexpr float kMaxInteger = 32512.0f;
constexpr float kMinMagnitude = 1e-30f;  // a group whose values are all smaller becomes zero

struct GroupScale {
  float scale, inverse;
};

// The scale is not finite if a value of the group is not finite, so that the results are not finite
// either.
GroupScale group_scale(const bf16* values, int64_t count) {
  __m512i greatest = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1u << (count - i)) - 1);
    const __m512i bits =
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values + i)), 17);
    // The magnitude is compared as an integer, in which NaN is greater than infinity.
    greatest = _mm512_max_epu32(greatest, bits);
  }
  const uint32_t bits = _mm512_reduce_max_epu32(greatest) >> 1;
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, sizeof magnitude);
  if (magnitude < kMinMagnitude) return {0.0f, 0.0f};
  return {magnitude / kMaxInteger, kMaxInteger / magnitude};
}

// Writes a word of 4 high bytes and a word of 4 low bytes to `words` for every 4 values. Returns
// the sum of the integers.
int32_t quantize_group(const bf16* values, int64_t count, int64_t group_size, float inverse,
                       int8_t* words) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < group_size; i += 16) {
    const int64_t left = count - i;
    const auto mask = static_cast<__mmask16>(left >= 16  ? 0xffff
                                             : left <= 0 ? 0
                                                         : (1u << left) - 1);
    const __m512 x = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values + i)), 16));
    const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(integers, _mm512_set1_epi32(128)), 8);
    const __m512i low = _mm512_sub_epi32(integers, _mm512_slli_epi32(high, 8));
    sum = _mm512_add_epi32(sum, integers);
    const __m128i high_bytes = _mm512_cvtepi32_epi8(high), low_bytes = _mm512_cvtepi32_epi8(low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 2 * i),
                     _mm_unpacklo_epi32(high_bytes, low_bytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 2 * i + 16),
                     _mm_unpackhi_epi32(high_bytes, low_bytes));
  }
  return _mm512_reduce_add_epi32(sum);
}

// The values of a row in the order of the positions.
const bf16* in_order(const bf16* row, int64_t num_inputs, const int32_t* order, bf16* gathered) {
  if (order == nullptr) return row;
  for (int64_t i = 0; i < num_inputs; ++i) gathered[i] = row[order[i]];
  return gathered;
}

}  // namespace

IntegerRows::IntegerRows(float* scratch, const QuantizedWeight& weight, int64_t num_inputs,
                         int64_t num_rows)
    : num_groups(weight.num_groups(num_inputs)),
      row_bytes(2 * weight.padded_inputs(num_inputs)),
      scales(scratch),
      starts(reinterpret_cast<int32_t*>(scratch + num_rows * num_groups)),
      factors(scratch + 2 * num_rows * num_groups),
      bytes(reinterpret_cast<int8_t*>(scratch + round_up(3 * num_rows * num_groups, 16))),
      gathered(reinterpret_cast<bf16*>(bytes + num_rows * row_bytes)) {}

int64_t IntegerRows::scratch_floats(const QuantizedWeight& weight, int64_t num_inputs,
                                    int64_t num_rows) {
  const int64_t padded = weight.padded_inputs(num_inputs);
  return round_up(3 * num_rows * weight.num_groups(num_inputs), 16) + num_rows * padded / 2 +
         (weight.input_order == nullptr ? 0 : padded / 2);
}

void quantize_rows(const bf16* rows, int64_t num_inputs, int64_t num_rows,
                   const QuantizedWeight& weight, const IntegerRows& target) {
  const int64_t stride = round_up(num_inputs, kPanelColumns), group_size = weight.group_size;
  for (int64_t row = 0; row < num_rows; ++row) {
    const bf16* values =
        in_order(rows + row * stride, num_inputs, weight.input_order, target.gathered);
    for (int64_t group = 0; group < target.num_groups; ++group) {
      const int64_t first = group * group_size, at = row * target.num_groups + group;
      const int64_t count = std::min(num_inputs - first, group_size);
      const GroupScale scale = group_scale(values + first, count);
      const int32_t sum = quantize_group(values + first, count, group_size, scale.inverse,
                                         target.bytes + row * target.row_bytes + 2 * first);
      if (static_cast<Zeros>(weight.zero_kind) == Zeros::kPacked) {
        target.scales[at] = scale.scale * kPackedFactor;
        target.starts[at] = kPackedStart * sum;
        target.factors[at] = static_cast<float>(target.starts[at]);
      } else {
        target.scales[at] = scale.scale;
        target.starts[at] = weight.has_offsets() ? 0 : -weight.zero * sum;
        target.factors[at] = static_cast<float>(sum) * scale.scale;
      }
    }
  }
}

void order_rows(const bf16* rows, int64_t num_inputs, int64_t num_rows,
                const QuantizedWeight& weight, bf16* target) {
  constexpr int kOrder[4] = {0, 2, 1, 3};
  const int64_t stride = round_up(num_inputs, kPanelColumns),
                padded = weight.padded_inputs(num_inputs);
  for (int64_t row = 0; row < num_rows; ++row) {
    const bf16* values = rows + row * stride;
    for (int64_t position = 0; position < padded; ++position) {
      const int64_t from = position / 4 * 4 + kOrder[position % 4];
      const int64_t input =
          from < num_inputs && weight.input_order != nullptr ? weight.input_order[from] : from;
      target[row * padded + position] = from < num_inputs ? values[input] : 0;
    }
  }
}

}  // namespace tgi
