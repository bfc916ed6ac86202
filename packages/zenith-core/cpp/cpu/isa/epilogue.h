// What follows a matrix product, on a tile that is still in L1: a list of steps shared by every
// kernel that ends in a product (linear, matmul, conv). src/zenith/backends/cpu/epilogue.py is the
// other side: it turns "bias.gelu" into codes.
#pragma once

#include "cpu/isa/vecmath.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

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

// The last two axes of t as an operand; rank 1 is a row vector. Axes of size 1 repeat.
[[maybe_unused]] StepOperand step_operand(const TensorRef& t) {
  const auto stride = [&](int axis) {
    return axis < 0 || t.shape[axis] == 1 ? 0 : t.strides[axis];
  };
  return {static_cast<const float*>(t.data), stride(t.rank - 2), stride(t.rank - 1)};
}

// Codes with their operands, taken in order from `operands`.
[[maybe_unused]] Epilogue make_epilogue(const StepCodes& codes, const TensorRef* operands) {
  Epilogue e{};
  e.n = static_cast<int>(codes.n);
  for (int i = 0; i < e.n; ++i) {
    e.codes[i] = codes.v[i];
    if (codes.v[i] <= kStepMul) e.operands[i] = step_operand(*operands++);
  }
  return e;
}

// relu and relu6 keep NaN: the comparison with NaN is false and picks the second operand.
struct StepNone {
  [[gnu::always_inline]] vf operator()(vf x) const { return x; }
};
struct StepRelu {
  [[gnu::always_inline]] vf operator()(vf x) const { return vmax(splat(0), x); }
};
struct StepRelu6 {
  [[gnu::always_inline]] vf operator()(vf x) const { return vmin(splat(6), vmax(splat(0), x)); }
};
struct StepGelu {
  [[gnu::always_inline]] vf operator()(vf x) const { return vgelu(x); }
};
struct StepGeluTanh {
  [[gnu::always_inline]] vf operator()(vf x) const { return vgelu_tanh(x); }
};
struct StepSilu {
  [[gnu::always_inline]] vf operator()(vf x) const { return vsilu(x); }
};
struct StepTanh {
  [[gnu::always_inline]] vf operator()(vf x) const { return vtanh(x); }
};
struct StepSigmoid {
  [[gnu::always_inline]] vf operator()(vf x) const { return vsigmoid(x); }
};
struct StepHardSigmoid {
  [[gnu::always_inline]] vf operator()(vf x) const {
    return vmin(splat(1), vmax(splat(0), x * (1.0f / 6) + 0.5f));
  }
};
struct StepHardSwish {
  [[gnu::always_inline]] vf operator()(vf x) const { return x * StepHardSigmoid()(x); }
};

enum class StepPre { kNone, kAdd, kMul };

template <StepPre kPre>
[[gnu::always_inline]] inline vf step_combine(vf x, vf operand) {
  if constexpr (kPre == StepPre::kAdd) return x + operand;
  if constexpr (kPre == StepPre::kMul) return x * operand;
  return x;
}

// One pass over the tile: an operand (or none), then a function (or none).
template <StepPre kPre, typename F>
void step_pass(const StepOperand& operand, int64_t row, int64_t col, int64_t rows, int64_t cols,
               float* tile, int64_t stride) {
  const F f{};
  for (int64_t i = 0; i < rows; ++i) {
    float* y = tile + i * stride;
    const float* o = nullptr;
    vf repeated{};
    if constexpr (kPre != StepPre::kNone) {
      o = operand.data + (row + i) * operand.row + col * operand.col;
      if (operand.col == 0) repeated = splat(*o);
    }
    const bool stream = operand.col != 0;
    int64_t j = 0;
    for (; j + kLanes <= cols; j += kLanes) {
      vf other = repeated;
      if constexpr (kPre != StepPre::kNone) {
        if (stream) other = load(o + j);
      }
      store(y + j, f(step_combine<kPre>(load(y + j), other)));
    }
    if (j < cols) {
      const int rest = static_cast<int>(cols - j);
      vf other = repeated;
      if constexpr (kPre != StepPre::kNone) {
        if (stream) other = load_n(o + j, rest);
      }
      store_n(y + j, f(step_combine<kPre>(load_n(y + j, rest), other)), rest);
    }
  }
}

template <StepPre kPre>
void step_dispatch(int64_t code, const StepOperand& operand, int64_t row, int64_t col, int64_t rows,
                   int64_t cols, float* tile, int64_t stride) {
#define ZENITH_STEP(code, F) \
  case code:                 \
    return step_pass<kPre, F>(operand, row, col, rows, cols, tile, stride)
  switch (code) {
    ZENITH_STEP(kStepRelu, StepRelu);
    ZENITH_STEP(kStepRelu6, StepRelu6);
    ZENITH_STEP(kStepGelu, StepGelu);
    ZENITH_STEP(kStepGeluTanh, StepGeluTanh);
    ZENITH_STEP(kStepSilu, StepSilu);
    ZENITH_STEP(kStepTanh, StepTanh);
    ZENITH_STEP(kStepSigmoid, StepSigmoid);
    ZENITH_STEP(kStepHardSwish, StepHardSwish);
    ZENITH_STEP(kStepHardSigmoid, StepHardSigmoid);
    default:
      return step_pass<kPre, StepNone>(operand, row, col, rows, cols, tile, stride);
  }
#undef ZENITH_STEP
}

// Applies all steps to tile[rows][cols] (row stride `stride`), which holds the output elements from
// (row, col) on: operands are read there. An operand step and a function after it are one pass.
[[maybe_unused]] void apply_epilogue(const Epilogue& e, int64_t row, int64_t col, int64_t rows,
                                     int64_t cols, float* tile, int64_t stride) {
  for (int i = 0; i < e.n; ++i) {
    const int64_t code = e.codes[i];
    const StepOperand& operand = e.operands[i];
    if (code > kStepMul) {
      step_dispatch<StepPre::kNone>(code, operand, row, col, rows, cols, tile, stride);
      continue;
    }
    int64_t function = 0;
    if (i + 1 < e.n && e.codes[i + 1] > kStepMul) function = e.codes[++i];
    if (code == kStepMul) {
      step_dispatch<StepPre::kMul>(function, operand, row, col, rows, cols, tile, stride);
    } else {
      step_dispatch<StepPre::kAdd>(function, operand, row, col, rows, cols, tile, stride);
    }
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
