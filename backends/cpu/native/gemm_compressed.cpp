// Matrix products of bf16 with compressed weights.
//
// A step of few rows is bound by the time to read the weights. They are decoded in registers just
// before they are multiplied, once for up to 12 rows. With many rows a panel is decompressed to
// bf16 once for all of them. In both cases outliers are added last, so that the sums of a row are
// bit-identical in any batch.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include "compressed_codes.h"
#include "division.h"
#include "linear_store.h"
#include "outliers.h"

namespace tgi {
namespace {

constexpr int kMaxDecodedRows = 48;  // maximum rows of a step in which every tile decodes panels

template <int M>
inline void multiply_pair(const bf16* rows, int64_t stride, const Pair& weights,
                          __m512 (&sums)[M][2]) {
  for (int m = 0; m < M; ++m) {
    const auto row = (__m512bh)broadcast_pair(rows + m * stride);
    sums[m][0] = _mm512_dpbf16_ps(sums[m][0], row, (__m512bh)weights.low);
    sums[m][1] = _mm512_dpbf16_ps(sums[m][1], row, (__m512bh)weights.high);
  }
}

// Multiplies M rows, beginning with `row`, by one panel, and prefetches the memory after the panel.
template <int M>
void tile(const Output& out, int64_t row, int64_t panel) {
  const CompressedWeight& weight = *out.op.compressed;
  const int64_t num_inputs = out.op.num_inputs, stride = round_up(num_inputs, kPanelColumns);
  const bf16* rows = static_cast<const bf16*>(out.op.source) + row * stride;
  const uint8_t* source = weight.panels + panel * compressed_panel_bytes(num_inputs);
  const Decoder decoder(source);
  const uint8_t* block = source + kLineBytes;
  __m512 sums[M][2];
  for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = _mm512_setzero_ps();
  for (int64_t input = 0; input < num_inputs; input += kBlockInputs, block += kBlockBytes) {
    prefetch_block(block);
    multiply_pair<M>(rows + input, stride, decoder.decode<0>(block), sums);
    multiply_pair<M>(rows + input + 2, stride, decoder.decode<1>(block), sums);
  }
  add_outliers<M, 2>(weight, panel, rows, stride, 0, sums);
  store_panel<M, 2>(out, row, panel, 0, sums);
}

using TileFunction = void (*)(const Output&, int64_t, int64_t);
constexpr TileFunction kTiles[kMaxTile + 1] = {nullptr,  tile<1>,  tile<2>, tile<3>, tile<4>,
                                               tile<5>,  tile<6>,  tile<7>, tile<8>, tile<9>,
                                               tile<10>, tile<11>, tile<12>};

}  // namespace

void run_compressed_linear(const Op& op, const Batch& batch, int num_threads, int64_t share,
                           float* scratch) {
  const Share part(Division(op, batch, num_threads), batch, share);
  if (batch.num_tokens <= kMaxDecodedRows) {
    const Output out(op, nullptr, 0);
    for (int64_t panel = part.panel; panel < part.panel_end; ++panel)
      for_tiles(part.first_row, part.last_row,
                [&](int64_t row, int64_t height) { kTiles[height](out, row, panel); });
    return;
  }
  multiply_unpacked(op, part, scratch, [&](int64_t panel, bf16* target) {
    decompress_panel(*op.compressed, op.num_inputs, panel, target);
  });
}

}  // namespace tgi

extern "C" {

// Number of floats of scratch memory that a thread needs to multiply by a compressed weight.
int64_t tgi_compressed_scratch_floats(int64_t num_inputs) {
  return tgi::round_up(num_inputs, tgi::kBlockInputs) * tgi::kPanelColumns / 2;
}
}
