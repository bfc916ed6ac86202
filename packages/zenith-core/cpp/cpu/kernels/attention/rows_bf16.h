// The products of attention for few query rows, keys and values read where they lie: a cache is
// read once, and packing it would take longer.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/isa/lanes.h"

namespace zenith::ZENITH_ISA {
namespace {

// A vector of pairs from `from` on, of which n numbers are there; others are zero.
[[gnu::always_inline]] inline vi read_padded(const bf16* from, int64_t n) {
  const uint32_t mask = n >= 2 * kLanes ? ~0u : n > 0 ? (1u << n) - 1 : 0u;
  return (vi)_mm512_maskz_loadu_epi16(mask, from);
}

[[gnu::always_inline]] inline void add_products(vf& sum, vi x, vi y) {
  sum = (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
}

// s[j] = q . k[j], n rounded up to kLanes of them (the last ones mean nothing). q is padded with
// zeros to whole vectors.
[[maybe_unused]] void row_scores(const bf16* q, const bf16* k, int64_t k_row, int64_t n, int64_t d,
                                 float* s) {
  constexpr int64_t kPairs = 2 * kLanes;
  for (int64_t first = 0; first < n; first += kLanes) {
    const bf16* row[kLanes];
    for (int i = 0; i < kLanes; ++i) row[i] = k + (first + i < n ? first + i : n - 1) * k_row;
    vf sum[kLanes] = {};
    int64_t c = 0;
    for (; c + kPairs <= d; c += kPairs) {
      const vi x = read_padded(q + c, kPairs);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) add_products(sum[i], x, read_padded(row[i] + c, kPairs));
    }
    if (c < d) {
      const vi x = read_padded(q + c, kPairs);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) add_products(sum[i], x, read_padded(row[i] + c, d - c));
    }
    store(s + first, sum_each(sum));
  }
}

// N vectors of 32 columns of p[n] times v times `scale`. Two values are interleaved by quarters of
// the vector, so are the sums.
template <int N>
[[gnu::always_inline]] inline void value_columns(const bf16* p, const bf16* v, int64_t v_row,
                                                 int64_t n, int64_t columns, float scale, bf16* y) {
  vf low[2][N] = {}, high[2][N] = {};
  const auto add = [&](int64_t t, int turn) __attribute__((always_inline)) {
    int32_t pair;
    std::memcpy(&pair, p + t, 4);
    const vi x = splat_i(pair);
    const bf16 *first = v + t * v_row, *second = t + 1 < n ? first + v_row : first;
#pragma GCC unroll 2
    for (int i = 0; i < N; ++i) {
      const int64_t there = columns - i * 2 * kLanes;
      const __m512i a = (__m512i)read_padded(first + i * 2 * kLanes, there);
      const __m512i b = (__m512i)read_padded(second + i * 2 * kLanes, there);
      add_products(low[turn][i], x, (vi)_mm512_unpacklo_epi16(a, b));
      add_products(high[turn][i], x, (vi)_mm512_unpackhi_epi16(a, b));
    }
  };
  int64_t t = 0;
  for (; t + 4 <= n; t += 4) add(t, 0), add(t + 2, 1);
  // In turns too: what is hidden behind the last key changes no sum.
  if (t < n) add(t, 0);
  if (t + 2 < n) add(t + 2, 1);
#pragma GCC unroll 2
  for (int i = 0; i < N; ++i) {
    const vf l = (low[0][i] + low[1][i]) * scale, h = (high[0][i] + high[1][i]) * scale;
    const vf ends[] = {
        __builtin_shuffle(l, h, vi{0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23}),
        __builtin_shuffle(l, h, vi{8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31})};
    for (int half = 0; half < 2; ++half) {
      const int64_t c = (2 * i + half) * kLanes, rest = columns - c;
      if (rest >= kLanes) {
        store(y + c, ends[half]);
      } else if (rest > 0) {
        store_n(y + c, ends[half], static_cast<int>(rest));
      }
    }
  }
}

// y[e] = scale * sum over j < n of p[j] * v[j]; p is padded with a zero where n is odd.
[[maybe_unused]] void row_values(const bf16* p, const bf16* v, int64_t v_row, int64_t n, int64_t e,
                                 float scale, bf16* y) {
  int64_t c = 0;
  for (; c + 64 <= e; c += 64) value_columns<2>(p, v + c, v_row, n, 64, scale, y + c);
  for (; c < e; c += 32) {
    value_columns<1>(p, v + c, v_row, n, e - c < 32 ? e - c : 32, scale, y + c);
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
