// Adds the products with outliers of compressed weights. Include this file only after the target
// pragma.
#pragma once

#include "compressed.h"
#include "vector.h"

namespace tgi {

// Adds to the sums of M rows in one panel, which are in sums[m][z0] and sums[m][z0 + 1].
template <int M, int Z>
static inline void add_outliers(const CompressedWeight& weight, int64_t panel, const bf16* rows,
                                int64_t stride, int z0, __m512 (&sums)[M][Z]) {
  const Outlier *outlier = weight.outliers + weight.outlier_starts[panel],
                *end = weight.outliers + weight.outlier_starts[panel + 1];
  if (outlier == end) return;
  alignas(64) float totals[M][kPanelColumns];
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < 2; ++z) _mm512_store_ps(totals[m] + 16 * z, sums[m][z0 + z]);
  for (; outlier != end; ++outlier)
    for (int m = 0; m < M; ++m)
      totals[m][outlier->column] +=
          to_float(rows[m * stride + outlier->input]) * to_float(outlier->value);
  for (int m = 0; m < M; ++m)
    for (int z = 0; z < 2; ++z) sums[m][z0 + z] = _mm512_load_ps(totals[m] + 16 * z);
}

}  // namespace tgi
