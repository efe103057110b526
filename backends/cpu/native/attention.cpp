// Attention over the paged cache with an online softmax (arXiv 2205.14135), for prefill and decode alike.
//
// A share is one row's tile of queries with one kv head: the heads of its group times some consecutive queries, as rows of small
// matrix products. Keys come a chunk of blocks at a time; a chunk stays in the first-level cache for all rows of the tile.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "vector.h"

namespace tgi {
namespace {

constexpr int kMaxTile = 12;
constexpr int kChunkBlocks = 4;
constexpr int64_t kChunkTokens = kChunkBlocks * kBlockTokens;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline int group_of(const AttentionLayer& layer) { return layer.num_heads / layer.num_kv_heads; }

// Rows of a share: what keeps the sums of all of them in the first-level cache.
inline int64_t tile_rows(const AttentionLayer& layer) { return layer.head_dim <= 64 ? 48 : layer.head_dim <= 128 ? 24 : 12; }

inline int64_t tile_queries(const AttentionLayer& layer) { return std::max<int64_t>(1, tile_rows(layer) / group_of(layer)); }

inline int64_t max_rows(const AttentionLayer& layer) { return tile_queries(layer) * group_of(layer); }

struct Tile {
  const AttentionLayer& layer;
  const Batch& batch;
  int64_t row;          // of the batch
  int64_t kv_head;
  int64_t first_token;  // in the batch, of the first query
  int64_t num_queries;
  int64_t group, dim, value_dim;
  int64_t first_position;
  bf16* queries;  // [rows][dim]
  float* scores;  // [12][kChunkTokens]
  bf16* weights;  // [12][kChunkTokens]
  float* sums;    // [rows][value_dim]
  float* maxima;  // [rows]
  float* totals;  // [rows]

  int64_t num_rows() const { return num_queries * group; }
  int64_t position(int64_t tile_row) const { return first_position + tile_row / group; }
  int64_t head(int64_t tile_row) const { return kv_head * group + tile_row % group; }
  const bf16* keys(int64_t block) const { return layer.keys + (table(block) * layer.num_kv_heads + kv_head) * dim * kBlockTokens; }
  const bf16* values(int64_t block) const { return layer.values + (table(block) * layer.num_kv_heads + kv_head) * value_dim * kBlockTokens; }
  int64_t table(int64_t block) const { return batch.block_tables[row * batch.max_blocks + block]; }
};

void begin(const Tile& tile, const bf16* all_queries) {
  const AttentionLayer& layer = tile.layer;
  for (int64_t r = 0; r < tile.num_rows(); ++r) {
    const int64_t token = tile.first_token + r / tile.group;
    std::memcpy(tile.queries + r * tile.dim, all_queries + (token * layer.num_heads + tile.head(r)) * tile.dim, static_cast<size_t>(tile.dim) * sizeof(bf16));
    tile.maxima[r] = layer.sinks == nullptr ? kMinusInfinity : layer.sinks[tile.head(r)];
    tile.totals[r] = layer.sinks == nullptr ? 0.0f : 1.0f;
  }
  std::memset(tile.sums, 0, static_cast<size_t>(tile.num_rows() * tile.value_dim) * sizeof(float));
}

template <int M>
inline void score_block(const Tile& tile, int64_t first_row, const bf16* keys, float* scores) {
  __m512 sums[M][2];
  for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = _mm512_setzero_ps();
  const bf16* panel[1] = {keys};
  multiply<M, 2>(tile.queries + first_row * tile.dim, tile.dim, panel, tile.dim / 2, sums);
  for (int m = 0; m < M; ++m) {
    _mm512_storeu_ps(scores + m * kChunkTokens, sums[m][0]);
    _mm512_storeu_ps(scores + m * kChunkTokens + 16, sums[m][1]);
  }
}

// One row's scores of a chunk to weights; returns by how much earlier sums shrink.
float softmax_row(const Tile& tile, int64_t tile_row, int64_t first_key, int64_t num_keys, float* scores, bf16* weights) {
  const AttentionLayer& layer = tile.layer;
  const int64_t position = tile.position(tile_row);
  const int64_t oldest = layer.window > 0 ? position - layer.window + 1 : 0;
  const __m512 scale = _mm512_set1_ps(layer.scale);
  const float slope = layer.slopes == nullptr ? 0.0f : layer.slopes[tile.head(tile_row)];
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m512 maximum = _mm512_set1_ps(kMinusInfinity);
  for (int64_t i = 0; i < num_keys; i += 16) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(scores + i), scale);
    if (layer.softcap > 0.0f) x = _mm512_mul_ps(tanh_ps(_mm512_div_ps(x, _mm512_set1_ps(layer.softcap))), _mm512_set1_ps(layer.softcap));
    const __m512i keys = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(first_key + i)));
    if (slope != 0.0f)
      x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(keys, _mm512_set1_epi32(static_cast<int32_t>(position)))), _mm512_set1_ps(slope), x);
    const __mmask16 seen = _mm512_cmple_epi32_mask(keys, _mm512_set1_epi32(static_cast<int32_t>(position))) &
                           _mm512_cmpge_epi32_mask(keys, _mm512_set1_epi32(static_cast<int32_t>(oldest)));
    // A blend, not a sum: whatever stands in unused slots, NaN included, has no influence.
    x = _mm512_mask_blend_ps(seen, _mm512_set1_ps(kMinusInfinity), x);
    _mm512_storeu_ps(scores + i, x);
    maximum = _mm512_max_ps(maximum, x);
  }
  const float old = tile.maxima[tile_row], now = std::max(old, _mm512_reduce_max_ps(maximum));
  // Nothing seen yet: all weights are zero, and the difference of two infinities must not be taken.
  const float base = now == kMinusInfinity ? 0.0f : now;
  __m512 total = _mm512_setzero_ps();
  for (int64_t i = 0; i < num_keys; i += 16) {
    const __m512 x = _mm512_loadu_ps(scores + i);
    const __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kMinusInfinity), _CMP_NEQ_UQ);
    const __m512 weight = _mm512_maskz_mov_ps(seen, exp_ps(_mm512_sub_ps(x, _mm512_set1_ps(base))));
    store_bf16(weights + i, weight);
    total = _mm512_add_ps(total, weight);
  }
  const float shrink = old == kMinusInfinity ? 0.0f : std::exp(old - base);
  tile.maxima[tile_row] = now;
  tile.totals[tile_row] = tile.totals[tile_row] * shrink + _mm512_reduce_add_ps(total);
  return shrink;
}

template <int M>
inline void weigh_values(const Tile& tile, int64_t first_row, int64_t first_block, int64_t num_blocks, const float (&shrink)[kMaxTile]) {
  for (int64_t column = 0; column < tile.value_dim; column += kPanelColumns) {
    __m512 sums[M][2];
    float* target = tile.sums + first_row * tile.value_dim + column;
    for (int m = 0; m < M; ++m) {
      const __m512 factor = _mm512_set1_ps(shrink[m]);
      sums[m][0] = _mm512_mul_ps(_mm512_loadu_ps(target + m * tile.value_dim), factor);
      sums[m][1] = _mm512_mul_ps(_mm512_loadu_ps(target + m * tile.value_dim + 16), factor);
    }
    for (int64_t b = 0; b < num_blocks; ++b) {
      const bf16* panel[1] = {tile.values(first_block + b) + column * kBlockTokens};
      multiply<M, 2>(tile.weights + b * kBlockTokens, kChunkTokens, panel, kBlockTokens / 2, sums);
    }
    for (int m = 0; m < M; ++m) {
      _mm512_storeu_ps(target + m * tile.value_dim, sums[m][0]);
      _mm512_storeu_ps(target + m * tile.value_dim + 16, sums[m][1]);
    }
  }
}

template <int M>
void chunk_rows(const Tile& tile, int64_t first_row, int64_t first_block, int64_t num_blocks) {
  for (int64_t b = 0; b < num_blocks; ++b) score_block<M>(tile, first_row, tile.keys(first_block + b), tile.scores + b * kBlockTokens);
  float shrink[kMaxTile];
  for (int m = 0; m < M; ++m)
    shrink[m] = softmax_row(tile, first_row + m, first_block * kBlockTokens, num_blocks * kBlockTokens, tile.scores + m * kChunkTokens, tile.weights + m * kChunkTokens);
  weigh_values<M>(tile, first_row, first_block, num_blocks, shrink);
}

using ChunkFunction = void (*)(const Tile&, int64_t, int64_t, int64_t);
constexpr ChunkFunction kChunks[kMaxTile + 1] = {
    nullptr,       chunk_rows<1>, chunk_rows<2>, chunk_rows<3>,  chunk_rows<4>,  chunk_rows<5>,  chunk_rows<6>,
    chunk_rows<7>, chunk_rows<8>, chunk_rows<9>, chunk_rows<10>, chunk_rows<11>, chunk_rows<12>,
};

void finish(const Tile& tile, bf16* target, int64_t target_stride) {
  for (int64_t r = 0; r < tile.num_rows(); ++r) {
    const __m512 factor = _mm512_set1_ps(1.0f / tile.totals[r]);
    bf16* out = target + (tile.first_token + r / tile.group) * target_stride + tile.head(r) * tile.dim;
    for (int64_t d = 0; d < tile.dim; d += 16) {
      const int64_t left = tile.dim - d;
      const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(tile.sums + r * tile.value_dim + d), factor);
      _mm256_mask_storeu_epi16(out + d, mask, (__m256i)_mm512_cvtneps_pbh(x));
    }
  }
}

void attend(const Tile& tile, const bf16* queries, bf16* target, int64_t target_stride) {
  begin(tile, queries);
  const int64_t last_position = tile.first_position + tile.num_queries - 1;
  const int64_t oldest = tile.layer.window > 0 ? std::max<int64_t>(0, tile.first_position - tile.layer.window + 1) : 0;
  const int64_t end_block = last_position / kBlockTokens + 1;
  for (int64_t block = oldest / kBlockTokens; block < end_block; block += kChunkBlocks) {
    const int64_t num_blocks = std::min<int64_t>(kChunkBlocks, end_block - block);
    for (int64_t row = 0; row < tile.num_rows(); row += kMaxTile) kChunks[std::min<int64_t>(kMaxTile, tile.num_rows() - row)](tile, row, block, num_blocks);
  }
  finish(tile, target, target_stride);
}

}  // namespace

int64_t attention_tile_queries(const AttentionLayer& layer) { return tile_queries(layer); }

int64_t attention_scratch_floats(const AttentionLayer& layer) {
  const int64_t rows = max_rows(layer), value_dim = round_up(layer.head_dim, kPanelColumns);
  return round_up(rows * layer.head_dim / 2 + 1, 16) + kMaxTile * kChunkTokens * 2 + rows * value_dim + 2 * round_up(rows, 16);
}

void run_attention(const Op& op, const Batch& batch, const AttentionTiles& tiles, int64_t share, float* scratch) {
  const AttentionLayer& layer = *op.attention;
  const int64_t queries = tiles.tile_queries, rows = max_rows(layer), dim = layer.head_dim;
  const int64_t value_dim = round_up(dim, kPanelColumns);
  float* scores = scratch + round_up(rows * dim / 2 + 1, 16);
  float* weights = scores + kMaxTile * kChunkTokens;
  float* sums = weights + kMaxTile * kChunkTokens;
  float* maxima = sums + rows * value_dim;
  const int64_t number = share / layer.num_kv_heads;
  const int64_t row = std::upper_bound(tiles.starts, tiles.starts + batch.num_rows + 1, static_cast<int32_t>(number)) - tiles.starts - 1;
  const int64_t start = batch.query_starts[row], count = batch.query_starts[row + 1] - start;
  // The last tiles of a row see the longest context: they go first, so that the threads end together.
  const int64_t first = (tiles.starts[row + 1] - 1 - number) * queries;
  const Tile tile{layer,     batch,   row,    share % layer.num_kv_heads,
                  start + first, std::min(queries, count - first), group_of(layer), dim,
                  value_dim, batch.context_lens[row] - count + first, reinterpret_cast<bf16*>(scratch), scores,
                  reinterpret_cast<bf16*>(weights), sums, maxima, maxima + round_up(rows, 16)};
  attend(tile, static_cast<const bf16*>(op.source), static_cast<bf16*>(op.target), round_up(static_cast<int64_t>(layer.num_heads) * dim, kPanelColumns));
}

}  // namespace tgi
