// Samples one token per row of logits. `core/tgi/worker/sampling.py` defines the semantics.
//
// No row is sorted as a whole. Maxima of small groups give a bound for the k-th best score, and a
// bisection over the scores finds where the mass of the best scores reaches a target. Only the
// scores between the bounds are sorted.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "team.h"

namespace tgi {

enum class Logprobs : int32_t { kNone = 0, kProcessed = 1, kRaw = 2 };

enum class Problem : int32_t { kNone = 0, kNotFinite = 1, kNothingAllowed = 2 };

// Parameters of one row. They are applied in the order of the fields, the mask after the penalties.
struct SampleRow {
  double watermark_delta;
  uint64_t watermark_limit;  // a token whose hash is below this is green; 0 = no watermark
  const int32_t* bias_ids;   // [num_biases]
  const float* biases;
  int64_t num_biases;
  // [context_length] prompt and output token ids. Only watermark and penalties read them.
  const int32_t* context;
  int64_t context_length, num_prompt_tokens;
  double repetition_penalty, relative_frequency_penalty, frequency_penalty, presence_penalty;
  const uint32_t* mask;  // bits of allowed tokens, lowest id in the lowest bit; null = all allowed
  double temperature;
  int64_t top_k;                   // 0 = off
  double top_p, typical_p, min_p;  // 1, 1, 0 = off
  float draw;                      // in [0, 1)
  int32_t greedy, has_penalties, logprobs, top_n, unused;
};

struct SampleResult {
  int32_t token, problem;
  float logprob;     // NaN if not requested
  int32_t num_tops;  // number of most likely tokens, see Sampler::tops
};

struct TopToken {
  float logprob;
  int32_t id;
};

// Scratch memory of one thread.
struct SampleScratch {
  explicit SampleScratch(int64_t vocab_size);

  struct Entry {
    float key, weight;
    int32_t index;
  };

  std::vector<float> scores;                      // [vocab_size] after penalties and mask
  std::vector<float> kept_scores, weights, keys;  // [vocab_size]
  std::vector<int32_t> kept_ids;
  std::vector<float> maxima, selected;  // maxima of groups; candidates for the k-th best score
  std::vector<int32_t> context_counts, output_counts;  // [vocab_size], zero between rows
  std::vector<Entry> entries;
};

// Samples many rows. Each row is a share of the job. Keeps the most likely tokens of the last call.
class Sampler final : public Job {
 public:
  Sampler(int64_t vocab_size, int num_threads);

  void sample(Team& team, const float* logits, int64_t stride, const SampleRow* rows,
              int64_t num_rows, SampleResult* results);
  void run_share(int64_t stage, int64_t share, int thread) override;

  // The most likely tokens of row `row` of the last call, ordered by probability and then by id.
  const std::vector<TopToken>& tops(int64_t row) const { return tops_[static_cast<size_t>(row)]; }

 private:
  const int64_t vocab_size_;
  std::vector<std::unique_ptr<SampleScratch>> scratch_;  // by thread, null before its first row
  std::vector<std::vector<TopToken>> tops_;
  const float* logits_ = nullptr;
  int64_t stride_ = 0;
  const SampleRow* rows_ = nullptr;
  SampleResult* results_ = nullptr;
};

}  // namespace tgi
