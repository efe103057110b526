// Matrix products of bf16 with few rows and with weights whose codes are decoded in registers:
// codes of a table, and floating-point numbers of 8 bits.
//
// The sum of a group is a bf16 product of the rows and the numbers of the codes, and the group's
// scale is applied to the sum. The result of a row does not depend on the other rows.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>

#include "linear_store.h"
#include "quantized_numbers.h"

namespace tgi {
namespace {

constexpr int kTileRows = 8;      // rows whose sums fit into the registers
constexpr int kCodesAhead = 4096;  // distance in bytes from the decoded to the prefetched codes

struct OrderedRows {
  const bf16* values;
  int64_t stride;
};

// group_sums[m][z] += rows at the pair `pair` times part `Part` of Z vectors of codes.
template <int Part, Codes Kind, int M, int Z>
inline void multiply_part(const OrderedRows& rows, int64_t input,
                          const OperandDecoder<Kind>& decoder, const __m512i (&codes)[Z],
                          __m512 (&group_sums)[M][Z]) {
  __m512bh operands[Z];
  for (int z = 0; z < Z; ++z) operands[z] = decoder.template decode<Part>(codes[z]);
  for (int m = 0; m < M; ++m) {
    const auto pair = (__m512bh)broadcast_pair(rows.values + m * rows.stride + input + 2 * Part);
    for (int z = 0; z < Z; ++z)
      group_sums[m][z] = _mm512_dpbf16_ps(group_sums[m][z], pair, operands[z]);
  }
}

// sums[m][first + z] = rows x weights for M rows and Z half panels, beginning with `half_panel`.
template <Codes Kind, int M, int Z, int W>
inline __attribute__((always_inline)) void multiply_groups(const QuantizedWeight& weight,
                                                           const OrderedRows& rows, int64_t groups,
                                                           int64_t half_panel, int first,
                                                           __m512 (&sums)[M][W]) {
  const OperandDecoder<Kind> decoder(weight);
  const int64_t vectors = weight.group_vectors();
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < Z; ++z) sums[m][first + z] = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; ++group) {
    __m512 group_sums[M][Z];
    for (int m = 0; m < M; ++m)
      for (int z = 0; z < Z; ++z) group_sums[m][z] = _mm512_setzero_ps();
    for (int64_t vector = 0; vector < vectors; ++vector) {
      __m512i codes[Z];
      for (int z = 0; z < Z; ++z) {
        const uint8_t* at =
            weight.codes +
            (((half_panel + z) * groups + group) * vectors + vector) * kVectorBytes;
        _mm_prefetch(reinterpret_cast<const char*>(at) + kCodesAhead, _MM_HINT_T0);
        codes[z] = _mm512_loadu_si512(at);
      }
      const int64_t input =
          (group * vectors + vector) * 2 * OperandDecoder<Kind>::kParts;
      multiply_part<0>(rows, input, decoder, codes, group_sums);
      multiply_part<1>(rows, input, decoder, codes, group_sums);
      if constexpr (OperandDecoder<Kind>::kParts == 4) {
        multiply_part<2>(rows, input, decoder, codes, group_sums);
        multiply_part<3>(rows, input, decoder, codes, group_sums);
      }
    }
    for (int z = 0; z < Z; ++z) {
      const __m512 scales = load_scales(weight, (half_panel + z) * groups + group);
      for (int m = 0; m < M; ++m)
        sums[m][first + z] = _mm512_fmadd_ps(group_sums[m][z], scales, sums[m][first + z]);
    }
  }
}

template <Codes Kind, int M>
void tile(const Output& out, const OrderedRows& rows, int64_t first_row, int64_t panel) {
  const QuantizedWeight& weight = *out.op.quantized;
  const int64_t groups = weight.num_groups(out.op.num_inputs);
  __m512 sums[M][2];
  if constexpr (M <= 5) {
    multiply_groups<Kind, M, 2>(weight, rows, groups, 2 * panel, 0, sums);
  } else {
    multiply_groups<Kind, M, 1>(weight, rows, groups, 2 * panel, 0, sums);
    multiply_groups<Kind, M, 1>(weight, rows, groups, 2 * panel + 1, 1, sums);
  }
  store_panel(out, first_row, panel, 0, sums);
}

using TileFunction = void (*)(const Output&, const OrderedRows&, int64_t, int64_t);
template <Codes Kind>
constexpr TileFunction kTiles[kTileRows + 1] = {
    nullptr,       tile<Kind, 1>, tile<Kind, 2>, tile<Kind, 3>, tile<Kind, 4>,
    tile<Kind, 5>, tile<Kind, 6>, tile<Kind, 7>, tile<Kind, 8>,
};

const TileFunction* tiles_of(const QuantizedWeight& weight) {
  switch (static_cast<Codes>(weight.code_kind)) {
    case Codes::kE4m3:
      return kTiles<Codes::kE4m3>;
    case Codes::kE5m2:
      return kTiles<Codes::kE5m2>;
    default:
      return kTiles<Codes::kTable>;
  }
}

}  // namespace

void multiply_decoded(const Op& op, const bf16* rows, int64_t num_rows, int64_t panel,
                      int64_t panel_end) {
  const Output out(op, nullptr, 0);
  const TileFunction* tiles = tiles_of(*op.quantized);
  const int64_t stride = op.quantized->padded_inputs(op.num_inputs);
  for (; panel < panel_end; ++panel)
    for (int64_t row = 0; row < num_rows; row += kTileRows)
      tiles[std::min<int64_t>(kTileRows, num_rows - row)](
          out, OrderedRows{rows + row * stride, stride}, row, panel);
}

}  // namespace tgi
