// Keys and values in codes of 8 bits: conversion to codes when they are written to the cache, and
// conversion to bf16 when attention reads them. Include this file only after the target pragma.
//
// The codes of a block are in the order of the bf16 values of a block (program.h). The cache of
// int8 has one scale per token and head. The 32 scales of a block, f32, follow its codes, so that a
// copy of a block contains both.
#pragma once

#include <cmath>
#include <limits>

#include "vector.h"

namespace tgi {

constexpr int64_t kScaleBytes = kBlockTokens * static_cast<int64_t>(sizeof(float));

inline bool has_token_scales(const AttentionLayer& layer) {
  return static_cast<CacheFormat>(layer.cache_format) == CacheFormat::kInt8;
}

// Bytes of the keys or values of one block and kv head. `dim` is the number of values of a token.
inline int64_t coded_block_bytes(const AttentionLayer& layer, int64_t dim) {
  return dim * kBlockTokens + (has_token_scales(layer) ? kScaleBytes : 0);
}

inline float* token_scales(uint8_t* block, int64_t dim) {
  return reinterpret_cast<float*>(block + dim * kBlockTokens);
}

// The properties of a float with 8 bits. A code with the lowest bit of `kInfinity` to 0x7f is not
// finite. e4m3 has no infinity, so that an infinity becomes NaN.
struct E4m3 {
  static constexpr int kMantissaBits = 3, kMinExponent = -6;
  static constexpr int kInfinity = 0x7f;
  static constexpr float kMax = 448.0f;
};

struct E5m2 {
  static constexpr int kMantissaBits = 2, kMinExponent = -14;
  static constexpr int kInfinity = 0x7c;
  static constexpr float kMax = 57344.0f;
};

// Rounds x * factor to the nearest 8-bit float, ties to even. A finite x beyond the range gives the
// largest finite number. Returns one code per 32-bit lane.
template <class Float>
inline __m512i encode_float(__m512 x, __m512 factor) {
  constexpr int kShift = 23 - Float::kMantissaBits;
  constexpr int kBias = (126 + Float::kMinExponent) << Float::kMantissaBits;
  const __m512 infinity = _mm512_set1_ps(std::numeric_limits<float>::infinity());
  const __m512 magnitude = _mm512_abs_ps(x);
  const __m512 limited =
      _mm512_min_ps(_mm512_mul_ps(magnitude, factor), _mm512_set1_ps(Float::kMax));
  const __m512i bits = _mm512_castps_si512(limited);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, kShift), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32((1 << (kShift - 1)) - 1)), odd),
      kShift);
  const __m512i normal = _mm512_sub_epi32(rounded, _mm512_set1_epi32(kBias));
  // The sum with this number has the step of the subnormal codes as its last bit.
  const __m512 step =
      _mm512_set1_ps(std::ldexp(1.0f, 23 + Float::kMinExponent - Float::kMantissaBits));
  const __m512i subnormal = _mm512_sub_epi32(_mm512_castps_si512(_mm512_add_ps(limited, step)),
                                             _mm512_castps_si512(step));
  const __mmask16 is_small = _mm512_cmp_ps_mask(
      limited, _mm512_set1_ps(std::ldexp(1.0f, Float::kMinExponent)), _CMP_LT_OQ);
  __m512i code = _mm512_mask_mov_epi32(normal, is_small, subnormal);
  code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(magnitude, infinity, _CMP_EQ_OQ),
                               _mm512_set1_epi32(Float::kInfinity));
  code =
      _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7f));
  const __m512i sign = _mm512_srli_epi32(_mm512_castps_si512(x), 24);
  return _mm512_or_si512(code, _mm512_and_si512(sign, _mm512_set1_epi32(0x80)));
}

// Returns the scale with which the largest magnitude of x becomes 127. The scale is NaN if a value
// is not finite, so that all values of the token are NaN when they are read.
inline float int8_scale(const float* x, int64_t size) {
  __m512 largest = _mm512_setzero_ps();
  __mmask16 is_infinite = 0;
  for (int64_t i = 0; i < size; i += 16) {
    const int64_t left = size - i;
    const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    const __m512 magnitude = _mm512_abs_ps(_mm512_maskz_loadu_ps(mask, x + i));
    const __m512 limit = _mm512_set1_ps(std::numeric_limits<float>::max());
    is_infinite |= _mm512_cmp_ps_mask(magnitude, limit, _CMP_NLE_UQ);
    largest = _mm512_max_ps(largest, magnitude);
  }
  if (is_infinite != 0) return std::numeric_limits<float>::quiet_NaN();
  return _mm512_reduce_max_ps(largest) / 127.0f;
}

// Rounds x / scale to the nearest integers, one per 32-bit lane.
inline __m512i encode_int8(__m512 x, __m512 factor) {
  return _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
}

// Converts codes of 8-bit floats to bf16 with a table of the 128 codes without a sign.
class FloatDecoder {
 public:
  explicit FloatDecoder(const bf16* table) {
    for (int i = 0; i < 4; ++i) table_[i] = _mm512_loadu_si512(table + 32 * i);
  }

  // Decodes 32 codes.
  __m512i decode(const uint8_t* codes) const {
    const __m512i code =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const __m512i low = _mm512_permutex2var_epi16(table_[0], code, table_[1]);
    const __m512i high = _mm512_permutex2var_epi16(table_[2], code, table_[3]);
    const __mmask32 is_high = _mm512_test_epi16_mask(code, _mm512_set1_epi16(0x40));
    const __m512i sign = _mm512_set1_epi16(static_cast<int16_t>(0x8000));
    return _mm512_ternarylogic_epi32(_mm512_mask_mov_epi16(low, is_high, high),
                                     _mm512_slli_epi16(code, 8), sign, 0xf8);  // a | b & c
  }

 private:
  __m512i table_[4];
};

// Decodes 32 codes of int8. The first 16 codes are multiplied by `low`, the last 16 by `high`.
inline __m512i decode_int8(const uint8_t* codes, __m512 low, __m512 high) {
  const auto* halves = reinterpret_cast<const __m128i*>(codes);
  const __m512 first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(halves)));
  const __m512 second = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(halves + 1)));
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(second, high), _mm512_mul_ps(first, low));
}

// Prefetches the cache line of a block whose offset is that of the line that is decoded now.
inline void prefetch_line(const uint8_t* block, int64_t offset) {
  if (block != nullptr) _mm_prefetch(reinterpret_cast<const char*>(block) + offset, _MM_HINT_T1);
}

// The following functions decode a block of one kv head. Meanwhile they prefetch the block `next`,
// which may be null.
inline void decode_floats(const uint8_t* block, const bf16* table, int64_t size,
                          const uint8_t* next, bf16* target) {
  const FloatDecoder decoder(table);
  for (int64_t i = 0; i < size; i += 64) {
    prefetch_line(next, i);
    _mm512_store_si512(target + i, decoder.decode(block + i));
    _mm512_store_si512(target + i + 32, decoder.decode(block + i + 32));
  }
}

// Keys: a line contains two dimensions of each of the 32 tokens.
inline void decode_int8_keys(const uint8_t* block, int64_t size, const uint8_t* next,
                             bf16* target) {
  const auto* scales = reinterpret_cast<const float*>(block + size);
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  __m512 factors[4];
  for (int i = 0; i < 4; ++i)
    factors[i] =
        _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(scales + 8 * i)));
  for (int64_t i = 0; i < size; i += 64) {
    prefetch_line(next, i);
    _mm512_store_si512(target + i, decode_int8(block + i, factors[0], factors[1]));
    _mm512_store_si512(target + i + 32, decode_int8(block + i + 32, factors[2], factors[3]));
  }
}

// Values: a line contains two tokens of each of the 32 dimensions of a panel.
inline void decode_int8_values(const uint8_t* block, int64_t size, const uint8_t* next,
                               bf16* target) {
  const auto* scales = reinterpret_cast<const double*>(block + size);  // pairs of f32
  for (int64_t i = 0; i < size; i += 64) {
    prefetch_line(next, i);
    double pair;
    __builtin_memcpy(&pair, scales + i / 64 % (kBlockTokens / 2), sizeof pair);
    const __m512 factors = _mm512_castpd_ps(_mm512_set1_pd(pair));
    _mm512_store_si512(target + i, decode_int8(block + i, factors, factors));
    _mm512_store_si512(target + i + 32, decode_int8(block + i + 32, factors, factors));
  }
}

}  // namespace tgi
