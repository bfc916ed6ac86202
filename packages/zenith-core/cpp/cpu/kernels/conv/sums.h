// Sums of a tile in registers: a multiply-add by what lies in memory, and what ends the tile.
#pragma once

#include "cpu/kernels/conv/tile.h"

namespace zenith::ZENITH_ISA {
namespace {

// Ends a tile: residual, clamp, store of its first `cols` columns.
template <int kRows, int kVecs>
[[gnu::always_inline]] inline void store_tile(vf (&sum)[kRows][kVecs], const TileEnd& end, float* y,
                                              int64_t ldy, int64_t cols) {
  const vf lo = splat(end.lo), hi = splat(end.hi);
  if (cols >= kVecs * kLanes) {
    if (end.add != nullptr) {
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) sum[i][j] += load(end.add + i * end.add_row + j * kLanes);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) {
        store(y + i * ldy + j * kLanes, clamp(sum[i][j], lo, hi));
      }
    }
    return;
  }
  // The last vector is partial.
  const int n = static_cast<int>(cols - (kVecs - 1) * kLanes);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      float* to = y + i * ldy + j * kLanes;
      const bool whole = j + 1 < kVecs;
      if (end.add != nullptr) {
        const float* add = end.add + i * end.add_row + j * kLanes;
        sum[i][j] += whole ? load(add) : load_n(add, n);
      }
      const vf v = clamp(sum[i][j], lo, hi);
      if (whole) {
        store(to, v);
      } else {
        store_n(to, v, n);
      }
    }
  }
}

// As multiply_add of simd.h, with y in memory: no register holds it.
[[gnu::always_inline]] inline void multiply_add(vf& acc, vf x, const float* y) {
#if (defined(__FMA__) && ZENITH_VEC_BYTES == 32) || (defined(__AVX512F__) && ZENITH_VEC_BYTES == 64)
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "m"(*reinterpret_cast<const vf_u*>(y)));
#else
  acc += x * load(y);
#endif
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
