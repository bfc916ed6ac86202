// The register tile of bfloat16 products where there are no tile registers.
#include "cpu/kernels/gemm/tile_bf16.h"

#include <utility>

#ifndef __AMX_TILE__
namespace zenith::ZENITH_ISA {
namespace {

constexpr int kVecs = kCols / kLanes;
constexpr int kUnroll = 4;  // pairs of the depth between two looks ahead

#if defined(__AVX512BF16__) && ZENITH_VEC_BYTES == 64
// Rows of both parts times a panel. A row's place is its part's times one, two or four of three
// distances, which an address can hold.
template <int kFirst, int kSecond>
void run_tile(const LeftTile& left, const bf16* panel, const TileEnd& end, const Ahead& ahead) {
  vf sum[kFirst + kSecond][kVecs] = {};
  if (end.bias != nullptr) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      const vf bias = load(end.bias + v * kLanes);
#pragma GCC unroll 14
      for (int r = 0; r < kFirst + kSecond; ++r) sum[r][v] = bias;
    }
  }
  int64_t row = left.row, three = 3 * row, five = 5 * row;
  asm("" : "+r"(row), "+r"(three), "+r"(five));
  const int64_t steps = left.depth / 2;
  const int64_t fetch = ahead.bytes / (left.taps * ((steps + kUnroll - 1) / kUnroll));
  const char* next = ahead.from;
  for (int64_t t = 0; t < left.taps; ++t) {
    const bf16* first = left.part[0] + left.offsets[t];
    const bf16* second = kSecond > 0 ? left.part[1] + left.offsets[t] : nullptr;
    const auto step = [&](int u) __attribute__((always_inline)) {
      const int64_t place[] = {0, row, 2 * row, three, 4 * row, five, 2 * three};
      vf b[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        b[v] = load(reinterpret_cast<const float*>(panel + u * 2 * kCols) + v * kLanes);
      }
#pragma GCC unroll 14
      for (int r = 0; r < kFirst + kSecond; ++r) {
        const bf16* from = r < kFirst ? first + place[r] : second + place[r - kFirst];
        int32_t pair;
        std::memcpy(&pair, from + u * 2, 4);
        const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) {
          sum[r][v] = (vf)_mm512_dpbf16_ps((__m512)sum[r][v], x, (__m512bh)b[v]);
        }
      }
    };
    const auto advance = [&](int n) __attribute__((always_inline)) {
      panel += n * 2 * kCols, first += n * 2;
      if constexpr (kSecond > 0) second += n * 2;
    };
    int64_t k = 0;
    for (; k + kUnroll <= steps; k += kUnroll) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; ++u) {
        step(u);
        // Keeps the loads of later steps from moving up, which would push sums to the stack, and u
        // out of the registers that hold the distances.
        asm volatile("" : "+r"(panel), "+r"(row), "+r"(three), "+r"(five));
      }
      advance(kUnroll);
      for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(next + i, 0, 2);
      next += fetch;
    }
    for (; k < steps; ++k) {
      step(0);
      advance(1);
    }
  }
  if (end.sums[0] != nullptr) {
#pragma GCC unroll 14
    for (int r = 0; r < kFirst + kSecond; ++r) {
      float* to =
          r < kFirst ? end.sums[0] + r * end.sums_row : end.sums[1] + (r - kFirst) * end.sums_row;
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) store(to + v * kLanes, sum[r][v]);
    }
    return;
  }
  const vf low = splat(end.low), high = splat(end.high);
  bf16* y = end.y[0];
  const bf16* add = end.add[0];
#pragma GCC unroll 14
  for (int r = 0; r < kFirst + kSecond; ++r) {
    if (r == kFirst) y = end.y[1], add = end.add[1];
    vf value[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      value[v] = sum[r][v];
      if (add != nullptr) value[v] += load(add + v * kLanes);
      value[v] = vmin(high, vmax(low, value[v]));
    }
    store_two(y, value[0], value[1]);
    y += end.y_row;
    if (add != nullptr) add += end.add_row;
  }
}

using TileFn = void (*)(const LeftTile&, const bf16*, const TileEnd&, const Ahead&);

// Of few rows, or of a whole first part.
const TileFn kOne[] = {run_tile<1, 0>, run_tile<2, 0>, run_tile<3, 0>, run_tile<4, 0>,
                       run_tile<5, 0>, run_tile<6, 0>, run_tile<7, 0>};
const TileFn kTwo[] = {run_tile<7, 1>, run_tile<7, 2>, run_tile<7, 3>, run_tile<7, 4>,
                       run_tile<7, 5>, run_tile<7, 6>, run_tile<7, 7>};
const TileFn kSame[] = {run_tile<1, 1>, run_tile<2, 2>, run_tile<3, 3>,
                        run_tile<4, 4>, run_tile<5, 5>, run_tile<6, 6>};

}  // namespace

void multiply_pairs(const LeftTile& a, const bf16* panel, const TileEnd& end, const Ahead& ahead) {
  const int64_t rows = a.rows[0], more = a.rows[1];
  if (more == 0) return kOne[rows - 1](a, panel, end, ahead);
  if (rows == kPartRows) return kTwo[more - 1](a, panel, end, ahead);
  if (rows == more) return kSame[rows - 1](a, panel, end, ahead);
  LeftTile left = a;
  TileEnd ends = end;
  std::swap(left.part[0], left.part[1]), std::swap(left.rows[0], left.rows[1]);
  std::swap(ends.sums[0], ends.sums[1]);
  std::swap(ends.y[0], ends.y[1]), std::swap(ends.add[0], ends.add[1]);
  if (more == kPartRows) return kTwo[rows - 1](left, panel, ends, ahead);
  kOne[rows - 1](a, panel, end, ahead);
  kOne[more - 1](left, panel, ends, {nullptr, 0});
}

#else
// One pair of the depth: sums += rows of a times the panel's next 2 x kCols. B is widened on the
// way, one half of the pairs after the other.
template <int R>
[[gnu::always_inline]] inline void add_pairs(vf (&sum)[R][kVecs], const APart* a, int64_t row,
                                             const bf16* panel) {
  vi pairs[kVecs];
  std::memcpy(pairs, panel, sizeof(pairs));
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    vf b[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      b[v] = (vf)(half == 0 ? pairs[v] << 16 : pairs[v] & static_cast<int32_t>(0xffff0000));
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf x = splat(a[r * row + half]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) multiply_add(sum[r][v], x, b[v]);
    }
  }
}

template <int R>
void run_tile(const LeftTile& left, const bf16* panel, const TileEnd& end, const Ahead& ahead) {
  vf sum[R][kVecs] = {};
  const int64_t fetch = ahead.bytes / (left.taps * (left.depth / kStep)), row = left.row;
  const char* next = ahead.from;
  for (int64_t t = 0; t < left.taps; ++t) {
    const APart* a = left.part[0] + left.offsets[t];
    for (int64_t k = 0; k < left.depth; k += 2, a += 2, panel += 2 * kCols) {
      add_pairs(sum, a, row, panel);
      for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(next + i, 0, 2);
      next += fetch;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(end.sums[0] + r * end.sums_row + v * kLanes, sum[r][v]);
  }
}

template <int R>
void run_rows(const LeftTile& a, const bf16* panel, const TileEnd& end, const Ahead& ahead) {
  if constexpr (R > 1) {
    if (a.rows[0] < R) return run_rows<R - 1>(a, panel, end, ahead);
  }
  run_tile<R>(a, panel, end, ahead);
}

}  // namespace

void multiply_pairs(const LeftTile& a, const bf16* panel, const TileEnd& end, const Ahead& ahead) {
  run_rows<kPartRows>(a, panel, end, ahead);
}
#endif

}  // namespace zenith::ZENITH_ISA
#endif
