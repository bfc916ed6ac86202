// The product of the int8 family with vpdpbusd (micro.h).
#pragma once

#include "cpu/kernels/int8/finish.h"
#include "cpu/kernels/int8/left.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

using Left = uint8_t;
using Right = int8_t;
constexpr int64_t kGroup = 4, kDepthStep = 4;
constexpr int kColVectors = 2;
constexpr int kCols = kColVectors * kLanes;
constexpr int64_t kParts = 1, kPartRows = 14;
constexpr int64_t kTileCost = 2, kRowCost = 1;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

[[gnu::always_inline]] inline void multiply_add_bytes(vi& acc, vi x, vi y) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(y));
}

// Row i of a tile is at base[i / 7] and this many rows behind it.
struct Distances {
  int64_t one, three, five;
  [[gnu::always_inline]] int64_t of(int i) const {
    return i % 7 == 3 ? three : i % 7 == 5 ? five : i % 7 == 6 ? 2 * three : i % 7 * one;
  }
};

// Where sums go.
struct Stored {
  int32_t* sums;
};
// Finished from the registers they are in.
struct Packed {
  const Finish& finish;
  int64_t channel, row, col;
};

// kVectors: those of a panel that are used.
template <int kCount, int kVectors, typename To>
[[gnu::noinline]] void run_rows(const LeftTile<Left, kParts>& left, const int8_t* panel,
                                const char* ahead, const To& to) {
  // Independent sums hide the latency where there are few rows.
  constexpr int kSums = kCount * kVectors >= 8 ? 1 : kCount * kVectors >= 4 ? 2 : 4;
  constexpr int kBases = (kCount + 6) / 7;
  vi acc[kSums][kCount][kVectors] = {};
  if constexpr (__is_same(To, Packed)) {
    static_assert(kSums == 1);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const vi offset = *reinterpret_cast<const vi_u*>(to.finish.offset + to.channel + v * kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < kCount; ++i) acc[0][i][v] = offset;
    }
  }
  const uint8_t* base[kBases];
  Distances row{left.row, 3 * left.row, 5 * left.row};
  const auto step = [&](vi(&sum)[kCount][kVectors], int u) __attribute__((always_inline)) {
    vi b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      b[v] = *reinterpret_cast<const vi_u*>(panel + (u * kCols + v * kLanes) * 4);
    }
#pragma GCC unroll 14
    for (int i = 0; i < kCount; ++i) {
      int32_t four;
      std::memcpy(&four, base[i / 7] + row.of(i) + 4 * u, 4);
      const vi x = splat_i(four);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) multiply_add_bytes(sum[i][v], x, b[v]);
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
      base[i] = left.part[0] + left.offsets[t] + 7 * i * row.one;
      asm("" : "+r"(base[i]));
    }
    int64_t k = 0;
    for (; k + 4 <= groups; k += 4) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        step(acc[u % kSums], u);
        // Keeps loads of later steps from moving up, and rows from being added up.
        asm volatile("" : "+r"(panel), "+r"(row.one), "+r"(row.three), "+r"(row.five));
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
  if constexpr (__is_same(To, Packed)) {
    to.finish.pack_tile(acc[0], to.channel, to.row, to.col);
    return;
  } else {
#pragma GCC unroll 14
    for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
        for (int s = 1; s < kSums; ++s) acc[0][i][v] += acc[s][i][v];
        std::memcpy(to.sums + i * kCols + v * kLanes, &acc[0][i][v], kVecBytes);
      }
    }
  }
}

using RowsFn = void (*)(const LeftTile<Left, kParts>&, const int8_t*, const char*, const Stored&);
#define ZENITH_ROWS(v)                                                        \
  {run_rows<1, v, Stored>,  run_rows<2, v, Stored>,  run_rows<3, v, Stored>,  \
   run_rows<4, v, Stored>,  run_rows<5, v, Stored>,  run_rows<6, v, Stored>,  \
   run_rows<7, v, Stored>,  run_rows<8, v, Stored>,  run_rows<9, v, Stored>,  \
   run_rows<10, v, Stored>, run_rows<11, v, Stored>, run_rows<12, v, Stored>, \
   run_rows<13, v, Stored>, run_rows<14, v, Stored>}
constexpr RowsFn kRowsFns[][kPartRows] = {ZENITH_ROWS(1), ZENITH_ROWS(2)};
#undef ZENITH_ROWS

struct TileProduct {
  explicit TileProduct(int64_t) {}
  void multiply(const LeftTile<Left, kParts>& left, const Right* panel, const Ahead& ahead,
                int32_t* sums) {
    kRowsFns[left.cols > kLanes][left.rows[0] - 1](left, panel, ahead.from, {sums});
  }
  // Whether the tile can be one of Finish::packs_tiles(), and such a tile from sums to bytes.
  static bool packs(const LeftTile<Left, kParts>& left) {
    return left.rows[0] == kPartRows && left.cols == kCols;
  }
  void pack(const LeftTile<Left, kParts>& left, const Right* panel, const Ahead& ahead,
            const Packed& to) {
    run_rows<kPartRows, kColVectors>(left, panel, ahead.from, to);
  }
};
[[maybe_unused]] const char* const kInt8Tile = "14x32";

}  // namespace
}  // namespace zenith::ZENITH_ISA
