// Converts codes to numbers: whole panels for many rows, single columns for the embedding.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>

#include "quantized.h"
#include "vector.h"

namespace tgi {
namespace {

constexpr int kAhead = 4096;  // distance in bytes from the unpacked codes to the prefetched codes

// Decodes byte `Byte` of every column's word. The bf16 result is in the upper half of 32 bits.
template <int Byte, int Mask>
inline __m512i values(__m512i words, int shift, __m512 scale, __m512 offset) {
  const __m512i codes = _mm512_and_si512(
      _mm512_srli_epi32(words, static_cast<unsigned>(8 * Byte + shift)), _mm512_set1_epi32(Mask));
  const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), scale, offset);
  // The addend rounds the value when the lower half is dropped.
  return _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
}

inline __m512i pair(__m512i first, __m512i second) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  return _mm512_ternarylogic_epi32(upper, second, _mm512_srli_epi32(first, 16),
                                   0xca);  // upper ? second : first
}

// Decodes four inputs of a vector, whose codes begin at bit `shift` of each byte: two pairs of
// inputs for 16 columns. Stores at most `num_pairs` pairs.
template <int Mask>
inline void unpack_words(__m512i words, int shift, __m512 scale, __m512 offset, bf16* target,
                         int64_t num_pairs) {
  if (num_pairs <= 0) return;
  _mm512_storeu_si512(target, pair(values<0, Mask>(words, shift, scale, offset),
                                   values<1, Mask>(words, shift, scale, offset)));
  if (num_pairs == 1) return;
  _mm512_storeu_si512(target + 2 * kPanelColumns,
                      pair(values<2, Mask>(words, shift, scale, offset),
                           values<3, Mask>(words, shift, scale, offset)));
}

}  // namespace

void dequantize_panel(const QuantizedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target) {
  const int64_t groups = weight.num_groups(num_inputs), vectors = weight.group_vectors(),
                num_pairs = (num_inputs + 1) / 2;
  for (int half = 0; half < 2; ++half) {
    const int64_t column_block = 2 * panel + half;
    bf16* out = target + half * kPanelColumns;
    int64_t done = 0;  // number of input pairs
    for (int64_t group = 0; group < groups; ++group) {
      const bf16* scales = weight.scales + (column_block * groups + group) * kHalfPanel;
      _mm_prefetch(reinterpret_cast<const char*>(scales) + kAhead / 8, _MM_HINT_T0);
      const __m512 scale = load_bf16(scales);
      const __m512 offset =
          _mm512_mul_ps(scale, _mm512_set1_ps(static_cast<float>(-weight.zero())));
      for (int64_t vector = 0; vector < vectors; ++vector) {
        const uint8_t* codes =
            weight.codes + ((column_block * groups + group) * vectors + vector) * kVectorBytes;
        _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
        const __m512i words = _mm512_loadu_si512(codes);
        bf16* at = out + done * 2 * kPanelColumns;
        if (weight.bits == 8) {
          unpack_words<0xff>(words, 0, scale, offset, at, num_pairs - done);
          done += 2;
        } else {
          unpack_words<0x0f>(words, 0, scale, offset, at, num_pairs - done);
          unpack_words<0x0f>(words, 4, scale, offset, at + 4 * kPanelColumns, num_pairs - done - 2);
          done += 4;
        }
      }
    }
  }
}

void dequantize_column(const QuantizedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target) {
  const int64_t groups = weight.num_groups(num_inputs), vectors = weight.group_vectors(),
                first_block = column / kHalfPanel * groups;
  const uint8_t* word =
      weight.codes + first_block * vectors * kVectorBytes + column % kHalfPanel * 4;
  int64_t done = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const float scale =
        to_float(weight.scales[(first_block + group) * kHalfPanel + column % kHalfPanel]) * factor;
    const auto read_four = [&](int shift, int mask) {
      const int64_t count = std::min<int64_t>(4, num_inputs - done);
      for (int64_t i = 0; i < count; ++i)
        target[done + i] = static_cast<float>((word[i] >> shift & mask) - weight.zero()) * scale;
      done += std::max<int64_t>(count, 0);
    };
    for (int64_t vector = 0; vector < vectors; ++vector, word += kVectorBytes) {
      read_four(0, weight.bits == 8 ? 0xff : 0x0f);
      if (weight.bits == 4) read_four(4, 0x0f);
    }
  }
}

}  // namespace tgi
