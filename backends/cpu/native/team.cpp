#include "team.h"

#include <cassert>
#include <chrono>

namespace tgi {
namespace {

constexpr int kSpins = 2000;  // about 20 microseconds of pause instructions
// The time between two steps is shorter than this, and a sleeping thread needs about 50
// microseconds to wake up.
constexpr auto kYieldTime = std::chrono::microseconds(1000);
// If a yield takes longer than this, another thread used the core. This thread then sleeps, because
// otherwise the two would keep interrupting each other.
constexpr auto kSharedYield = std::chrono::microseconds(20);

// The shares of a stage that are taken, in one word: the number taken of each half, and the round.
// The round keeps a late thread from taking a share of a later round.
struct Taken {
  static constexpr int kCountBits = 22, kRoundBits = 20;

  static uint64_t none(uint32_t round) { return static_cast<uint64_t>(round) << 2 * kCountBits; }
  static uint64_t one(int half) { return uint64_t{1} << half * kCountBits; }
  static uint32_t count(uint64_t taken, int half) {
    return static_cast<uint32_t>(taken >> half * kCountBits) & ((1u << kCountBits) - 1);
  }
  static bool is_of(uint64_t taken, uint32_t round) {
    return ((taken >> 2 * kCountBits ^ round) & ((1u << kRoundBits) - 1)) == 0;
  }
};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `reached(word)` is true. The thread that makes it true must notify `word`.
template <typename Reached>
void wait_until(const std::atomic<uint32_t>& word, Reached reached) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (reached(word.load(std::memory_order_acquire))) return;
    pause();
  }
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + kYieldTime;
  for (auto before = Clock::now(), now = before; now < end && now - before < kSharedYield;
       now = Clock::now()) {
    if (reached(word.load(std::memory_order_acquire))) return;
    before = now;
    std::this_thread::yield();
  }
  for (uint32_t value = word.load(std::memory_order_acquire); !reached(value);
       value = word.load(std::memory_order_acquire))
    word.wait(value, std::memory_order_acquire);
}

}  // namespace

Team::Team(int num_threads, int64_t max_stages)
    : size_(num_threads),
      max_stages_(max_stages),
      stages_(new Stage[static_cast<size_t>(max_stages)]) {
  for (int thread = 1; thread < size_; ++thread)
    threads_.emplace_back([this, thread] { work(thread); });
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
    assert(num_shares[i] < 1 << Taken::kCountBits);
    Stage& stage = stages_[static_cast<size_t>(i)];
    stage.num_shares.store(static_cast<uint32_t>(num_shares[i]), std::memory_order_relaxed);
    stage.done.store(0, std::memory_order_relaxed);
    stage.taken.store(Taken::none(round), std::memory_order_release);
  }
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  take_part(round, 0);
}

bool Team::take_share(Stage& stage, uint32_t round, int thread, uint32_t* share) const {
  const uint32_t num_shares = stage.num_shares.load(std::memory_order_relaxed),
                 first_half = (num_shares + 1) / 2;
  const uint32_t sizes[] = {first_half, num_shares - first_half};
  uint64_t taken = stage.taken.load(std::memory_order_acquire);
  while (Taken::is_of(taken, round)) {
    int half = thread % 2;
    if (Taken::count(taken, half) == sizes[half]) half = 1 - half;
    const uint32_t place = Taken::count(taken, half);
    if (place == sizes[half]) return false;
    if (stage.taken.compare_exchange_weak(taken, taken + Taken::one(half),
                                          std::memory_order_acq_rel)) {
      *share = half == 0 ? place : first_half + place;
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
    while (take_share(stage, round, thread, &share)) {
      job_.load(std::memory_order_relaxed)->run_share(i, share, thread);
      const uint32_t num_shares = stage.num_shares.load(std::memory_order_relaxed);
      if (stage.done.fetch_add(1, std::memory_order_acq_rel) + 1 == num_shares)
        stage.done.notify_all();
    }
    wait_until(stage.done, [&](uint32_t done) {
      return done >= stage.num_shares.load(std::memory_order_relaxed);
    });
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
