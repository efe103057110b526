// A model as a flat list of operations over prepared memory, executed by a thread pool.
//
// The caller owns all memory. Activations are row-major with one row per token. Row strides are
// rounded up to 32 columns, and the padding is zero. Matrix weights are packed in panels of 32
// columns (see gemm.cpp). A bf16 value is stored as its 16 bits.
#pragma once

#include <cstdint>

namespace tgi {

using bf16 = uint16_t;

constexpr int64_t kPanelColumns = 32;  // columns of a weight panel
constexpr int64_t kBlockTokens = 32;   // tokens of a cache block

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

enum class Kind : int32_t {
  kEmbed = 0,
  kNorm = 1,
  kLinear = 2,
  kQkv = 3,
  kAttention = 4,
  kAdd = 5
};

// The way in which a linear operation stores its sums.
enum class Store : int32_t {
  kFloat = 0,       // target f32 = sum
  kAccumulate = 1,  // target f32 += scale * sum
  kActivate = 2,    // target bf16 = activation(sum)
  kGate = 3,        // target bf16 = activation(gate) * up; a panel holds 16 gate and 16 up columns
};

enum class Activation : int32_t {
  kNone = 0,
  kSilu = 1,
  kGelu = 2,
  kGeluTanh = 3,
  kRelu = 4,
  kReluSquared = 5,
};

// The format of cached keys and values.
enum class CacheFormat : int32_t {
  kBf16 = 0,
  kE4m3 = 1,  // 8-bit floats with 3 bits of mantissa, with one scale per layer
  kE5m2 = 2,  // 8-bit floats with 2 bits of mantissa, with one scale per layer
  kInt8 = 3,  // integers with one scale per token and head
};

// Constants of one attention layer.
struct AttentionLayer {
  int32_t num_heads, num_kv_heads, head_dim, rotary_dim;
  int32_t interleaved, window;  // window 0 = none
  int32_t qk_norm_kind;         // 0 = none, 1 = rms, 2 = layer
  int32_t cache_format;
  float scale, softcap, qk_norm_epsilon;
  const float* q_norm;   // [head_dim]
  const float* k_norm;   // [head_dim]
  const float* slopes;   // ALiBi, [num_heads], or null
  const float* sinks;    // [num_heads], or null
  const float* cosines;  // [positions][rotary_dim / 2]
  const float* sines;
  bf16* keys;               // [blocks][kv heads][head_dim / 2][32 tokens][2]
  bf16* values;             // [blocks][kv heads][panels of 32 dims][16 token pairs][32 dims][2]
  uint8_t* key_codes;       // instead of `keys`, or null; see cache_codes.h
  uint8_t* value_codes;     // instead of `values`, or null
  const bf16* key_table;    // [128] the numbers of 8-bit floats, times the scale
  const bf16* value_table;  // [128]
  float key_factor,
      value_factor;  // by which a number is multiplied before it becomes an 8-bit float
};

// A weight in codes of 8 or 4 bits. See quantized.h.
struct QuantizedWeight;

// A bf16 weight compressed to 12 bits without loss. See compressed.h.
struct CompressedWeight;

struct Op {
  int32_t kind, store, activation, norm_kind;  // norm_kind: 1 = rms, 2 = layer
  int64_t num_columns, num_inputs;
  int64_t num_ids, num_positions;  // rows of an embedding and of its position vectors
  const void* weight;
  const float* bias;
  const void* source;
  void* target;
  const AttentionLayer* attention;
  const float* positions;  // learned position vectors of an embedding, or null
  float scale, epsilon;
  int32_t position_offset, target_is_float;
  const QuantizedWeight* quantized;    // instead of `weight`, or null
  const CompressedWeight* compressed;  // instead of `weight`, or null
};

// One step: T tokens of R sequences, concatenated.
struct Batch {
  int64_t num_tokens, num_rows, max_blocks;
  const int64_t* token_ids;     // [T]
  const int64_t* positions;     // [T]
  const int64_t* slots;         // [T] block * 32 + offset
  const int32_t* query_starts;  // [R + 1]
  const int32_t* context_lens;  // [R]
  const int32_t* block_tables;  // [R][max_blocks]
};

class AttentionPlan;  // attention_plan.h

// Each operation is divided into work items, which are called shares. Any thread may run any share.
// The functions `num_…_shares` return the number of shares.
int64_t num_row_shares(const Batch& batch);
void run_embed(const Op& op, const Batch& batch, int64_t share);
void run_norm(const Op& op, const Batch& batch, int64_t share);
void run_qkv(const Op& op, const Batch& batch, int64_t share);
void run_add(const Op& op, const Batch& batch, int64_t share);

// Rounds each number to the nearest bf16.
void round_row(const float* source, int64_t size, bf16* target);

// The number of shares does not depend on the weight's format.
int64_t num_linear_shares(const Op& op, const Batch& batch, int num_threads);
void run_linear(const Op& op, const Batch& batch, int num_threads, int64_t share);
// Multiplies rows [first_row, last_row) by panels [panel, panel_end) of a linear operation. The
// bf16 weights of these panels are at `panels`, in which outliers are zero.
void multiply_rows(const Op& op, const bf16* panels, int64_t first_row, int64_t last_row,
                   int64_t panel, int64_t panel_end);

// Multiplies rows by panels of a quantized weight. Every thread calls `prepare_quantized_linear`
// with its own scratch memory before its first share.
void prepare_quantized_linear(const Op& op, const Batch& batch, float* scratch);
void run_quantized_linear(const Op& op, const Batch& batch, int num_threads, int64_t share,
                          float* scratch);

// Multiplies rows by panels of a compressed weight, which needs no preparation.
void run_compressed_linear(const Op& op, const Batch& batch, int num_threads, int64_t share,
                           float* scratch);

int64_t attention_tile_queries(const AttentionLayer& layer);
int64_t attention_scratch_floats(const AttentionLayer& layer);
void run_attention(const Op& op, const Batch& batch, const AttentionPlan& plan, int64_t share,
                   float* scratch);

}  // namespace tgi
