// Operations on single rows: embedding, norms, residual sums, rotary embedding and cache writes.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cache_codes.h"
#include "compressed.h"
#include "quantized.h"
#include "vector.h"

namespace tgi {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int64_t kShareRows = 8;  // rows of one share, enough to be worth its overhead

template <typename Function>
inline void for_rows(int64_t share, const Batch& batch, Function&& function) {
  const int64_t end = std::min((share + 1) * kShareRows, batch.num_tokens);
  for (int64_t row = share * kShareRows; row < end; ++row) function(row);
}

inline __mmask16 mask_of(int64_t remaining) {
  return remaining >= 16 ? 0xffff : static_cast<__mmask16>((1u << remaining) - 1);
}

// The mean, and the reciprocal of the standard deviation. The mean of an rms norm is zero by
// definition.
inline void moments(const float* x, int64_t size, bool centre, float epsilon, float* mean,
                    float* scale) {
  __m512 sum = _mm512_setzero_ps();
  if (centre)
    for (int64_t i = 0; i < size; i += 16)
      sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask_of(size - i), x + i));
  *mean = centre ? _mm512_reduce_add_ps(sum) / static_cast<float>(size) : 0.0f;
  const __m512 middle = _mm512_set1_ps(*mean);
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = mask_of(size - i);
    const __m512 d = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + i), middle);
    squares = _mm512_fmadd_ps(d, d, squares);
  }
  *scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(size) + epsilon);
}

void norm_head(float* x, int64_t size, int kind, float epsilon, const float* weight) {
  float mean, scale;
  moments(x, size, kind == 2, epsilon, &mean, &scale);
  for (int64_t i = 0; i < size; ++i) x[i] = (x[i] - mean) * scale * weight[i];
}

// target[i] = factor * weight of input i in a column of packed panels.
void read_column(const bf16* panels, int64_t num_inputs, int64_t column, float factor,
                 float* target) {
  const int64_t pairs = (num_inputs + 1) / 2;
  const bf16* panel =
      panels + column / kPanelColumns * pairs * 2 * kPanelColumns + column % kPanelColumns * 2;
  for (int64_t i = 0; i < num_inputs; ++i)
    target[i] = to_float(panel[i / 2 * 2 * kPanelColumns + i % 2]) * factor;
}

void rotate_neighbours(float* x, int half, const float* cosines, const float* sines) {
  for (int i = 0; i < half; ++i, x += 2) {
    const float left = x[0] * cosines[i] - x[1] * sines[i];
    x[1] = x[1] * cosines[i] + x[0] * sines[i];
    x[0] = left;
  }
}

void rotate_halves(float* x, int half, const float* cosines, const float* sines) {
  for (int i = 0; i < half; i += 16) {
    const __mmask16 mask = mask_of(half - i);
    const __m512 left = _mm512_maskz_loadu_ps(mask, x + i),
                 right = _mm512_maskz_loadu_ps(mask, x + half + i);
    const __m512 cosine = _mm512_maskz_loadu_ps(mask, cosines + i),
                 sine = _mm512_maskz_loadu_ps(mask, sines + i);
    _mm512_mask_storeu_ps(x + i, mask, _mm512_fmsub_ps(left, cosine, _mm512_mul_ps(right, sine)));
    _mm512_mask_storeu_ps(x + half + i, mask,
                          _mm512_fmadd_ps(right, cosine, _mm512_mul_ps(left, sine)));
  }
}

void round_to_bf16(const float* source, int64_t size, bf16* target) {
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = mask_of(size - i);
    _mm256_mask_storeu_epi16(target + i, mask,
                             (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, source + i)));
  }
}

template <class T>
void write_key(T* keys, const T* key, int head_dim, int64_t offset) {
  for (int d = 0; d < head_dim; d += 2)
    std::memcpy(keys + (d / 2 * kBlockTokens + offset) * 2, key + d, 2 * sizeof(T));
}

// Index of dimension d of a value within the panels of its block.
inline int64_t value_index(int64_t d, int64_t offset) {
  return d / kPanelColumns * kPanelColumns * kBlockTokens + offset / 2 * 2 * kPanelColumns +
         d % kPanelColumns * 2 + offset % 2;
}

template <class T>
void write_value(T* values, const T* value, int head_dim, int64_t offset) {
  for (int64_t panel = 0; panel < head_dim; panel += kPanelColumns) {
    T* start = values + value_index(panel, offset);
    const int64_t size = std::min<int64_t>(kPanelColumns, head_dim - panel);
    for (int64_t d = 0; d < size; ++d) start[d * 2] = value[panel + d];
  }
}

// Zeroes the values after `offset`. Values that an earlier owner of the block wrote are multiplied
// by weights of zero, and must not be NaN.
template <class T>
void clear_values_behind(T* values, int head_dim, int64_t offset) {
  const int64_t panel_size = kPanelColumns * kBlockTokens,
                next_pair = (offset / 2 + 1) * 2 * kPanelColumns;
  for (int64_t panel = 0; panel < round_up(head_dim, kPanelColumns); panel += kPanelColumns) {
    T* start = values + panel / kPanelColumns * panel_size;
    if (offset % 2 == 0)
      for (int64_t d = 0; d < kPanelColumns; ++d) start[value_index(d, offset + 1)] = 0;
    std::memset(start + next_pair, 0, static_cast<size_t>(panel_size - next_pair) * sizeof(T));
  }
}

// Whether `token` is the last of its row in this step and must clear the rest of its block. A block
// that is filled by decode steps is cleared once, at its first token.
inline bool begins_block(const Batch& batch, int64_t token, int64_t offset) {
  const int32_t* next = std::upper_bound(
      batch.query_starts, batch.query_starts + batch.num_rows + 1, static_cast<int32_t>(token));
  return *next == token + 1 && (offset == 0 || *next - *(next - 1) > 1);
}

// The key and the value of one token and kv head, and their place in the cache.
struct CacheEntry {
  const float *key, *value;  // [head_dim]
  int64_t block_head;        // block * number of kv heads + kv head
  int64_t offset;            // of the token in the block
  bool clear;                // whether to zero the values after the token
};

void write_bf16(const AttentionLayer& layer, const CacheEntry& entry) {
  const int dim = layer.head_dim;
  bf16* values = layer.values + entry.block_head * round_up(dim, kPanelColumns) * kBlockTokens;
  bf16 rounded[kMaxHeadDim];
  round_to_bf16(entry.key, dim, rounded);
  write_key(layer.keys + entry.block_head * dim * kBlockTokens, rounded, dim, entry.offset);
  round_to_bf16(entry.value, dim, rounded);
  write_value(values, rounded, dim, entry.offset);
  if (entry.clear) clear_values_behind(values, dim, entry.offset);
}

template <class Encode>
void encode_head(const float* source, int64_t size, float factor, Encode&& encode,
                 uint8_t* target) {
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = mask_of(size - i);
    _mm_mask_storeu_epi8(target + i, mask,
                         _mm512_cvtepi32_epi8(encode(_mm512_maskz_loadu_ps(mask, source + i),
                                                     _mm512_set1_ps(factor))));
  }
}

template <class Float>
void write_floats(const AttentionLayer& layer, const CacheEntry& entry) {
  const int dim = layer.head_dim;
  const int64_t value_dim = round_up(dim, kPanelColumns);
  uint8_t* values = layer.value_codes + entry.block_head * coded_block_bytes(layer, value_dim);
  uint8_t codes[kMaxHeadDim];
  encode_head(entry.key, dim, layer.key_factor, encode_float<Float>, codes);
  write_key(layer.key_codes + entry.block_head * coded_block_bytes(layer, dim), codes, dim,
            entry.offset);
  encode_head(entry.value, dim, layer.value_factor, encode_float<Float>, codes);
  write_value(values, codes, dim, entry.offset);
  if (entry.clear) clear_values_behind(values, dim, entry.offset);
}

// Writes the codes of `source` to `codes`, and returns their scale.
float encode_integers(const float* source, int dim, uint8_t* codes) {
  const float scale = int8_scale(source, dim);
  // A scale near zero has no finite inverse. Its codes are zero, as are the codes of NaN.
  const float factor = scale > 1e-35f ? 1.0f / scale : 0.0f;
  if (factor > 0.0f)
    encode_head(source, dim, factor, encode_int8, codes);
  else
    std::memset(codes, 0, static_cast<size_t>(dim));
  return scale;
}

void write_integers(const AttentionLayer& layer, const CacheEntry& entry) {
  const int dim = layer.head_dim;
  const int64_t value_dim = round_up(dim, kPanelColumns);
  uint8_t* keys = layer.key_codes + entry.block_head * coded_block_bytes(layer, dim);
  uint8_t* values = layer.value_codes + entry.block_head * coded_block_bytes(layer, value_dim);
  uint8_t codes[kMaxHeadDim];
  token_scales(keys, dim)[entry.offset] = encode_integers(entry.key, dim, codes);
  write_key(keys, codes, dim, entry.offset);
  float* value_scales = token_scales(values, value_dim);
  value_scales[entry.offset] = encode_integers(entry.value, dim, codes);
  write_value(values, codes, dim, entry.offset);
  if (entry.clear) {
    clear_values_behind(values, dim, entry.offset);
    std::fill(value_scales + entry.offset + 1, value_scales + kBlockTokens, 0.0f);
  }
}

// Indexed by `CacheFormat`.
constexpr void (*kWriters[])(const AttentionLayer&, const CacheEntry&) = {
    write_bf16, write_floats<E4m3>, write_floats<E5m2>, write_integers};

}  // namespace

int64_t num_row_shares(const Batch& batch) {
  return (batch.num_tokens + kShareRows - 1) / kShareRows;
}

// An id or a position for which there is no vector gives a row of zeros. The scheduler never sends
// one. The check ensures that no value in a batch makes the kernel read memory outside of a table.
void run_embed(const Op& op, const Batch& batch, int64_t share) {
  const int64_t stride = round_up(op.num_columns, kPanelColumns);
  for_rows(share, batch, [&](int64_t row) {
    const int64_t token = batch.token_ids[row];
    float* target = static_cast<float*>(op.target) + row * stride;
    if (token < 0 || token >= op.num_ids) {
      std::fill(target, target + stride, 0.0f);
      return;
    }
    if (op.compressed != nullptr)
      decompress_column(*op.compressed, op.num_columns, token, op.scale, target);
    else if (op.quantized != nullptr)
      dequantize_column(*op.quantized, op.num_columns, token, op.scale, target);
    else
      read_column(static_cast<const bf16*>(op.weight), op.num_columns, token, op.scale, target);
    if (op.positions != nullptr) {
      const int64_t place = batch.positions[row] + op.position_offset;
      if (place < 0 || place >= op.num_positions) {
        std::fill(target, target + stride, 0.0f);
        return;
      }
      const float* position = op.positions + place * op.num_columns;
      for (int64_t i = 0; i < op.num_columns; ++i) target[i] += position[i];
    }
  });
}

void run_norm(const Op& op, const Batch& batch, int64_t share) {
  const int64_t size = op.num_columns, stride = round_up(size, kPanelColumns);
  const auto* weight = static_cast<const float*>(op.weight);
  for_rows(share, batch, [&](int64_t row) {
    const float* x = static_cast<const float*>(op.source) + row * stride;
    float mean, scale;
    moments(x, size, op.norm_kind == 2, op.epsilon, &mean, &scale);
    const __m512 middle = _mm512_set1_ps(mean), factor = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < size; i += 16) {
      const __mmask16 mask = mask_of(size - i);
      __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), middle), factor);
      if (weight != nullptr) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(mask, weight + i));
      if (op.bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, op.bias + i));
      y = _mm512_maskz_mov_ps(mask, y);
      if (op.target_is_float)
        _mm512_storeu_ps(static_cast<float*>(op.target) + row * stride + i, y);
      else
        store_bf16(static_cast<bf16*>(op.target) + row * stride + i, y);
    }
  });
}

void run_add(const Op& op, const Batch& batch, int64_t share) {
  const int64_t stride = round_up(op.num_columns, kPanelColumns);
  const __m512 scale = _mm512_set1_ps(op.scale);
  for_rows(share, batch, [&](int64_t row) {
    const float* source = static_cast<const float*>(op.source) + row * stride;
    float* target = static_cast<float*>(op.target) + row * stride;
    for (int64_t i = 0; i < stride; i += 16)
      _mm512_storeu_ps(target + i, _mm512_fmadd_ps(_mm512_loadu_ps(source + i), scale,
                                                   _mm512_loadu_ps(target + i)));
  });
}

// Applies norms and rotary embedding to fused projections [T][heads + 2 kv heads][head_dim]. Writes
// the queries as bf16 [T][heads][head_dim], and the keys and values to the cache.
void run_qkv(const Op& op, const Batch& batch, int64_t share) {
  const AttentionLayer& layer = *op.attention;
  const int dim = layer.head_dim, half = layer.rotary_dim / 2;
  const int64_t source_stride =
      round_up(static_cast<int64_t>(layer.num_heads + 2 * layer.num_kv_heads) * dim, kPanelColumns);
  const int64_t query_size = static_cast<int64_t>(layer.num_heads) * dim,
                target_stride = round_up(query_size, kPanelColumns);
  const auto write = kWriters[layer.cache_format];
  for_rows(share, batch, [&](int64_t row) {
    float* heads = static_cast<float*>(const_cast<void*>(op.source)) + row * source_stride;
    const float* cosines =
        layer.cosines == nullptr ? nullptr : layer.cosines + batch.positions[row] * half;
    const float* sines =
        layer.sines == nullptr ? nullptr : layer.sines + batch.positions[row] * half;
    for (int head = 0; head < layer.num_heads + layer.num_kv_heads; ++head) {
      float* x = heads + static_cast<int64_t>(head) * dim;
      if (layer.qk_norm_kind != 0)
        norm_head(x, dim, layer.qk_norm_kind, layer.qk_norm_epsilon,
                  head < layer.num_heads ? layer.q_norm : layer.k_norm);
      if (cosines != nullptr)
        (layer.interleaved ? rotate_neighbours : rotate_halves)(x, half, cosines, sines);
    }
    round_to_bf16(heads, query_size, static_cast<bf16*>(op.target) + row * target_stride);
    const int64_t block = batch.slots[row] / kBlockTokens, offset = batch.slots[row] % kBlockTokens;
    const bool clear = begins_block(batch, row, offset);
    for (int head = 0; head < layer.num_kv_heads; ++head) {
      const float* key = heads + static_cast<int64_t>(layer.num_heads + head) * dim;
      const float* value = key + static_cast<int64_t>(layer.num_kv_heads) * dim;
      write(layer, {key, value, block * layer.num_kv_heads + head, offset, clear});
    }
  });
}

}  // namespace tgi
