// Elementary functions on vectors, f32. Every kernel that needs exp or erf takes it from here.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

// e^x; max relative error 8e-8 on [-87, 88]. Below -103.9 it is 0, above 88.72 +inf, NaN stays NaN.
[[gnu::always_inline]] inline vf vexp(vf x) {
  const vf clamped = vmin(vmax(x, splat(-104.0f)), splat(89.0f));
  // Rounding to nearest by the 1.5 * 2^23 trick; |n| < 160.
  const vf magic = splat(12582912.0f);
  const vf shifted = clamped * 1.44269504f + magic;
  const vf n = shifted - magic;
  const vf r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  vf p = splat(1.38145965e-3f);
  p = p * r + 8.36871751e-3f;
  p = p * r + 4.1668389e-2f;
  p = p * r + 1.66665211e-1f;
  p = p * r + 4.9999994e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n in two steps, so that n down to -150 (denormals) and 128 (overflow) come out right.
  const vi ni = (vi)shifted - (vi)magic;
  const vi half = ni >> 1;
  const vf a = (vf)((half + 127) << 23);
  const vf b = (vf)((ni - half + 127) << 23);
  const vf y = p * a * b;
  return x != x ? x : y;
}

// erf, slow form (lane by lane).
[[gnu::always_inline]] inline vf verf(vf x) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_erff(x[i]);
  return r;
}
[[gnu::always_inline]] inline vf vtanh(vf x) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_tanhf(x[i]);
  return r;
}
[[gnu::always_inline]] inline vf vlog(vf x) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_logf(x[i]);
  return r;
}
[[gnu::always_inline]] inline vf vsin(vf x) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sinf(x[i]);
  return r;
}
[[gnu::always_inline]] inline vf vcos(vf x) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_cosf(x[i]);
  return r;
}
[[gnu::always_inline]] inline vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
[[gnu::always_inline]] inline vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }
[[gnu::always_inline]] inline vf vgelu(vf x) {
  return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f));
}
[[gnu::always_inline]] inline vf vgelu_tanh(vf x) {
  return 0.5f * x * (1.0f + vtanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
