// Weights in codes of 8 or 4 bits. The inputs of a column are divided into groups, each with a
// scale: value = scale * (code - zero).
//
// Columns are stored in half panels of 16. The codes of a group are vectors of 64 bytes, 4 bytes
// per column. These contain 4 inputs of 8 bits, or 8 inputs of 4 bits: inputs 0 to 3 in the low
// halves of the bytes, and inputs 4 to 7 in the high halves. The last group is padded with codes
// for zero.
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

// Activations of a step as 16-bit integers in two signed bytes: value = scale * (256 * high + low).
// Each row and group has its own scale.
struct IntegerRows {
  // Assigns parts of `scratch` to the scales, offsets and bytes of `num_rows` rows.
  IntegerRows(float* scratch, const QuantizedWeight& weight, int64_t num_inputs, int64_t num_rows);
  static int64_t scratch_floats(const QuantizedWeight& weight, int64_t num_inputs,
                                int64_t num_rows);

  // Returns these rows without the first `row` rows.
  IntegerRows from(int64_t row) const {
    IntegerRows rest = *this;
    rest.scales += row * num_groups;
    rest.offsets += row * num_groups;
    rest.bytes += row * row_bytes;
    return rest;
  }

  int64_t num_groups, row_bytes;
  float* scales;     // [rows][groups]
  int32_t* offsets;  // [rows][groups], -zero times the sum of the group's integers
  int8_t* bytes;     // [rows][inputs / 4][high, low][4]
};

// Quantizes the first `num_rows` rows of bf16 activations, which are `stride` elements apart.
void quantize_rows(const bf16* rows, int64_t stride, int64_t num_rows, int32_t zero,
                   int64_t group_size, const IntegerRows& target);

// Unpacks a panel to bf16 [input pair][32 columns][2]. Pairs after the last input are not written.
void dequantize_panel(const QuantizedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target);

// target[i] = factor * weight of input i in `column`.
void dequantize_column(const QuantizedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target);

}  // namespace tgi
