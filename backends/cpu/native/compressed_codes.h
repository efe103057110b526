// Conversion of compressed weights to bf16 in registers. Include this file only after the target
// pragma.
#pragma once

#include "compressed.h"
#include "vector.h"

namespace tgi {

// 64 weights: two inputs of columns 0 to 15 (`low`) and of columns 16 to 31 (`high`).
struct Pair {
  __m512i low, high;
};

// Decodes the weights of one panel from their codes, signs and mantissas.
class Decoder {
 public:
  explicit Decoder(const uint8_t* panel) {
    const __m128i exponents = _mm_loadu_si128(reinterpret_cast<const __m128i*>(panel));
    // The lowest bit of an exponent is the highest of the weight's lower byte.
    const __m128i low =
        _mm_and_si128(_mm_slli_epi16(exponents, 7), _mm_set1_epi8(static_cast<char>(0x80)));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(exponents, 1), _mm_set1_epi8(0x7f));
    low_bytes_ = _mm512_broadcast_i32x4(low);
    high_bytes_ = _mm512_broadcast_i32x4(high);
  }

  // Decodes two of the block's four inputs: the first two if `Part` is 0, the last two if it is 1.
  template <int Part>
  Pair decode(const uint8_t* block) const {
    const __m512i codes = _mm512_loadu_si512(block + 2 * kLineBytes);
    const __m512i code =
        _mm512_and_si512(Part == 0 ? codes : _mm512_srli_epi16(codes, 4), _mm512_set1_epi8(0x0f));
    const __m512i sign_mantissa = _mm512_loadu_si512(block + Part * kLineBytes),
                  mantissa_mask = _mm512_set1_epi8(0x7f);
    const __m512i low = _mm512_ternarylogic_epi32(
        sign_mantissa, mantissa_mask, _mm512_shuffle_epi8(low_bytes_, code), 0xea);  // a & b | c
    const __m512i high = _mm512_ternarylogic_epi32(
        sign_mantissa, mantissa_mask, _mm512_shuffle_epi8(high_bytes_, code), 0xba);  // a & ~b | c
    return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
  }

 private:
  __m512i low_bytes_, high_bytes_;
};

constexpr int kAhead = 6144;  // distance in bytes from the decoded block to the prefetched block

inline void prefetch_block(const uint8_t* block) {
  for (int64_t line = 0; line < kBlockBytes; line += kLineBytes)
    _mm_prefetch(reinterpret_cast<const char*>(block) + kAhead + line, _MM_HINT_T0);
}

// Position in a `Pair`, in 16-bit weights, of the weight whose byte has index `place` of 64.
inline int position_of(int place) {
  const int lane = place / 16, word = place % 16;
  return (word < 8 ? 0 : 32) + 8 * lane + word % 8;
}

}  // namespace tgi
