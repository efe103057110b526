#include "team.h"

#include <cassert>
#include <chrono>

namespace tgi {
namespace {

constexpr int kSpins = 2000;  // about 20 microseconds of pause instructions
// From one step to the next passes less than that, and who sleeps comes some 50 microseconds late.
constexpr auto kYieldTime = std::chrono::microseconds(1000);
// A yield that takes longer gave the core to somebody who needs it: waiting on would only take turns with them.
constexpr auto kSharedYield = std::chrono::microseconds(20);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until word satisfies `reached`; whoever brings that about notifies.
template <typename Reached>
void wait_until(const std::atomic<uint32_t>& word, Reached reached) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (reached(word.load(std::memory_order_acquire))) return;
    pause();
  }
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + kYieldTime;
  for (auto before = Clock::now(), now = before; now < end && now - before < kSharedYield; now = Clock::now()) {
    if (reached(word.load(std::memory_order_acquire))) return;
    before = now;
    std::this_thread::yield();
  }
  for (uint32_t value = word.load(std::memory_order_acquire); !reached(value); value = word.load(std::memory_order_acquire))
    word.wait(value, std::memory_order_acquire);
}

}  // namespace

Team::Team(int num_threads, int64_t max_stages)
    : size_(num_threads), max_stages_(max_stages), stages_(new Stage[static_cast<size_t>(max_stages)]) {
  for (int thread = 1; thread < size_; ++thread) threads_.emplace_back([this, thread] { work(thread); });
}

Team::~Team() {
  stop_.store(true);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::run(Job& job, int64_t num_stages, const int64_t* num_shares) {
  assert(num_stages <= max_stages_);
  const uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  job_.store(&job, std::memory_order_relaxed);
  num_stages_.store(num_stages, std::memory_order_relaxed);
  for (int64_t i = 0; i < num_stages; ++i) {
    Stage& stage = stages_[static_cast<size_t>(i)];
    stage.num_shares.store(static_cast<uint32_t>(num_shares[i]), std::memory_order_relaxed);
    stage.done.store(0, std::memory_order_relaxed);
    stage.next.store(static_cast<uint64_t>(round) << 32, std::memory_order_release);
  }
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  take_part(round, 0);
}

bool Team::take_share(Stage& stage, uint32_t round, uint32_t* share) const {
  const uint32_t num_shares = stage.num_shares.load(std::memory_order_relaxed);
  uint64_t next = stage.next.load(std::memory_order_acquire);
  while (next >> 32 == round && static_cast<uint32_t>(next) < num_shares) {
    if (stage.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) {
      *share = static_cast<uint32_t>(next);
      return true;
    }
  }
  return false;
}

void Team::take_part(uint32_t round, int thread) {
  const int64_t num_stages = num_stages_.load(std::memory_order_relaxed);
  for (int64_t i = 0; i < num_stages && round_.load(std::memory_order_relaxed) == round; ++i) {
    Stage& stage = stages_[static_cast<size_t>(i)];
    uint32_t share;
    while (take_share(stage, round, &share)) {
      job_.load(std::memory_order_relaxed)->run_share(i, share, thread);
      const uint32_t num_shares = stage.num_shares.load(std::memory_order_relaxed);
      if (stage.done.fetch_add(1, std::memory_order_acq_rel) + 1 == num_shares) stage.done.notify_all();
    }
    wait_until(stage.done, [&](uint32_t done) { return done >= stage.num_shares.load(std::memory_order_relaxed); });
  }
}

void Team::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    wait_until(round_, [&](uint32_t round) { return round != seen; });
    seen = round_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    take_part(seen, thread);
  }
}

}  // namespace tgi
