// The queries of one share of attention, and the keys and values that they read. Include this file
// only after the target pragma.
#pragma once

#include "attention_plan.h"
#include "cache_codes.h"
#include "vector.h"

namespace tgi {

constexpr int64_t kChunkBlocks = 4;
constexpr int64_t kChunkTokens = kChunkBlocks * kBlockTokens;

inline bool is_coded(const AttentionLayer& layer) {
  return static_cast<CacheFormat>(layer.cache_format) != CacheFormat::kBf16;
}

inline int group_of(const AttentionLayer& layer) { return layer.num_heads / layer.num_kv_heads; }

// Number of rows of a share, such that the sums of all rows fit in the first-level cache.
inline int64_t tile_rows(const AttentionLayer& layer) {
  return layer.head_dim <= 64 ? 48 : layer.head_dim <= 128 ? 24 : 12;
}

inline int64_t max_rows(const AttentionLayer& layer) {
  return attention_tile_queries(layer) * group_of(layer);
}

// If `kIsCoded`, the cache contains codes of 8 bits, which are decoded chunk by chunk.
template <bool kIsCoded>
struct Tile {
  const AttentionLayer& layer;
  const Batch& batch;
  const AttentionPiece& piece;
  int64_t kv_head;
  int64_t group, dim, value_dim;
  bf16* queries;  // [rows][dim]
  float* scores;  // [12][kChunkTokens]
  bf16* weights;  // [12][kChunkTokens]
  float* sums;    // [rows][value_dim]
  float* maxima;  // [rows]
  float* totals;  // [rows]
  bf16* decoded;  // the keys of a chunk, then its values; unused if the cache is not coded

  int64_t num_rows() const { return piece.num_tokens * group; }
  int64_t token(int64_t tile_row) const { return piece.first_token + tile_row / group; }
  int64_t position(int64_t tile_row) const { return batch.positions[token(tile_row)]; }
  int64_t head(int64_t tile_row) const { return kv_head * group + tile_row % group; }
  int64_t place(int64_t block) const { return (block - piece.first_block) % kChunkBlocks; }
  bf16* decoded_keys(int64_t block) const { return decoded + place(block) * dim * kBlockTokens; }
  bf16* decoded_values(int64_t block) const {
    return decoded + kChunkTokens * dim + place(block) * value_dim * kBlockTokens;
  }
  const bf16* keys(int64_t block) const {
    if constexpr (kIsCoded) return decoded_keys(block);
    return layer.keys + (table(block) * layer.num_kv_heads + kv_head) * dim * kBlockTokens;
  }
  const bf16* values(int64_t block) const {
    if constexpr (kIsCoded) return decoded_values(block);
    return layer.values + (table(block) * layer.num_kv_heads + kv_head) * value_dim * kBlockTokens;
  }
  const uint8_t* key_codes(int64_t block) const {
    return layer.key_codes +
           (table(block) * layer.num_kv_heads + kv_head) * coded_block_bytes(layer, dim);
  }
  const uint8_t* value_codes(int64_t block) const {
    return layer.value_codes +
           (table(block) * layer.num_kv_heads + kv_head) * coded_block_bytes(layer, value_dim);
  }
  int64_t table(int64_t block) const {
    return batch.block_tables[piece.row * batch.max_blocks + block];
  }
};

// Some blocks of keys, and the first of the rows that attend to them.
struct Chunk {
  int64_t first_row, first_block, num_blocks;
  bool fetch;  // whether to prefetch the data that is multiplied next

  int64_t first_key() const { return first_block * kBlockTokens; }
  int64_t num_keys() const { return num_blocks * kBlockTokens; }
};

// Decodes the keys and values of a chunk. Meanwhile prefetches the keys of the next chunk.
inline void decode_chunk(const Tile<true>& tile, int64_t first, int64_t end) {
  const AttentionLayer& layer = tile.layer;
  const int64_t key_size = tile.dim * kBlockTokens, value_size = tile.value_dim * kBlockTokens;
  for (int64_t block = first; block < end; ++block) {
    const uint8_t *codes = tile.key_codes(block), *next = tile.value_codes(block);
    if (has_token_scales(layer))
      decode_int8_keys(codes, key_size, next, tile.decoded_keys(block));
    else
      decode_floats(codes, layer.key_table, key_size, next, tile.decoded_keys(block));
  }
  for (int64_t block = first; block < end; ++block) {
    const int64_t later = block + kChunkBlocks;
    const uint8_t *codes = tile.value_codes(block),
                  *next = later < tile.piece.end_block ? tile.key_codes(later) : nullptr;
    if (has_token_scales(layer))
      decode_int8_values(codes, value_size, next, tile.decoded_values(block));
    else
      decode_floats(codes, layer.value_table, value_size, next, tile.decoded_values(block));
  }
}

}  // namespace tgi
