#include "zenith/pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <thread>

namespace zenith {
namespace {

constexpr int kMaxThreads = 255;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

// Note [Pool ticket]: one 64-bit word says everything a worker must know before it may touch a
// region: epoch (24 bits), how many workers may take part (8), tasks not yet claimed (32). A worker
// claims a task by compare-and-swap; since the epoch is part of the word, a worker that comes late
// can never claim from a region it did not see. fn, ctx and tasks are read only after a claim, and
// the region cannot end before every claimed task has been counted in done_.
class Pool {
 public:
  explicit Pool(int threads) : size_(threads) {
    for (int worker = 1; worker < size_; ++worker) {
      std::thread([this, worker] { work(worker); }).detach();
    }
  }

  int size() const { return size_; }

  void run(int64_t tasks, TaskFn fn, void* ctx, int threads) {
    std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
    if (!lock.owns_lock() || tasks > UINT32_MAX) {
      for (int64_t task = 0; task < tasks; ++task) fn(ctx, task, 0);
      return;
    }
    fn_ = fn;
    ctx_ = ctx;
    tasks_ = tasks;
    done_.store(0, std::memory_order_relaxed);
    epoch_ = (epoch_ + 1) & 0xffffff;
    ticket_.store(epoch_ << 40 | static_cast<uint64_t>(threads) << 32 |
                  static_cast<uint64_t>(tasks));
    if (parked_.load() > 0) ticket_.notify_all();
    claim(0);
    for (int spins = 0; done_.load(std::memory_order_acquire) != tasks; ++spins) {
      if (spins < 4000) {
        relax();
      } else {
        sched_yield();
      }
    }
  }

 private:
  // Runs tasks of the current region until none is left.
  void claim(int worker) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while ((ticket & UINT32_MAX) != 0 && worker < static_cast<int>(ticket >> 32 & 0xff)) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      fn_(ctx_, tasks_ - static_cast<int64_t>(ticket & UINT32_MAX), worker);
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      for (int spins = 0; ticket >> 40 == seen >> 40; ++spins) {
        if (spins < 2000) {
          relax();
        } else if (spins < 4000) {
          sched_yield();
        } else {
          parked_.fetch_add(1);
          ticket_.wait(ticket);
          parked_.fetch_sub(1);
        }
        ticket = ticket_.load(std::memory_order_acquire);
      }
      seen = ticket;
      claim(worker);
    }
  }

  const int size_;
  std::mutex busy_;
  uint64_t epoch_ = 0;
  TaskFn fn_ = nullptr;
  void* ctx_ = nullptr;
  int64_t tasks_ = 0;
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> parked_{0};
};

std::atomic<Pool*> g_pool{nullptr};

// Threads do not survive fork(): the child forgets the parent's pool and builds its own on first
// use. The old object is left alone, since its mutex may be held by a thread that is gone.
void forget_pool() { g_pool.store(nullptr); }

Pool& pool() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current != nullptr) return *current;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  Pool* fresh = new Pool(available_threads());
  if (g_pool.compare_exchange_strong(current, fresh)) return *fresh;
  // Another thread was first. Its pool serves; ours stays parked (once per process at most).
  return *current;
}

// CPU bandwidth limit of the control group, or 0 when there is none.
double cgroup_quota() {
  long long quota = 0, period = 0;
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    const int n = std::fscanf(f, "%lld %lld", &quota, &period);
    std::fclose(f);
    return n == 2 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
  }
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    const int n = std::fscanf(f, "%lld", &quota);
    std::fclose(f);
    FILE* g = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
    if (n != 1 || quota <= 0 || g == nullptr) {
      if (g != nullptr) std::fclose(g);
      return 0;
    }
    const int m = std::fscanf(g, "%lld", &period);
    std::fclose(g);
    return m == 1 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
  }
  return 0;
}

}  // namespace

int available_threads() {
  int n = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) n = CPU_COUNT(&set);
  const double quota = cgroup_quota();
  if (quota > 0) n = std::min(n, static_cast<int>(std::ceil(quota)));
#endif
  return std::clamp(n, 1, kMaxThreads);
}

Parallel parallel(int threads) {
  // The handle carries the worker limit in `self`: the pool itself is found at run time, so a
  // handle made before fork() is good after it.
  static const int most = available_threads();
  const int limit = threads <= 0 ? most : std::min(threads, most);
  return {[](void* self, int64_t tasks, TaskFn fn, void* ctx) {
            pool().run(tasks, fn, ctx, static_cast<int>(reinterpret_cast<intptr_t>(self)));
          },
          reinterpret_cast<void*>(static_cast<intptr_t>(limit)), limit};
}

}  // namespace zenith
