// Bias, scale and activation of the sums of a linear operation, and how they are stored. Include
// this file only after the target pragma.
#pragma once

#include "vector.h"

namespace tgi {

// Where the weights of a linear operation are, and where and how its sums are stored.
struct Output {
  Output(const Op& linear, const bf16* weights, int64_t first_weight_panel)
      : op(linear),
        panels(weights),
        first_panel(first_weight_panel),
        stride(round_up(static_cast<Store>(linear.store) == Store::kGate ? linear.num_columns / 2
                                                                         : linear.num_columns,
                        kPanelColumns)),
        scale(_mm512_set1_ps(linear.scale)) {}

  const Op& op;
  const bf16* panels;  // begins with panel `first_panel`
  int64_t first_panel;
  int64_t stride;  // distance between target rows, in elements
  __m512 scale;
};

// Stores the columns of panel `panel` for M rows, beginning with `row`. Their sums are in
// sums[m][z0] and sums[m][z0 + 1].
template <int M, int Z>
static inline void store_panel(const Output& out, int64_t row, int64_t panel, int z0,
                               const __m512 (&sums)[M][Z]) {
  const Op& op = out.op;
  const int64_t column = panel * kPanelColumns;
  __m512 low_bias = _mm512_setzero_ps(), high_bias = _mm512_setzero_ps();
  if (op.bias != nullptr) {
    low_bias = _mm512_loadu_ps(op.bias + column);
    high_bias = _mm512_loadu_ps(op.bias + column + 16);
  }
  const auto activation = static_cast<Activation>(op.activation);
  for (int m = 0; m < M; ++m) {
    const __m512 low = _mm512_add_ps(sums[m][z0], low_bias);
    const __m512 high = _mm512_add_ps(sums[m][z0 + 1], high_bias);
    switch (static_cast<Store>(op.store)) {
      case Store::kFloat: {
        float* target = static_cast<float*>(op.target) + (row + m) * out.stride + column;
        _mm512_storeu_ps(target, _mm512_mul_ps(low, out.scale));
        _mm512_storeu_ps(target + 16, _mm512_mul_ps(high, out.scale));
        break;
      }
      case Store::kAccumulate: {
        float* target = static_cast<float*>(op.target) + (row + m) * out.stride + column;
        _mm512_storeu_ps(target, _mm512_fmadd_ps(low, out.scale, _mm512_loadu_ps(target)));
        _mm512_storeu_ps(target + 16,
                         _mm512_fmadd_ps(high, out.scale, _mm512_loadu_ps(target + 16)));
        break;
      }
      case Store::kActivate: {
        bf16* target = static_cast<bf16*>(op.target) + (row + m) * out.stride + column;
        store_bf16(target, activate(low, activation));
        store_bf16(target + 16, activate(high, activation));
        break;
      }
      case Store::kGate: {
        bf16* target = static_cast<bf16*>(op.target) + (row + m) * out.stride + panel * 16;
        store_bf16(target, _mm512_mul_ps(activate(low, activation), high));
        break;
      }
    }
  }
}

}  // namespace tgi
