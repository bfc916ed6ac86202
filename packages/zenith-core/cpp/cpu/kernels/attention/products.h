// The two products of attention, q k^T and p v, each in two forms: register tiles over packed
// panels for many query rows, and one row against k or v as it lies for few.
#pragma once

#include "cpu/isa/lanes.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kTileRows = kLanes == 16 ? 14 : 6;
constexpr int kPanel = 2 * kLanes;  // columns of a packed panel

// A matrix with contiguous rows.
struct Rows {
  const float* data;
  int64_t stride;
};

// Where p v goes: first the sums of earlier key blocks times `keep`, then the result times `scale`.
struct Accumulate {
  const float* old;  // nullptr in the first key block
  float* to;
  int64_t old_stride, to_stride;
  const float* keep;   // per row
  const float* scale;  // per row; nullptr before the last key block
};

// k[n][d] -> panels [ceil(n / kPanel)][d][kPanel]; missing keys are zero.
void pack_keys(Rows k, int64_t n, int64_t d, float* dst) {
  for (int64_t first = 0; first < n; first += kLanes) {
    float* panel = dst + first / kPanel * kPanel * d + first % kPanel;
    const int64_t keys = n - first < kLanes ? n - first : kLanes;
    for (int64_t c = 0; c < d; c += kLanes) {
      const int64_t columns = d - c < kLanes ? d - c : kLanes;
      vf r[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const float* row = k.data + (first + i) * k.stride + c;
        if (i >= keys) {
          r[i] = vf{};
        } else if (columns == kLanes) {
          r[i] = load(row);
        } else {
          r[i] = load_n(row, static_cast<int>(columns));
        }
      }
      transpose(r);
      for (int i = 0; i < columns; ++i) store(panel + (c + i) * kPanel, r[i]);
    }
  }
  if ((n + kLanes - 1) / kLanes % 2 == 1) {  // the panel's second half holds no key
    float* half = dst + n / kPanel * kPanel * d + kLanes;
    for (int64_t c = 0; c < d; ++c) store(half + c * kPanel, vf{});
  }
}

// v[n][d] -> panels [ceil(d / kPanel)][n][kPanel], `panel_stride` apart; missing columns are zero.
void pack_values(Rows v, int64_t n, int64_t d, float* dst, int64_t panel_stride) {
  for (int64_t c = 0; c < d; c += kPanel, dst += panel_stride) {
    const int64_t columns = d - c < kPanel ? d - c : kPanel;
    for (int64_t i = 0; i < n; ++i) {
      const float* row = v.data + i * v.stride + c;
      float* to = dst + i * kPanel;
      if (columns == kPanel) {
        store(to, load(row));
        store(to + kLanes, load(row + kLanes));
      } else {
        for (int64_t j = 0; j < kPanel; ++j) to[j] = j < columns ? row[j] : 0.0f;
      }
    }
  }
}

// acc[r] += sum over c < n of a[r][c] * panel[c]. Four steps share the pointer arithmetic: one base
// serves three rows, their distances are factors an address can hold.
template <int M>
[[gnu::always_inline]] inline void multiply(vf (&acc)[M][2], Rows a, int64_t n,
                                            const float* panel) {
  constexpr int kBases = (M + 2) / 3, kUnroll = 4;
  int64_t stride = a.stride;
  const float* base[kBases];
#pragma GCC unroll 8
  for (int i = 0; i < kBases; ++i) {
    base[i] = a.data + 3 * i * stride;
    asm("" : "+r"(base[i]));
  }
  const auto step = [&](int u) __attribute__((always_inline)) {
    const vf b0 = load(panel + u * kPanel), b1 = load(panel + u * kPanel + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      const vf x = splat(base[r / 3][r % 3 * stride + u]);
      multiply_add(acc[r][0], x, b0);
      multiply_add(acc[r][1], x, b1);
    }
  };
  const auto advance = [&](int steps) __attribute__((always_inline)) {
    panel += steps * kPanel;
#pragma GCC unroll 8
    for (int i = 0; i < kBases; ++i) base[i] += steps;
  };
  int64_t c = 0;
  for (; c + kUnroll <= n; c += kUnroll) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      step(u);
      // Keeps the loads of later steps from moving up, which would push sums to the stack, and
      // u out of the registers that hold the distances.
      asm volatile("" : "+r"(panel), "+r"(stride));
    }
    advance(kUnroll);
  }
  for (; c < n; ++c) {
    step(0);
    advance(1);
  }
}

template <int M>
[[gnu::noinline]] void score_tile(Rows q, int64_t d, const float* panels, int64_t n_panels,
                                  float scale, float* scores, int64_t stride) {
  for (int64_t p = 0; p < n_panels; ++p, panels += d * kPanel, scores += kPanel) {
    vf acc[M][2] = {};
    multiply<M>(acc, q, d, panels);
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      store(scores + r * stride, acc[r][0] * scale);
      store(scores + r * stride + kLanes, acc[r][1] * scale);
    }
  }
}

// Columns [c, c + kPanel) of a tile's m rows of sums to where they go. Sums of earlier blocks are
// stored in whole panels, so only the output has a short last one.
[[gnu::noinline]] void put_values(int m, const float* sums, int64_t c, int64_t d,
                                  const Accumulate& out) {
  const int64_t columns = out.scale != nullptr && d - c < kPanel ? d - c : kPanel;
  for (int r = 0; r < m; ++r) {
    for (int64_t j = 0; j < columns; j += kLanes, sums += kLanes) {
      vf sum = load(sums);
      if (out.old != nullptr) sum += load(out.old + r * out.old_stride + c + j) * out.keep[r];
      if (out.scale != nullptr) sum *= out.scale[r];
      float* to = out.to + r * out.to_stride + c + j;
      if (columns - j >= kLanes) {
        store(to, sum);
      } else {
        store_n(to, sum, static_cast<int>(columns - j));
      }
    }
    if (columns <= kLanes) sums += kLanes;
  }
}

template <int M>
[[gnu::noinline]] void value_tile(Rows p, int64_t n, const float* panels, int64_t panel_stride,
                                  int64_t d, const Accumulate& out) {
  for (int64_t c = 0; c < d; c += kPanel, panels += panel_stride) {
    vf acc[M][2] = {};
    multiply<M>(acc, p, n, panels);
    if (out.old == nullptr && out.scale != nullptr && d - c >= kPanel) {
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) {
        float* to = out.to + r * out.to_stride + c;
        store(to, acc[r][0] * out.scale[r]);
        store(to + kLanes, acc[r][1] * out.scale[r]);
      }
    } else {
      float sums[M * kPanel];
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) {
        store(sums + r * kPanel, acc[r][0]);
        store(sums + r * kPanel + kLanes, acc[r][1]);
      }
      put_values(M, sums, c, d, out);
    }
  }
}

// scores[r][j] = scale * (q[r] . k[j]) for m <= kTileRows rows and whole panels of keys.
template <int M = kTileRows>
void tile_scores(int m, Rows q, int64_t d, const float* panels, int64_t n_panels, float scale,
                 float* scores, int64_t stride) {
  if constexpr (M > 1) {
    if (m < M) return tile_scores<M - 1>(m, q, d, panels, n_panels, scale, scores, stride);
  }
  score_tile<M>(q, d, panels, n_panels, scale, scores, stride);
}

// p[m][n] times v packed by pack_values.
template <int M = kTileRows>
void tile_values(int m, Rows p, int64_t n, const float* panels, int64_t panel_stride, int64_t d,
                 const Accumulate& out) {
  if constexpr (M > 1) {
    if (m < M) return tile_values<M - 1>(m, p, n, panels, panel_stride, d, out);
  }
  value_tile<M>(p, n, panels, panel_stride, d, out);
}

// One query row against k as it lies. Writes n rounded up to kLanes scores (the last ones mean
// nothing).
void row_scores(const float* q, Rows k, int64_t n, int64_t d, float scale, float* scores) {
  for (int64_t first = 0; first < n; first += kLanes) {
    const float* row[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      row[i] = k.data + (first + i < n ? first + i : n - 1) * k.stride;
    }
    vf acc[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= d; c += kLanes) {
      const vf a = load(q + c);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) acc[i] += a * load(row[i] + c);
    }
    if (c < d) {
      const int rest = static_cast<int>(d - c);
      const vf a = load_n(q + c, rest);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) acc[i] += a * load_n(row[i] + c, rest);
    }
    store(scores + first, sum_each(acc) * scale);
  }
}

// N vectors of columns of p[n] times v, v as it lies.
template <int N>
[[gnu::always_inline]] inline void row_columns(const float* p, int64_t n, Rows v, int64_t c,
                                               const Accumulate& out, int row) {
  vf acc[N] = {}, odd[N] = {};
  const float* x = v.data + c;
  int64_t j = 0;
  for (; j + 2 <= n; j += 2, x += 2 * v.stride) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) acc[i] += load(x + i * kLanes) * p[j];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) odd[i] += load(x + v.stride + i * kLanes) * p[j + 1];
  }
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
    if (j < n) acc[i] += load(x + i * kLanes) * p[j];
    acc[i] += odd[i];
    if (out.old != nullptr) acc[i] += load(out.old + c + i * kLanes) * out.keep[row];
    if (out.scale != nullptr) acc[i] *= out.scale[row];
    store(out.to + c + i * kLanes, acc[i]);
  }
}

// One row p[n] times v as it lies; `row` says which entries of keep and scale are meant.
void row_values(const float* p, int64_t n, Rows v, int64_t d, const Accumulate& out, int row) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= d; c += 4 * kLanes) row_columns<4>(p, n, v, c, out, row);
  for (; c + kLanes <= d; c += kLanes) row_columns<1>(p, n, v, c, out, row);
  for (; c < d; ++c) {
    float s = 0;
    for (int64_t j = 0; j < n; ++j) s += p[j] * v.data[j * v.stride + c];
    if (out.old != nullptr) s += out.old[c] * out.keep[row];
    out.to[c] = out.scale != nullptr ? s * out.scale[row] : s;
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
