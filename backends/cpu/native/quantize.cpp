// Quantizes weights once, while a checkpoint is read, and stores the codes of weights that are
// already quantized.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "quantized_numbers.h"

namespace tgi {
namespace {

constexpr int64_t kMaxGroup = 128;
constexpr float kGreatestInteger = 127.0f;  // of signed integers of 8 bits
constexpr float kGreatestCode = 15.0f;      // of codes of 4 bits
constexpr float kMinMagnitude = 1e-30f;     // a column whose values are all smaller becomes zero
// The candidates for the range of a group's codes, relative to the range of its values.
constexpr float kRanges[] = {1.03f, 1.0f, 0.97f, 0.94f};

// Writes the codes of one column and group to the column's bytes in the group's vectors.
void store_codes(const uint8_t* group, const QuantizedWeight& weight, uint8_t* codes) {
  for (int64_t vector = 0; vector < weight.group_vectors(); ++vector, codes += kVectorBytes) {
    for (int byte = 0; byte < 4; ++byte)
      codes[byte] = weight.bits == 8 ? group[byte]
                                     : static_cast<uint8_t>(group[byte] | group[byte + 4] << 4);
    group += 32 / weight.bits;
  }
}

// One column of a weight: addresses of its groups.
struct Column {
  Column(const QuantizedWeight& target, int64_t num_inputs, int64_t index)
      : weight(target),
        groups(target.num_groups(num_inputs)),
        half_panel(index / kHalfPanel),
        place(index % kHalfPanel) {}

  int64_t scale_index(int64_t group) const {
    return (half_panel * groups + group) * kHalfPanel + place;
  }
  void store(int64_t group, const uint8_t* codes) const {
    const int64_t vectors = (half_panel * groups + group) * weight.group_vectors();
    store_codes(codes, weight, weight.codes + vectors * kVectorBytes + place * 4);
  }

  const QuantizedWeight& weight;
  int64_t groups, half_panel, place;
};

float greatest_magnitude(const float* values, int64_t count) {
  float greatest = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (!(std::fabs(values[i]) <= std::fabs(greatest))) greatest = values[i];
    if (greatest != greatest) break;  // no later value may replace NaN
  }
  return greatest;
}

// Stores integers of 8 bits whose scale maps the value with the greatest magnitude to 127. The
// scale is bf16, and it is not finite if a value of the group is not finite.
void quantize_symmetric(const float* values, int64_t num_inputs, const Column& column) {
  const int64_t group_size = column.weight.group_size;
  const int zero = column.weight.zero;
  for (int64_t group = 0; group < column.groups; ++group) {
    const int64_t first = group * group_size, count = std::min(group_size, num_inputs - first);
    const bf16 stored = to_bf16(greatest_magnitude(values + first, count) / kGreatestInteger);
    const float scale = to_float(stored);
    const float inverse = std::fabs(scale) < FLT_MIN ? 0.0f : 1.0f / scale;
    uint8_t codes[kMaxGroup];
    std::fill(codes, codes + group_size, static_cast<uint8_t>(zero));
    for (int64_t i = 0; i < count; ++i) {
      const float nearest = std::nearbyint(values[first + i] * inverse);
      const float limited = nearest == nearest ? std::clamp(nearest, -128.0f, 127.0f) : 0.0f;
      codes[i] = static_cast<uint8_t>(static_cast<int>(limited) + zero);
    }
    static_cast<bf16*>(column.weight.scales)[column.scale_index(group)] = stored;
    column.store(group, codes);
  }
}

// A scale and an offset that a word of packed scales represents.
struct PackedScale {
  PackedScale(float wanted_scale, float wanted_offset) {
    const float quotient = std::clamp(-wanted_offset / (wanted_scale * kZeroUnit), 0.0f, kMaxZero);
    const auto zero = static_cast<int32_t>(std::nearbyint(quotient));
    // The bits of the zero are the lowest bits of the scale.
    int32_t bits;
    __builtin_memcpy(&bits, &wanted_scale, sizeof bits);
    const int32_t code = ((bits >> (kPackedShift - 1)) - zero * 2 + (1 << kZeroBits)) >>
                         (kZeroBits + 1);
    word = static_cast<uint16_t>(std::clamp(code - kFirst, kSteps, 16 * kSteps - 1) << kZeroBits |
                                 zero);
    bits = (word << kPackedShift) + (kPackedExponentOffset << 23);
    __builtin_memcpy(&scale, &bits, sizeof bits);
    offset = -static_cast<float>(zero) * kZeroUnit * scale;
  }

  static constexpr float kMaxZero = (1 << kZeroBits) - 1;
  static constexpr int kSteps = 1 << (23 - kPackedShift - kZeroBits);  // scales of one exponent
  static constexpr int kFirst = kPackedExponentOffset * kSteps;

  float scale, offset;
  uint16_t word;
};

// Finds the packed scale and the codes of a group with a small sum of squared errors.
class GroupSearch {
 public:
  GroupSearch(const float* values, int64_t count) : values_(values), count_(count) {
    for (int64_t i = 0; i < count; ++i) sum_ += values[i];
  }

  // Tries a scale and an offset, and then those that minimize the error of the resulting codes.
  void search(float scale, float offset) {
    attempt(PackedScale(scale, offset));
    const auto count = static_cast<float>(count_);
    const float determinant = count * code_squares_ - code_sum_ * code_sum_;
    if (!(determinant > 0.0f)) return;
    const float better = (count * product_sum_ - code_sum_ * sum_) / determinant;
    if (better > 0.0f) attempt(PackedScale(better, (sum_ - better * code_sum_) / count));
  }

  void attempt(const PackedScale& packed) {
    const __m512 inverse = _mm512_set1_ps(1.0f / packed.scale),
                 scale = _mm512_set1_ps(packed.scale), offset = _mm512_set1_ps(packed.offset),
                 greatest = _mm512_set1_ps(kGreatestCode);
    __m512 error = _mm512_setzero_ps(), codes_sum = error, squares = error, products = error;
    alignas(64) uint8_t tried[kMaxGroup];
    for (int64_t i = 0; i < count_; i += 16) {
      const __m512 x = _mm512_loadu_ps(values_ + i);
      const __m512 exact = _mm512_mul_ps(_mm512_sub_ps(x, offset), inverse);
      const __m512 code = _mm512_roundscale_ps(
          _mm512_min_ps(_mm512_max_ps(exact, _mm512_setzero_ps()), greatest),
          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m512 left = _mm512_sub_ps(_mm512_sub_ps(x, offset), _mm512_mul_ps(code, scale));
      error = _mm512_fmadd_ps(left, left, error);
      codes_sum = _mm512_add_ps(codes_sum, code);
      squares = _mm512_fmadd_ps(code, code, squares);
      products = _mm512_fmadd_ps(code, x, products);
      _mm_store_si128(reinterpret_cast<__m128i*>(tried + i),
                      _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(code)));
    }
    code_sum_ = _mm512_reduce_add_ps(codes_sum);
    code_squares_ = _mm512_reduce_add_ps(squares);
    product_sum_ = _mm512_reduce_add_ps(products);
    const float sum = _mm512_reduce_add_ps(error);
    if (!(sum < error_)) return;
    error_ = sum;
    word_ = packed.word;
    std::copy(tried, tried + count_, codes_);
  }

  uint16_t word() const { return word_; }
  const uint8_t* codes() const { return codes_; }

 private:
  const float* values_;
  const int64_t count_;
  float sum_ = 0.0f, error_ = INFINITY;
  float code_sum_ = 0.0f, code_squares_ = 0.0f, product_sum_ = 0.0f;  // of the last attempt
  uint16_t word_ = 0;
  uint8_t codes_[kMaxGroup] = {};
};

struct Range {
  float low, high;
  float size() const { return high - low; }
};

// The range of a group's values and 0.
Range range_of(const float* values, int64_t count) {
  Range range{0.0f, 0.0f};
  for (int64_t i = 0; i < count; ++i) {
    range.low = std::min(range.low, values[i]);
    range.high = std::max(range.high, values[i]);
  }
  return range;
}

// The scale of a column, a power of two such that the scales of its groups are below 2. The scale
// is NaN if a value of the column is not finite, and 0 if all values are zero or very small.
float column_scale(const float* values, int64_t num_inputs, int64_t group_size) {
  float greatest = 0.0f;
  for (int64_t first = 0; first < num_inputs; first += group_size) {
    const int64_t count = std::min(group_size, num_inputs - first);
    const float magnitude = greatest_magnitude(values + first, count);
    if (!std::isfinite(magnitude)) return NAN;
    greatest = std::max(greatest, range_of(values + first, count).size() / kGreatestCode);
  }
  if (greatest < kMinMagnitude) return 0.0f;
  return std::exp2(std::floor(std::log2(greatest * 1.125f)));
}

// Stores codes of 4 bits with packed scales.
void quantize_packed(const float* values, int64_t num_inputs, const Column& column) {
  const int64_t group_size = column.weight.group_size;
  const float whole = column_scale(values, num_inputs, group_size);
  column.weight.column_scales[column.half_panel * kHalfPanel + column.place] = whole;
  if (!(whole > 0.0f)) return;
  for (int64_t group = 0; group < column.groups; ++group) {
    const int64_t first = group * group_size, count = std::min(group_size, num_inputs - first);
    float relative[kMaxGroup] = {};
    for (int64_t i = 0; i < count; ++i) relative[i] = values[first + i] / whole;
    const Range range = range_of(relative, count);
    GroupSearch found(relative, group_size);
    found.attempt(PackedScale(std::max(range.size() / kGreatestCode, FLT_MIN), range.low));
    for (const float part : kRanges) {
      const float scale = std::max(part * range.size() / kGreatestCode, FLT_MIN);
      found.search(scale, (range.low + range.high - scale * kGreatestCode) / 2);
    }
    static_cast<uint16_t*>(column.weight.scales)[column.scale_index(group)] = found.word();
    column.store(group, found.codes());
  }
}

// The column that contains row `row` of a parameter. If `gate_half` is 0 or 1, the weight
// interleaves gate and up columns in halves of a panel.
int64_t column_of(int64_t row, int32_t gate_half) {
  return gate_half < 0 ? row : row / 16 * 32 + gate_half * 16 + row % 16;
}

}  // namespace
}  // namespace tgi

extern "C" {

// Quantizes rows [rows][inputs] of a weight in f32. The first row is column `first_column`.
// `gate_half` has the same meaning as in `tgi_pack`.
void tgi_quantize(const float* values, int64_t rows, int64_t inputs,
                  const tgi::QuantizedWeight* target, int64_t first_column, int32_t gate_half) {
  auto* quantize = static_cast<tgi::Scales>(target->scale_kind) == tgi::Scales::kPacked
                       ? tgi::quantize_packed
                       : tgi::quantize_symmetric;
  for (int64_t row = 0; row < rows; ++row)
    quantize(values + row * inputs, inputs,
             tgi::Column(*target, inputs, tgi::column_of(first_column + row, gate_half)));
}

// Stores codes [rows][inputs], one per byte. The arguments are those of `tgi_quantize`.
void tgi_store_codes(const uint8_t* codes, int64_t rows, int64_t inputs,
                     const tgi::QuantizedWeight* target, int64_t first_column, int32_t gate_half) {
  const int64_t group_size = target->group_size;
  for (int64_t row = 0; row < rows; ++row) {
    const tgi::Column column(*target, inputs, tgi::column_of(first_column + row, gate_half));
    for (int64_t group = 0; group < column.groups; ++group) {
      const int64_t first = group * group_size, count = std::min(group_size, inputs - first);
      uint8_t padded[tgi::kMaxGroup] = {};
      std::copy(codes + row * inputs + first, codes + row * inputs + first + count, padded);
      column.store(group, padded);
    }
  }
}

// Dequantizes columns [first_column, first_column + columns) to f32 [columns][inputs].
void tgi_dequantize(const tgi::QuantizedWeight* weight, int64_t inputs, int64_t first_column,
                    int64_t columns, float* target) {
  for (int64_t column = 0; column < columns; ++column)
    tgi::dequantize_column(*weight, inputs, first_column + column, 1.0f, target + column * inputs);
}
}
