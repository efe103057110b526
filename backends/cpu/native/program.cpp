// The C interface: processor check, threads and execution of programs. program.h defines the
// records.
#include "program.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "attention_plan.h"
#include "compressed.h"
#include "quantized.h"
#include "sampler.h"
#include "team.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using tgi::Kind;

// One execution of a program. The operations are the stages of the team's job.
class ProgramRun final : public tgi::Job {
 public:
  ProgramRun(const tgi::Op* ops, const tgi::Batch& batch, int num_threads, float* const* scratch)
      : ops_(ops),
        batch_(batch),
        num_threads_(num_threads),
        scratch_(scratch),
        prepared_(static_cast<size_t>(num_threads), -1) {}

  // Returns the number of shares of an operation. This function is called for all operations, in
  // order, before the run.
  int64_t num_shares(const tgi::Op& op) {
    switch (static_cast<Kind>(op.kind)) {
      case Kind::kLinear:
        return tgi::num_linear_shares(op, batch_, num_threads_);
      case Kind::kAttention:
        return plan(*op.attention).num_shares();
      default:
        return tgi::num_row_shares(batch_);
    }
  }

  void run_share(int64_t stage, int64_t share, int thread) override {
    const tgi::Op& op = ops_[stage];
    switch (static_cast<Kind>(op.kind)) {
      case Kind::kEmbed:
        return tgi::run_embed(op, batch_, share);
      case Kind::kNorm:
        return tgi::run_norm(op, batch_, share);
      case Kind::kLinear:
        if (op.compressed != nullptr)
          return tgi::run_compressed_linear(op, batch_, num_threads_, share, scratch_[thread]);
        if (op.quantized == nullptr) return tgi::run_linear(op, batch_, num_threads_, share);
        if (std::exchange(prepared_[static_cast<size_t>(thread)], stage) != stage)
          tgi::prepare_quantized_linear(op, batch_, scratch_[thread]);
        return tgi::run_quantized_linear(op, batch_, num_threads_, share, scratch_[thread]);
      case Kind::kQkv:
        return tgi::run_qkv(op, batch_, share);
      case Kind::kAttention:
        return tgi::run_attention(op, batch_, plan(*op.attention), share, scratch_[thread]);
      case Kind::kAdd:
        return tgi::run_add(op, batch_, share);
    }
  }

 private:
  // Layers of the same shape share a plan. A model has few shapes.
  const tgi::AttentionPlan& plan(const tgi::AttentionLayer& layer) {
    for (const tgi::AttentionPlan& plan : plans_)
      if (plan.fits(layer)) return plan;
    return plans_.emplace_back(layer, batch_, tgi::attention_tile_queries(layer));
  }

  const tgi::Op* ops_;
  const tgi::Batch& batch_;
  const int num_threads_;
  float* const* scratch_;
  // By thread: the quantized linear operation whose input rows are in the thread's scratch memory.
  std::vector<int64_t> prepared_;
  std::vector<tgi::AttentionPlan> plans_;  // complete before the run begins
};

class Engine {
 public:
  Engine(int num_threads, int64_t max_ops, int64_t scratch_floats) : team_(num_threads, max_ops) {
    const auto bytes = static_cast<size_t>(
        tgi::round_up(scratch_floats * static_cast<int64_t>(sizeof(float)), 64));
    for (int i = 0; i < num_threads; ++i)
      scratch_.push_back(static_cast<float*>(std::aligned_alloc(64, bytes)));
  }
  ~Engine() {
    for (float* scratch : scratch_) std::free(scratch);
  }

  tgi::Team& team() { return team_; }

  void run(const tgi::Op* ops, int64_t num_ops, const tgi::Batch& batch) {
    ProgramRun program(ops, batch, team_.size(), scratch_.data());
    num_shares_.resize(static_cast<size_t>(num_ops));
    std::transform(ops, ops + num_ops, num_shares_.begin(),
                   [&](const tgi::Op& op) { return program.num_shares(op); });
    team_.run(program, num_ops, num_shares_.data());
  }

 private:
  std::vector<float*> scratch_;  // must outlive the threads of the team
  std::vector<int64_t> num_shares_;
  tgi::Team team_;
};

}  // namespace

extern "C" {

// Returns 1 if this processor has the required instructions (AVX-512 with bf16 and byte products),
// otherwise 0.
int32_t tgi_supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
#else
  return 0;
#endif
}

// Returns the version of this interface. Increment the version here and in native_records.py with
// every change of a record, a function or a layout in memory.
int32_t tgi_version() { return 2; }

// Returns the size of a record in bytes. The caller compares it with its own definition.
int64_t tgi_record_size(int32_t record) {
  const int64_t sizes[] = {sizeof(tgi::Op),
                           sizeof(tgi::Batch),
                           sizeof(tgi::AttentionLayer),
                           sizeof(tgi::QuantizedWeight),
                           sizeof(tgi::CompressedWeight),
                           sizeof(tgi::SampleRow),
                           sizeof(tgi::SampleResult),
                           sizeof(tgi::TopToken)};
  return sizes[record];
}

int64_t tgi_scratch_floats(const tgi::AttentionLayer* layer) {
  return tgi::attention_scratch_floats(*layer);
}

// Creates the threads and scratch memory for programs of at most `max_ops` operations.
void* tgi_engine_create(int32_t num_threads, int64_t max_ops, int64_t scratch_floats) {
  return new Engine(num_threads, max_ops, scratch_floats);
}

void tgi_engine_destroy(void* engine) { delete static_cast<Engine*>(engine); }

void tgi_run(void* engine, const tgi::Op* ops, int64_t num_ops, const tgi::Batch* batch) {
  static_cast<Engine*>(engine)->run(ops, num_ops, *batch);
}

// Rounds rows of f32 to bf16. Strides are in elements.
void tgi_round_rows(const float* source, int64_t source_stride, int64_t num_rows,
                    int64_t num_columns, tgi::bf16* target, int64_t target_stride) {
  for (int64_t row = 0; row < num_rows; ++row)
    tgi::round_row(source + row * source_stride, num_columns, target + row * target_stride);
}

void* tgi_sampler_create(int64_t vocab_size, int32_t num_threads) {
  return new tgi::Sampler(vocab_size, num_threads);
}

void tgi_sampler_destroy(void* sampler) { delete static_cast<tgi::Sampler*>(sampler); }

// Samples one token per row with the threads of `engine`. `logits` is f32 [num_rows, vocab_size],
// and its rows are `stride` floats apart.
void tgi_sample(void* engine, void* sampler, const float* logits, int64_t stride,
                const tgi::SampleRow* rows, int64_t num_rows, tgi::SampleResult* results) {
  static_cast<tgi::Sampler*>(sampler)->sample(static_cast<Engine*>(engine)->team(), logits, stride,
                                              rows, num_rows, results);
}

// Writes the most likely tokens that the last call found, row after row.
void tgi_sampler_tops(const void* sampler, int64_t num_rows, tgi::TopToken* tops) {
  for (int64_t row = 0; row < num_rows; ++row) {
    const auto& own = static_cast<const tgi::Sampler*>(sampler)->tops(row);
    tops = std::copy(own.begin(), own.end(), tops);
  }
}

// Releases pages to the system. They read as zero afterwards.
void tgi_release(void* memory, int64_t bytes) {
#if defined(__linux__)
  madvise(memory, static_cast<size_t>(bytes), MADV_DONTNEED);
#else
  (void)memory;
  (void)bytes;
#endif
}

// Requests huge pages. Panels are read from beginning to end, and with small pages address
// translation would reduce the memory bandwidth.
void tgi_advise_huge(void* memory, int64_t bytes) {
#if defined(__linux__)
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}
}
