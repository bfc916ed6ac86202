// The exponential a softmax needs.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

// e^x for x <= 0, with half the instructions of vexp: nothing can overflow, and what would be
// denormal (x < -87) is 0. NaN stays NaN.
[[gnu::always_inline]] inline vf exp_down(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to nearest
  const vf shifted = x * 1.44269504f + magic;
  const vf n = shifted - magic;
  const vf r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  vf p = splat(1.38145965e-3f);
  p = p * r + 8.36871751e-3f;
  p = p * r + 4.1668389e-2f;
  p = p * r + 1.66665211e-1f;
  p = p * r + 4.9999994e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const vf power = (vf)(((vi)shifted << 23) + 0x3f800000);
  return (vf)((vi)(p * power) & ~(x < -87.0f));
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
