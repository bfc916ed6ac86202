// Functions short of float32's last digits, for results that are rounded to bfloat16 at once (by up
// to 4e-3 of their value). They need instructions of AVX-512; kShortFunctions says whether they are
// there.
#pragma once

#include "cpu/isa/epilogue.h"

#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
#include <immintrin.h>
#endif

namespace zenith::ZENITH_ISA {
namespace {

constexpr float kLog2E = 1.44269504f;

// x / (1 + 2^(x * P(x^2))), P of coefficients from the constant on: the sigmoid of -ln 2 * x * P.
struct Swish {
  float c[5];
};
constexpr Swish kSilu = {{-kLog2E, 0, 0, 0, 0}};
// x * tanh's form of it is exact: (1 + tanh(a)) / 2 is the sigmoid of 2 a.
constexpr float kTanhFactor = -2 * kLog2E * 0.79788456080286536f;
constexpr Swish kGeluTanh = {{kTanhFactor, kTanhFactor * 0.044715f, 0, 0, 0}};
// log(F(x) / F(-x)) / x of the normal distribution F, fitted on [0, 6] to 3e-4 of x * F(x) where
// that is 1e-3 or more, and to 3e-7 where it is less (see vecmath.h for how).
constexpr Swish kGelu = {
    {-2.30094867f, -0.106646062f, 8.31589594e-4f, 3.29722208e-5f, -1.17259254e-6f}};

// A step of an epilogue as one of them, null for any other.
inline const Swish* swish_of(int64_t code) {
  return code == kStepSilu       ? &kSilu
         : code == kStepGelu     ? &kGelu
         : code == kStepGeluTanh ? &kGeluTanh
                                 : nullptr;
}

#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
constexpr bool kShortFunctions = true;

// 2^x to 4e-6. Of -inf it is 0 and of inf inf: there the last instruction ignores that p is not a
// number.
[[gnu::always_inline]] inline vf power_of_two(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to nearest
  const vf n = (x + magic) - magic;
  const vf r = x - n;
  vf p = splat(9.5701013e-3f);
  p = p * r + 5.5917859e-2f;
  p = p * r + 0.24024744f;
  p = p * r + 0.69312179f;
  p = p * r + 0.99999928f;
  return (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
}

// To 4e-4 of the exact value; NaN for -inf, as 0 * inf is.
[[gnu::always_inline]] inline vf swish(vf x, const Swish& s) {
  const vf c = vmin(splat(100), vmax(splat(-100), x)), t = c * c;  // beyond, all of it is 0 or x
  vf p = splat(s.c[4]);
  p = p * t + s.c[3];
  p = p * t + s.c[2];
  p = p * t + s.c[1];
  p = p * t + s.c[0];
  return x * (vf)_mm512_maskz_rcp14_ps(0xffff, (__m512)(power_of_two(c * p) + 1.0f));
}
#else
constexpr bool kShortFunctions = false;
[[gnu::always_inline]] inline vf swish(vf x, const Swish&) { return x; }
#endif

}  // namespace
}  // namespace zenith::ZENITH_ISA
