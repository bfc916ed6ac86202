// What follows a matrix product, on a tile that is still in L1: a list of steps shared by every
// kernel that ends in a product (linear, matmul, conv); one function of each instruction set, since
// it is large and all of them call it. src/zenith/backends/cpu/epilogue.py is the
// other side: it turns "bias.gelu" into codes.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith {

// Values are shared with Python. Steps up to kMul take one operand each.
enum StepCode : int64_t {
  kStepBias = 1,  // adds; a bias is an operand whose rows are all the same
  kStepAdd = 2,
  kStepMul = 3,
  kStepRelu = 16,
  kStepRelu6 = 17,
  kStepGelu = 18,
  kStepGeluTanh = 19,
  kStepSilu = 20,
  kStepTanh = 21,
  kStepSigmoid = 22,
  kStepHardSwish = 23,
  kStepHardSigmoid = 24,
};
constexpr int kMaxSteps = 8;
using StepCodes = Ints<kMaxSteps>;  // the type of a kernel's `epilogue` param

// An operand as a matrix over the output's rows and columns. row may be any stride (0: the same
// row everywhere, a bias), col is 1 or 0 (0: one value for the whole row).
struct StepOperand {
  const float* data;
  int64_t row;
  int64_t col;
};

struct Epilogue {
  int n;
  int64_t codes[kMaxSteps];
  StepOperand operands[kMaxSteps];  // by step; unused for steps without operand
};

namespace ZENITH_BASE {
// Applies all steps to tile[rows][cols] (row stride `stride`), which holds the output elements from
// (row, col) on: operands are read there. An operand step and a function after it are one pass.
void apply_epilogue(const Epilogue& e, int64_t row, int64_t col, int64_t rows, int64_t cols,
                    float* tile, int64_t stride);
}  // namespace ZENITH_BASE

namespace ZENITH_ISA {
using ZENITH_BASE::apply_epilogue;
namespace {

// The last two axes of t as an operand; rank 1 is a row vector. Axes of size 1 repeat.
inline StepOperand step_operand(const TensorRef& t) {
  const auto stride = [&](int axis) {
    return axis < 0 || t.shape[axis] == 1 ? 0 : t.strides[axis];
  };
  return {static_cast<const float*>(t.data), stride(t.rank - 2), stride(t.rank - 1)};
}

// Codes with their operands, taken in order from `operands`.
inline Epilogue make_epilogue(const StepCodes& codes, const TensorRef* operands) {
  Epilogue e{};
  e.n = static_cast<int>(codes.n);
  for (int i = 0; i < e.n; ++i) {
    e.codes[i] = codes.v[i];
    if (codes.v[i] <= kStepMul) e.operands[i] = step_operand(*operands++);
  }
  return e;
}

}  // namespace
}  // namespace ZENITH_ISA
}  // namespace zenith
