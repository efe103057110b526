// bf16 weights, compressed to 12 bits without loss.
//
// The exponents of trained weights differ little: of all weights of a panel, only a few in ten
// thousand are outside a window of fifteen consecutive exponents. The sign and mantissa of a weight
// are stored unchanged in one byte. The exponent is stored as a 4-bit code: 0 for exponent 0 (zero
// and the subnormal numbers), otherwise 1 to 15, its index in the panel's window plus 1. A weight
// with another exponent is an outlier: it is stored as zero here, and its value is in a separate
// list.
//
// A panel of 32 columns consists of a line of 64 bytes, whose first 16 bytes are the exponents of
// the codes, and a block of 192 bytes for every 4 inputs. A block contains 64 bytes with the signs
// and mantissas of inputs 0 and 1, 64 bytes with those of inputs 2 and 3, and 64 bytes with the
// codes: inputs 0 and 1 in the low halves of the bytes, inputs 2 and 3 in the high halves. The
// order within 64 bytes is that of `packus`, so that `unpacklo` and `unpackhi` of bytes restore the
// order of columns and inputs.
#pragma once

#include "program.h"

namespace tgi {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kBlockInputs = 4;
constexpr int64_t kBlockBytes = 3 * kLineBytes;
constexpr int kNumCodes = 16;

// A weight whose exponent has no code.
struct Outlier {
  int32_t input;
  uint16_t column;  // within its panel
  bf16 value;
};

struct CompressedWeight {
  const uint8_t* panels;
  const Outlier* outliers;        // ordered by panel
  const int32_t* outlier_starts;  // [panels + 1]
};

inline int64_t compressed_panel_bytes(int64_t num_inputs) {
  return kLineBytes + (num_inputs + kBlockInputs - 1) / kBlockInputs * kBlockBytes;
}

// Decompresses a panel to bf16 [input pair][32 columns][2]. Outliers become zero. If the number of
// inputs is not a multiple of 4, an additional pair may be written.
void decompress_panel(const CompressedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target);

// target[i] = factor * weight of input i in `column`, including outliers.
void decompress_column(const CompressedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target);

}  // namespace tgi
