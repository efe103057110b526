// Threads that run one job together: stages in order, each stage's shares by whoever comes.
//
// A stage is over when its shares are done, not when all threads have arrived: a thread that the
// system has put aside between two shares holds up nobody, and catches up later. Even threads begin
// with the first half of the shares and odd ones with the second, each in order, so that a thread
// reads on in memory where it is; who is done helps in the other half. Waiting spins for a short
// while, then offers the core, then sleeps: after about a step's pause, or as soon as somebody took
// the core.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace tgi {

// What a job's threads call. Shares of one stage may run at the same time; a stage begins after all
// of the one before.
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

  // Runs `num_stages` stages of `job`, stage i in num_shares[i] shares; the caller is thread 0.
  // Returns when all are done.
  void run(Job& job, int64_t num_stages, const int64_t* num_shares);

 private:
  struct alignas(64) Stage {
    std::atomic<uint64_t> taken{0};  // `Taken`
    std::atomic<uint32_t> num_shares{0};
    std::atomic<uint32_t> done{0};
  };

  void work(int thread);
  void take_part(uint32_t round, int thread);
  bool take_share(Stage& stage, uint32_t round, int thread, uint32_t* share) const;

  const int size_;
  const int64_t max_stages_;
  std::unique_ptr<Stage[]> stages_;
  // Read by others than thread 0 only while they hold a share, which keeps the round from ending.
  std::atomic<Job*> job_{nullptr};
  std::atomic<int64_t> num_stages_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace tgi
