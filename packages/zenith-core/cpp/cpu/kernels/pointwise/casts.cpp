// Conversions between register types. Floats become integers by truncation; what does not fit is
// the smallest integer (as the machine does), bool is "not zero".
//
// Direct between the main types; rare integers are read and written as i64,
// rare floats are read as f32 and written from f32 or f64. Python strings these together so that
// no value is rounded twice.
#include "cpu/kernels/pointwise/loops.h"
#include "cpu/kernels/pointwise/small_floats.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace zenith::ZENITH_ISA {
namespace {

struct Bool {
  uint8_t v;
};
// The low BITS of a byte; the others are ignored, and zero when written.
template <int BITS, bool SIGNED>
struct Bits {
  uint8_t v;
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
    constexpr From kTwo63 = static_cast<From>(9223372036854775808.0);
    if constexpr (static_cast<To>(-1) > static_cast<To>(1)) {
      if (x >= kTwo63 && x < 2 * kTwo63) {
        return static_cast<To>(static_cast<int64_t>(x - kTwo63)) + (uint64_t{1} << 63);
      }
    }
    return static_cast<To>(x >= -kTwo63 && x < kTwo63 ? static_cast<int64_t>(x) : INT64_MIN);
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
template <int BITS, bool SIGNED>
int64_t from_bits(Bits<BITS, SIGNED> x) {
  constexpr int64_t kTop = int64_t{1} << (BITS - 1);
  const int64_t low = x.v & (2 * kTop - 1);
  return SIGNED ? (low ^ kTop) - kTop : low;
}
template <int BITS, bool SIGNED>
Bits<BITS, SIGNED> to_bits(int64_t x) {
  return {static_cast<uint8_t>(x & ((1 << BITS) - 1))};
}

template <typename From>
OpFn to_main(Type to) {
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
    case kU64:
      return unary<From, uint64_t, convert<uint64_t, From>>;
    case kBool:
      return unary<From, Bool, to_bool<From>>;
    default:
      return nullptr;
  }
}

template <int BITS, bool SIGNED>
constexpr OpFn write_bits = unary<int64_t, Bits<BITS, SIGNED>, to_bits<BITS, SIGNED>>;
template <int BITS, bool SIGNED>
constexpr OpFn read_bits = unary<Bits<BITS, SIGNED>, int64_t, from_bits<BITS, SIGNED>>;

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
    case kI4:
      return write_bits<4, true>;
    case kU4:
      return write_bits<4, false>;
    case kI2:
      return write_bits<2, true>;
    case kU2:
      return write_bits<2, false>;
    default:
      return to_main<int64_t>(to);
  }
}

#if defined(__F16C__)
// The instructions are several times as fast as the portable loops.
void half_to_f32(const Args& args) {
  const uint16_t* a = static_cast<const uint16_t*>(args.a);
  float* y = static_cast<float*>(args.dst);
  int64_t i = 0;
  for (; i + 8 <= args.n; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(bits));
  }
  for (; i < args.n; ++i) y[i] = decode(Half{a[i]});
}
void f32_to_half(const Args& args) {
  const float* a = static_cast<const float*>(args.a);
  uint16_t* y = static_cast<uint16_t*>(args.dst);
  int64_t i = 0;
  for (; i + 8 <= args.n; i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(a + i), 0);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), bits);
  }
  for (; i < args.n; ++i) {
    Half h;
    encode(a[i], h);
    y[i] = h.v;
  }
}
#endif

float narrow(float x) { return x; }
float narrow(double x) { return to_odd(x); }

template <typename From, typename To>
void to_half_float(const Args& args) {
  const From* a = static_cast<const From*>(args.a);
  To* y = static_cast<To*>(args.dst);
#pragma GCC ivdep
  for (int64_t i = 0; i < args.n; ++i) encode(narrow(a[i]), y[i]);
}
// p: whether to saturate.
template <typename From, typename To>
void to_small(const Args& args) {
  const From* a = static_cast<const From*>(args.a);
  To* y = static_cast<To*>(args.dst);
  const bool saturate = args.p != 0;
  for (int64_t i = 0; i < args.n; ++i) {
    To code;
    encode(narrow(a[i]), code, saturate);
    y[i] = code;
  }
}
// q: how to round, 0 up, 1 down, 2 to nearest. Doubles are rounded to f32 first, as ONNX says.
template <typename From>
void to_e8m0(const Args& args) {
  const From* a = static_cast<const From*>(args.a);
  E8M0* y = static_cast<E8M0*>(args.dst);
  const Rounding rounding = args.q == 0.0f ? kUp : (args.q == 1.0f ? kDown : kNearest);
  for (int64_t i = 0; i < args.n; ++i) {
    encode(static_cast<float>(a[i]), y[i], args.p != 0, rounding);
  }
}

template <typename From>
OpFn from_float(Type to) {
  switch (to) {
    case kF16:
      return to_half_float<From, Half>;
    case kBF16:
      return to_half_float<From, BFloat>;
    case kF8E4M3FN:
      return to_small<From, E4M3FN>;
    case kF8E4M3FNUZ:
      return to_small<From, E4M3FNUZ>;
    case kF8E5M2:
      return to_small<From, E5M2>;
    case kF8E5M2FNUZ:
      return to_small<From, E5M2FNUZ>;
    case kF4E2M1FN:
      return to_small<From, E2M1FN>;
    case kF8E8M0FNU:
      return to_e8m0<From>;
    default:
      return to_main<From>(to);
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
    case kU64:
      return unary<Bool, uint64_t, from_bool<uint64_t>>;
    case kU8:
    case kBool:
      return unary<Bool, uint8_t, from_bool<uint8_t>>;
    default:
      return nullptr;
  }
}

template <typename T>
OpFn to_f32(Type to) {
  return to == kF32 ? static_cast<OpFn>(unary<T, float, static_cast<float (*)(T)>(decode)>)
                    : nullptr;
}
template <typename T>
OpFn to_i64(Type to) {
  return to == kI64 ? static_cast<OpFn>(unary<T, int64_t, convert<int64_t, T>>) : nullptr;
}

template <typename T>
T same(T x) {
  return x;
}
OpFn copy_fn(Type type) {
  switch (type) {
    case kF32:
    case kI32:
    case kU32:
      return unary<uint32_t, uint32_t, same<uint32_t>>;
    case kF64:
    case kI64:
    case kU64:
      return unary<uint64_t, uint64_t, same<uint64_t>>;
    case kF16:
    case kBF16:
    case kI16:
    case kU16:
      return unary<uint16_t, uint16_t, same<uint16_t>>;
    default:
      return unary<uint8_t, uint8_t, same<uint8_t>>;
  }
}

OpFn cast_fn(Type from, Type to) {
#if defined(__F16C__)
  if (from == kF16 && to == kF32) return half_to_f32;
  if (from == kF32 && to == kF16) return f32_to_half;
#endif
  if (from == to && from != kBool) return copy_fn(from);
  switch (from) {
    case kF32:
      return from_float<float>(to);
    case kF64:
      return from_float<double>(to);
    case kI64:
      return from_i64(to);
    case kI32:
      return to_main<int32_t>(to);
    case kU8:
      return to_main<uint8_t>(to);
    case kU64:
      return to_main<uint64_t>(to);
    case kBool:
      return from_boolean(to);
    case kI8:
      return to_i64<int8_t>(to);
    case kI16:
      return to_i64<int16_t>(to);
    case kU16:
      return to_i64<uint16_t>(to);
    case kU32:
      return to_i64<uint32_t>(to);
    case kF16:
      return to_f32<Half>(to);
    case kBF16:
      return to_f32<BFloat>(to);
    case kF8E4M3FN:
      return to_f32<E4M3FN>(to);
    case kF8E4M3FNUZ:
      return to_f32<E4M3FNUZ>(to);
    case kF8E5M2:
      return to_f32<E5M2>(to);
    case kF8E5M2FNUZ:
      return to_f32<E5M2FNUZ>(to);
    case kF8E8M0FNU:
      return to_f32<E8M0>(to);
    case kF4E2M1FN:
      return to_f32<E2M1FN>(to);
    case kI4:
      return to == kI64 ? read_bits<4, true> : nullptr;
    case kU4:
      return to == kI64 ? read_bits<4, false> : nullptr;
    case kI2:
      return to == kI64 ? read_bits<2, true> : nullptr;
    case kU2:
      return to == kI64 ? read_bits<2, false> : nullptr;
    case kTypeCount:
      break;
  }
  return nullptr;
}

}  // namespace

OpEntry cast_op(Type from, Type to) { return {cast_fn(from, to), 6}; }

}  // namespace zenith::ZENITH_ISA
