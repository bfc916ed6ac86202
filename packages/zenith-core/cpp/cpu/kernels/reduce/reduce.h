// Reductions along axes: what the files of this family share.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {

struct ScanParams {
  int64_t axis;
  int64_t largest;    // arg_reduce: 1 for the largest, 0 for the smallest
  int64_t last;       // arg_reduce: 1 for the last of equals
  int64_t exclusive;  // cumsum
  int64_t reverse;    // cumsum
};
const char* run_arg_reduce(const Call& call);
const char* run_cumsum(const Call& call);
const char* run_cumprod(const Call& call);

namespace {

// a = join(a, v) for scalars and for vectors. NaN wins in max and min. kWide: floats are added up
// in double across blocks.
struct Sum {
  static constexpr bool kWide = true;
  static constexpr double kStart = 0;
  template <typename X>
  static X of(X v) {
    return v;
  }
  template <typename X>
  static X join(X a, X v) {
    return a + v;
  }
};
struct AbsSum : Sum {
  template <typename X>
  static X of(X v) {
    return v < X{} ? -v : v;
  }
};
struct SquareSum : Sum {
  template <typename X>
  static X of(X v) {
    return v * v;
  }
};
struct Prod {
  static constexpr bool kWide = true;
  static constexpr double kStart = 1;
  template <typename X>
  static X of(X v) {
    return v;
  }
  template <typename X>
  static X join(X a, X v) {
    return a * v;
  }
};
struct Max {
  static constexpr bool kWide = false;
  template <typename X>
  static X of(X v) {
    return v;
  }
  template <typename X>
  static X join(X a, X v) {
    return (v > a) | (v != v) ? v : a;
  }
};
struct Min {
  static constexpr bool kWide = false;
  template <typename X>
  static X of(X v) {
    return v;
  }
  template <typename X>
  static X join(X a, X v) {
    return (v < a) | (v != v) ? v : a;
  }
};

template <typename T>
constexpr bool is_f32 = false;
template <>
constexpr bool is_f32<float> = true;
template <typename T>
constexpr bool is_float = is_f32<T>;
template <>
constexpr bool is_float<double> = true;

// What partial results are held in.
template <typename R, typename T, bool wide = R::kWide && is_f32<T>>
struct AccOf {
  using type = T;
};
template <typename R, typename T>
struct AccOf<R, T, true> {
  using type = double;
};
template <typename R, typename T>
using Acc = typename AccOf<R, T>::type;

// Result of no elements at all.
template <typename R, typename T>
T start_of() {
  if constexpr (requires { R::kStart; }) {
    return static_cast<T>(R::kStart);
  } else {
    const bool is_max = R::join(T{0}, T{1}) == T{1};
    if constexpr (is_float<T>) {
      return is_max ? -__builtin_inff() : __builtin_inff();
    } else if constexpr (static_cast<T>(-1) > T{0}) {
      return is_max ? T{0} : static_cast<T>(-1);
    } else {
      const T low = static_cast<T>(uint64_t{1} << (sizeof(T) * 8 - 1));
      return is_max ? low : static_cast<T>(~low);
    }
  }
}

// Reduces n > 0 neighbours into acc: four vectors in T for 16 steps, then into one vector of Acc.
template <typename R, typename T>
void reduce_run(const T* x, int64_t n, Acc<R, T>& acc) {
  using A = Acc<R, T>;
  constexpr int64_t kN = kVecBytes / static_cast<int64_t>(sizeof(T));
  typedef T V __attribute__((vector_size(kVecBytes)));
  typedef T U __attribute__((vector_size(kVecBytes), aligned(alignof(T)), may_alias));
  typedef A VA __attribute__((vector_size(kN * sizeof(A))));
  int64_t i = 0;
  if (n >= 4 * kN) {
    VA total = VA{} + static_cast<A>(start_of<R, T>());
    while (i + 4 * kN <= n) {
      const int64_t end = i + 64 * kN < n ? i + 64 * kN : n;
      V a = V{} + start_of<R, T>(), b = a, c = a, d = a;
      for (; i + 4 * kN <= end; i += 4 * kN) {
        const U* v = reinterpret_cast<const U*>(x + i);
        a = R::join(a, R::of(static_cast<V>(v[0])));
        b = R::join(b, R::of(static_cast<V>(v[1])));
        c = R::join(c, R::of(static_cast<V>(v[2])));
        d = R::join(d, R::of(static_cast<V>(v[3])));
      }
      const V all = R::join(R::join(a, b), R::join(c, d));
      total = R::join(total, __builtin_convertvector(all, VA));
    }
    for (int j = 0; j < kN; ++j) acc = R::join(acc, total[j]);
  }
  for (; i < n; ++i) acc = R::join(acc, static_cast<A>(R::of(x[i])));
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
