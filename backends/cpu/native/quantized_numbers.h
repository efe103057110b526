// The numbers of codes, scales and zeros in registers. Include this file only after the target
// pragma.
#pragma once

#include "quantized.h"
#include "vector.h"

namespace tgi {

// A packed word, shifted by `kPackedShift`, is the float `kPackedUnit` times the scale, because the
// bits of the zero are the lowest bits of the mantissa.
constexpr int kZeroBits = 7;
constexpr int kPackedShift = 11;
constexpr int kZeroMask = ((1 << kZeroBits) - 1) << kPackedShift;
constexpr float kZeroUnit = 0.125f;
constexpr int kPackedExponentOffset = 112;  // the greatest scale is in [1, 2)

static inline __m512i load_words(const void* words, int64_t at) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(
      reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(words) + at)));
}

// 16 numbers of the dtype `Kind`, beginning with index `at`. Packed scales are relative to the
// scales of the columns.
template <Scales Kind>
inline __m512 load_numbers(const void* numbers, int64_t at) {
  if constexpr (Kind == Scales::kF16)
    return _mm512_cvtph_ps(_mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(numbers) + at)));
  if constexpr (Kind == Scales::kF32)
    return _mm512_loadu_ps(static_cast<const float*>(numbers) + at);
  if constexpr (Kind == Scales::kPacked) {
    const __m512i bits = _mm512_slli_epi32(load_words(numbers, at), kPackedShift);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(bits, _mm512_set1_epi32(kPackedExponentOffset << 23)));
  }
  return load_bf16(static_cast<const bf16*>(numbers) + at);
}

static inline __m512 load_numbers(const void* numbers, int32_t kind, int64_t at) {
  switch (static_cast<Scales>(kind)) {
    case Scales::kF16:
      return load_numbers<Scales::kF16>(numbers, at);
    case Scales::kF32:
      return load_numbers<Scales::kF32>(numbers, at);
    case Scales::kPacked:
      return load_numbers<Scales::kPacked>(numbers, at);
    case Scales::kBf16:
      break;
  }
  return load_numbers<Scales::kBf16>(numbers, at);
}

static inline __m512 load_scales(const QuantizedWeight& weight, int64_t block) {
  return load_numbers(weight.scales, weight.scale_kind, block * kHalfPanel);
}

static inline __m512 byte_offsets(const QuantizedWeight& weight, int64_t at, __m512 scales) {
  const __m512i zeros = _mm512_cvtepu8_epi32(_mm_loadu_si128(
      reinterpret_cast<const __m128i*>(static_cast<const uint8_t*>(weight.zeros) + at)));
  return _mm512_fnmadd_ps(scales, _mm512_cvtepi32_ps(zeros), _mm512_setzero_ps());
}

static inline __m512 packed_offsets(const QuantizedWeight& weight, int64_t at, __m512 scales) {
  const __m512i zeros =
      _mm512_and_si512(load_words(weight.scales, at), _mm512_set1_epi32((1 << kZeroBits) - 1));
  return _mm512_mul_ps(_mm512_mul_ps(scales, _mm512_set1_ps(-kZeroUnit)),
                       _mm512_cvtepi32_ps(zeros));
}

// The offset of each of 16 columns: weight = scale * number + offset.
static inline __m512 offsets_of(const QuantizedWeight& weight, int64_t block, __m512 scales) {
  const int64_t at = block * kHalfPanel;
  switch (static_cast<Zeros>(weight.zero_kind)) {
    case Zeros::kOffsets:
      return load_numbers(weight.zeros, weight.scale_kind, at);
    case Zeros::kBytes:
      return byte_offsets(weight, at, scales);
    case Zeros::kPacked:
      return packed_offsets(weight, at, scales);
    case Zeros::kConstant:
      break;
  }
  return _mm512_mul_ps(scales, _mm512_set1_ps(static_cast<float>(-weight.zero)));
}

// Floating-point numbers of 8 bits with `Mantissa` bits of mantissa. Codes of numbers that are not
// finite do not occur, because the scale of their group is NaN.
template <Codes Kind>
struct SmallFloat {
  static constexpr int kMantissa = Kind == Codes::kE4m3 ? 3 : 2;
  static constexpr int kBias = Kind == Codes::kE4m3 ? 7 : 15;
  static constexpr int kExponentOffset = 127 - kBias;
  static constexpr int kSubnormals = 1 << kMantissa;

  // The unit of the numbers whose exponent is 0.
  static constexpr float unit() {
    float value = 1.0f;
    for (int i = 0; i < kBias - 1 + kMantissa; ++i) value /= 2;
    return value;
  }
};

// The numbers of 16 codes in lanes of 32 bits.
template <Codes Kind>
inline __m512 numbers_of(__m512i codes, __m512 table) {
  if constexpr (Kind == Codes::kInteger) return _mm512_cvtepi32_ps(codes);
  if constexpr (Kind == Codes::kTable) return _mm512_permutexvar_ps(codes, table);
  using Float = SmallFloat<Kind>;
  const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi32(0x7f));
  const __m512 normal = _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_slli_epi32(magnitude, 23 - Float::kMantissa),
                       _mm512_set1_epi32(Float::kExponentOffset << 23)));
  const __mmask16 is_small =
      _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(Float::kSubnormals));
  const __m512 value = _mm512_mask_mul_ps(normal, is_small, _mm512_cvtepi32_ps(magnitude),
                                          _mm512_set1_ps(Float::unit()));
  const __m512i sign = _mm512_slli_epi32(codes, 24);
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      _mm512_castps_si512(value), sign, _mm512_set1_epi32(INT32_MIN), 0xf8));  // a | b & c
}

// Decodes vectors of codes to bf16 pairs, the operands of vdpbf16ps. A vector of 4-bit codes
// contains four pairs of inputs per column: (0, 2), (1, 3), (4, 6) and (5, 7). A vector of 8-bit
// codes contains the first two of these pairs.
template <Codes Kind>
class OperandDecoder {
 public:
  static constexpr int kParts = Kind == Codes::kTable ? 4 : 2;

  explicit OperandDecoder(const QuantizedWeight& weight) {
    if constexpr (Kind == Codes::kTable) {
      // Lanes of 16 bits select by five bits, of which the highest is not part of the code.
      table_ = _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(weight.numbers)));
    } else {
      alignas(64) bf16 small[32] = {};
      for (int code = 0; code < SmallFloat<Kind>::kSubnormals; ++code)
        small[code] = to_bf16(static_cast<float>(code) * SmallFloat<Kind>::unit());
      table_ = _mm512_load_si512(small);
    }
  }

  template <int Part>
  __m512bh decode(__m512i codes) const {
    if constexpr (Kind == Codes::kTable) {
      constexpr int kShift = Part == 0 ? 0 : Part == 1 ? 8 : Part == 2 ? 4 : 12;
      return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(codes, kShift), table_);
    } else {
      using Float = SmallFloat<Kind>;
      const __m512i bytes = Part == 0 ? codes : _mm512_srli_epi16(codes, 8);
      const __m512i magnitude = _mm512_and_si512(bytes, _mm512_set1_epi16(0x7f));
      const __m512i normal = _mm512_add_epi16(
          _mm512_slli_epi16(magnitude, 7 - Float::kMantissa),
          _mm512_set1_epi16(static_cast<int16_t>(Float::kExponentOffset << 7)));
      const __mmask32 is_small =
          _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(Float::kSubnormals));
      const __m512i value =
          _mm512_mask_permutexvar_epi16(normal, is_small, magnitude, table_);
      return (__m512bh)_mm512_ternarylogic_epi32(value, _mm512_slli_epi16(bytes, 8),
                                                 _mm512_set1_epi16(INT16_MIN),
                                                 0xf8);  // a | b & c
    }
  }

 private:
  __m512i table_;
};

}  // namespace tgi
