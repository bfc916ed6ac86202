// Sums over contiguous numbers, of float32 or bfloat16 in memory.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/isa/lanes.h"

namespace zenith::ZENITH_ISA {
namespace {

// v where the lane's number is in [begin, end), 0 elsewhere.
[[gnu::always_inline]] inline vf only_lanes(vf v, int64_t begin, int64_t end) {
  vi lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  const vi inside = (lane >= static_cast<int32_t>(begin)) & (lane < static_cast<int32_t>(end));
  return (vf)((vi)v & inside);
}

// The sum over i < n of x[i], or of (x[i] - mean)^2, spread over the lanes; four accumulators.
template <bool SQUARES, typename T>
[[gnu::always_inline]] inline vf lane_sums(const T* x, int64_t n, float mean) {
  const auto term = [mean](vf v) { return SQUARES ? (v - mean) * (v - mean) : v; };
  vf a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a += term(load(x + i));
    b += term(load(x + i + kLanes));
    c += term(load(x + i + 2 * kLanes));
    d += term(load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) a += term(load(x + i));
  if (i < n && n >= kLanes) {  // the last vector, without what was added already
    b += only_lanes(term(load(x + n - kLanes)), kLanes - (n - i), kLanes);
  } else if (i < n) {
    b += only_lanes(term(load_n(x, static_cast<int>(n))), 0, n);
  }
  return (a + b) + (c + d);
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
