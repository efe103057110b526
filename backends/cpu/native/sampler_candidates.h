// The tokens that a row may still choose, and the processors that reduce them. Include only after
// the target pragma.
#pragma once

#include <algorithm>
#include <functional>

#include "sampler.h"
#include "sampler_passes.h"

namespace tgi {

// The candidates to keep: those with a key above `key`, and the first `num_ties` with exactly
// `key`.
struct Cut {
  float key;
  int64_t num_ties;
};

// Finds the cut at which the total weight of the best keys first reaches `target`. Equal keys are
// taken in their order. Lowering the key by `spread` divides a weight by about e.
static inline Cut heaviest(const float* keys, const float* weights, int64_t size, double target,
                           float spread, SampleScratch& scratch) {
  constexpr int64_t kFewEnough = 256;
  constexpr int kMaxRounds = 24;  // after these, many keys are left only if almost all are equal
  const float best = maximum_of(keys, size);
  // Invariant: keys >= `high` weigh less than the target in total, keys >= `low` at least as much.
  float high = std::nextafter(best, std::numeric_limits<float>::infinity()),
        low = best - 40 * spread;
  double above = 0;
  int64_t num_above = 0, num_from_low = 0;
  if (mass_from(keys, weights, size, low, &num_from_low) < target) low = kCut, num_from_low = size;
  for (int round = 0; round < kMaxRounds && low > kCut && num_from_low - num_above > kFewEnough;
       ++round) {
    const float middle = low + (high - low) / 2;
    int64_t count = 0;
    const double mass = mass_from(keys, weights, size, middle, &count);
    if (mass >= target)
      low = middle, num_from_low = count;
    else
      high = middle, num_above = count, above = mass;
  }
  auto& entries = scratch.entries;
  entries.clear();
  const __m512 least = _mm512_set1_ps(low), most = _mm512_set1_ps(high);
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 key = load_scores(keys + i, size - i);
    uint32_t lanes = lanes_of(size - i) & _mm512_cmp_ps_mask(key, least, _CMP_GE_OQ) &
                     _mm512_cmp_ps_mask(key, most, _CMP_LT_OQ);
    for (; lanes != 0; lanes &= lanes - 1) {
      const int64_t index = i + __builtin_ctz(lanes);
      entries.push_back({keys[index], weights[index], static_cast<int32_t>(index)});
    }
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.key != b.key ? a.key > b.key : a.index < b.index;
  });
  Cut cut{best, 0};
  for (const auto& entry : entries) {
    cut = {entry.key, entry.key == cut.key ? cut.num_ties + 1 : 1};
    above += static_cast<double>(entry.weight);
    if (above >= target) break;
  }
  return cut;
}

// The `count`-th best score of x, 1 <= count <= size, or kCut if fewer scores are above kCut. The
// `count` groups with the highest maxima contain `count` scores that are at least the lowest of
// these maxima. Groups with a lower maximum need not be read.
static inline float kth_best(const float* x, int64_t size, int64_t count, SampleScratch& scratch) {
  std::vector<float>& selected = scratch.selected;
  const int64_t num_groups = (size + kGroup - 1) / kGroup;
  if (count > num_groups) {
    std::fill_n(scratch.keys.begin(), size, 1.0f);
    return heaviest(x, scratch.keys.data(), size, static_cast<double>(count), 1.0f, scratch).key;
  }
  selected.assign(scratch.maxima.begin(), scratch.maxima.begin() + num_groups);
  std::nth_element(selected.begin(), selected.begin() + count - 1, selected.end(),
                   std::greater<>());
  const float bound = selected[static_cast<size_t>(count - 1)];
  selected.clear();
  for (int64_t i = 0; i < size; ++i) {
    if (i % kGroup == 0 && scratch.maxima[static_cast<size_t>(i / kGroup)] < bound) {
      i += kGroup - 1;
      continue;
    }
    if (x[i] >= bound && x[i] > kCut) selected.push_back(x[i]);
  }
  if (static_cast<int64_t>(selected.size()) < count) return kCut;
  std::nth_element(selected.begin(), selected.begin() + count - 1, selected.end(),
                   std::greater<>());
  return selected[static_cast<size_t>(count - 1)];
}

// The scores in the order of token ids, at first of the whole vocabulary. Their weights are
// e^((score - peak) / temperature).
class Candidates {
 public:
  Candidates(const float* scores, int64_t size, float peak, float temperature,
             SampleScratch& scratch)
      : scores_(scores), size_(size), peak_(peak), temperature_(temperature), scratch_(scratch) {}

  // Must be called before `make_weights`. Needs the maxima of the scores.
  void keep_top_k(int64_t top_k) {
    if (top_k >= size_) return;
    const float least = kth_best(scores_, size_, top_k, scratch_);
    keep(scores_, {least, least > kCut ? size_ : 0}, nullptr);
  }

  void make_weights() {
    total_ = weigh(scores_, size_, peak_, temperature_, scratch_.weights.data());
  }

  void keep_nucleus(double top_p) {
    float* weights = scratch_.weights.data();
    keep(scores_, heaviest(scores_, weights, size_, top_p * total_, temperature_, scratch_),
         weights);
  }

  void keep_typical(double typical_p) {
    float *keys = scratch_.keys.data(), *weights = scratch_.weights.data();
    for (int64_t i = 0; i < size_; ++i) keys[i] = (scores_[i] - peak_) / temperature_;
    // The surprisal of a token is a constant minus its key, and the entropy is the mean surprisal.
    // The constant cancels in their difference.
    const auto mean = static_cast<float>(weighted_mean(keys, weights, size_, total_));
    for (int64_t i = 0; i < size_; ++i) keys[i] = -std::fabs(keys[i] - mean);
    const Cut cut = heaviest(keys, weights, size_, typical_p * total_, 1.0f, scratch_);
    keep(keys, {cut.key, size_}, weights);
  }

  void keep_min_p(double min_p) {
    const double least = static_cast<double>(maximum_of(scores_, size_)) +
                         static_cast<double>(temperature_) * std::log(min_p);
    keep(scores_, {static_cast<float>(least), size_}, scratch_.weights.data());
  }

  int64_t choose(float draw) const {
    return first_beyond(scratch_.weights.data(), size_, static_cast<double>(draw) * total_);
  }

  int32_t id(int64_t index) const {
    return is_whole_ ? static_cast<int32_t>(index) : scratch_.kept_ids[static_cast<size_t>(index)];
  }
  float score(int64_t index) const { return scores_[index]; }
  const float* scores() const { return scores_; }
  int64_t size() const { return size_; }
  bool is_whole() const { return is_whole_; }
  float log_probability(float score) const {
    return static_cast<float>((static_cast<double>(score) - static_cast<double>(peak_)) /
                                  static_cast<double>(temperature_) -
                              std::log(total_));
  }

 private:
  // Keeps the candidates that `cut` selects by `keys`. If `weights` is not null, also keeps their
  // weights and computes the sum of these.
  void keep(const float* keys, Cut cut, float* weights) {
    float* scores = scratch_.kept_scores.data();
    int32_t* ids = scratch_.kept_ids.data();
    const __m512 key = _mm512_set1_ps(cut.key);
    const __m512i lane_ids =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int64_t num_kept = 0;
    for (int64_t i = 0; i < size_; i += 16) {
      const __mmask16 lanes = lanes_of(size_ - i);
      const __m512 own = _mm512_maskz_loadu_ps(lanes, keys + i);
      __mmask16 kept = _mm512_mask_cmp_ps_mask(lanes, own, key, _CMP_GT_OQ);
      for (uint32_t ties = _mm512_mask_cmp_ps_mask(lanes, own, key, _CMP_EQ_OQ);
           ties != 0 && cut.num_ties > 0; ties &= ties - 1, --cut.num_ties)
        kept |= static_cast<__mmask16>(ties & -ties);
      if (kept == 0) continue;
      // Each vector is read before it is overwritten, and stores never reach unread elements.
      const __m512i id =
          is_whole_ ? _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(i)), lane_ids)
                    : _mm512_maskz_loadu_epi32(lanes, ids + i);
      const __m512 score = _mm512_maskz_loadu_ps(lanes, scores_ + i);
      if (weights != nullptr)
        _mm512_storeu_ps(weights + num_kept,
                         _mm512_maskz_compress_ps(kept, _mm512_maskz_loadu_ps(lanes, weights + i)));
      _mm512_storeu_si512(ids + num_kept, _mm512_maskz_compress_epi32(kept, id));
      _mm512_storeu_ps(scores + num_kept, _mm512_maskz_compress_ps(kept, score));
      num_kept += __builtin_popcount(kept);
    }
    scores_ = scores;
    size_ = num_kept;
    is_whole_ = false;
    if (weights != nullptr) total_ = sum_of(weights, size_);
  }

  const float* scores_;
  int64_t size_;
  const float peak_, temperature_;
  SampleScratch& scratch_;
  double total_ = 0;
  bool is_whole_ = true;
};

}  // namespace tgi
