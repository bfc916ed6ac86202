// Conversions between register types. Floats become integers by truncation; what does not fit is
// the smallest integer (as the machine does), bool is "not zero".
#include "cpu/kernels/pointwise/loops.h"

namespace zenith::ZENITH_ISA {
namespace {

struct Bool {
  uint8_t v;
};
struct Half {
  uint16_t v;
};
struct BFloat {
  uint16_t v;
};

template <typename T>
constexpr bool is_float = false;
template <>
constexpr bool is_float<float> = true;
template <>
constexpr bool is_float<double> = true;

template <typename To, typename From>
To convert(From x) {
  if constexpr (!is_float<From> || is_float<To>) {
    return static_cast<To>(x);
  } else if constexpr (sizeof(To) == 8) {
    return x >= static_cast<From>(-9223372036854775808.0) &&
                   x < static_cast<From>(9223372036854775808.0)
               ? static_cast<int64_t>(x)
               : INT64_MIN;
  } else {
    const int32_t i = x >= static_cast<From>(-2147483648.0) && x < static_cast<From>(2147483648.0)
                          ? static_cast<int32_t>(x)
                          : INT32_MIN;
    return static_cast<To>(i);
  }
}
template <typename From>
Bool to_bool(From x) {
  return {static_cast<uint8_t>(x != From{0})};
}
template <typename To>
To from_bool(Bool x) {
  return static_cast<To>(x.v != 0);
}

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

// The exponent is rebased by a multiplication, which also makes subnormals right.
float from_half(Half h) {
  const uint32_t magnitude = static_cast<uint32_t>(h.v & 0x7fff) << 13;
  const uint32_t scaled = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t sign = static_cast<uint32_t>(h.v & 0x8000) << 16;
  return float_of((magnitude >= 0x0f800000u ? special : scaled) | sign);
}
// Round to nearest even. Subnormal halves: adding 0.5 leaves the rounded bits at the bottom.
Half to_half(float f) {
  const uint32_t bits = bits_of(f);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t nan = 0x7e00u;
  uint32_t h = magnitude < 0x38800000u ? small : normal;
  h = magnitude >= 0x477ff000u ? 0x7c00u : h;
  h = magnitude > 0x7f800000u ? nan : h;
  return {static_cast<uint16_t>(h | ((bits >> 16) & 0x8000u))};
}
float from_bfloat(BFloat h) { return float_of(static_cast<uint32_t>(h.v) << 16); }
BFloat to_bfloat(float f) {
  const uint32_t bits = bits_of(f);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

template <typename From>
OpFn from_main(Type to) {
  switch (to) {
    case kF32:
      return unary<From, float, convert<float, From>>;
    case kI64:
      return unary<From, int64_t, convert<int64_t, From>>;
    case kI32:
      return unary<From, int32_t, convert<int32_t, From>>;
    case kU8:
      return unary<From, uint8_t, convert<uint8_t, From>>;
    case kF64:
      return unary<From, double, convert<double, From>>;
    case kBool:
      return unary<From, Bool, to_bool<From>>;
    default:
      return nullptr;
  }
}

OpFn from_i64(Type to) {
  switch (to) {
    case kI8:
      return unary<int64_t, int8_t, convert<int8_t, int64_t>>;
    case kI16:
      return unary<int64_t, int16_t, convert<int16_t, int64_t>>;
    case kU16:
      return unary<int64_t, uint16_t, convert<uint16_t, int64_t>>;
    case kU32:
      return unary<int64_t, uint32_t, convert<uint32_t, int64_t>>;
    case kU64:
      return unary<int64_t, uint64_t, convert<uint64_t, int64_t>>;
    default:
      return from_main<int64_t>(to);
  }
}

OpFn from_f32(Type to) {
  switch (to) {
    case kF16:
      return unary<float, Half, to_half>;
    case kBF16:
      return unary<float, BFloat, to_bfloat>;
    default:
      return from_main<float>(to);
  }
}

OpFn from_boolean(Type to) {
  switch (to) {
    case kF32:
      return unary<Bool, float, from_bool<float>>;
    case kI64:
      return unary<Bool, int64_t, from_bool<int64_t>>;
    case kI32:
      return unary<Bool, int32_t, from_bool<int32_t>>;
    case kF64:
      return unary<Bool, double, from_bool<double>>;
    case kU8:
    case kBool:
      return unary<Bool, uint8_t, from_bool<uint8_t>>;
    default:
      return nullptr;
  }
}

}  // namespace

// Direct between the main types and bool; f16 and bf16 through f32, other integers through i64.
OpEntry cast_op(Type from, Type to) {
  OpFn fn = nullptr;
  switch (from) {
    case kF32:
      fn = from_f32(to);
      break;
    case kI64:
      fn = from_i64(to);
      break;
    case kI32:
      fn = from_main<int32_t>(to);
      break;
    case kU8:
      fn = from_main<uint8_t>(to);
      break;
    case kF64:
      fn = from_main<double>(to);
      break;
    case kBool:
      fn = from_boolean(to);
      break;
    case kF16:
      if (to == kF32) fn = unary<Half, float, from_half>;
      break;
    case kBF16:
      if (to == kF32) fn = unary<BFloat, float, from_bfloat>;
      break;
    case kI8:
      if (to == kI64) fn = unary<int8_t, int64_t, convert<int64_t, int8_t>>;
      break;
    case kI16:
      if (to == kI64) fn = unary<int16_t, int64_t, convert<int64_t, int16_t>>;
      break;
    case kU16:
      if (to == kI64) fn = unary<uint16_t, int64_t, convert<int64_t, uint16_t>>;
      break;
    case kU32:
      if (to == kI64) fn = unary<uint32_t, int64_t, convert<int64_t, uint32_t>>;
      break;
    case kU64:
      if (to == kI64) fn = unary<uint64_t, int64_t, convert<int64_t, uint64_t>>;
      break;
    case kTypeCount:
      break;
  }
  return {fn, 6};
}

}  // namespace zenith::ZENITH_ISA
