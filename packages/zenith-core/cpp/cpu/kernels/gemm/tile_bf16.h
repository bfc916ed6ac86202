// The microkernel of bfloat16 products, float32 sums: rows of A times one packed panel of B. Three
// of them, by what the instruction set has; they share the layout of B.
//
// Note [Pair panels]: B [K, N] is packed as [ceil(N / kCols)][Kp / 2][kCols][2], zero padded; Kp is
// K rounded up to kStep. Two neighbours of the depth lie side by side, as VDPBF16PS and TDPBF16PS
// want them, and as two shifts take them apart elsewhere.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/isa/tiles.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

[[gnu::always_inline]] inline int64_t round_to(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

// C[rows][kCols] = A[rows][depth] * panel. Rows of A are `a_row` apart, those of C `c_row`; the
// depth is padded, and A is readable so far. `ahead_bytes` from `ahead` on are fetched on the way.
#if defined(__AMX_TILE__)

// Two tiles of 16 rows by two of 16 columns: four sums, each load feeds two products. Fewer rows
// are a tile with fewer rows.
using APart = bf16;
constexpr int64_t kRows = 32, kCols = 32, kStep = 32;
constexpr bool kReadsInPlace = true;  // A is read where it lies when its depth needs no padding
[[maybe_unused]] const char* const kPairTile = "32x32";

class Multiplier {
 public:
  void run(const APart* a, int64_t a_row, int64_t rows, const bf16* panel, int64_t depth, float* c,
           int64_t c_row, const char* ahead, int64_t ahead_bytes) {
    if (rows != rows_) configure(rows);
    _tile_zero(0);
    _tile_zero(1);
    const size_t stride = static_cast<size_t>(a_row) * sizeof(APart);
    const size_t c_stride = static_cast<size_t>(c_row) * 4;
    const int64_t fetch = ahead_bytes / (depth / kStep);
    if (rows > 16) {
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < depth; k += kStep, panel += kStep * kCols) {
        _tile_loadd(4, a + k, stride);
        _tile_loadd(6, panel, kCols * 4);
        _tile_loadd(7, panel + 32, kCols * 4);
        _tile_loadd(5, a + 16 * a_row + k, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(ahead + i, 0, 2);
        ahead += fetch;
      }
      _tile_stored(2, c + 16 * c_row, c_stride);
      _tile_stored(3, c + 16 * c_row + 16, c_stride);
    } else {
      for (int64_t k = 0; k < depth; k += kStep, panel += kStep * kCols) {
        _tile_loadd(4, a + k, stride);
        _tile_loadd(6, panel, kCols * 4);
        _tile_loadd(7, panel + 32, kCols * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(ahead + i, 0, 2);
        ahead += fetch;
      }
    }
    _tile_stored(0, c, c_stride);
    _tile_stored(1, c + 16, c_stride);
  }
  Multiplier() = default;
  Multiplier(const Multiplier&) = delete;
  Multiplier& operator=(const Multiplier&) = delete;
  ~Multiplier() { _tile_release(); }

 private:
  void configure(int64_t rows) {
    TileConfig config;
    const int first = static_cast<int>(rows < 16 ? rows : 16);
    const int second = static_cast<int>(rows) - first;
    for (int sum = 0; sum < 2; ++sum) config.set(sum, first, 64);
    config.set(4, first, 64);
    if (second > 0) {
      for (int sum = 2; sum < 4; ++sum) config.set(sum, second, 64);
      config.set(5, second, 64);
    }
    config.set(6, 16, 64);
    config.set(7, 16, 64);
    load_tiles(config);
    rows_ = rows;
  }
  int64_t rows_ = 0;
};

#else

constexpr int kPairVecs = kLanes == 4 ? 2 : 3;
constexpr int64_t kRows = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 6, kCols = kPairVecs * kLanes;
constexpr int64_t kStep = 2;
[[maybe_unused]] const char* const kPairTile = kLanes == 16 ? "8x48" : kLanes == 8 ? "4x24" : "6x8";

#if defined(__AVX512BF16__) && ZENITH_VEC_BYTES == 64
using APart = bf16;
constexpr bool kReadsInPlace = true;

struct PairSums {
  const bf16* a;
  [[gnu::always_inline]] static vf add(vf sum, const APart* a, vf b) {
    int32_t pair;
    std::memcpy(&pair, a, 4);
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
  }
};

template <int R>
[[gnu::noinline]] void pair_tile(const APart* a, int64_t a_row, const bf16* panel, int64_t depth,
                                 float* c, int64_t c_row, const char* ahead, int64_t fetch) {
  vf sum[R][kPairVecs] = {};
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kCols) {
    vf b[kPairVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kPairVecs; ++v) {
      std::memcpy(&b[v], panel + v * 2 * kLanes, sizeof(vf));
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kPairVecs; ++v)
        sum[r][v] = PairSums::add(sum[r][v], a + r * a_row + k, b[v]);
    }
    for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(ahead + i, 0, 2);
    ahead += fetch;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kPairVecs; ++v) store(c + r * c_row + v * kLanes, sum[r][v]);
  }
}

#else
// Without such products: A is widened ahead, B on the way, and both halves of a pair are added.
using APart = float;
constexpr bool kReadsInPlace = false;

template <int R>
[[gnu::noinline]] void pair_tile(const APart* a, int64_t a_row, const bf16* panel, int64_t depth,
                                 float* c, int64_t c_row, const char* ahead, int64_t fetch) {
  vf sum[R][kPairVecs] = {};
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kCols) {
    vf b[kPairVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kPairVecs; ++v) {
      vi pair;
      std::memcpy(&pair, panel + v * 2 * kLanes, sizeof(vi));
      b[v] = (vf)(pair << 16);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf x = splat(a[r * a_row + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kPairVecs; ++v) multiply_add(sum[r][v], x, b[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kPairVecs; ++v) {
      vi pair;
      std::memcpy(&pair, panel + v * 2 * kLanes, sizeof(vi));
      b[v] = (vf)(pair & static_cast<int32_t>(0xffff0000));
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf x = splat(a[r * a_row + k + 1]);
#pragma GCC unroll 4
      for (int v = 0; v < kPairVecs; ++v) multiply_add(sum[r][v], x, b[v]);
    }
    for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(ahead + i, 0, 2);
    ahead += fetch;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kPairVecs; ++v) store(c + r * c_row + v * kLanes, sum[r][v]);
  }
}
#endif

class Multiplier {
 public:
  void run(const APart* a, int64_t a_row, int64_t rows, const bf16* panel, int64_t depth, float* c,
           int64_t c_row, const char* ahead, int64_t ahead_bytes) {
    const int64_t fetch = ahead_bytes / (depth / kStep);
    tile<kRows>(a, a_row, rows, panel, depth, c, c_row, ahead, fetch);
  }

 private:
  template <int R>
  void tile(const APart* a, int64_t a_row, int64_t rows, const bf16* panel, int64_t depth, float* c,
            int64_t c_row, const char* ahead, int64_t fetch) {
    if constexpr (R > 1) {
      if (rows < R) return tile<R - 1>(a, a_row, rows, panel, depth, c, c_row, ahead, fetch);
    }
    pair_tile<R>(a, a_row, panel, depth, c, c_row, ahead, fetch);
  }
};
#endif

}  // namespace
}  // namespace zenith::ZENITH_ISA
