// A thread pool that runs one job at a time. The stages of a job run in order, and any thread may
// run any share of a stage.
//
// A stage ends when its shares are done, not when all threads have arrived. A thread that the
// system descheduled between two shares therefore delays no other thread, and catches up later.
// Threads with an even number begin with the first half of the shares and the others with the
// second half, each in order, so that a thread reads consecutive memory. A thread whose half is
// done takes shares of the other half. A waiting thread first spins for a short time and then
// yields its core. It sleeps when it has waited for about the time between two steps, or as soon as
// another thread uses the core.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace tgi {

// The interface that the threads call. Shares of one stage may run at the same time. A stage begins
// after all shares of the previous stage are done.
class Job {
 public:
  virtual ~Job() = default;
  virtual void run_share(int64_t stage, int64_t share, int thread) = 0;
};

class Team {
 public:
  Team(int num_threads, int64_t max_stages);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs `num_stages` stages of `job`, stage i in num_shares[i] shares. The caller is thread 0.
  // Returns when all shares are done.
  void run(Job& job, int64_t num_stages, const int64_t* num_shares);

 private:
  struct alignas(64) Stage {
    std::atomic<uint64_t> taken{0};  // see `Taken`
    std::atomic<uint32_t> num_shares{0};
    std::atomic<uint32_t> done{0};
  };

  void work(int thread);
  void take_part(uint32_t round, int thread);
  bool take_share(Stage& stage, uint32_t round, int thread, uint32_t* share) const;

  const int size_;
  const int64_t max_stages_;
  std::unique_ptr<Stage[]> stages_;
  // Threads other than 0 read `job_` only while they run a share, which keeps the round from
  // ending.
  std::atomic<Job*> job_{nullptr};
  std::atomic<int64_t> num_stages_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace tgi
