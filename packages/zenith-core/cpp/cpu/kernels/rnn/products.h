// The recurrent product h[rows, H] * R^T with the gates of one unit kept together.
//
// Note [Gate panels]: R [gates * H, H] of one direction is packed as
// [ceil(H / kLanes)][H][gates][kLanes]: one step of the inner loop reads, for kLanes neighbouring
// units, the weights of all their gates. A tile of accumulators then holds every gate of its units,
// so the cell's arithmetic runs on registers and no gate ever goes to memory. Units beyond H are
// zeros.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of h per tile: their accumulators fill the registers.
constexpr int tile_rows(int gates) {
  return kLanes == 16 ? (gates == 4 ? 6 : 8) : (gates == 4 ? 3 : gates == 3 ? 4 : 6);
}

struct PanelRows {
  const float* h;
  int64_t h_row;
  int64_t depth;
  const float* panel;
};

// Totals of kRows rows. kSums independent sums per accumulator hide the latency of the multiply-add
// when rows are few.
template <int kGates, int kRows>
void multiply_rows(const PanelRows& p, int64_t row, vf (*totals)[kGates]) {
  constexpr int kSums = kRows * kGates >= 8 ? 1 : kRows * kGates >= 4 ? 2 : 4;
  vf acc[kSums][kRows][kGates] = {};
  const float* h = p.h + row * p.h_row;
  const float* w = p.panel;
  const auto step = [&](vf(&sums)[kRows][kGates], int64_t k) __attribute__((always_inline)) {
    vf wv[kGates];
    for (int g = 0; g < kGates; ++g) wv[g] = load(w + g * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const vf x = splat(h[i * p.h_row + k]);
      for (int g = 0; g < kGates; ++g) sums[i][g] += x * wv[g];
    }
    w += kGates * kLanes;
  };
  int64_t k = 0;
  for (; k + kSums <= p.depth; k += kSums) {
#pragma GCC unroll 4
    for (int u = 0; u < kSums; ++u) step(acc[u], k + u);
  }
  for (; k < p.depth; ++k) step(acc[0], k);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    for (int g = 0; g < kGates; ++g) {
      vf total = acc[0][i][g];
      for (int u = 1; u < kSums; ++u) total += acc[u][i][g];
      totals[i][g] = total;
    }
  }
}

// multiply_rows of `rows` <= kRows.
template <int kGates, int kRows>
[[gnu::always_inline]] inline void multiply_some(const PanelRows& p, int64_t row, int64_t rows,
                                                 vf (*totals)[kGates]) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_some<kGates, kRows - 1>(p, row, rows, totals);
  }
  multiply_rows<kGates, kRows>(p, row, totals);
}

// finish(row, gates) for every row in [first, end): the products of one panel's units. The totals
// go through memory, so that the code of `finish`, which is long, exists once.
template <int kGates, typename F>
[[gnu::always_inline]] inline void multiply_panel(const PanelRows& p, int64_t first, int64_t end,
                                                  const F& finish) {
  constexpr int kRows = tile_rows(kGates);
  vf totals[kRows][kGates];
  for (int64_t row = first; row < end; row += kRows) {
    const int64_t rows = end - row < kRows ? end - row : kRows;
    multiply_some<kGates, kRows>(p, row, rows, totals);
#pragma GCC unroll 1
    for (int64_t i = 0; i < rows; ++i) finish(row + i, totals[i]);
  }
}

// One direction's R [gates * H, H] of any strides, rows `first` to first + gates of its H-blocks.
struct GateRows {
  const float* data;
  int64_t row, col;  // strides
  int64_t hidden;
  int64_t first, gates;
};

[[maybe_unused]] int64_t packed_floats(int64_t hidden, int64_t gates) {
  return ceil_div(hidden, kLanes) * kLanes * hidden * gates;
}

// Calls at(R's element, packed element or nullptr): R's element is missing for padding.
template <typename F>
void each_packed(const GateRows& r, const F& at) {
  for (int64_t unit = 0; unit < ceil_div(r.hidden, kLanes) * kLanes; ++unit) {
    for (int64_t g = 0; g < r.gates; ++g) {
      const int64_t panel = unit / kLanes * kLanes * r.hidden * r.gates;
      const int64_t from = ((r.first + g) * r.hidden + unit) * r.row;
      for (int64_t k = 0; k < r.hidden; ++k) {
        const int64_t to = panel + (k * r.gates + g) * kLanes + unit % kLanes;
        at(unit < r.hidden ? from + k * r.col : -1, to);
      }
    }
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
