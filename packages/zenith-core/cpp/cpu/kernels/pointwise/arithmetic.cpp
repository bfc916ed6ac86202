// Arithmetic, comparisons, selection and bits, for every register type. Integers wrap around.
#include "cpu/kernels/pointwise/loops.h"

namespace zenith::ZENITH_ISA {
namespace {

// The type in which T wraps instead of overflowing: unsigned of the same size or more; floats are
// themselves.
template <typename T>
struct Wrap {
  using type = T;
};
#define ZENITH_WRAP(T, W) \
  template <>             \
  struct Wrap<T> {        \
    using type = W;       \
  };
ZENITH_WRAP(int8_t, uint32_t)
ZENITH_WRAP(uint8_t, uint32_t)
ZENITH_WRAP(int16_t, uint32_t)
ZENITH_WRAP(uint16_t, uint32_t)
ZENITH_WRAP(int32_t, uint32_t)
ZENITH_WRAP(int64_t, uint64_t)
#undef ZENITH_WRAP
template <typename T>
using wrap_t = typename Wrap<T>::type;
template <typename T>
constexpr bool is_float = false;
template <>
constexpr bool is_float<float> = true;
template <>
constexpr bool is_float<double> = true;
template <typename T>
constexpr bool is_signed = static_cast<T>(-1) < static_cast<T>(1);

template <typename T>
struct Fn {
  using W = wrap_t<T>;
  static T add(T a, T b) { return static_cast<T>(static_cast<W>(a) + static_cast<W>(b)); }
  static T sub(T a, T b) { return static_cast<T>(static_cast<W>(a) - static_cast<W>(b)); }
  static T mul(T a, T b) { return static_cast<T>(static_cast<W>(a) * static_cast<W>(b)); }
  static T neg(T a) {
    if constexpr (is_float<T>) return -a;
    return static_cast<T>(W{0} - static_cast<W>(a));
  }
  static T abs(T a) {
    if constexpr (is_float<T>) return a < 0 ? -a : (a == 0 ? T{0} : a);
    if constexpr (is_signed<T>) return a < 0 ? neg(a) : a;
    return a;
  }
  static T sign(T a) {
    const T s = static_cast<T>((a > T{0}) - (a < T{0}));
    if constexpr (is_float<T>) return a != a ? a : s;
    return s;
  }
  // NaN wins.
  static T min(T a, T b) {
    if constexpr (is_float<T>) return a < b || a != a ? a : b;
    return a < b ? a : b;
  }
  static T max(T a, T b) {
    if constexpr (is_float<T>) return a > b || a != a ? a : b;
    return a > b ? a : b;
  }
  static T relu(T a) { return a < T{0} ? T{0} : a; }
  static T prelu(T a, T b) { return a < T{0} ? mul(a, b) : a; }
  static uint8_t eq(T a, T b) { return a == b; }
  static uint8_t lt(T a, T b) { return a < b; }
  static uint8_t le(T a, T b) { return a <= b; }
  static uint8_t isnan(T a) { return a != a; }
};

template <typename T>
struct Int {
  using F = Fn<T>;
  static bool is_minus_one(T b) { return is_signed<T> && b == static_cast<T>(-1); }
  // Division by zero must not trap: 0. Nor must the smallest number by -1: it wraps to itself.
  static T div(T a, T b) {
    if (b == 0) return 0;
    if (is_minus_one(b)) return F::neg(a);
    return static_cast<T>(a / b);
  }
  static T fmod(T a, T b) { return b == 0 || is_minus_one(b) ? T{0} : static_cast<T>(a % b); }
  // The sign is that of the divisor, as in Python.
  static T mod(T a, T b) {
    const T r = fmod(a, b);
    if constexpr (is_signed<T>) return r != 0 && (r < 0) != (b < 0) ? F::add(r, b) : r;
    return r;
  }
  static T pow(T a, T b) {
    if constexpr (is_signed<T>) {
      if (b < 0) {
        if (a == 1) return 1;
        if (a == static_cast<T>(-1)) return (b & 1) != 0 ? a : T{1};
        return 0;
      }
    }
    T result = 1;
    for (T base = a, e = b; e != 0; e = static_cast<T>(e >> 1)) {
      if ((e & 1) != 0) result = F::mul(result, base);
      base = F::mul(base, base);
    }
    return result;
  }
};

template <typename T>
struct Float {
  static T div(T a, T b) { return a / b; }
  static T fmod(T a, T b) {
    if constexpr (sizeof(T) == 4) return __builtin_fmodf(a, b);
    return __builtin_fmod(a, b);
  }
  static T mod(T a, T b) {
    const T r = fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
  }
  static T pow(T a, T b) {
    if constexpr (sizeof(T) == 4) return __builtin_powf(a, b);
    return __builtin_pow(a, b);
  }
};

template <typename T>
struct Bits {
  using W = wrap_t<T>;
  static constexpr W kBits = sizeof(T) * 8;
  static T band(T a, T b) { return static_cast<T>(a & b); }
  static T bor(T a, T b) { return static_cast<T>(a | b); }
  static T bxor(T a, T b) { return static_cast<T>(a ^ b); }
  static T bnot(T a) { return static_cast<T>(~a); }
  // A negative count, or one of the type's width or more, shifts everything out. Signed numbers
  // shift right with their sign.
  static T shl(T a, T b) {
    const W count = static_cast<W>(b);
    return count < kBits ? static_cast<T>(static_cast<W>(a) << count) : T{0};
  }
  static T shr(T a, T b) {
    const W count = static_cast<W>(b);
    const T gone = a < T{0} ? static_cast<T>(-1) : T{0};
    return count < kBits ? static_cast<T>(a >> count) : gone;
  }
};

uint8_t logical_not(uint8_t a) { return a == 0; }

// Which sources may be scalars; unused ones count.
constexpr uint32_t kBoth = 7, kUnary = 6;

// M: Int<T> or Float<T>.
template <typename T, typename M>
OpEntry common(Op op) {
  using F = Fn<T>;
  switch (op) {
    case kOp_add:
      return {binary<T, T, F::add>, kBoth};
    case kOp_sub:
      return {binary<T, T, F::sub>, kBoth};
    case kOp_mul:
      return {binary<T, T, F::mul>, kBoth};
    case kOp_div:
      return {binary<T, T, M::div>, kBoth};
    case kOp_min:
      return {binary<T, T, F::min>, kBoth};
    case kOp_max:
      return {binary<T, T, F::max>, kBoth};
    case kOp_prelu:
      return {binary<T, T, F::prelu>, kBoth};
    case kOp_mod:
      return {binary<T, T, M::mod>, kBoth};
    case kOp_fmod:
      return {binary<T, T, M::fmod>, kBoth};
    case kOp_pow:
      return {binary<T, T, M::pow>, kBoth};
    case kOp_neg:
      return {unary<T, T, F::neg>, kUnary};
    case kOp_abs:
      return {unary<T, T, F::abs>, kUnary};
    case kOp_sign:
      return {unary<T, T, F::sign>, kUnary};
    case kOp_relu:
      return {unary<T, T, F::relu>, kUnary};
    default:
      return {nullptr, 0};
  }
}

template <typename T>
OpEntry ordered(Op op) {
  using F = Fn<T>;
  switch (op) {
    case kOp_eq:
      return {binary<T, uint8_t, F::eq>, kBoth};
    case kOp_lt:
      return {binary<T, uint8_t, F::lt>, kBoth};
    case kOp_le:
      return {binary<T, uint8_t, F::le>, kBoth};
    case kOp_where:
      return {select<T>, 6};
    default:
      return {nullptr, 0};
  }
}

template <typename T>
OpEntry bits(Op op) {
  using F = Bits<T>;
  switch (op) {
    case kOp_band:
      return {binary<T, T, F::band>, kBoth};
    case kOp_bor:
      return {binary<T, T, F::bor>, kBoth};
    case kOp_bxor:
      return {binary<T, T, F::bxor>, kBoth};
    case kOp_shl:
      return {binary<T, T, F::shl>, kBoth};
    case kOp_shr:
      return {binary<T, T, F::shr>, kBoth};
    case kOp_bnot:
      return {unary<T, T, F::bnot>, kUnary};
    default:
      return {nullptr, 0};
  }
}

// Floats take part in everything but bits, integers in everything.
template <typename T>
OpEntry of_float(Op op) {
  if (op == kOp_isnan) return {unary<T, uint8_t, Fn<T>::isnan>, kUnary};
  const OpEntry entry = common<T, Float<T>>(op);
  return entry.fn != nullptr ? entry : ordered<T>(op);
}
template <typename T>
OpEntry of_integer(Op op) {
  OpEntry entry = common<T, Int<T>>(op);
  if (entry.fn == nullptr) entry = ordered<T>(op);
  return entry.fn != nullptr ? entry : bits<T>(op);
}

}  // namespace

OpEntry arithmetic_op(Op op, Type type) {
  switch (type) {
    case kF32:
      return of_float<float>(op);
    case kF64:
      return of_float<double>(op);
    case kI64:
      return of_integer<int64_t>(op);
    case kI32:
      return of_integer<int32_t>(op);
    case kI16:
      return of_integer<int16_t>(op);
    case kI8:
      return of_integer<int8_t>(op);
    case kU64:
      return of_integer<uint64_t>(op);
    case kU32:
      return of_integer<uint32_t>(op);
    case kU16:
      return of_integer<uint16_t>(op);
    case kU8:
      if (op == kOp_lnot) return {unary<uint8_t, uint8_t, logical_not>, kUnary};
      return of_integer<uint8_t>(op);
    default:
      return {nullptr, 0};
  }
}

}  // namespace zenith::ZENITH_ISA
