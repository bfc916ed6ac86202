// Encoding and decoding of floats narrower than f32: f16, bf16, the float8 family and float4.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

uint32_t bits_of(float f) {
  uint32_t b;
  std::memcpy(&b, &f, 4);
  return b;
}
float float_of(uint32_t b) {
  float f;
  std::memcpy(&f, &b, 4);
  return f;
}

// The nearest f32, but with the last bit set where it is not exact: rounding that once more to
// fewer bits gives what rounding x itself gives.
[[maybe_unused]] float to_odd(double x) {
  const float f = static_cast<float>(x);
  const double back = static_cast<double>(f);
  const uint32_t bits = bits_of(f);
  const bool above = __builtin_fabs(back) > __builtin_fabs(x);
  const bool exact = back == x || x != x;
  return exact ? f : float_of((bits - above) | 1u);
}

struct Half {
  uint16_t v;
};
struct BFloat {
  uint16_t v;
};

// The exponent is rebased by a multiplication, which also makes subnormals right.
float decode(Half h) {
  const uint32_t magnitude = static_cast<uint32_t>(h.v & 0x7fff) << 13;
  const uint32_t scaled = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t sign = static_cast<uint32_t>(h.v & 0x8000) << 16;
  return float_of((magnitude >= 0x0f800000u ? special : scaled) | sign);
}
float decode(BFloat h) { return float_of(static_cast<uint32_t>(h.v) << 16); }

// Round to nearest even. Subnormal halves: adding 0.5 leaves the rounded bits at the bottom.
void encode(float f, Half& h) {
  const uint32_t bits = bits_of(f);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t nan = 0x7e00u;
  uint32_t code = magnitude < 0x38800000u ? small : normal;
  code = magnitude >= 0x477ff000u ? 0x7c00u : code;
  code = magnitude > 0x7f800000u ? nan : code;
  h.v = static_cast<uint16_t>(code | ((bits >> 16) & 0x8000u));
}
void encode(float f, BFloat& h) {
  const uint32_t bits = bits_of(f);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  h.v = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// A float of one byte: sign, EXP exponent bits of bias BIAS, MAN bits. MAX: the code of the largest
// number; NAN_CODE and INF_CODE: those of NaN and infinity, -1 where the format has none. UNSIGNED
// ZERO: there is no -0 (its code is NaN).
template <int EXP, int MAN, int BIAS, int MAX, int NAN_CODE, int INF_CODE, bool UNSIGNED_ZERO>
struct Small {
  static constexpr int kMan = MAN, kBias = BIAS, kMax = MAX, kNan = NAN_CODE, kInf = INF_CODE;
  static constexpr uint32_t kSign = 1u << (EXP + MAN);
  static constexpr bool kUnsignedZero = UNSIGNED_ZERO;
  uint8_t v;
};
using E4M3FN = Small<4, 3, 7, 0x7e, 0x7f, -1, false>;
using E4M3FNUZ = Small<4, 3, 8, 0x7f, 0x80, -1, true>;
using E5M2 = Small<5, 2, 15, 0x7b, 0x7e, 0x7c, false>;
using E5M2FNUZ = Small<5, 2, 16, 0x7f, 0x80, -1, true>;
using E2M1FN = Small<2, 1, 1, 0x7, -1, -1, false>;

template <int E, int M, int B, int MAX, int N, int I, bool Z>
float decode(Small<E, M, B, MAX, N, I, Z> x) {
  using F = Small<E, M, B, MAX, N, I, Z>;
  const uint32_t code = x.v & (2 * F::kSign - 1), magnitude = code & (F::kSign - 1);
  const uint32_t sign = (code & F::kSign) != 0 ? 0x80000000u : 0u;
  const float scale = float_of(static_cast<uint32_t>(127 + 127 - B) << 23);
  float y = float_of(magnitude << (23 - M)) * scale;
  if constexpr (I >= 0) y = magnitude == static_cast<uint32_t>(I) ? __builtin_inff() : y;
  if constexpr (N >= 0 && Z) {
    if (code == static_cast<uint32_t>(N)) return __builtin_nanf("");
  } else if constexpr (N >= 0) {
    if (magnitude > static_cast<uint32_t>(MAX) && magnitude != static_cast<uint32_t>(I)) {
      return __builtin_nanf("");
    }
  }
  return float_of(bits_of(y) | sign);
}

// Round to nearest even. What lies beyond MAX becomes MAX if `saturate`, else infinity or NaN.
template <int E, int M, int B, int MAX, int N, int I, bool Z>
void encode(float f, Small<E, M, B, MAX, N, I, Z>& y, bool saturate) {
  using F = Small<E, M, B, MAX, N, I, Z>;
  const uint32_t bits = bits_of(f), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 31) != 0 ? F::kSign : 0u;
  constexpr int kShift = 23 - M;
  // The smallest normal number, and the number whose last bit is worth the smallest subnormal.
  constexpr uint32_t kNormal = static_cast<uint32_t>(128 - B) << 23;
  const uint32_t unit = static_cast<uint32_t>(127 + 23 + 1 - B - M) << 23;
  const uint32_t small = bits_of(float_of(magnitude) + float_of(unit)) - unit;
  const uint32_t half = (1u << (kShift - 1)) - 1u + ((magnitude >> kShift) & 1u);
  const uint32_t normal = (magnitude - (static_cast<uint32_t>(127 - B) << 23) + half) >> kShift;
  uint32_t code = magnitude < kNormal ? small : normal;
  const bool nan = magnitude > 0x7f800000u;
  if (magnitude >= 0x7f800000u || code > static_cast<uint32_t>(MAX)) {
    constexpr int kBeyond = I >= 0 ? I : (N >= 0 ? N : MAX);
    code = saturate ? static_cast<uint32_t>(MAX) : static_cast<uint32_t>(kBeyond);
  }
  if (nan) code = N >= 0 ? static_cast<uint32_t>(N) : 0u;
  const bool no_sign = Z && (code == 0 || code == static_cast<uint32_t>(N));
  y.v = static_cast<uint8_t>(no_sign ? code : (code | sign));
}

// 2^(v - 127), 255 is NaN. No sign and no zero.
struct E8M0 {
  uint8_t v;
};
float decode(E8M0 x) {
  const uint32_t bits = x.v == 0 ? 0x00400000u : static_cast<uint32_t>(x.v) << 23;
  return x.v == 255 ? __builtin_nanf("") : float_of(bits);
}
enum Rounding { kUp, kDown, kNearest };
[[maybe_unused]] void encode(float f, E8M0& y, bool saturate, Rounding rounding) {
  const uint32_t bits = bits_of(f), exponent = bits >> 23 & 255u, fraction = bits & 0x7fffffu;
  bool up = rounding == kUp && fraction != 0;
  // Ties go up: 1.5 * 2^n rounds to 2^(n + 1). Below the normal numbers only more than a tie does.
  if (rounding == kNearest) up = exponent != 0 ? fraction >= 0x400000u : fraction > 0x400000u;
  if (saturate && exponent == 254) up = false;
  y.v = static_cast<uint8_t>(exponent == 255 ? 255u : exponent + up);
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
