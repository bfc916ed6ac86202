// Where intermediates lie: one arena per call, offsets by lifetime.
#include <algorithm>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <queue>
#include <stdexcept>

#include "zenith/plan.h"

namespace zenith {

std::vector<int64_t> place_blocks(const std::vector<Lifetime>& blocks, int64_t* arena_bytes) {
  constexpr int64_t kAlign = 64;
  std::vector<int64_t> offsets(blocks.size(), 0);
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (blocks[a].first != blocks[b].first) return blocks[a].first < blocks[b].first;
    return blocks[a].bytes > blocks[b].bytes;
  });
  std::map<int64_t, int64_t> gaps;  // offset -> bytes, below the top; neighbours are merged
  using Ending = std::pair<int32_t, size_t>;
  std::priority_queue<Ending, std::vector<Ending>, std::greater<>> live;
  int64_t top = 0;
  const auto rounded = [](int64_t bytes) {
    if (bytes > std::numeric_limits<int64_t>::max() / 4) throw std::bad_alloc();
    return (std::max<int64_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
  };
  const auto release = [&](int64_t offset, int64_t bytes) {
    auto next = gaps.lower_bound(offset);
    if (next != gaps.end() && offset + bytes == next->first) {
      bytes += next->second;
      next = gaps.erase(next);
    }
    if (next != gaps.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == offset) {
        before->second += bytes;
        return;
      }
    }
    gaps.emplace(offset, bytes);
  };
  for (const size_t i : order) {
    while (!live.empty() && live.top().first < blocks[i].first) {
      const size_t ended = live.top().second;
      live.pop();
      release(offsets[ended], rounded(blocks[ended].bytes));
    }
    const int64_t bytes = rounded(blocks[i].bytes);
    auto best = gaps.end();
    for (auto gap = gaps.begin(); gap != gaps.end(); ++gap) {
      if (gap->second >= bytes && (best == gaps.end() || gap->second < best->second)) best = gap;
    }
    if (best != gaps.end()) {
      offsets[i] = best->first;
      const int64_t rest = best->second - bytes;
      gaps.erase(best);
      if (rest > 0) gaps.emplace(offsets[i] + bytes, rest);
    } else if (!gaps.empty() && gaps.rbegin()->first + gaps.rbegin()->second == top) {
      offsets[i] = gaps.rbegin()->first;  // grow the last gap instead of starting above it
      gaps.erase(std::prev(gaps.end()));
      if (__builtin_add_overflow(offsets[i], bytes, &top)) throw std::bad_alloc();
    } else {
      offsets[i] = top;
      if (__builtin_add_overflow(top, bytes, &top)) throw std::bad_alloc();
    }
    live.emplace(blocks[i].last, i);
  }
  *arena_bytes = top;
  return offsets;
}

}  // namespace zenith
