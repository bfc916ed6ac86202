// The activation functions recurrent cells may use, chosen per gate when the plan is built.
#pragma once

#include "cpu/isa/vecmath.h"

namespace zenith::ZENITH_ISA {
namespace {

// Values are shared with src/zenith/backends/cpu/kernels/rnn.py.
enum ActivationCode : int64_t {
  kSigmoid = 0,
  kTanh = 1,
  kRelu = 2,
  kAffine = 3,
  kLeakyRelu = 4,
  kThresholdedRelu = 5,
  kScaledTanh = 6,
  kHardSigmoid = 7,
  kElu = 8,
  kSoftsign = 9,
  kSoftplus = 10,
};

struct Activation {
  int64_t code;
  float alpha, beta;
};

[[gnu::noinline]] vf activate_rare(const Activation& a, vf x) {
  switch (a.code) {
    case kRelu:
      return vmax(splat(0.0f), x);
    case kAffine:
      return a.alpha * x + a.beta;
    case kLeakyRelu:
      return x >= 0.0f ? x : a.alpha * x;
    case kThresholdedRelu:
      return x >= a.alpha ? x : (x != x ? x : vf{});
    case kScaledTanh:
      return a.alpha * vtanh(a.beta * x);
    case kHardSigmoid:
      return vclamp(a.alpha * x + a.beta, 0.0f, 1.0f);
    case kElu:
      return x >= 0.0f ? x : a.alpha * vexpm1(x);
    case kSoftsign:
      return x / (1.0f + vabs(x));
    default:
      return vsoftplus(x);
  }
}

[[gnu::always_inline]] inline vf activate(const Activation& a, vf x) {
  if (a.code == kSigmoid) return vsigmoid(x);
  if (a.code == kTanh) return vtanh(x);
  return activate_rare(a, x);
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
