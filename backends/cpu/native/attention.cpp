// Attention over the paged cache with an online softmax (arXiv 2205.14135), for prefill and decode.
//
// A share is one piece of the plan for one kv head. The rows of a share are its queries, once for
// each head of the group. They are multiplied in small matrix products. Keys are read in chunks of
// a few blocks. A chunk stays in the first-level cache for all rows of the tile. Blocks can be
// anywhere in memory, so the processor cannot predict their addresses. Therefore the values of a
// chunk are prefetched while its keys are multiplied, and the keys of the next chunk while its
// values are multiplied.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention_tile.h"

namespace tgi {
namespace {

constexpr int kMaxTile = 12;
// Maximum rows that multiply two panels at once. With fewer sums the multipliers would wait for the
// results of earlier additions.
constexpr int kWideTile = 6;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;

// Copies the queries and resets the sums. `sinks` is null for a partial result, because a sink, a
// score that belongs to no key, must count only once.
template <bool C>
void begin(const Tile<C>& tile, const bf16* all_queries, const float* sinks) {
  const int64_t stride = round_up(tile.layer.num_heads * tile.dim, kPanelColumns);
  for (int64_t r = 0; r < tile.num_rows(); ++r) {
    std::memcpy(tile.queries + r * tile.dim,
                all_queries + tile.token(r) * stride + tile.head(r) * tile.dim,
                static_cast<size_t>(tile.dim) * sizeof(bf16));
    tile.maxima[r] = sinks == nullptr ? kMinusInfinity : sinks[tile.head(r)];
    tile.totals[r] = sinks == nullptr ? 0.0f : 1.0f;
  }
  std::memset(tile.sums, 0, static_cast<size_t>(tile.num_rows() * tile.value_dim) * sizeof(float));
}

// Multiplies M queries by the keys of P blocks.
template <int M, int P, bool C>
inline void score_blocks(const Tile<C>& tile, const Chunk& chunk, int64_t number) {
  __m512 sums[M][2 * P];
  const bf16 *panels[P], *next[P] = {};
  for (int p = 0; p < P; ++p) {
    panels[p] = tile.keys(chunk.first_block + number + p);
    if (chunk.fetch) next[p] = tile.values(chunk.first_block + number + p);
  }
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_ps();
  multiply<M, 2 * P>(tile.queries + chunk.first_row * tile.dim, tile.dim, panels, tile.dim / 2,
                     sums, next);
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < 2 * P; ++z)
      _mm512_storeu_ps(tile.scores + m * kChunkTokens + number * kBlockTokens + z * 16, sums[m][z]);
}

// Applies scale, cap, slope and mask, which some layers or keys need between the products and the
// softmax. Most chunks need only the scale, which the softmax applies.
template <bool C>
void finish_scores(const Tile<C>& tile, const Chunk& chunk, int64_t tile_row, float* scores) {
  const AttentionLayer& layer = tile.layer;
  const int64_t position = tile.position(tile_row);
  const int64_t oldest = layer.window > 0 ? position - layer.window + 1 : 0;
  const __m512 scale = _mm512_set1_ps(layer.scale), cap = _mm512_set1_ps(layer.softcap);
  const float slope = layer.slopes == nullptr ? 0.0f : layer.slopes[tile.head(tile_row)];
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int64_t i = 0; i < chunk.num_keys(); i += 16) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(scores + i), scale);
    if (layer.softcap > 0.0f) x = _mm512_mul_ps(tanh_ps(_mm512_div_ps(x, cap)), cap);
    const __m512i keys =
        _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(chunk.first_key() + i)));
    if (slope != 0.0f)
      x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(
                              keys, _mm512_set1_epi32(static_cast<int32_t>(position)))),
                          _mm512_set1_ps(slope), x);
    const __mmask16 seen =
        _mm512_cmple_epi32_mask(keys, _mm512_set1_epi32(static_cast<int32_t>(position))) &
        _mm512_cmpge_epi32_mask(keys, _mm512_set1_epi32(static_cast<int32_t>(oldest)));
    // The scores are selected with a blend instead of a sum, so that unused slots have no
    // influence, even if they contain NaN.
    _mm512_storeu_ps(scores + i, _mm512_mask_blend_ps(seen, _mm512_set1_ps(kMinusInfinity), x));
  }
}

// Whether all these rows attend to all these keys, and their scores need nothing but the scale.
template <bool C>
bool needs_only_scale(const Tile<C>& tile, const Chunk& chunk, int64_t num_rows) {
  const AttentionLayer& layer = tile.layer;
  const int64_t first = tile.position(chunk.first_row),
                last = tile.position(chunk.first_row + num_rows - 1);
  const int64_t lowest = std::min(first, last), highest = std::max(first, last);
  return chunk.first_key() + chunk.num_keys() <= lowest + 1 &&
         (layer.window == 0 || chunk.first_key() > highest - layer.window) &&
         layer.softcap == 0.0f && layer.slopes == nullptr && layer.scale > 0.0f;
}

inline float highest_score(const float* scores, int64_t num_keys) {
  __m512 low = _mm512_loadu_ps(scores), high = _mm512_loadu_ps(scores + 16);
  for (int64_t i = 32; i < num_keys; i += 32) {
    low = _mm512_max_ps(low, _mm512_loadu_ps(scores + i));
    high = _mm512_max_ps(high, _mm512_loadu_ps(scores + i + 16));
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(low, high));
}

// weights = 2 ^ (scores * factor - offset); returns their sum.
inline float weigh_scores(const float* scores, bf16* weights, int64_t num_keys, float factor,
                          float offset) {
  const __m512 factors = _mm512_set1_ps(factor), offsets = _mm512_set1_ps(offset);
  __m512 low_total = _mm512_setzero_ps(), high_total = _mm512_setzero_ps();
  for (int64_t i = 0; i < num_keys; i += 32) {
    const __m512 low = exp2_ps(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), factors, offsets));
    const __m512 high =
        exp2_ps(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i + 16), factors, offsets));
    store_bf16(weights + i, low);
    store_bf16(weights + i + 16, high);
    low_total = _mm512_add_ps(low_total, low);
    high_total = _mm512_add_ps(high_total, high);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(low_total, high_total));
}

// Turns the scores of a chunk into weights. The sums over earlier chunks must be multiplied by
// `shrink`.
template <int M, bool C>
inline void softmax(const Tile<C>& tile, const Chunk& chunk, float (&shrink)[16]) {
  const bool only_scale = needs_only_scale(tile, chunk, M);
  const float scale = only_scale ? tile.layer.scale : 1.0f;
  float highest[16] = {}, offsets[16];
  for (int m = 0; m < M; ++m) {
    if (!only_scale)
      finish_scores(tile, chunk, chunk.first_row + m, tile.scores + m * kChunkTokens);
    highest[m] = highest_score(tile.scores + m * kChunkTokens, chunk.num_keys());
  }
  const __mmask16 rows = (1 << M) - 1;
  const __m512 lowest = _mm512_set1_ps(kMinusInfinity), log2_e = _mm512_set1_ps(kLog2E);
  const __m512 old = _mm512_maskz_loadu_ps(rows, tile.maxima + chunk.first_row);
  const __m512 now =
      _mm512_max_ps(old, _mm512_mul_ps(_mm512_loadu_ps(highest), _mm512_set1_ps(scale)));
  // If no key was seen yet, all weights are zero. The base is then 0, because the difference of two
  // infinities would be NaN.
  const __m512 base = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(now, lowest, _CMP_NEQ_UQ), now);
  const __m512 factor = exp2_ps(_mm512_mul_ps(_mm512_sub_ps(old, base), log2_e));
  _mm512_mask_storeu_ps(tile.maxima + chunk.first_row, rows, now);
  _mm512_mask_storeu_ps(
      tile.totals + chunk.first_row, rows,
      _mm512_mul_ps(_mm512_maskz_loadu_ps(rows, tile.totals + chunk.first_row), factor));
  _mm512_storeu_ps(shrink, factor);
  _mm512_storeu_ps(offsets, _mm512_mul_ps(base, log2_e));
  for (int m = 0; m < M; ++m)
    tile.totals[chunk.first_row + m] +=
        weigh_scores(tile.scores + m * kChunkTokens, tile.weights + m * kChunkTokens,
                     chunk.num_keys(), scale * kLog2E, offsets[m]);
}

// Adds the weighted values of P panels, beginning with `column`.
template <int M, int P, bool C>
inline void weigh_columns(const Tile<C>& tile, const Chunk& chunk, int64_t column,
                          const float (&shrink)[16]) {
  __m512 sums[M][2 * P];
  float* target = tile.sums + chunk.first_row * tile.value_dim + column;
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < 2 * P; ++z)
      sums[m][z] = _mm512_mul_ps(_mm512_loadu_ps(target + m * tile.value_dim + z * 16),
                                 _mm512_set1_ps(shrink[m]));
  for (int64_t b = 0; b < chunk.num_blocks; ++b) {
    const bf16 *panels[P], *next[P] = {};
    const int64_t next_block = chunk.first_block + kChunkBlocks + b;
    for (int p = 0; p < P; ++p) {
      panels[p] = tile.values(chunk.first_block + b) + (column + p * kPanelColumns) * kBlockTokens;
      if (chunk.fetch && next_block < tile.piece.end_block)
        next[p] = tile.keys(next_block) + (column + p * kPanelColumns) * kBlockTokens;
    }
    multiply<M, 2 * P>(tile.weights + b * kBlockTokens, kChunkTokens, panels, kBlockTokens / 2,
                       sums, next);
  }
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < 2 * P; ++z)
      _mm512_storeu_ps(target + m * tile.value_dim + z * 16, sums[m][z]);
}

template <int M, bool C>
void chunk_rows(const Tile<C>& tile, const Chunk& chunk) {
  int64_t b = 0;
  if constexpr (M <= kWideTile)
    for (; b + 2 <= chunk.num_blocks; b += 2) score_blocks<M, 2>(tile, chunk, b);
  for (; b < chunk.num_blocks; ++b) score_blocks<M, 1>(tile, chunk, b);
  float shrink[16];
  softmax<M>(tile, chunk, shrink);
  int64_t column = 0;
  if constexpr (M <= kWideTile)
    for (; column + 2 * kPanelColumns <= tile.value_dim; column += 2 * kPanelColumns)
      weigh_columns<M, 2>(tile, chunk, column, shrink);
  for (; column < tile.value_dim; column += kPanelColumns)
    weigh_columns<M, 1>(tile, chunk, column, shrink);
}

template <bool C>
using ChunkFunction = void (*)(const Tile<C>&, const Chunk&);
template <bool C>
constexpr ChunkFunction<C> kChunks[kMaxTile + 1] = {
    nullptr,           chunk_rows<1, C>,  chunk_rows<2, C>,  chunk_rows<3, C>, chunk_rows<4, C>,
    chunk_rows<5, C>,  chunk_rows<6, C>,  chunk_rows<7, C>,  chunk_rows<8, C>, chunk_rows<9, C>,
    chunk_rows<10, C>, chunk_rows<11, C>, chunk_rows<12, C>,
};

template <bool C>
void attend(const Tile<C>& tile) {
  for (int64_t block = tile.piece.first_block; block < tile.piece.end_block;
       block += kChunkBlocks) {
    if constexpr (C)
      decode_chunk(tile, block, std::min<int64_t>(block + kChunkBlocks, tile.piece.end_block));
    for (int64_t row = 0; row < tile.num_rows(); row += kMaxTile) {
      const int64_t height = std::min<int64_t>(kMaxTile, tile.num_rows() - row);
      // Only later rows of the tile attend to blocks after the last of these rows.
      const int64_t end = std::min<int64_t>(tile.piece.end_block,
                                            tile.position(row + height - 1) / kBlockTokens + 1);
      const int64_t num_blocks = std::min(kChunkBlocks, end - block);
      if (num_blocks > 0) kChunks<C>[height](tile, {row, block, num_blocks, !C && row == 0});
    }
  }
}

// Divides a head's sums by `total` and stores the result as bf16.
template <bool C>
void store_head(const Tile<C>& tile, const float* sums, float total, int64_t token, int64_t head,
                bf16* target) {
  const __m512 factor = _mm512_set1_ps(1.0f / total);
  bf16* out =
      target + token * round_up(tile.layer.num_heads * tile.dim, kPanelColumns) + head * tile.dim;
  for (int64_t d = 0; d < tile.dim; d += 16) {
    const int64_t left = tile.dim - d;
    const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    _mm256_mask_storeu_epi16(
        out + d, mask,
        (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + d), factor)));
  }
}

template <bool C>
void save_partial(const Tile<C>& tile, const AttentionPlan& plan) {
  for (int64_t r = 0; r < tile.num_rows(); ++r) {
    float* partial = plan.partial(tile.piece.first_record + r / tile.group, tile.head(r));
    std::memcpy(partial, tile.sums + r * tile.value_dim,
                static_cast<size_t>(tile.value_dim) * sizeof(float));
    partial[tile.value_dim] = tile.maxima[r];
    partial[tile.value_dim + 1] = tile.totals[r];
  }
}

// Merges the partial results of a head. Uses the sums of the tile as scratch memory.
template <bool C>
void merge(const Tile<C>& tile, const AttentionPlan& plan, int64_t token, int64_t head,
           bf16* target) {
  const float* sinks = tile.layer.sinks;
  float maximum = sinks == nullptr ? kMinusInfinity : sinks[head];
  for (int32_t record = plan.first_record(token); record >= 0; record = plan.next_record(record))
    maximum = std::max(maximum, plan.partial(record, head)[tile.value_dim]);
  float total = sinks == nullptr ? 0.0f : std::exp(sinks[head] - maximum);
  std::memset(tile.sums, 0, static_cast<size_t>(tile.value_dim) * sizeof(float));
  for (int32_t record = plan.first_record(token); record >= 0; record = plan.next_record(record)) {
    const float* partial = plan.partial(record, head);
    const float factor = std::exp(partial[tile.value_dim] - maximum);
    total += factor * partial[tile.value_dim + 1];
    for (int64_t d = 0; d < tile.value_dim; ++d) tile.sums[d] += factor * partial[d];
  }
  store_head(tile, tile.sums, total, token, head, target);
}

template <bool C>
void run(const Op& op, const Batch& batch, const AttentionPlan& plan, int64_t share,
         float* scratch) {
  const AttentionLayer& layer = *op.attention;
  const int64_t rows = max_rows(layer), dim = layer.head_dim,
                value_dim = round_up(dim, kPanelColumns);
  float* scores = scratch + round_up(rows * dim / 2 + 1, 16);
  float* weights = scores + kMaxTile * kChunkTokens;
  float* sums = weights + kMaxTile * kChunkTokens;
  float* maxima = sums + rows * value_dim;
  const AttentionPiece& piece = plan.piece(share);
  const Tile<C> tile{layer,
                     batch,
                     piece,
                     plan.kv_head(share),
                     group_of(layer),
                     dim,
                     value_dim,
                     reinterpret_cast<bf16*>(scratch),
                     scores,
                     reinterpret_cast<bf16*>(weights),
                     sums,
                     maxima,
                     maxima + round_up(rows, 16),
                     reinterpret_cast<bf16*>(maxima + 2 * round_up(rows, 16))};
  auto* target = static_cast<bf16*>(op.target);
  const bool complete = piece.first_record < 0;
  begin(tile, static_cast<const bf16*>(op.source), complete ? layer.sinks : nullptr);
  attend(tile);
  if (complete) {
    for (int64_t r = 0; r < tile.num_rows(); ++r)
      store_head(tile, sums + r * value_dim, tile.totals[r], tile.token(r), tile.head(r), target);
    return;
  }
  save_partial(tile, plan);
  for (int64_t token = piece.first_token; token < piece.first_token + piece.num_tokens; ++token)
    if (plan.is_last(token, tile.kv_head))
      for (int64_t head = 0; head < tile.group; ++head)
        merge(tile, plan, token, tile.kv_head * tile.group + head, target);
}

}  // namespace

int64_t attention_tile_queries(const AttentionLayer& layer) {
  return std::max<int64_t>(1, tile_rows(layer) / group_of(layer));
}

int64_t attention_scratch_floats(const AttentionLayer& layer) {
  const int64_t rows = max_rows(layer), value_dim = round_up(layer.head_dim, kPanelColumns);
  return round_up(rows * layer.head_dim / 2 + 1, 16) + kMaxTile * kChunkTokens * 2 +
         rows * value_dim + 2 * round_up(rows, 16) +
         (is_coded(layer) ? kChunkTokens * (layer.head_dim + value_dim) / 2 : 0);
}

void run_attention(const Op& op, const Batch& batch, const AttentionPlan& plan, int64_t share,
                   float* scratch) {
  (is_coded(*op.attention) ? run<true> : run<false>)(op, batch, plan, share, scratch);
}

}  // namespace tgi
