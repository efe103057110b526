// A model as a flat list of operations over prepared memory, run by a pool of threads.
//
// The caller owns all memory. Activations are row-major, one row per token, with a row stride
// rounded up to 32 columns whose padding is zero. Matrix weights are packed in panels of 32 columns
// (see gemm.cpp). bf16 travels as its 16 bits.
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

// What a linear does with its sums.
enum class Store : int32_t {
  kFloat = 0,       // target f32 = sum
  kAccumulate = 1,  // target f32 += scale * sum
  kActivate = 2,    // target bf16 = activation(sum)
  kGate = 3,        // target bf16 = activation(gate) * up; a panel holds 16 gate and 16 up columns
};

enum class Activation : int32_t { kNone = 0, kSilu = 1, kGelu = 2, kGeluTanh = 3, kRelu = 4 };

// Constant facts of one attention layer.
struct AttentionLayer {
  int32_t num_heads, num_kv_heads, head_dim, rotary_dim;
  int32_t interleaved, window;  // window 0 = none
  int32_t qk_norm_kind;         // 0 = none, 1 = rms, 2 = layer
  float scale, softcap, qk_norm_epsilon;
  const float* q_norm;   // [head_dim]
  const float* k_norm;   // [head_dim]
  const float* slopes;   // ALiBi, [num_heads], or null
  const float* sinks;    // [num_heads], or null
  const float* cosines;  // [positions][rotary_dim / 2]
  const float* sines;
  bf16* keys;    // [blocks][kv heads][head_dim / 2][32 tokens][2]
  bf16* values;  // [blocks][kv heads][panels of 32 dims][16 token pairs][32 dims][2]
};

// A weight in codes of 8 or 4 bits; see quantized.h.
struct QuantizedWeight;

// A weight without loss in 12 bits; see compressed.h.
struct CompressedWeight;

struct Op {
  int32_t kind, store, activation, norm_kind;  // norm_kind: 1 = rms, 2 = layer
  int64_t num_columns, num_inputs;
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

// One step. T tokens of R rows, concatenated.
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

// Each op is divided into shares that any thread may take; `num_…_shares` says into how many.
int64_t num_row_shares(const Batch& batch);
void run_embed(const Op& op, const Batch& batch, int64_t share);
void run_norm(const Op& op, const Batch& batch, int64_t share);
void run_qkv(const Op& op, const Batch& batch, int64_t share);
void run_add(const Op& op, const Batch& batch, int64_t share);

// The nearest bf16 of each number.
void round_row(const float* source, int64_t size, bf16* target);

int64_t num_linear_shares(const Op& op, const Batch& batch,
                          int num_threads);  // whatever the weight is like
void run_linear(const Op& op, const Batch& batch, int num_threads, int64_t share);
// Rows [first_row, last_row) times the panels [panel, panel_end) of a linear; their weights stand
// at `panels` in bf16, but outliers.
void multiply_rows(const Op& op, const bf16* panels, int64_t first_row, int64_t last_row,
                   int64_t panel, int64_t panel_end);

// The same for a quantized weight. Every thread calls `prepare` with its own scratch before its
// first share.
void prepare_quantized_linear(const Op& op, const Batch& batch, float* scratch);
void run_quantized_linear(const Op& op, const Batch& batch, int num_threads, int64_t share,
                          float* scratch);

// The same for a compressed one, which needs no preparation.
void run_compressed_linear(const Op& op, const Batch& batch, int num_threads, int64_t share,
                           float* scratch);

int64_t attention_tile_queries(const AttentionLayer& layer);
int64_t attention_scratch_floats(const AttentionLayer& layer);
void run_attention(const Op& op, const Batch& batch, const AttentionPlan& plan, int64_t share,
                   float* scratch);

}  // namespace tgi
