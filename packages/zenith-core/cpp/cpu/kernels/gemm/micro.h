// Products of rows with packed panels, which every float32 product of the gemm family is made of.
//
// Note [Panels]: B [K, N] is packed as [ceil(N / kNR)][K][kNR], zero padded on the right. One step
// of the inner loop is then kNV aligned loads of B and one broadcast of each row of A; A is read
// where it lies. A tile of kMR x kNV accumulators fills the registers of the ISA.
#pragma once

#include "cpu/isa/epilogue.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kNV = kLanes == 4 ? 2 : 3;
constexpr int kMR = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 6;
constexpr int kNR = kNV * kLanes;
// Depth of one pass over a panel: its slice (kNR * kDepth floats) stays in L2 beside the rows of A.
constexpr int64_t kDepth = 768;
constexpr int64_t kLine = 16;  // floats per cache line

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How many passes over a panel its depth takes: a matter of the depth alone (Note [Same bits]).
constexpr int64_t depth_passes(int64_t depth) {
  return most(1, ceil_div(depth, kDepth + kDepth / 4));
}

// How a product is cut into tasks: blocks of rows times groups of panels.
struct Split {
  int64_t rows;
  int64_t panels;
};

}  // namespace

// Rows of A times one panel, finished by the epilogue.
struct PanelProduct {
  const float* a;
  int64_t a_row;
  int64_t a_step;
  int64_t rows;
  const float* panel;
  int64_t depth;
  const float* ahead;  // the panel that comes next, kNR * depth floats
  bool cold;           // nobody fetched this panel ahead
  float* y;
  int64_t y_row;
  int64_t cols;  // of y in this panel, <= kNR
  int64_t row;   // position of y in the output: where the epilogue reads its operands
  int64_t col;
  bool accumulate = false;  // onto what y holds
};

void multiply_panel(const PanelProduct& p, const Epilogue& epilogue);

// One panel of B from a matrix of any strides: columns [0, cols) of src, zero padded to kNR.
void pack_panel(const float* src, int64_t stride_k, int64_t stride_n, int64_t depth, int64_t cols,
                float* dst);

}  // namespace zenith::ZENITH_ISA
