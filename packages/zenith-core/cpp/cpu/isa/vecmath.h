// Elementary functions on vectors, f32. Every kernel that needs exp or erf takes it from here.
//
// Polynomials and rationals were fitted for these files by iteratively reweighted least squares
// (Lawson's algorithm for the minimax problem) on 600 Chebyshev points in 80-bit arithmetic against
// 100-bit values; "fit" below is the error of the unrounded fit, "max" the error measured over
// dense sweeps in f32 on every ISA, with and without fused multiply-add. NaN gives NaN everywhere.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

// Bit arithmetic that may wrap around.
typedef uint32_t vu __attribute__((vector_size(ZENITH_VEC_BYTES)));

// x in [lo, hi]; NaN stays NaN (vmax and vmin give their second argument when one is NaN).
[[gnu::always_inline]] inline vf vclamp(vf x, float lo, float hi) {
  return vmin(splat(hi), vmax(splat(lo), x));
}

// e^x = 2^n * (1 + m), with m = e^r - 1 for r = x - n * ln 2 in [-ln2/2, ln2/2].
struct ExpParts {
  vf m;
  vf low, high;  // low * high = 2^n, each a normal number for n in [-150, 128]
};
[[gnu::always_inline]] inline ExpParts exp_parts(vf x) {
  const vf clamped = vclamp(x, -104.0f, 89.0f);
  // Rounding to nearest by the 1.5 * 2^23 trick; |n| < 160. The first part of ln 2 has 15 bits.
  const vf magic = splat(12582912.0f);
  const vf shifted = clamped * 1.44269504f + magic;
  const vf n = shifted - magic;
  const vf r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  // (e^r - 1 - r) / r^2, fit 1.3e-8 relative to e^r - 1.
  vf p = splat(1.39464356e-3f);
  p = p * r + 8.36657919e-3f;
  p = p * r + 4.16662805e-2f;
  p = p * r + 1.66665435e-1f;
  p = p * r + 0.5f;
  const vi ni = (vi)((vu)shifted - (vu)magic);
  const vi half = ni >> 1;
  const vu low = ((vu)half + 127u) << 23, high = ((vu)ni - (vu)half + 127u) << 23;
  return {p * (r * r) + r, (vf)low, (vf)high};
}

// e^x; max relative error 9e-8 on [-87, 88]. Below -103.9 it is 0, above 88.72 +inf.
[[gnu::always_inline]] inline vf vexp(vf x) {
  const ExpParts e = exp_parts(x);
  return (e.m + 1.0f) * e.low * e.high;
}

// e^x - 1; max relative error 1.2e-7, also near 0.
[[gnu::always_inline]] inline vf vexpm1(vf x) {
  const ExpParts e = exp_parts(x);
  const vf y = (e.m * e.low) * e.high + (e.low * e.high - 1.0f);
  return x == 0.0f ? x : (x > 88.8f ? splat(__builtin_inff()) : y);
}

// erf; max relative error 3.8e-7 (2.6e-7 below 1). x * P(x^2) / Q(x^2) with
// positive coefficients, so nothing cancels; fit 2.1e-8 relative on [0, 3.95], 1 beyond.
[[gnu::always_inline]] inline vf verf(vf x) {
  const vf c = vclamp(x, -3.95f, 3.95f);
  const vf t = c * c;
  vf p = splat(2.02592628e-6f);
  p = p * t + 2.84685491e-4f;
  p = p * t + 3.80806252e-3f;
  p = p * t + 5.28751425e-2f;
  p = p * t + 1.91548005e-1f;
  p = p * t + 1.12837911f;
  vf q = splat(3.78318728e-5f);
  q = q * t + 1.1707017e-3f;
  q = q * t + 1.50548927e-2f;
  q = q * t + 1.14558674e-1f;
  q = q * t + 5.03087699e-1f;
  q = q * t + 1.0f;
  return vclamp(c * p / q, -1.0f, 1.0f);
}

// tanh; max relative error 3.3e-7 (at |x| > 8). Same form as erf; fit 2.1e-8 on [0, 9.02].
[[gnu::always_inline]] inline vf vtanh(vf x) {
  const vf c = vclamp(x, -9.02f, 9.02f);
  const vf t = c * c;
  vf p = splat(1.33193288e-8f);
  p = p * t + 2.05836877e-5f;
  p = p * t + 3.49404803e-3f;
  p = p * t + 1.33797303e-1f;
  p = p * t + 1.0f;
  vf q = splat(7.76213085e-7f);
  q = q * t + 3.28311435e-4f;
  q = q * t + 2.5871126e-2f;
  q = q * t + 4.67130452e-1f;
  q = q * t + 1.0f;
  return vclamp(c * p / q, -1.0f, 1.0f);
}

// Natural logarithm; max relative error 8.4e-8, also near 1. log(0) = -inf, log(x < 0) = NaN.
[[gnu::always_inline]] inline vf vlog(vf x) {
  const vi tiny = x < 1.17549435e-38f;
  const vf scaled = tiny ? x * 8388608.0f : x;
  // scaled = 2^e * m with m in [sqrt(1/2), sqrt(2)): 0x3f3504f3 are the bits of sqrt(1/2).
  const vi shifted = (vi)((vu)scaled - 0x3f3504f3u);
  const vi exponent = shifted >> 23;
  const vf m = (vf)((shifted & 0x007fffff) + 0x3f3504f3);
  const vf e = to_float(exponent - (tiny & 23));
  const vf f = m - 1.0f;
  const vf f2 = f * f;
  // (log(1 + f) - f + f^2 / 2) / f^3, fit 5.9e-9 relative to log(1 + f).
  vf p = splat(-7.85945654e-2f);
  p = p * f + 1.28815889e-1f;
  p = p * f - 1.31287843e-1f;
  p = p * f + 1.41812012e-1f;
  p = p * f - 1.6624552e-1f;
  p = p * f + 2.00022861e-1f;
  p = p * f - 2.50008106e-1f;
  p = p * f + 3.33333164e-1f;
  // ln 2 in two parts; the first has 9 bits, so its product with e is exact.
  const vf tail = f2 * f * p + (e * -2.12194440e-4f - 0.5f * f2);
  vf y = e * 0.693359375f + (f + tail);
  y = x == __builtin_inff() ? x : y;
  y = x == 0.0f ? splat(-__builtin_inff()) : y;
  return x >= 0.0f ? y : splat(__builtin_nanf(""));
}

// log(1 + x); max relative error 1.4e-7, also near 0. The rounding error of 1 + x is added back.
[[gnu::always_inline]] inline vf vlog1p(vf x) {
  const vf u = 1.0f + x;
  const vf lost = x - (u - 1.0f);
  const vi plain = (vi)(u == 0.0f) | (vi)(x == __builtin_inff());
  const vf y = vlog(u);
  return x == 0.0f ? x : (plain ? y : y + lost / u);
}

// sin (shift 0) and cos (shift 1). The argument is reduced in double: r = x - n * pi/2 with
// |n| < 2^20, so r is right to f32 for |x| <= 1e6; larger, infinite and NaN lanes go to the C
// library, and change nothing for the lanes beside them. Max absolute error 9.2e-8.
typedef double vd2 __attribute__((vector_size(2 * ZENITH_VEC_BYTES)));
[[gnu::always_inline]] inline bool all_within(vf x, float limit) {
  const vi outside = vabs(x) <= limit ? splat_i(0) : splat_i(1);
  int32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= outside[i];
  return any == 0;
}
[[gnu::always_inline]] inline vf sin_cos_reduced(vf x, int shift) {
  const vd2 d = __builtin_convertvector(x, vd2);
  const vd2 magic = vd2{} + 6755399441055744.0;
  const vd2 n = (d * 0.63661977236758134 + magic) - magic;
  const vd2 reduced = (d - n * 1.5707963267948966) - n * 6.123233995736766e-17;
  const vf r = __builtin_convertvector(reduced, vf);
  const vi quadrant = to_int(__builtin_convertvector(n, vf)) + shift;
  const vf t = r * r;
  // (sin r - r) / r^3, fit 3.6e-9; (cos r - 1 + r^2 / 2) / r^4, fit 9.5e-11.
  const vf ps = (t * -1.95173008e-4f + 8.332178e-3f) * t - 1.66666552e-1f;
  const vf pc = (t * 2.44384501e-5f - 1.38873677e-3f) * t + 4.16666456e-2f;
  const vf s = ps * (t * r) + r;
  const vf c = pc * (t * t) + (1.0f - 0.5f * t);
  const vf y = (quadrant & 1) != 0 ? c : s;
  return (vf)((vi)y ^ ((quadrant & 2) << 30));
}
template <typename F>
[[gnu::always_inline]] inline vf sin_cos(vf x, int shift, F far) {
  constexpr float kMost = 1e6f;
  vf y = sin_cos_reduced(vabs(x) <= kMost ? x : splat(0), shift);
  if (all_within(x, kMost)) return y;
  for (int i = 0; i < kLanes; ++i) {
    if (!(__builtin_fabsf(x[i]) <= kMost)) y[i] = far(x[i]);
  }
  return y;
}
[[gnu::always_inline]] inline vf vsin(vf x) {
  const vf y = sin_cos(x, 0, [](float v) { return __builtin_sinf(v); });
  return x == 0.0f ? x : y;  // -0
}
[[gnu::always_inline]] inline vf vcos(vf x) {
  return sin_cos(x, 1, [](float v) { return __builtin_cosf(v); });
}

[[gnu::always_inline]] inline vf vrsqrt(vf x) { return 1.0f / vsqrt(x); }
[[gnu::always_inline]] inline vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
[[gnu::always_inline]] inline vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }
[[gnu::always_inline]] inline vf vgelu(vf x) {
  return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f));
}
[[gnu::always_inline]] inline vf vgelu_tanh(vf x) {
  return 0.5f * x * (1.0f + vtanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}
// log(1 + e^x)
[[gnu::always_inline]] inline vf vsoftplus(vf x) {
  return vmax(splat(0.0f), x) + vlog1p(vexp(-vabs(x)));
}
// x * tanh(softplus(x)): with n = e^x, tanh(log(1 + n)) = n (n + 2) / (n (n + 2) + 2).
[[gnu::always_inline]] inline vf vmish(vf x) {
  const vf n = vexp(vmin(splat(20.0f), x));
  const vf w = n * (n + 2.0f);
  return x * (w / (w + 2.0f));
}
// Rare enough that the C library does them.
[[gnu::always_inline]] inline vf vpow(vf x, vf y) {
  vf r{};
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_powf(x[i], y[i]);
  return r;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
