// Converts codes to numbers: whole panels for many rows, single columns for the embedding.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>

#include "quantized_numbers.h"

namespace tgi {
namespace {

constexpr int kAhead = 4096;  // distance in bytes from the unpacked codes to the prefetched codes

// Numbers of codes of one kind: weight = scale * number + offset.
template <Codes Kind, int Bits>
struct Group {
  __m512 table, scale, offset;

  // Decodes byte `Byte` of every column's word, from bit `shift` on. The bf16 result is in the
  // upper half of 32 bits.
  template <int Byte>
  __m512i values(__m512i words, int shift) const {
    const __m512i codes =
        _mm512_and_si512(_mm512_srli_epi32(words, static_cast<unsigned>(8 * Byte + shift)),
                         _mm512_set1_epi32((1 << Bits) - 1));
    const __m512 value = _mm512_fmadd_ps(numbers_of<Kind>(codes, table), scale, offset);
    // The addend rounds the value when the lower half is dropped.
    return _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
  }
};

inline __m512i pair(__m512i first, __m512i second) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  return _mm512_ternarylogic_epi32(upper, second, _mm512_srli_epi32(first, 16),
                                   0xca);  // upper ? second : first
}

// Decodes four inputs of a vector, whose codes begin at bit `shift` of each byte: two pairs of
// inputs for 16 columns. Stores at most `num_pairs` pairs.
template <typename Numbers>
inline void unpack_words(const Numbers& numbers, __m512i words, int shift, bf16* target,
                         int64_t num_pairs) {
  if (num_pairs <= 0) return;
  _mm512_storeu_si512(target, pair(numbers.template values<0>(words, shift),
                                   numbers.template values<1>(words, shift)));
  if (num_pairs == 1) return;
  _mm512_storeu_si512(target + 2 * kPanelColumns, pair(numbers.template values<2>(words, shift),
                                                       numbers.template values<3>(words, shift)));
}

// Unpacks half a panel in the order of the positions.
template <Codes Kind, int Bits>
void unpack_half(const QuantizedWeight& weight, int64_t num_inputs, int64_t half_panel,
                 bf16* target) {
  const int64_t groups = weight.num_groups(num_inputs), vectors = weight.group_vectors(),
                num_pairs = (num_inputs + 1) / 2;
  const __m512 table =
      Kind == Codes::kTable ? _mm512_loadu_ps(weight.numbers) : _mm512_setzero_ps();
  const __m512 column_scales =
      weight.column_scales == nullptr
          ? _mm512_set1_ps(1.0f)
          : _mm512_loadu_ps(weight.column_scales + half_panel * kHalfPanel);
  int64_t done = 0;  // number of input pairs
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t block = half_panel * groups + group;
    _mm_prefetch(static_cast<const char*>(weight.scales) + block * kHalfPanel * 2 + kAhead / 8,
                 _MM_HINT_T0);
    const __m512 scale = _mm512_mul_ps(load_scales(weight, block), column_scales);
    const Group<Kind, Bits> numbers{table, scale, offsets_of(weight, block, scale)};
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const uint8_t* codes = weight.codes + (block * vectors + vector) * kVectorBytes;
      _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
      const __m512i words = _mm512_loadu_si512(codes);
      for (int shift = 0; shift < 8; shift += Bits, done += 2)
        unpack_words(numbers, words, shift, target + done * 2 * kPanelColumns, num_pairs - done);
    }
  }
}

void unpack_panel(const QuantizedWeight& weight, int64_t num_inputs, int64_t panel, bf16* target) {
  auto* unpack =
      weight.bits == 4 ? unpack_half<Codes::kInteger, 4> : unpack_half<Codes::kInteger, 8>;
  switch (static_cast<Codes>(weight.code_kind)) {
    case Codes::kInteger:
      break;
    case Codes::kTable:
      unpack = unpack_half<Codes::kTable, 4>;
      break;
    case Codes::kE4m3:
      unpack = unpack_half<Codes::kE4m3, 8>;
      break;
    case Codes::kE5m2:
      unpack = unpack_half<Codes::kE5m2, 8>;
      break;
  }
  for (int half = 0; half < 2; ++half)
    unpack(weight, num_inputs, 2 * panel + half, target + half * kPanelColumns);
}

// 16 columns of the input that is stored at `position`, in both halves of 32 bits.
inline __m512i input_at(const bf16* stored, int64_t position) {
  const __m512i words = _mm512_loadu_si512(stored + position / 2 * 2 * kPanelColumns);
  const __m512i low = _mm512_and_si512(words, _mm512_set1_epi32(0xffff));
  return position % 2 == 0 ? _mm512_or_si512(low, _mm512_slli_epi32(low, 16))
                           : _mm512_or_si512(_mm512_srli_epi32(words, 16),
                                             _mm512_andnot_si512(_mm512_set1_epi32(0xffff), words));
}

// Copies a panel from the order of the positions to the order of the inputs.
void order_panel(const int32_t* positions, int64_t num_inputs, const bf16* stored, bf16* target) {
  const __mmask32 upper = 0xaaaaaaaa;
  for (int64_t input = 0; input < num_inputs; input += 2) {
    for (int half = 0; half < 2; ++half) {
      const __m512i first = input_at(stored + half * kPanelColumns, positions[input]);
      const __m512i second = input + 1 < num_inputs
                                 ? input_at(stored + half * kPanelColumns, positions[input + 1])
                                 : _mm512_setzero_si512();
      _mm512_storeu_si512(target + input * kPanelColumns + half * kPanelColumns,
                          _mm512_mask_blend_epi16(upper, first, second));
    }
  }
}

}  // namespace

void dequantize_panel(const QuantizedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target, bf16* scratch) {
  if (weight.input_order == nullptr) return unpack_panel(weight, num_inputs, panel, target);
  unpack_panel(weight, num_inputs, panel, scratch);
  order_panel(weight.positions, num_inputs, scratch, target);
}

void dequantize_column(const QuantizedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target) {
  const int64_t groups = weight.num_groups(num_inputs), vectors = weight.group_vectors(),
                first_block = column / kHalfPanel * groups;
  const uint8_t* word =
      weight.codes + first_block * vectors * kVectorBytes + column % kHalfPanel * 4;
  if (weight.column_scales != nullptr) factor *= weight.column_scales[column];
  int64_t done = 0;
  for (int64_t group = 0; group < groups; ++group) {
    alignas(64) float scales[kHalfPanel], offsets[kHalfPanel];
    const __m512 loaded = load_scales(weight, first_block + group);
    _mm512_store_ps(scales, loaded);
    _mm512_store_ps(offsets, offsets_of(weight, first_block + group, loaded));
    const float scale = scales[column % kHalfPanel], offset = offsets[column % kHalfPanel];
    for (int64_t vector = 0; vector < vectors; ++vector, word += kVectorBytes) {
      for (int shift = 0; shift < 8; shift += weight.bits) {
        for (int64_t i = 0; i < 4 && done < num_inputs; ++i, ++done) {
          const int code = word[i] >> shift & ((1 << weight.bits) - 1);
          const float number =
              weight.numbers == nullptr ? static_cast<float>(code) : weight.numbers[code];
          const int64_t input = weight.input_order == nullptr ? done : weight.input_order[done];
          target[input] = (number * scale + offset) * factor;
        }
      }
    }
  }
}

}  // namespace tgi
