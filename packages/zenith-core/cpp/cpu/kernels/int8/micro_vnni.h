// The product of the int8 family with vpdpbusd (micro.h).
#pragma once

#include "cpu/kernels/int8/left.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

using Left = uint8_t;
using Right = int8_t;
constexpr int64_t kGroup = 4, kDepthStep = 4;
constexpr int kColVectors = 3;
constexpr int kCols = kColVectors * kLanes;
constexpr int64_t kParts = 1, kPartRows = 8;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

[[gnu::always_inline]] inline void multiply_add_bytes(vi& acc, vi x, vi y) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(y));
}

template <int kCount>
[[gnu::noinline]] void run_rows(const LeftTile<Left, kParts>& left, const int8_t* panel,
                                const char* ahead, int32_t* sums) {
  // Independent sums hide the latency where there are few rows.
  constexpr int kSums = kCount >= 4 ? 1 : kCount >= 2 ? 2 : 4;
  constexpr int kBases = (kCount + 2) / 3;
  vi acc[kSums][kCount][kColVectors] = {};
  const uint8_t* base[kBases];
  int64_t a_row = left.row;
  const auto step = [&](vi(&sum)[kCount][kColVectors], int u) __attribute__((always_inline)) {
    vi b[kColVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kColVectors; ++v) {
      b[v] = *reinterpret_cast<const vi_u*>(panel + (u * kCols + v * kLanes) * 4);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      int32_t four;
      std::memcpy(&four, base[i / 3] + i % 3 * a_row + 4 * u, 4);
      const vi x = splat_i(four);
#pragma GCC unroll 4
      for (int v = 0; v < kColVectors; ++v) multiply_add_bytes(sum[i][v], x, b[v]);
    }
  };
  const auto advance = [&](int n) __attribute__((always_inline)) {
    panel += n * kCols * 4;
#pragma GCC unroll 3
    for (int i = 0; i < kBases; ++i) base[i] += 4 * n;
  };
  const int64_t groups = left.depth / 4;
  for (int64_t t = 0; t < left.taps; ++t) {
#pragma GCC unroll 3
    for (int i = 0; i < kBases; ++i) {
      base[i] = left.part[0] + left.offsets[t] + 3 * i * a_row;
      asm("" : "+r"(base[i]));
    }
    int64_t k = 0;
    for (; k + 4 <= groups; k += 4) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        step(acc[u % kSums], u);
        asm volatile("" : "+r"(panel), "+r"(a_row));  // keeps loads of later steps from moving up
      }
      advance(4);
      __builtin_prefetch(ahead, 0, 2);
      ahead += 64;
    }
    for (; k < groups; ++k) {
      step(acc[0], 0);
      advance(1);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kColVectors; ++v) {
#pragma GCC unroll 4
      for (int s = 1; s < kSums; ++s) acc[0][i][v] += acc[s][i][v];
      std::memcpy(sums + i * kCols + v * kLanes, &acc[0][i][v], kVecBytes);
    }
  }
}

using RowsFn = void (*)(const LeftTile<Left, kParts>&, const int8_t*, const char*, int32_t*);
constexpr RowsFn kRowsFns[] = {run_rows<1>, run_rows<2>, run_rows<3>, run_rows<4>,
                               run_rows<5>, run_rows<6>, run_rows<7>, run_rows<8>};

struct TileProduct {
  explicit TileProduct(int64_t) {}
  void multiply(const LeftTile<Left, kParts>& left, const Right* panel, const Ahead& ahead,
                int32_t* sums) {
    kRowsFns[left.rows[0] - 1](left, panel, ahead.from, sums);
  }
};
[[maybe_unused]] const char* const kInt8Tile = "8x48";

}  // namespace
}  // namespace zenith::ZENITH_ISA
