// Matrix products of bf16 with quantized weights.
//
// With few rows, integer codes are multiplied directly: the rows are converted to 16-bit integers,
// each stored in two bytes, and byte products are exact. The scales of both sides turn a group's
// sum into a float. If the weight has an offset for each group, the product of the offset and the
// sum of the row's group is added. Tiles of up to eight rows share the codes of a panel, which stay
// in the cache. The result of a row does not depend on the other rows. Other codes are decoded in
// registers (see gemm_decoded.cpp). With many rows, compute throughput is the limit, so a panel is
// unpacked to bf16 once for all of them.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma")

#include <algorithm>

#include "division.h"
#include "linear_store.h"
#include "quantized_numbers.h"
#include "vector.h"

namespace tgi {
namespace {

constexpr int kMaxFewRows = 24;  // maximum rows for which unpacking panels is slower
constexpr int kTileRows = 8;     // rows whose sums fit into the registers

// Distance in bytes from the multiplied data to the prefetched data. It is divided among the Z
// streams that are read at once. With four streams and one or two rows, enough loads are in flight
// without a prefetch.
constexpr int kCodesAhead = 4096;
constexpr int kScalesAhead = 512;

// GCC removes calls of a function without visible effects unless the function is inlined early.
template <int Z, typename T>
inline __attribute__((always_inline)) void prefetch(const T* at, int bytes_ahead) {
  if constexpr (Z < 4)
    _mm_prefetch(reinterpret_cast<const char*>(at) + bytes_ahead / Z, _MM_HINT_T0);
}

inline __m512i broadcast_word(const int8_t* word) {
  int32_t bits;
  __builtin_memcpy(&bits, word, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// The codes of 16 columns and 4 inputs as bytes: group `Part` of four inputs in a vector.
template <int Bits, int Part>
inline __m512i unpack(const uint8_t* codes) {
  const __m512i bytes = _mm512_loadu_si512(codes);
  if constexpr (Bits == 8) return bytes;
  const __m512i low_half = _mm512_set1_epi8(0x0f);
  return _mm512_and_si512(Part == 0 ? bytes : _mm512_srli_epi16(bytes, 4), low_half);
}

// high += the rows' high bytes at `word` times Z vectors of codes, and low += their low bytes times
// these codes.
template <int M, int Z>
inline void multiply_bytes(const IntegerRows& rows, int64_t word, const __m512i (&codes)[Z],
                           __m512i (&high)[M][Z], __m512i (&low)[M][Z]) {
  for (int m = 0; m < M; ++m) {
    const int8_t* bytes = rows.bytes + m * rows.row_bytes + word * 8;
    const __m512i high_bytes = broadcast_word(bytes), low_bytes = broadcast_word(bytes + 4);
    for (int z = 0; z < Z; ++z) {
      high[m][z] = _mm512_dpbusd_epi32(high[m][z], codes[z], high_bytes);
      low[m][z] = _mm512_dpbusd_epi32(low[m][z], codes[z], low_bytes);
    }
  }
}

// The dtype of the scales and the kind of the zeros of a weight, known when a tile is compiled.
template <int Bits, Scales ScaleKind, Zeros ZeroKind>
struct Layout {
  static constexpr int kBits = Bits;
  // The scales of a group for 16 columns, and their offsets or zeros.
  struct Group {
    Group(const QuantizedWeight& weight, int64_t at) {
      if constexpr (ZeroKind == Zeros::kPacked) {
        const __m512i words = _mm512_slli_epi32(load_words(weight.scales, at), kPackedShift);
        scales = _mm512_castsi512_ps(words);
        const __m512i one = _mm512_castps_si512(_mm512_set1_ps(1.0f));
        offsets = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
            words, _mm512_set1_epi32(kZeroMask), one, 0xea));  // a & b | c
        return;
      }
      scales = load_numbers<ScaleKind>(weight.scales, at);
      if constexpr (ZeroKind == Zeros::kOffsets)
        offsets = load_numbers<ScaleKind>(weight.zeros, at);
      if constexpr (ZeroKind == Zeros::kBytes) offsets = byte_offsets(weight, at, scales);
    }

    // Adds a group's sum of integers, with the scale and the factor of the row.
    __m512 add(__m512i integers, const float* row_scale, const float* factor, __m512 total) const {
      __m512 sum = _mm512_cvtepi32_ps(integers);
      if constexpr (ZeroKind == Zeros::kPacked)
        sum = _mm512_fnmadd_ps(offsets, _mm512_set1_ps(*factor), sum);
      total = _mm512_fmadd_ps(sum, _mm512_mul_ps(scales, _mm512_set1_ps(*row_scale)), total);
      if constexpr (ZeroKind == Zeros::kOffsets || ZeroKind == Zeros::kBytes)
        total = _mm512_fmadd_ps(offsets, _mm512_set1_ps(*factor), total);
      return total;
    }

    __m512 scales, offsets;
  };
};

// sums[m][first + z] = rows x weights for M rows and Z half panels, beginning with `half_panel`.
template <typename Weight, int M, int Z, int W>
inline __attribute__((always_inline)) void multiply_groups(const QuantizedWeight& weight,
                                                           const IntegerRows& rows,
                                                           int64_t half_panel, int first,
                                                           __m512 (&sums)[M][W]) {
  const int64_t groups = rows.num_groups, vectors = weight.group_vectors();
  constexpr int Bits = Weight::kBits, kParts = 8 / Bits;
  const uint8_t* codes = weight.codes + half_panel * groups * vectors * kVectorBytes;
  const auto* scales = static_cast<const bf16*>(weight.scales) + half_panel * groups * kHalfPanel;
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < Z; ++z) sums[m][first + z] = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; ++group) {
    __m512i high[M][Z], low[M][Z];
    for (int m = 0; m < M; ++m) {
      const __m512i start = _mm512_set1_epi32(rows.starts[m * groups + group]);
      for (int z = 0; z < Z; ++z) high[m][z] = _mm512_setzero_si512(), low[m][z] = start;
    }
    for (int z = 0; z < Z; ++z)
      prefetch<Z>(scales + (z * groups + group) * kHalfPanel, kScalesAhead);
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const uint8_t* at = codes + (group * vectors + vector) * kVectorBytes;
      const int64_t word = (group * vectors + vector) * kParts;
      for (int z = 0; z < Z; ++z)
        prefetch<Z>(at + z * groups * vectors * kVectorBytes, kCodesAhead);
      __m512i part[Z];
      for (int z = 0; z < Z; ++z)
        part[z] = unpack<Bits, 0>(at + z * groups * vectors * kVectorBytes);
      multiply_bytes<M, Z>(rows, word, part, high, low);
      if constexpr (kParts == 2) {
        for (int z = 0; z < Z; ++z)
          part[z] = unpack<Bits, 1>(at + z * groups * vectors * kVectorBytes);
        multiply_bytes<M, Z>(rows, word + 1, part, high, low);
      }
    }
    for (int z = 0; z < Z; ++z) {
      const typename Weight::Group numbers(weight,
                                           ((half_panel + z) * groups + group) * kHalfPanel);
      for (int m = 0; m < M; ++m) {
        const int64_t at = m * groups + group;
        sums[m][first + z] = numbers.add(
            _mm512_add_epi32(low[m][z], _mm512_slli_epi32(high[m][z], 8)), rows.scales + at,
            rows.factors + at, sums[m][first + z]);
      }
    }
  }
  if (weight.column_scales == nullptr) return;
  for (int z = 0; z < Z; ++z) {
    const __m512 scale = _mm512_loadu_ps(weight.column_scales + (half_panel + z) * kHalfPanel);
    for (int m = 0; m < M; ++m)
      sums[m][first + z] = _mm512_mul_ps(
          _mm512_mul_ps(sums[m][first + z], _mm512_set1_ps(kPackedFactor)), scale);
  }
}

// Multiplies M rows, which are stored from row `first_row` of the output on, by panels [panel,
// panel_end). With one or two rows the product is limited by memory, so two panels are read at
// once. With six rows or more, the sums of half a panel fill the registers.
template <typename Weight, int M>
void tile(const Output& out, const IntegerRows& rows, int64_t first_row, int64_t panel,
          int64_t panel_end) {
  const QuantizedWeight& weight = *out.op.quantized;
  if constexpr (M <= 2) {
    for (; panel + 2 <= panel_end; panel += 2) {
      __m512 sums[M][4];
      multiply_groups<Weight, M, 4>(weight, rows, 2 * panel, 0, sums);
      store_panel(out, first_row, panel, 0, sums);
      store_panel(out, first_row, panel + 1, 2, sums);
    }
  }
  for (; panel < panel_end; ++panel) {
    __m512 sums[M][2];
    if constexpr (M <= 5) {
      multiply_groups<Weight, M, 2>(weight, rows, 2 * panel, 0, sums);
    } else {
      multiply_groups<Weight, M, 1>(weight, rows, 2 * panel, 0, sums);
      multiply_groups<Weight, M, 1>(weight, rows, 2 * panel + 1, 1, sums);
    }
    store_panel(out, first_row, panel, 0, sums);
  }
}

using TileFunction = void (*)(const Output&, const IntegerRows&, int64_t, int64_t, int64_t);
template <typename Weight>
constexpr TileFunction kTiles[kTileRows + 1] = {
    nullptr,         tile<Weight, 1>, tile<Weight, 2>, tile<Weight, 3>, tile<Weight, 4>,
    tile<Weight, 5>, tile<Weight, 6>, tile<Weight, 7>, tile<Weight, 8>,
};

template <int Bits, Scales ScaleKind>
const TileFunction* tiles_with_scales(const QuantizedWeight& weight) {
  switch (static_cast<Zeros>(weight.zero_kind)) {
    case Zeros::kOffsets:
      return kTiles<Layout<Bits, ScaleKind, Zeros::kOffsets>>;
    case Zeros::kBytes:
      return kTiles<Layout<Bits, ScaleKind, Zeros::kBytes>>;
    default:
      return kTiles<Layout<Bits, ScaleKind, Zeros::kConstant>>;
  }
}

template <int Bits>
const TileFunction* tiles_with_bits(const QuantizedWeight& weight) {
  switch (static_cast<Scales>(weight.scale_kind)) {
    case Scales::kPacked:
      return kTiles<Layout<Bits, Scales::kPacked, Zeros::kPacked>>;
    case Scales::kF16:
      return tiles_with_scales<Bits, Scales::kF16>(weight);
    case Scales::kF32:
      return tiles_with_scales<Bits, Scales::kF32>(weight);
    default:
      return tiles_with_scales<Bits, Scales::kBf16>(weight);
  }
}

const TileFunction* tiles_of(const QuantizedWeight& weight) {
  return weight.bits == 4 ? tiles_with_bits<4>(weight) : tiles_with_bits<8>(weight);
}

// Multiplies `num_rows` rows by the panels of a share. All tiles of a panel are computed before the
// next panel is read.
void multiply_integers(const Output& out, const IntegerRows& rows, int64_t num_rows,
                       const Share& share) {
  const TileFunction* tiles = tiles_of(*out.op.quantized);
  if (num_rows <= kTileRows) {
    tiles[num_rows](out, rows, 0, share.panel, share.panel_end);
    return;
  }
  for (int64_t panel = share.panel; panel < share.panel_end; ++panel)
    for (int64_t row = 0; row < num_rows; row += kTileRows)
      tiles[std::min<int64_t>(kTileRows, num_rows - row)](out, rows.from(row), row, panel,
                                                          panel + 1);
}

}  // namespace

int64_t quantized_scratch_floats(const QuantizedWeight& weight, int64_t num_inputs) {
  const int64_t panel = round_up(num_inputs, 2) * kPanelColumns / 2;
  const int64_t rows = weight.is_integer()
                           ? IntegerRows::scratch_floats(weight, num_inputs, kMaxFewRows)
                           : kMaxFewRows * weight.padded_inputs(num_inputs) / 2;
  return std::max(weight.input_order == nullptr ? panel : 2 * panel, rows);
}

void prepare_quantized_linear(const Op& op, const Batch& batch, float* scratch) {
  if (batch.num_tokens > kMaxFewRows) return;
  const QuantizedWeight& weight = *op.quantized;
  const auto* source = static_cast<const bf16*>(op.source);
  if (weight.is_integer())
    quantize_rows(source, op.num_inputs, batch.num_tokens, weight,
                  IntegerRows(scratch, weight, op.num_inputs, batch.num_tokens));
  else
    order_rows(source, op.num_inputs, batch.num_tokens, weight, reinterpret_cast<bf16*>(scratch));
}

void run_quantized_linear(const Op& op, const Batch& batch, int num_threads, int64_t share,
                          float* scratch) {
  const Share part(Division(op, batch, num_threads), batch, share);
  const QuantizedWeight& weight = *op.quantized;
  if (batch.num_tokens <= kMaxFewRows) {
    if (!weight.is_integer())
      return multiply_decoded(op, reinterpret_cast<const bf16*>(scratch), batch.num_tokens,
                              part.panel, part.panel_end);
    const IntegerRows rows(scratch, weight, op.num_inputs, batch.num_tokens);
    return multiply_integers(Output(op, nullptr, 0), rows, batch.num_tokens, part);
  }
  bf16* stored = reinterpret_cast<bf16*>(scratch) + round_up(op.num_inputs, 2) * kPanelColumns;
  multiply_unpacked(op, part, scratch, [&](int64_t panel, bf16* target) {
    dequantize_panel(weight, op.num_inputs, panel, target, stored);
  });
}

}  // namespace tgi

extern "C" {

// Number of floats of scratch memory that a thread needs to multiply by this weight.
int64_t tgi_quantized_scratch_floats(const tgi::QuantizedWeight* weight, int64_t num_inputs) {
  return tgi::quantized_scratch_floats(*weight, num_inputs);
}
}
