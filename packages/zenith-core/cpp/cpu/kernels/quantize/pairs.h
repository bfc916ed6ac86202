// The integer product: rows of 16-bit values times packed panels of 16-bit values into 32 bits.
//
// Note [Pairs]: 8-bit values less their zero point need nine bits, so both sides are held as int16
// and multiplied two steps of the depth at a time: machines add the two 32-bit products of
// neighbouring pairs in one instruction. The depth is padded to even with zeros. A panel is
// [ceil(K / 2)][kCols][2]; sums are exact and wrap around at 32 bits. A faster product of bytes
// would replace multiply_pairs, pack_columns and the packer, and nothing else.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

typedef int16_t vs __attribute__((vector_size(ZENITH_VEC_BYTES)));
typedef int16_t vs_u __attribute__((vector_size(ZENITH_VEC_BYTES), aligned(2), may_alias));
typedef uint32_t vw __attribute__((vector_size(ZENITH_VEC_BYTES)));

constexpr int kColVectors = 2;
constexpr int kCols = kColVectors * kLanes;
constexpr int kRows = kLanes == 16 ? 8 : 4;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Lane i: a[2i] * b[2i] + a[2i + 1] * b[2i + 1].
[[gnu::always_inline]] inline vw pair_products(vs a, vs b) {
#if defined(__AVX512BW__) && ZENITH_VEC_BYTES == 64
  typedef short machine __attribute__((vector_size(64)));
  return (vw)__builtin_ia32_pmaddwd512_mask((machine)a, (machine)b, vi{}, 0xffff);
#elif defined(__AVX2__) && ZENITH_VEC_BYTES == 32
  typedef short machine __attribute__((vector_size(32)));
  return (vw)__builtin_ia32_pmaddwd256((machine)a, (machine)b);
#elif defined(__SSE2__) && ZENITH_VEC_BYTES == 16
  typedef short machine __attribute__((vector_size(16)));
  return (vw)__builtin_ia32_pmaddwd128((machine)a, (machine)b);
#else
  const vi x = (vi)a, y = (vi)b;
  const vi low = (vi)((vw)x << 16) >> 16, other = (vi)((vw)y << 16) >> 16;
  return (vw)(low * other) + (vw)((x >> 16) * (y >> 16));
#endif
}

// A row of the left side: `taps` pieces of `pairs` pairs, at `offsets` from where it begins.
struct PairRow {
  const int64_t* offsets;
  int64_t taps, pairs;
};
constexpr int64_t kNoOffset = 0;

// sums[i][kCols] = rows i of a (a_row int16 apart) times one panel.
template <int kCount>
[[gnu::always_inline]] inline void run_rows(const int16_t* a, int64_t a_row, const PairRow& row,
                                            const int16_t* panel, int32_t* sums) {
  vw acc[kCount][kColVectors] = {};
  for (int64_t t = 0; t < row.taps; ++t) {
    const int16_t* piece = a + row.offsets[t];
    for (int64_t k = 0; k < row.pairs; ++k) {
      vs b[kColVectors];
      for (int v = 0; v < kColVectors; ++v) {
        b[v] = *reinterpret_cast<const vs_u*>(panel + v * 2 * kLanes);
      }
      panel += 2 * kCols;
      for (int i = 0; i < kCount; ++i) {
        int32_t pair;
        std::memcpy(&pair, piece + i * a_row + 2 * k, 4);
        const vs x = (vs)splat_i(pair);
        for (int v = 0; v < kColVectors; ++v) acc[i][v] += pair_products(x, b[v]);
      }
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kColVectors; ++v) {
      std::memcpy(sums + i * kCols + v * kLanes, &acc[i][v], kVecBytes);
    }
  }
}

template <int kCount = kRows>
void multiply_pairs(const int16_t* a, int64_t a_row, int64_t rows, const PairRow& row,
                    const int16_t* panel, int32_t* sums) {
  if constexpr (kCount > 1) {
    if (rows < kCount) return multiply_pairs<kCount - 1>(a, a_row, rows, row, panel, sums);
  }
  run_rows<kCount>(a, a_row, row, panel, sums);
}

// One group of a right side: [K, N] of any strides.
struct Columns {
  DType dtype;  // kI8, kU8 or kI16
  const void* data;
  int64_t step, col;  // strides along K and N
  int64_t depth, n;
};

[[gnu::always_inline]] inline int32_t integer_at(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::kI8) return static_cast<const int8_t*>(data)[i];
  if (dtype == DType::kU8) return static_cast<const uint8_t*>(data)[i];
  return static_cast<const int16_t*>(data)[i];
}

[[maybe_unused]] int64_t panel_size(int64_t depth) { return ceil_div(depth, 2) * 2 * kCols; }
[[maybe_unused]] int64_t packed_size(int64_t depth, int64_t n) {
  return ceil_div(n, kCols) * panel_size(depth);
}

// One panel, less the zero point of its columns (zero.data may be null).
struct ZeroPoint {
  DType dtype;
  const void* data;
  int64_t stride;
  int32_t at(int64_t i) const { return data == nullptr ? 0 : integer_at(dtype, data, i * stride); }
};
[[maybe_unused]] void pack_columns(const Columns& b, int64_t col, const ZeroPoint& zero,
                                   int16_t* panel) {
  if (b.depth == 0) return;
  const int64_t cols = b.n - col < kCols ? b.n - col : kCols;
  std::memset(panel, 0, static_cast<size_t>(panel_size(b.depth)) * 2);
  for (int64_t j = 0; j < cols; ++j) {
    const int32_t z = zero.at(col + j);
    for (int64_t k = 0; k < b.depth; ++k) {
      const int32_t value = integer_at(b.dtype, b.data, k * b.step + (col + j) * b.col) - z;
      panel[(k / 2 * kCols + j) * 2 + k % 2] = static_cast<int16_t>(value);
    }
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
