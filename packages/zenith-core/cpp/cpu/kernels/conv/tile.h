// The register tile of a product with packed weights: kTileRows output pixels times kTileVecs
// vectors of output channels. Rows of the left side are found through pointers, so one tile serves
// 1x1, kxk with borders, strides, groups and the products of Winograd's algorithm.
#pragma once

#include "cpu/kernels/conv/conv.h"

namespace zenith::ZENITH_ISA {
namespace {

// 32 vector registers hold 7x4 sums, 16 hold 6x2; both leave general registers for the pointers.
constexpr int kTileRows = kLanes == 16 ? 7 : 6;
constexpr int kTileVecs = kLanes == 16 ? 4 : 2;
constexpr int64_t kPanel = kTileVecs * kLanes;
constexpr int kUnroll = 4;  // steps of a product between two tests for its end

// Weights of one group: panels of kPanel output channels, [depth][kPanel] each; the last panel has
// only as many vectors as its channels need.
inline int64_t packed_floats(int64_t depth, int64_t channels) {
  return depth * round_up(channels, kLanes);
}

// The left side of one tile: `count` pieces of `length` values. Piece s of row r starts at
// rows[s * tile rows + r] and multiplies the weights from depth ids[s] * length on.
struct Pieces {
  const float* const* rows;
  const int32_t* ids;
  int64_t count;
  int64_t length;
  const float* ahead;  // a slice of what comes next
};

// Note [Ahead]: weights come from far, and a panel is long gone when a net is run again. So each
// tile fetches a slice of the panel that its worker multiplies by next.
constexpr int64_t kLine = 16;                   // floats of a cache line
constexpr int64_t kAheadLines = kTileVecs / 2;  // fetched in kUnroll steps

// Slice `tile` of what comes next, `floats` long, for tiles of `depth` steps; the last one again
// when all is fetched.
inline const float* ahead_slice(const float* next, int64_t floats, int64_t depth, int64_t tile) {
  const int64_t slice = depth / kUnroll * kAheadLines * kLine;
  return slice == 0 ? next : next + least(tile, floats / slice - (floats >= slice)) * slice;
}

struct TileEnd {
  const float* bias;  // whole vectors
  const float* add;   // at the tile's first element, or null
  int64_t add_row;
  float lo, hi;
};

// Ends a tile: residual, clamp, store of its first `cols` columns.
template <int kRows, int kVecs>
[[gnu::always_inline]] inline void store_tile(vf (&sum)[kRows][kVecs], const TileEnd& end, float* y,
                                              int64_t ldy, int64_t cols) {
  const vf lo = splat(end.lo), hi = splat(end.hi);
  if (cols >= kVecs * kLanes) {
    if (end.add != nullptr) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) sum[i][j] += load(end.add + i * end.add_row + j * kLanes);
      }
    }
#pragma GCC unroll 8
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
#pragma GCC unroll 8
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

// Note [Full registers]: with 7x4 sums and 4 vectors of weights no register is left for the value
// of the left side, and GCC 12 moves sums to the stack and back. So one vector of weights is read
// by the multiply-adds themselves, in a piece of assembly that leaves nothing to arrange. sum[0..3]
// += *x * {w[0..2], *last}
[[gnu::always_inline]] inline void multiply_add_row(vf (&sum)[4], const float* x, const vf (&w)[3],
                                                    const float* last) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  vf v;
  asm("vbroadcastss %[x], %[v]\n\t"
      "vfmadd231ps %[w0], %[v], %[s0]\n\t"
      "vfmadd231ps %[w1], %[v], %[s1]\n\t"
      "vfmadd231ps %[w2], %[v], %[s2]\n\t"
      "vfmadd231ps %[w3], %[v], %[s3]"
      : [s0] "+v"(sum[0]), [s1] "+v"(sum[1]), [s2] "+v"(sum[2]), [s3] "+v"(sum[3]), [v] "=&v"(v)
      : [x] "m"(*x), [w0] "v"(w[0]), [w1] "v"(w[1]), [w2] "v"(w[2]),
        [w3] "m"(*reinterpret_cast<const vf_u*>(last)));
#else
  const vf v = splat(*x);
  for (int j = 0; j < 3; ++j) multiply_add(sum[j], v, w[j]);
  multiply_add(sum[3], v, last);
#endif
}

template <int kRows, int kVecs>
[[gnu::noinline]] void run_tile(const Pieces& a, const float* panel, const TileEnd& end, float* y,
                                int64_t ldy, int64_t cols) {
  constexpr int64_t kWidth = kVecs * kLanes;
  constexpr bool kFull = kRows == 7 && kVecs == 4;
  constexpr int kHeld = kFull ? kVecs - 1 : kVecs;
  vf sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) {
    const vf bias = load(end.bias + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) sum[i][j] = bias;
  }
  const float* ahead = a.ahead;
  for (int64_t s = 0; s < a.count; ++s) {
    const float* row[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) row[i] = a.rows[s * kRows + i];
    const float* b = panel + a.ids[s] * a.length * kWidth;
    const auto step = [&](int64_t k, int u) __attribute__((always_inline)) {
      vf w[kHeld];
#pragma GCC unroll 8
      for (int j = 0; j < kHeld; ++j) w[j] = load(b + u * kWidth + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        if constexpr (kFull) {
          multiply_add_row(sum[i], row[i] + k + u, w, b + u * kWidth + kHeld * kLanes);
        } else {
          const vf v = splat(row[i][k + u]);
#pragma GCC unroll 8
          for (int j = 0; j < kVecs; ++j) multiply_add(sum[i][j], v, w[j]);
        }
      }
      asm volatile("" : "+r"(b) : : "memory");  // loads of later steps stay behind
    };
    int64_t k = 0;
#pragma GCC unroll 1
    for (; k + kUnroll <= a.length; k += kUnroll, b += kUnroll * kWidth) {
#pragma GCC unroll 2
      for (int l = 0; l < kAheadLines; ++l) __builtin_prefetch(ahead + l * kLine, 0, 2);
      ahead += kAheadLines * kLine;
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) step(k, u);
    }
#pragma GCC unroll 1
    for (; k < a.length; ++k, b += kWidth) step(k, 0);
  }
  store_tile<kRows, kVecs>(sum, end, y, ldy, cols);
}

using TileFn = void (*)(const Pieces&, const float*, const TileEnd&, float*, int64_t, int64_t);
template <int kVecs>
constexpr TileFn kTilesOfWidth[] = {
    run_tile<1, kVecs>, run_tile<2, kVecs>, run_tile<3, kVecs>,         run_tile<4, kVecs>,
    run_tile<5, kVecs>, run_tile<6, kVecs>, run_tile<kTileRows, kVecs>,
};

// The tile of `rows` pixels and `vecs` vectors.
inline TileFn tile_fn(int64_t rows, int64_t vecs) {
  if constexpr (kTileVecs == 4) {
    if (vecs == 4) return kTilesOfWidth<4>[rows - 1];
    if (vecs == 3) return kTilesOfWidth<3>[rows - 1];
  }
  return vecs == 2 ? kTilesOfWidth<2>[rows - 1] : kTilesOfWidth<1>[rows - 1];
}

// `rows` as tiles of nearly equal height: tile i has rows [begin(i), begin(i + 1)).
struct RowTiles {
  int64_t rows, count;
  explicit RowTiles(int64_t r) : rows(r), count(ceil_div(r, kTileRows)) {}
  int64_t begin(int64_t i) const { return rows * i / count; }
};

constexpr int kMostRows = 8;

struct Taps {
  int64_t rows, cols;  // pieces of one output pixel
  int64_t length;      // values in a piece
};

// Pointers and piece numbers of one tile. A piece that is outside x for all rows is left out.
[[maybe_unused]] int64_t fill_tile(const ConvShape& s, const Taps& taps, const float* x,
                                   const float* zeros, int64_t first, int64_t rows,
                                   const float** table, int32_t* ids) {
  int64_t top[kMostRows], left[kMostRows];
  const float* from[kMostRows];  // where the first piece of a row would be
  int64_t line = first / s.ow, col = first - line * s.ow;
  int64_t image = line / s.oh, row = line - image * s.oh;
  bool inside = true;
  for (int64_t r = 0; r < rows; ++r) {
    top[r] = row * s.sh - s.ph;
    left[r] = col * s.sw - s.pw;
    from[r] = x + image * s.xn;
    inside = inside && top[r] >= 0 && top[r] + (taps.rows - 1) * s.dh < s.h && left[r] >= 0 &&
             left[r] + (taps.cols - 1) * s.dw < s.w;
    if (++col == s.ow) {
      col = 0;
      if (++row == s.oh) row = 0, ++image;
    }
  }
  int64_t count = 0;
  if (inside) {
    for (int64_t r = 0; r < rows; ++r) from[r] += top[r] * s.xh + left[r] * s.xw;
    for (int64_t i = 0; i < taps.rows; ++i) {
      for (int64_t j = 0; j < taps.cols; ++j, ++count) {
        const int64_t step = i * s.dh * s.xh + j * s.dw * s.xw;
        for (int64_t r = 0; r < rows; ++r) table[count * rows + r] = from[r] + step;
        ids[count] = static_cast<int32_t>(count);
      }
    }
    return count;
  }
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.cols; ++j) {
      bool any = false;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t ih = top[r] + i * s.dh, iw = left[r] + j * s.dw;
        const bool exists = ih >= 0 && ih < s.h && iw >= 0 && iw < s.w;
        any = any || exists;
        table[count * rows + r] = exists ? from[r] + ih * s.xh + iw * s.xw : zeros;
      }
      if (any) ids[count++] = static_cast<int32_t>(i * taps.cols + j);
    }
  }
  return count;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
