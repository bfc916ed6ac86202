// Shared by the convolution kernels: parameters, sizes, what happens after the product, and the
// layout of packed weights.
//
// Activations are channels-last: kernels see x as [N, H, W, C] and y as [N, OH, OW, M], channels
// with stride 1. Output pixels must lie at one distance from each other (a dense y, or a range of
// channels of one), and so must every tensor added or multiplied to them.
#pragma once

#include "cpu/isa/epilogue.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

struct ConvParams {
  Ints<2> kernel_shape;
  Ints<2> strides;
  Ints<2> pads;  // before the first row and column; those at the end follow from the output's size
  Ints<2> dilations;
  int64_t group;
  StepCodes epilogue;
};
[[maybe_unused]] const Field kConvFields[] = {
    ZENITH_FIELD(ConvParams, kernel_shape, kInts, 2),
    ZENITH_FIELD(ConvParams, strides, kInts, 2),
    ZENITH_FIELD(ConvParams, pads, kInts, 2),
    ZENITH_FIELD(ConvParams, dilations, kInts, 2),
    ZENITH_FIELD(ConvParams, group, kInt, 1),
    ZENITH_FIELD(ConvParams, epilogue, kInts, kMaxSteps),
};
constexpr int kConvFieldCount = 6;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Distance between neighbouring pixels of [N, ..., C]: the innermost axis that has two.
inline int64_t pixel_stride(const TensorRef& t) {
  for (int axis = t.rank - 2; axis >= 0; --axis) {
    if (t.shape[axis] > 1) return t.strides[axis];
  }
  return t.shape[t.rank - 1];
}

struct ConvShape {
  const float* x;
  float* y;
  int64_t n, h, w, c, oh, ow, m;
  int64_t xn, xh, xw;  // strides of x
  int64_t ldy;         // between output pixels
  int64_t kh, kw, sh, sw, ph, pw, dh, dw, group;

  int64_t pixels() const { return n * oh * ow; }
};

inline ConvShape conv_shape(const Call& call) {
  const auto& p = *static_cast<const ConvParams*>(call.params);
  const TensorRef& x = call.in[0];
  const TensorRef& y = call.out[0];
  ConvShape s{};
  s.x = static_cast<const float*>(x.data);
  s.y = static_cast<float*>(y.data);
  s.n = y.shape[0], s.oh = y.shape[1], s.ow = y.shape[2], s.m = y.shape[3];
  s.h = x.shape[1], s.w = x.shape[2], s.c = x.shape[3];
  s.xn = x.strides[0], s.xh = x.strides[1], s.xw = x.strides[2];
  s.ldy = pixel_stride(y);
  s.kh = p.kernel_shape.v[0], s.kw = p.kernel_shape.v[1];
  s.sh = p.strides.v[0], s.sw = p.strides.v[1];
  s.ph = p.pads.v[0], s.pw = p.pads.v[1];
  s.dh = p.dilations.v[0], s.dw = p.dilations.v[1];
  s.group = p.group;
  return s;
}

// The usual epilogues, [bias][add][relu or relu6], are part of the product's own stores; the rest
// is done by apply_epilogue on the stored tile.
struct Finish {
  const float* bias;  // one group after the other, each padded to whole vectors; zeros without one
  StepOperand add;    // data is null without one
  float lo, hi;
  Epilogue rest;
};

inline int64_t bias_floats(int64_t m, int64_t group) { return group * round_up(m / group, kLanes); }
inline int64_t bias_floats(const ConvShape& s) { return bias_floats(s.m, s.group); }

inline StepOperand pixel_operand(const TensorRef& t) {
  const int last = t.rank - 1;
  return {static_cast<const float*>(t.data), pixel_stride(t),
          t.shape[last] == 1 ? 0 : t.strides[last]};
}

// `operand` is the first one of the epilogue, `bias` is scratch of bias_floats().
[[maybe_unused]] Finish make_finish(const TensorRef* operand, const StepCodes& codes, int64_t m,
                                    int64_t group, float* bias) {
  Finish f{bias, {}, -__builtin_inff(), __builtin_inff(), {}};
  std::memset(bias, 0, static_cast<size_t>(bias_floats(m, group)) * sizeof(float));
  int64_t i = 0;
  if (i < codes.n && codes.v[i] == kStepBias) {
    const float* from = static_cast<const float*>(operand->data);
    const int64_t stride = operand->strides[0], of_group = m / group;
    const int64_t padded = round_up(of_group, kLanes);
    for (int64_t g = 0; g < group; ++g) {
      for (int64_t j = 0; j < of_group; ++j) {
        bias[g * padded + j] = from[(g * of_group + j) * stride];
      }
    }
    ++i, ++operand;
  }
  if (i < codes.n && codes.v[i] == kStepAdd && operand->shape[operand->rank - 1] > 1) {
    f.add = pixel_operand(*operand);
    ++i, ++operand;
  }
  if (i < codes.n && (codes.v[i] == kStepRelu || codes.v[i] == kStepRelu6)) {
    f.lo = 0;
    if (codes.v[i] == kStepRelu6) f.hi = 6;
    ++i;
  }
  for (; i < codes.n; ++i) {
    const int at = f.rest.n++;
    f.rest.codes[at] = codes.v[i];
    if (codes.v[i] > kStepMul) continue;
    if (codes.v[i] == kStepBias) {
      f.rest.operands[at] = {static_cast<const float*>(operand->data), 0,
                             operand->shape[0] == 1 ? 0 : operand->strides[0]};
    } else {
      f.rest.operands[at] = pixel_operand(*operand);
    }
    ++operand;
  }
  return f;
}

[[maybe_unused]] Finish make_finish(const Call& call, const ConvShape& s, float* bias) {
  const StepCodes& codes = static_cast<const ConvParams*>(call.params)->epilogue;
  return make_finish(call.in + 2, codes, s.m, s.group, bias);
}

// NaN stays NaN: a comparison with it is false and picks the second operand.
[[gnu::always_inline]] inline vf clamp(vf v, vf lo, vf hi) { return vmin(hi, vmax(lo, v)); }

// Weights [M, C/group, kh, kw], or [M, C/group, kw] of a 1-D convolution.
struct Filter {
  int64_t m, c, kh, kw;
  int64_t sm, sc, si, sj;  // strides
};

inline Filter filter_of(const TensorRef& w) {
  const bool flat = w.rank == 3;
  const int col = flat ? 2 : 3;
  return {w.shape[0],   w.shape[1],   flat ? 1 : w.shape[2],   w.shape[col],
          w.strides[0], w.strides[1], flat ? 0 : w.strides[2], w.strides[col]};
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
