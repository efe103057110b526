// Rounds hidden vectors to bf16, the input of the head.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include "vector.h"

namespace tgi {

void round_row(const float* source, int64_t size, bf16* target) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) store_bf16(target + i, _mm512_loadu_ps(source + i));
  for (; i < size; ++i) target[i] = to_bf16(source[i]);
}

}  // namespace tgi
