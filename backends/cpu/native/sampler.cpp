// Samples one row at a time: computes scores from logits, chooses a token, and then computes the
// requested log probabilities. See sampler.h.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include "sampler.h"

#include <cstring>

#include "sampler_candidates.h"

namespace tgi {
namespace {

constexpr uint32_t kHashKey = 15485863, kGolden = 0x9E3779B9;

// The hash of token v after `previous` is mix32(previous * kHashKey + v * kGolden), where mix32 is
// the finalizer of MurmurHash3.
void favour_green_tokens(float* scores, int64_t size, uint32_t previous, uint64_t limit,
                         float delta) {
  const __m512i lane_hash =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(static_cast<int32_t>(kGolden)));
  const __m512i last_green =
      _mm512_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(limit - 1)));
  for (int64_t i = 0; i < size; i += 16) {
    const uint32_t base = previous * kHashKey + static_cast<uint32_t>(i) * kGolden;
    __m512i h = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(base)), lane_hash);
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)),
                           _mm512_set1_epi32(static_cast<int32_t>(0x85EBCA6B)));
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 13)),
                           _mm512_set1_epi32(static_cast<int32_t>(0xC2B2AE35)));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    const __mmask16 lanes = lanes_of(size - i),
                    green = _mm512_mask_cmple_epu32_mask(lanes, h, last_green);
    const __m512 score = _mm512_maskz_loadu_ps(lanes, scores + i);
    _mm512_mask_storeu_ps(scores + i, lanes,
                          _mm512_mask_add_ps(score, green, score, _mm512_set1_ps(delta)));
  }
}

void penalize(float* scores, const SampleRow& row, SampleScratch& scratch) {
  int32_t *counts = scratch.context_counts.data(), *output_counts = scratch.output_counts.data();
  for (int64_t i = 0; i < row.context_length; ++i) {
    ++counts[row.context[i]];
    output_counts[row.context[i]] += i >= row.num_prompt_tokens;
  }
  for (int64_t i = 0; i < row.context_length; ++i) {
    const int32_t id = row.context[i];
    if (counts[id] == 0) continue;  // an earlier occurrence was already penalized
    double score = static_cast<double>(scores[id]);
    score = score < 0 ? score * row.repetition_penalty : score / row.repetition_penalty;
    score -= row.relative_frequency_penalty * counts[id] / static_cast<double>(row.context_length);
    if (output_counts[id] > 0)
      score -= row.frequency_penalty * output_counts[id] + row.presence_penalty;
    scores[id] = static_cast<float>(score);
    counts[id] = output_counts[id] = 0;
  }
}

void forbid(float* scores, int64_t size, const uint32_t* mask) {
  for (int64_t i = 0; i < size; i += 16) {
    const auto allowed = static_cast<__mmask16>(mask[i / 32] >> (i % 32));
    _mm512_mask_storeu_ps(scores + i, lanes_of(size - i) & static_cast<__mmask16>(~allowed),
                          _mm512_set1_ps(kCut));
  }
}

// The scores after watermark, bias, penalties and mask, or `logits` itself if the row uses none.
const float* processed(const float* logits, int64_t size, const SampleRow& row,
                       SampleScratch& scratch) {
  if (row.watermark_limit == 0 && row.num_biases == 0 && !row.has_penalties && row.mask == nullptr)
    return logits;
  float* scores = scratch.scores.data();
  std::memcpy(scores, logits, static_cast<size_t>(size) * sizeof(float));
  if (row.watermark_limit != 0) {
    const auto previous = static_cast<uint32_t>(row.context[row.context_length - 1]);
    favour_green_tokens(scores, size, previous, row.watermark_limit,
                        static_cast<float>(row.watermark_delta));
  }
  for (int64_t i = 0; i < row.num_biases; ++i) scores[row.bias_ids[i]] += row.biases[i];
  if (row.has_penalties) penalize(scores, row, scratch);
  if (row.mask != nullptr) forbid(scores, size, row.mask);
  return scores;
}

// Appends the `count` best of x and any that are equal to the last of them, ordered by score and
// then by id. Scores that were cut are never listed.
template <typename Id, typename LogProbability>
void list_tops(const float* x, int64_t size, int64_t count, SampleScratch& scratch, Id id,
               LogProbability logprob, std::vector<TopToken>& tops) {
  group_maxima(x, size, scratch.maxima.data());
  const float least = kth_best(x, size, std::min(count, size), scratch);
  for (int64_t i = 0; i < size; ++i)
    if (x[i] >= least && x[i] > kCut) tops.push_back({x[i], id(i)});
  std::sort(tops.begin(), tops.end(), [](const TopToken& a, const TopToken& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  });
  for (TopToken& top : tops) top.logprob = logprob(top.logprob);
}

void warp(Candidates& candidates, const SampleRow& row) {
  if (row.greedy) {
    candidates.make_weights();
    return;
  }
  if (row.top_k > 0) candidates.keep_top_k(row.top_k);
  candidates.make_weights();
  if (row.top_p < 1) candidates.keep_nucleus(row.top_p);
  if (row.typical_p < 1) candidates.keep_typical(row.typical_p);
  if (row.min_p > 0) candidates.keep_min_p(row.min_p);
}

SampleResult sample_row(const float* logits, int64_t size, const SampleRow& row,
                        SampleScratch& scratch, std::vector<TopToken>& tops) {
  SampleResult result{0, static_cast<int32_t>(Problem::kNone),
                      std::numeric_limits<float>::quiet_NaN(), 0};
  const auto failed = [&](Problem problem) {
    result.problem = static_cast<int32_t>(problem);
    return result;
  };
  const float highest = group_maxima(logits, size, scratch.maxima.data());
  if (!std::isfinite(highest)) return failed(Problem::kNotFinite);
  const float* scores = processed(logits, size, row, scratch);
  const float peak = scores == logits ? highest : group_maxima(scores, size, scratch.maxima.data());
  if (peak == kCut) return failed(Problem::kNothingAllowed);
  if (row.greedy)
    result.token = static_cast<int32_t>(first_index(scores, size, scratch.maxima.data(), peak));
  const auto wanted = static_cast<Logprobs>(row.logprobs);
  if (!row.greedy || wanted == Logprobs::kProcessed) {
    Candidates candidates(scores, size, peak,
                          row.greedy ? 1.0f : static_cast<float>(row.temperature), scratch);
    warp(candidates, row);
    const int64_t choice = row.greedy ? -1 : candidates.choose(row.draw);
    if (!row.greedy) result.token = candidates.id(choice);
    if (wanted == Logprobs::kProcessed) {
      const auto logprob = [&](float score) { return candidates.log_probability(score); };
      result.logprob = logprob(row.greedy ? peak : candidates.score(choice));
      if (row.top_n > 0)
        list_tops(
            candidates.scores(), candidates.size(), row.top_n, scratch,
            [&](int64_t i) { return candidates.id(i); }, logprob, tops);
    }
  }
  if (wanted == Logprobs::kRaw) {
    const double log_total =
        static_cast<double>(highest) + std::log(weigh(logits, size, highest, 1.0f, nullptr));
    const auto logprob = [&](float score) {
      return static_cast<float>(static_cast<double>(score) - log_total);
    };
    result.logprob = logprob(logits[result.token]);
    if (row.top_n > 0)
      list_tops(
          logits, size, row.top_n, scratch, [](int64_t i) { return static_cast<int32_t>(i); },
          logprob, tops);
  }
  result.num_tops = static_cast<int32_t>(tops.size());
  return result;
}

}  // namespace

SampleScratch::SampleScratch(int64_t vocab_size) {
  // Whole vectors are stored, even after the last kept element.
  const auto size = static_cast<size_t>(round_up(vocab_size, 16)) + 16;
  for (auto* floats : {&scores, &kept_scores, &weights, &keys}) floats->resize(size);
  for (auto* integers : {&kept_ids, &context_counts, &output_counts}) integers->resize(size);
  maxima.resize(size / kGroup + 1);
}

Sampler::Sampler(int64_t vocab_size, int num_threads)
    : vocab_size_(vocab_size), scratch_(static_cast<size_t>(num_threads)) {}

void Sampler::sample(Team& team, const float* logits, int64_t stride, const SampleRow* rows,
                     int64_t num_rows, SampleResult* results) {
  logits_ = logits;
  stride_ = stride;
  rows_ = rows;
  results_ = results;
  if (tops_.size() < static_cast<size_t>(num_rows)) tops_.resize(static_cast<size_t>(num_rows));
  for (auto& tops : tops_) tops.clear();
  if (num_rows == 1) return run_share(0, 0, 0);  // faster than waking the other threads
  team.run(*this, 1, &num_rows);
}

void Sampler::run_share(int64_t, int64_t share, int thread) {
  auto& scratch = scratch_[static_cast<size_t>(thread)];
  if (scratch == nullptr) scratch = std::make_unique<SampleScratch>(vocab_size_);
  results_[share] = sample_row(logits_ + share * stride_, vocab_size_, rows_[share], *scratch,
                               tops_[static_cast<size_t>(share)]);
}

}  // namespace tgi
