// The C interface: probe, threads, and the run of a program. See program.h for the records.
#include "program.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "team.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

struct Engine {
  explicit Engine(int num_threads, int64_t scratch_floats) : team(num_threads), scratch_floats(scratch_floats) {
    const auto bytes = static_cast<size_t>(scratch_floats) * sizeof(float);
    for (int i = 0; i < num_threads; ++i) scratch.emplace_back(static_cast<float*>(std::aligned_alloc(64, tgi::round_up(static_cast<int64_t>(bytes), 64))), &std::free);
  }
  tgi::Team team;
  int64_t scratch_floats;
  std::vector<std::unique_ptr<float, decltype(&std::free)>> scratch;
};

void run_op(const tgi::Op& op, const tgi::Batch& batch, tgi::Team& team, float* scratch) {
  switch (static_cast<tgi::Kind>(op.kind)) {
    case tgi::Kind::kEmbed:
      return tgi::run_embed(op, batch, team);
    case tgi::Kind::kNorm:
      return tgi::run_norm(op, batch, team);
    case tgi::Kind::kLinear:
      return tgi::run_linear(op, batch, team);
    case tgi::Kind::kQkv:
      return tgi::run_qkv(op, batch, team);
    case tgi::Kind::kAttention:
      return tgi::run_attention(op, batch, team, scratch);
    case tgi::Kind::kAdd:
      return tgi::run_add(op, batch, team);
  }
}

}  // namespace

extern "C" {

// 1 if this processor has what the kernels need (AVX-512 with bf16 products), else 0.
int32_t tgi_supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return 0;
#endif
}

// Sizes of the records, so that the caller can check that it describes the same ones.
int64_t tgi_record_size(int32_t record) {
  const int64_t sizes[] = {sizeof(tgi::Op), sizeof(tgi::Batch), sizeof(tgi::AttentionLayer)};
  return sizes[record];
}

int64_t tgi_scratch_floats(const tgi::AttentionLayer* layer) { return tgi::attention_scratch_floats(*layer); }

void* tgi_engine_create(int32_t num_threads, int64_t scratch_floats) { return new Engine(num_threads, scratch_floats); }

void tgi_engine_destroy(void* engine) { delete static_cast<Engine*>(engine); }

void tgi_run(void* engine, const tgi::Op* ops, int64_t num_ops, const tgi::Batch* batch) {
  auto& self = *static_cast<Engine*>(engine);
  self.team.run([&](int thread) {
    for (int64_t i = 0; i < num_ops; ++i) {
      run_op(ops[i], *batch, self.team, self.scratch[static_cast<size_t>(thread)].get());
      if (i + 1 < num_ops) self.team.barrier();
    }
  });
}

// Asks for large pages: panels are streamed whole, and small pages would spend the bandwidth on address translation.
void tgi_advise_huge(void* memory, int64_t bytes) {
#if defined(__linux__)
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}
}
