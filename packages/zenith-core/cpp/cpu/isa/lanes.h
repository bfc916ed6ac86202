// Exchanging lanes between vectors: transposes and many horizontal sums at once.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

#if ZENITH_VEC_BYTES == 64
#define ZENITH_LANES(f)                                                                            \
  vi {                                                                                             \
    f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), \
        f(15)                                                                                      \
  }
#elif ZENITH_VEC_BYTES == 32
#define ZENITH_LANES(f) \
  vi { f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7) }
#else
#define ZENITH_LANES(f) \
  vi { f(0), f(1), f(2), f(3) }
#endif

// Blocks of H lanes exchanged between vectors a and b: `low` takes a where bit H of the lane number
// is 0 and b from H lanes below elsewhere; `high` takes what is left.
template <int H>
[[gnu::always_inline]] inline vf low_blocks(vf a, vf b) {
#define ZENITH_LOW(l) (((l) & H) == 0 ? (l) : kLanes + (l) - H)
  return __builtin_shuffle(a, b, ZENITH_LANES(ZENITH_LOW));
#undef ZENITH_LOW
}
template <int H>
[[gnu::always_inline]] inline vf high_blocks(vf a, vf b) {
#define ZENITH_HIGH(l) (((l) & H) == 0 ? (l) + H : kLanes + (l))
  return __builtin_shuffle(a, b, ZENITH_LANES(ZENITH_HIGH));
#undef ZENITH_HIGH
}
#undef ZENITH_LANES

// The sum and the largest of all lanes, by halves: lane loops wait for each addition.
template <int H = kLanes / 2>
[[gnu::always_inline]] inline float sum_lanes(vf a) {
  const vf folded = a + high_blocks<H>(a, a);
  if constexpr (H > 1) return sum_lanes<H / 2>(folded);
  return folded[0];
}
template <int H = kLanes / 2>
[[gnu::always_inline]] inline float max_lanes(vf a) {
  const vf folded = vmax(a, high_blocks<H>(a, a));
  if constexpr (H > 1) return max_lanes<H / 2>(folded);
  return folded[0];
}

// Transposes kLanes vectors of kLanes lanes in registers.
template <int H = kLanes / 2>
[[gnu::always_inline]] inline void transpose(vf (&r)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & H) != 0) continue;
    const vf low = low_blocks<H>(r[i], r[i + H]);
    r[i + H] = high_blocks<H>(r[i], r[i + H]);
    r[i] = low;
  }
  if constexpr (H > 1) transpose<H / 2>(r);
}

// Lane i of the result is the sum of all lanes of r[i]. Destroys r.
template <int H = 1>
[[gnu::always_inline]] inline vf sum_each(vf (&r)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2 * H) {
    r[i] = low_blocks<H>(r[i], r[i + H]) + high_blocks<H>(r[i], r[i + H]);
  }
  if constexpr (2 * H < kLanes) return sum_each<2 * H>(r);
  return r[0];
}
// The same for the largest of all lanes.
template <int H = 1>
[[gnu::always_inline]] inline vf max_each(vf (&r)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2 * H) {
    r[i] = vmax(low_blocks<H>(r[i], r[i + H]), high_blocks<H>(r[i], r[i + H]));
  }
  if constexpr (2 * H < kLanes) return max_each<2 * H>(r);
  return r[0];
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
