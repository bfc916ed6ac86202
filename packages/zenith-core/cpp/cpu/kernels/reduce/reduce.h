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
    if constexpr (is_f32<T>) {
      return is_max ? -__builtin_inff() : __builtin_inff();
    } else if constexpr (static_cast<T>(-1) > T{0}) {
      return is_max ? T{0} : static_cast<T>(-1);
    } else {
      const T low = static_cast<T>(uint64_t{1} << (sizeof(T) * 8 - 1));
      return is_max ? low : static_cast<T>(~low);
    }
  }
}

constexpr int64_t kBlock = 2048;  // elements whose f32 sum is taken before going to double

// Reduces n > 0 neighbours into acc.
template <typename R, typename T>
void reduce_run(const T* x, int64_t n, Acc<R, T>& acc) {
  typedef T V __attribute__((vector_size(kVecBytes)));
  constexpr int64_t kN = kVecBytes / static_cast<int64_t>(sizeof(T));
  while (n > 0) {
    const int64_t m = n < kBlock ? n : kBlock;
    int64_t i = 0;
    if (m >= 4 * kN) {
      V a[4];
      for (V& v : a) v = V{} + start_of<R, T>();
      for (; i + 4 * kN <= m; i += 4 * kN) {
        V v[4];
        std::memcpy(v, x + i, sizeof(v));
        for (int j = 0; j < 4; ++j) a[j] = R::join(a[j], R::of(v[j]));
      }
      const V all = R::join(R::join(a[0], a[1]), R::join(a[2], a[3]));
      for (int j = 0; j < kN; ++j) acc = R::join(acc, static_cast<Acc<R, T>>(all[j]));
    }
    for (; i < m; ++i) acc = R::join(acc, static_cast<Acc<R, T>>(R::of(x[i])));
    x += m;
    n -= m;
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
