// Quantized weights: codes of 4 or 8 bits, and a scale for each group of inputs of a column.
//
// A weight is scale * (number - zero) or scale * number + offset. The number of a code is the code
// itself, an entry of a table, or a small floating-point number.
//
// Columns are stored in half panels of 16. The codes of a group are vectors of 64 bytes, 4 bytes
// per column. These contain 4 inputs of 8 bits, or 8 inputs of 4 bits: inputs 0 to 3 in the low
// halves of the bytes, and inputs 4 to 7 in the high halves. The last group is padded.
#pragma once

#include "program.h"

namespace tgi {

constexpr int64_t kHalfPanel = kPanelColumns / 2;
constexpr int64_t kVectorBytes = 64;

enum class Codes : int32_t { kInteger = 0, kTable = 1, kE4m3 = 2, kE5m2 = 3 };
// A packed scale is a word of 16 bits. Its lower 7 bits are the zero in eighths. The whole word is
// the scale relative to the scale of the column, with 4 bits of exponent and 12 bits of mantissa.
enum class Scales : int32_t { kBf16 = 0, kF16 = 1, kF32 = 2, kPacked = 3 };
enum class Zeros : int32_t {
  kConstant = 0,  // all groups have the zero `QuantizedWeight::zero`
  kBytes = 1,     // each group has an integer zero
  kOffsets = 2,   // each group has an offset in the dtype of the scales
  kPacked = 3,    // each group has a zero in the word of its scale
};

struct QuantizedWeight {
  uint8_t* codes;  // [half panels][groups][vectors of a group][16 columns][4]
  void* scales;    // [half panels][groups][16 columns]
  void* zeros;     // [half panels][groups][16 columns] bytes or offsets, or null
  // The inputs of a column are stored in another order if the groups contain inputs that are not
  // adjacent.
  const int32_t* input_order;  // [inputs], the input at each position, or null
  const int32_t* positions;    // [inputs], the position of each input, or null
  const float* numbers;        // the number of each code, or null for integers
  float* column_scales;        // [half panels][16 columns] for packed scales, or null
  int32_t bits, group_size, code_kind, scale_kind, zero_kind, zero;

  int64_t num_groups(int64_t num_inputs) const {
    return (num_inputs + group_size - 1) / group_size;
  }
  int64_t padded_inputs(int64_t num_inputs) const { return num_groups(num_inputs) * group_size; }
  int64_t group_vectors() const { return group_size * bits / 32; }
  bool has_offsets() const { return static_cast<Zeros>(zero_kind) != Zeros::kConstant; }
  bool is_integer() const { return static_cast<Codes>(code_kind) == Codes::kInteger; }
};

// Activations of a step as 16-bit integers in two signed bytes: value = scale * (256 * high + low).
// Each row and group has its own scale.
struct IntegerRows {
  // Assigns parts of `scratch` to the scales, factors and bytes of `num_rows` rows.
  IntegerRows(float* scratch, const QuantizedWeight& weight, int64_t num_inputs, int64_t num_rows);
  static int64_t scratch_floats(const QuantizedWeight& weight, int64_t num_inputs,
                                int64_t num_rows);

  // Returns these rows without the first `row` rows.
  IntegerRows from(int64_t row) const {
    IntegerRows rest = *this;
    rest.scales += row * num_groups;
    rest.starts += row * num_groups;
    rest.factors += row * num_groups;
    rest.bytes += row * row_bytes;
    return rest;
  }

  int64_t num_groups, row_bytes;
  float* scales;   // [rows][groups]
  int32_t* starts;  // [rows][groups], the integer to which the products of the group are added
  float* factors;   // [rows][groups], factor of the group's offset or zero, see `quantize_rows`
  int8_t* bytes;   // [rows][inputs / 4][high, low][4]
  bf16* gathered;  // [padded inputs], one row in the order of the positions
};

// A packed zero is read as the float 1 + zero * 2^-12, so a group's sum of code * integer minus
// zero / 8 * sum of integers is start + sum of code * integer - start * float, with this factor
// between the start and the sum of the integers.
constexpr int32_t kPackedStart = 512;
// Packed scales are read as floats that are smaller by this factor squared.
constexpr float kPackedFactor = 72057594037927936.0f;  // 2^56

// Quantizes the first `num_rows` rows of bf16 activations [rows][round_up(num_inputs, 32)]. The
// factor of a group is the sum of its values if the weight has offsets. With packed scales it is
// the start, and the scales of the rows are multiplied by `kPackedFactor`.
void quantize_rows(const bf16* rows, int64_t num_inputs, int64_t num_rows,
                   const QuantizedWeight& weight, const IntegerRows& target);

// Copies rows of bf16 activations to `target` [rows][padded inputs], in the order of the positions.
// Every four inputs are stored in the order 0, 2, 1, 3, in which codes are decoded.
void order_rows(const bf16* rows, int64_t num_inputs, int64_t num_rows,
                const QuantizedWeight& weight, bf16* target);

// Unpacks a panel to bf16 [input pair][32 columns][2] in the order of the inputs. Pairs after the
// last input are not written. `scratch` has the size of `target`. It is used only if the weight has
// an input order.
void dequantize_panel(const QuantizedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target, bf16* scratch);

// target[i] = factor * weight of input i in `column`.
void dequantize_column(const QuantizedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target);

// A part of a linear operation with rows that `order_rows` copied. The codes are decoded in
// registers. Multiplies rows [0, num_rows) by panels [panel, panel_end).
void multiply_decoded(const Op& op, const bf16* rows, int64_t num_rows, int64_t panel,
                      int64_t panel_end);

}  // namespace tgi
