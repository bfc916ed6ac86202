#include "cpu/isa/epilogue.h"

#include "cpu/isa/vecmath.h"

namespace zenith::ZENITH_ISA {
namespace {

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

}  // namespace

void apply_epilogue(const Epilogue& e, int64_t row, int64_t col, int64_t rows, int64_t cols,
                    float* tile, int64_t stride) {
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

}  // namespace zenith::ZENITH_ISA
