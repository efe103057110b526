// Weights in codes of 8 or 4 bits. The inputs of a column share a scale by groups: value = scale *
// (code - zero).
//
// Columns stand in half panels of 16. The codes of a group form vectors of 64 bytes, 4 bytes per
// column: 4 inputs of 8 bits, or 8 of 4 bits with inputs 0 to 3 in the low halves of the bytes and
// inputs 4 to 7 in the high ones. Groups are whole: inputs that are none have the code zero.
#pragma once

#include "program.h"

namespace tgi {

constexpr int64_t kHalfPanel = kPanelColumns / 2;
constexpr int64_t kVectorBytes = 64;

struct QuantizedWeight {
  uint8_t* codes;  // [half panels][groups][vectors of a group][16 columns][4]
  bf16* scales;    // [half panels][groups][16 columns]
  int32_t bits, group_size;

  int64_t num_groups(int64_t num_inputs) const {
    return (num_inputs + group_size - 1) / group_size;
  }
  int64_t group_vectors() const { return group_size * bits / 32; }
  int32_t zero() const { return 1 << (bits - 1); }
};

// Activations of a step as integers of 16 bits in two signed bytes: value = scale * (256 * high +
// low), a scale per row and group.
struct IntegerRows {
  // Lays the parts of `num_rows` rows out in `scratch`.
  IntegerRows(float* scratch, const QuantizedWeight& weight, int64_t num_inputs, int64_t num_rows);
  static int64_t scratch_floats(const QuantizedWeight& weight, int64_t num_inputs,
                                int64_t num_rows);

  int64_t num_groups, row_bytes;
  float* scales;     // [rows][groups]
  int32_t* offsets;  // [rows][groups], -zero times the group's sum
  int8_t* bytes;     // [rows][inputs / 4][high, low][4]
};

// Writes rows 0 to `num_rows` of bf16 activations, row-major with `stride`.
void quantize_rows(const bf16* rows, int64_t stride, int64_t num_rows, int32_t zero,
                   int64_t group_size, const IntegerRows& target);

// Unpacks a panel to bf16: [input pair][32 columns][2]. A pair that is none is not written.
void dequantize_panel(const QuantizedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target);

// target[i] = factor * the value of input i of `column`.
void dequantize_column(const QuantizedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target);

}  // namespace tgi
