#include "zenith/pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <memory>
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

// Note [Pool ticket]: every worker has a range of the tasks of a region, in one 64-bit word: epoch
// (24 bits), the next one (20), the end (20). Its owner takes tasks from the front, and when it has
// none left, from the back of the others' ranges. So the same part of the tasks goes to the same
// core in one region after the other, and finds in its cache what it wrote there, unless a core is
// late. All by compare-and-swap; since the epoch is part of the word, a worker that comes late can
// never claim from a region it did not see, and one that does not take part keeps a word of an old
// region. fn, ctx and tasks are read only after a claim, and the region cannot end before every
// claimed task has been counted in done_.
struct Ticket {
  static constexpr uint64_t kMost = (uint64_t{1} << 20) - 1;

  uint64_t word;

  static Ticket of(uint64_t epoch, uint64_t next, uint64_t end) {
    return {epoch << 40 | next << 20 | end};
  }
  uint64_t epoch() const { return word >> 40; }
  uint64_t next() const { return word >> 20 & kMost; }
  uint64_t end() const { return word & kMost; }
};

class Pool {
 public:
  explicit Pool(int threads) : size_(threads), workers_(new Worker[static_cast<size_t>(threads)]) {
    for (int worker = 1; worker < size_; ++worker) {
      std::thread([this, worker] { work(worker); }).detach();
    }
  }

  int size() const { return size_; }

  void run(int64_t tasks, TaskFn fn, void* ctx, int threads) {
    std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
    if (!lock.owns_lock()) {
      for (int64_t task = 0; task < tasks; ++task) fn(ctx, task, 0);
      return;
    }
    fn_ = fn;
    ctx_ = ctx;
    tasks_ = tasks;
    each_ = (tasks - 1) / static_cast<int64_t>(Ticket::kMost) + 1;
    const int workers = std::min(threads, size_);
    threads_ = workers;
    done_.store(0, std::memory_order_relaxed);
    epoch_ = (epoch_ + 1) & 0xffffff;
    const int64_t claims = (tasks - 1) / each_ + 1;
    uint64_t begin = 0;
    for (int worker = 0; worker < workers; ++worker) {
      const auto end = static_cast<uint64_t>((claims * (worker + 1) + workers - 1) / workers);
      workers_[worker].ticket.store(Ticket::of(epoch_, begin, end).word);
      begin = end;
    }
    for (int worker = 1; worker < workers; ++worker) {
      if (workers_[worker].parked.load()) workers_[worker].ticket.notify_all();
    }
    claim(0, epoch_);
    for (int spins = 0; done_.load(std::memory_order_acquire) != claims; ++spins) {
      if (spins < 4000) {
        relax();
      } else {
        sched_yield();
      }
    }
  }

 private:
  struct alignas(64) Worker {
    std::atomic<uint64_t> ticket{0};
    std::atomic<bool> parked{false};
  };

  // Runs tasks of a region until none is left.
  void claim(int worker, uint64_t epoch) {
    while (take<true>(worker, worker, epoch)) {
    }
    // threads_ is that of a later region, if this one has ended; no word has the epoch then.
    const int others = threads_.load(std::memory_order_relaxed);
    for (int i = 1; i < others; ++i) {
      while (take<false>((worker + i) % others, worker, epoch)) {
      }
    }
  }

  // One task of `owner`, if it has one left.
  template <bool kFront>
  bool take(int owner, int worker, uint64_t epoch) {
    std::atomic<uint64_t>& word = workers_[owner].ticket;
    Ticket now{word.load(std::memory_order_acquire)};
    while (now.epoch() == epoch && now.next() < now.end()) {
      const uint64_t claimed = kFront ? now.next() : now.end() - 1;
      const Ticket left = kFront ? Ticket::of(epoch, now.next() + 1, now.end())
                                 : Ticket::of(epoch, now.next(), now.end() - 1);
      if (!word.compare_exchange_weak(now.word, left.word, std::memory_order_acq_rel)) continue;
      const int64_t first = static_cast<int64_t>(claimed) * each_;
      const int64_t last = std::min(tasks_, first + each_);
      for (int64_t task = first; task < last; ++task) fn_(ctx_, task, worker);
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
    return false;
  }

  void work(int worker) {
    Worker& own = workers_[worker];
    uint64_t seen = 0;
    for (;;) {
      Ticket ticket{own.ticket.load(std::memory_order_acquire)};
      for (int spins = 0; ticket.epoch() == seen; ++spins) {
        if (spins < 2000) {
          relax();
        } else if (spins < 4000) {
          sched_yield();
        } else {
          own.parked.store(true);
          own.ticket.wait(ticket.word);
          own.parked.store(false);
        }
        ticket.word = own.ticket.load(std::memory_order_acquire);
      }
      seen = ticket.epoch();
      claim(worker, seen);
    }
  }

  const int size_;
  const std::unique_ptr<Worker[]> workers_;
  std::mutex busy_;
  uint64_t epoch_ = 0;
  TaskFn fn_ = nullptr;
  void* ctx_ = nullptr;
  int64_t tasks_ = 0, each_ = 1;  // in all; of a claim
  std::atomic<int> threads_{0};
  alignas(64) std::atomic<int64_t> done_{0};
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
