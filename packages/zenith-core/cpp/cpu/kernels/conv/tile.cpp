// The register tiles, once for all convolution kernels.
#include "cpu/kernels/conv/tile.h"

#include "cpu/kernels/conv/sums.h"

namespace zenith::ZENITH_ISA {
namespace {

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

// The same of the long tile, whose weights are all held: no value of a later row is read ahead.
template <int kVecs>
[[gnu::always_inline]] inline void multiply_add_row(vf (&sum)[kVecs], const float* x,
                                                    const vf (&w)[kVecs]) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  vf v;
  if constexpr (kVecs == 2) {
    asm("vbroadcastss %[x], %[v]\n\t"
        "vfmadd231ps %[w0], %[v], %[s0]\n\t"
        "vfmadd231ps %[w1], %[v], %[s1]"
        : [s0] "+v"(sum[0]), [s1] "+v"(sum[1]), [v] "=&v"(v)
        : [x] "m"(*x), [w0] "v"(w[0]), [w1] "v"(w[1]));
    return;
  }
#endif
  for (int j = 0; j < kVecs; ++j) multiply_add(sum[j], splat(*x), w[j]);
}

// A row's place is its half's times one, two or four of three distances, which an address can hold.
template <int kVecs>
void run_long_tile(const LongTile& at) {
  constexpr int kRows = 14, kHalf = 7;
  vf sum[kRows][kVecs];
#pragma GCC unroll 2
  for (int j = 0; j < kVecs; ++j) {
    const vf bias = load(at.end.bias + j * kLanes);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) sum[i][j] = bias;
  }
  int64_t distance = 4 * at.distance, three = 3 * distance, five = 5 * distance;  // bytes
  asm("" : "+r"(distance), "+r"(three), "+r"(five));
  for (int64_t s = 0; s < at.left.count; ++s) {
    const char* first = reinterpret_cast<const char*>(at.left.rows[s]);
    const char* second = first + kHalf * distance;
    const int64_t width = at.width, length = at.left.length * width;
    const float* b = at.panel + at.left.ids[s] * length;
    const float* last = b + length;
    // What the loop does not need is in no register meanwhile.
    asm volatile("" : "+r"(second), "+r"(last) : : "memory");
#pragma GCC unroll 1
    for (; b != last; b += width, first += 4, second += 4) {
      const int64_t place[] = {0, distance, 2 * distance, three, 4 * distance, five, 2 * three};
      vf w[kVecs];
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) w[j] = load(b + j * kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < kRows; ++i) {
        const char* x = i < kHalf ? first + place[i] : second + place[i - kHalf];
        multiply_add_row(sum[i], reinterpret_cast<const float*>(x), w);
      }
    }
  }
  store_tile<kRows, kVecs>(sum, at.end, at.y, at.ldy, at.cols);
}

template <int kVecs>
constexpr TileFn kTilesOfWidth[] = {
    run_tile<1, kVecs>, run_tile<2, kVecs>, run_tile<3, kVecs>,         run_tile<4, kVecs>,
    run_tile<5, kVecs>, run_tile<6, kVecs>, run_tile<kTileRows, kVecs>,
};

}  // namespace

LongTileFn long_tile_fn(int64_t vecs) {
  if constexpr (kLanes == 16) {
    if (vecs <= 2) return vecs == 2 ? run_long_tile<2> : run_long_tile<1>;
  }
  return nullptr;
}

// The tile of `rows` pixels and `vecs` vectors.
TileFn tile_fn(int64_t rows, int64_t vecs) {
  if constexpr (kTileVecs == 4) {
    if (vecs == 4) return kTilesOfWidth<4>[rows - 1];
    if (vecs == 3) return kTilesOfWidth<3>[rows - 1];
  }
  return vecs == 2 ? kTilesOfWidth<2>[rows - 1] : kTilesOfWidth<1>[rows - 1];
}

}  // namespace zenith::ZENITH_ISA
