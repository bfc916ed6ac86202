// Tiles of the inverted residual block where the machine multiplies pairs but has no tile
// registers: sums end in registers, on their way to a ring of expanded rows, or narrowed to what is
// projected.
#pragma once

#include "cpu/kernels/conv/bottleneck.h"
#include "cpu/kernels/gemm/tile_bf16.h"

#if defined(__AVX512BF16__) && !defined(__AMX_TILE__) && ZENITH_VEC_BYTES == 64
#define ZENITH_PAIR_TILES
namespace zenith::ZENITH_ISA {
namespace {

// kRows pixels, `row` elements apart, times kVecs vectors of a panel, to rows of `chunk` floats.
template <int kRows, int kVecs>
[[gnu::noinline]] void expand_tile(const bf16* x, int64_t row, int64_t depth, const bf16* panel,
                                   const zenith::TileEnd& end, float* to, int64_t chunk) {
  constexpr int kHalf = 7;
  vf sum[kRows][kVecs];
#pragma GCC unroll 2
  for (int v = 0; v < kVecs; ++v) {
    const vf bias = load(end.bias + v * kLanes);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) sum[r][v] = bias;
  }
  // A row's place is one, two or four of three distances, which an address can hold.
  int64_t three = 3 * row, five = 5 * row;
  const bf16* half[] = {x, x + kHalf * row};
  asm("" : "+r"(row), "+r"(three), "+r"(five), "+r"(half[1]));
#pragma GCC unroll 1
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kCols) {
    const int64_t place[] = {0, row, 2 * row, three, 4 * row, five, 2 * three};
    vf b[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      b[v] = load(reinterpret_cast<const float*>(panel) + v * kLanes);
    }
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, half[r / kHalf] + place[r % kHalf], 4);
      const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        sum[r][v] = (vf)_mm512_dpbf16_ps((__m512)sum[r][v], a, (__m512bh)b[v]);
      }
    }
    half[0] += 2, half[1] += 2;
  }
  const vf low = splat(end.lo), high = splat(end.hi);
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) store(to + r * chunk + v * kLanes, clamp(sum[r][v], low, high));
  }
}

using ExpandFn = void (*)(const bf16*, int64_t, int64_t, const bf16*, const zenith::TileEnd&,
                          float*, int64_t);
ExpandFn expand_fn(bool two, bool wide) {
  if (two) return wide ? expand_tile<14, 2> : expand_tile<14, 1>;
  return wide ? expand_tile<7, 2> : expand_tile<7, 1>;
}

// The sums alone, of a panel that has no second vector.
void product_tile(const bf16* x, int64_t row, int64_t depth, const bf16* panel, float* to,
                  int64_t chunk) {
  alignas(64) static constexpr float kZeros[kLanes] = {};
  constexpr float kNoEnd = __builtin_inff();
  expand_tile<14, 1>(x, row, depth, panel, {kZeros, nullptr, 0, -kNoEnd, kNoEnd}, to, chunk);
}

// kPixels results of kVecs vectors of channels to rows of `ldy` elements.
template <int kWidth, int kStride, int kVecs>
[[gnu::noinline]] void narrow_depthwise(const DepthwiseTile& at, bf16* y, int64_t ldy) {
  vf sum[kPixels][kVecs];
#pragma GCC unroll 2
  for (int v = 0; v < kVecs; ++v) {
    const vf bias = load(at.end.bias + v * kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) sum[p][v] = bias;
  }
  const float* weights = at.weights;
  const int64_t block = at.kh * kWidth * kLanes;
  for (int64_t r = 0; r < at.kh; ++r, weights += kWidth * kLanes) {
    const float* x = at.rows[r];
    if (x == nullptr) continue;
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      vf w[kWidth];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) w[j] = load(weights + v * block + j * kLanes);
      const float* from = x + v * kLanes;
#pragma GCC unroll 32
      for (int c = 0; c < (kPixels - 1) * kStride + kWidth; ++c, from += at.tap) {
        const vf value = load(from);
#pragma GCC unroll 8
        for (int j = 0; j < kWidth; ++j) {
          const int p = (c - j) / kStride;
          if (c >= j && (c - j) % kStride == 0 && p < kPixels) multiply_add(sum[p][v], w[j], value);
        }
      }
    }
  }
  const vf low = splat(at.end.lo), high = splat(at.end.hi);
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p, y += ldy) {
    if constexpr (kVecs == 2) {
      store_two(y, clamp(sum[p][0], low, high), clamp(sum[p][1], low, high));
    } else {
      store(y, clamp(sum[p][0], low, high));
    }
  }
}

using NarrowFn = void (*)(const DepthwiseTile&, bf16*, int64_t);
template <int kVecs>
NarrowFn narrow_fn(const ConvShape& s) {
  if (s.sw > 2) return nullptr;
  if (s.kw == 3) return s.sw == 1 ? narrow_depthwise<3, 1, kVecs> : narrow_depthwise<3, 2, kVecs>;
  if (s.kw == 5) return s.sw == 1 ? narrow_depthwise<5, 1, kVecs> : narrow_depthwise<5, 2, kVecs>;
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
#endif
