// Threads that run one job together, with barriers between its stages.
//
// Waiting spins for a short while, then sleeps: on cores of its own a barrier costs well under a microsecond, and where another
// process takes a core, or nothing is to be done, no cycle is burnt.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace tgi {

class Team {
 public:
  explicit Team(int num_threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs job(thread) on every thread, the caller being thread 0, and returns when all are done.
  void run(const std::function<void(int)>& job);

  // All threads of the running job meet; the shares of the next stage are then handed out from zero.
  void barrier();

  // The next share of this stage: a number that no other thread got. Shares end where the stage's own count ends.
  int64_t next_share() { return shares_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void work(int thread);
  void wait_for_change(const std::atomic<uint32_t>& word, uint32_t old) const;

  const int size_;
  int spins_;
  const std::function<void(int)>* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int64_t> shares_{0};
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tgi
