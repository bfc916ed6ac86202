// Shared by the kernels that read images between their pixels: data is channels-last, and a result
// is a weighted sum of whole pixels.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// A coordinate as an integer can hold it: data may be anything, NaN becomes far outside.
inline float tame(float v) {
  constexpr float kFar = 1e8f;
  if (!(v > -kFar)) return -kFar;
  return v < kFar ? v : kFar;
}

// y[0, n) (+)= sum of weight[t] * (x + offset[t])[0, n)
[[maybe_unused]] void sum_pixels(const float* x, const int64_t* offset, const float* weight,
                                 int taps, float* y, int64_t n) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    vf v{};
    for (int t = 0; t < taps; ++t) v += splat(weight[t]) * load(x + offset[t] + c);
    store(y + c, v);
  }
  for (; c < n; ++c) {
    float v = 0;
    for (int t = 0; t < taps; ++t) v += weight[t] * x[offset[t] + c];
    y[c] = v;
  }
}

// Calls visit(line) for every line in [0, lines), in tasks of a few.
template <typename F>
void for_each_line(const Call& call, int64_t lines, const F& visit) {
  const int64_t per_task = most(1, ceil_div(lines, call.parallel.threads * int64_t{4}));
  parallel_for(call, ceil_div(lines, per_task), [&](int64_t task, int worker) {
    const int64_t end = least(lines, (task + 1) * per_task);
    for (int64_t line = task * per_task; line < end; ++line) visit(line, worker);
  });
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
