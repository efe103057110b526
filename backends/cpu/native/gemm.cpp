// Matrix products of bf16 with f32 sums.
//
// A weight [columns][inputs] is packed in panels of 32 columns: [panel][input pair][32 columns][2
// inputs], the operand order of vdpbf16ps. One pass over a panel multiplies up to 12 rows, whose
// sums stay in registers. A tile of few rows reads two panels at once, so that enough loads are in
// flight to use the full memory bandwidth. With many rows a panel is read from the cache after its
// first use.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>

#include "division.h"
#include "linear_store.h"
#include "outliers.h"
#include "vector.h"

namespace tgi {
namespace {

constexpr int kWideTile = 6;  // maximum rows of a tile that multiplies two panels at once

// Multiplies M rows, beginning with `row`, by P panels, beginning with `panel`.
template <int M, int P>
inline void tile(const Output& out, int64_t row, int64_t panel) {
  const Op& op = out.op;
  const int64_t source_stride = round_up(op.num_inputs, kPanelColumns);
  const int64_t pairs = (op.num_inputs + 1) / 2;
  const bf16* rows = static_cast<const bf16*>(op.source) + row * source_stride;
  const bf16 *panels[P], *next[P];
  for (int p = 0; p < P; ++p) {
    panels[p] = out.panels + (panel - out.first_panel + p) * pairs * 2 * kPanelColumns;
    next[p] = panels[p] + P * pairs * 2 * kPanelColumns;
  }
  __m512 sums[M][2 * P];
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < 2 * P; ++z) sums[m][z] = _mm512_setzero_ps();
  multiply<M, 2 * P>(rows, source_stride, panels, pairs, sums, next);
  for (int p = 0; p < P; ++p) {
    if (op.compressed != nullptr)
      add_outliers<M, 2 * P>(*op.compressed, panel + p, rows, source_stride, 2 * p, sums);
    store_panel<M, 2 * P>(out, row, panel + p, 2 * p, sums);
  }
}

template <int M>
void panels_of_tile(const Output& out, int64_t row, int64_t first, int64_t last) {
  int64_t panel = first;
  if constexpr (M <= kWideTile)
    for (; panel + 2 <= last; panel += 2) tile<M, 2>(out, row, panel);
  for (; panel < last; ++panel) tile<M, 1>(out, row, panel);
}

using TileFunction = void (*)(const Output&, int64_t, int64_t, int64_t);
constexpr TileFunction kTiles[kMaxTile + 1] = {
    nullptr,
    panels_of_tile<1>,
    panels_of_tile<2>,
    panels_of_tile<3>,
    panels_of_tile<4>,
    panels_of_tile<5>,
    panels_of_tile<6>,
    panels_of_tile<7>,
    panels_of_tile<8>,
    panels_of_tile<9>,
    panels_of_tile<10>,
    panels_of_tile<11>,
    panels_of_tile<12>,
};

// Multiplies rows [first, last) by panels [panel, panel_end).
void block(const Output& out, int64_t first, int64_t last, int64_t panel, int64_t panel_end) {
  if (last - first <= kMaxTile) return kTiles[last - first](out, first, panel, panel_end);
  for (; panel < panel_end; ++panel)
    for_tiles(first, last,
              [&](int64_t row, int64_t height) { kTiles[height](out, row, panel, panel + 1); });
}

}  // namespace

int64_t num_linear_shares(const Op& op, const Batch& batch, int num_threads) {
  return Division(op, batch, num_threads).num_shares();
}

void multiply_rows(const Op& op, const bf16* panels, int64_t first_row, int64_t last_row,
                   int64_t panel, int64_t panel_end) {
  block(Output(op, panels, panel), first_row, last_row, panel, panel_end);
}

void run_linear(const Op& op, const Batch& batch, int num_threads, int64_t share) {
  const Share part(Division(op, batch, num_threads), batch, share);
  block(Output(op, static_cast<const bf16*>(op.weight), 0), part.first_row, part.last_row,
        part.panel, part.panel_end);
}

}  // namespace tgi

extern "C" {

// Packs a row-major bf16 piece [rows][inputs] of a weight into its panels. The piece begins at
// column `first_column` and at input `first_input`, which must be even. `total_inputs` is the
// number of inputs of the whole weight. If `gate_half` is 0 or 1, the weight interleaves gate and
// up columns: column i is stored at (i / 16) * 32 + gate_half * 16 + i % 16. If it is -1, column i
// is stored at i.
void tgi_pack(const uint16_t* piece, int64_t rows, int64_t inputs, uint16_t* target,
              int64_t total_inputs, int64_t first_column, int64_t first_input, int32_t gate_half) {
  const int64_t pair_size = 2 * tgi::kPanelColumns, panel_size = (total_inputs + 1) / 2 * pair_size;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = first_column + row;
    const int64_t column = gate_half < 0 ? at : at / 16 * 32 + gate_half * 16 + at % 16;
    uint16_t* panel = target + column / tgi::kPanelColumns * panel_size +
                      first_input / 2 * pair_size + column % tgi::kPanelColumns * 2;
    const uint16_t* values = piece + row * inputs;
    for (int64_t pair = 0; pair < inputs / 2; ++pair)
      __builtin_memcpy(panel + pair * pair_size, values + 2 * pair, 2 * sizeof(uint16_t));
    if (inputs % 2 != 0) panel[inputs / 2 * pair_size] = values[inputs - 1];
  }
}
}
