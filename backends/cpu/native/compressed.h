// bf16 weights in 12 bits, exactly.
//
// The exponents of trained weights lie close together: fifteen neighbouring ones hold all but a few
// in ten thousand weights of a panel. Of a weight, sign and mantissa are kept as they are in a
// byte, and the exponent as a code of 4 bits: 0 for exponent 0 (zero and the subnormal numbers),
// else its place among the panel's fifteen. A weight with another exponent is an outlier: zero
// here, and in a list of its own.
//
// A panel of 32 columns is a line of 64 bytes, whose first 16 are the exponents of the codes, and
// then a block of 192 bytes for every 4 inputs: signs and mantissas of inputs 0 and 1 and of inputs
// 2 and 3, 64 bytes each, and the codes, those of inputs 0 and 1 in the lower halves of 64 bytes.
// In each 64 bytes columns and inputs stand as `unpacklo` and `unpackhi` of bytes take them apart.
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
  uint16_t column;  // in its panel
  bf16 value;
};

struct CompressedWeight {
  const uint8_t* panels;
  const Outlier* outliers;        // panel by panel
  const int32_t* outlier_starts;  // [panels + 1]
};

inline int64_t compressed_panel_bytes(int64_t num_inputs) {
  return kLineBytes + (num_inputs + kBlockInputs - 1) / kBlockInputs * kBlockBytes;
}

// Unpacks a panel to bf16, outliers as zero: [input pair][32 columns][2]. A pair that is none may
// be written when the number of inputs is no multiple of 4.
void decompress_panel(const CompressedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target);

// target[i] = factor * the value of input i of `column`.
void decompress_column(const CompressedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target);

}  // namespace tgi
