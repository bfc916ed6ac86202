// Loops over one tile. A destination that is also a source is the very same tile, so the loops
// carry no dependency (ivdep).
#pragma once

#include "cpu/kernels/pointwise/ops.h"

namespace zenith::ZENITH_ISA {
namespace {

template <typename T, typename R, auto F>
void unary(const Args& args) {
  const T* a = static_cast<const T*>(args.a);
  R* y = static_cast<R*>(args.dst);
  const int64_t n = args.n;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = F(a[i]);
}

template <typename T, typename R, auto F>
void binary(const Args& args) {
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  R* y = static_cast<R*>(args.dst);
  const int64_t n = args.n;
  if (args.scalar_a && args.scalar_b) {
    const R v = F(*a, *b);
    for (int64_t i = 0; i < n; ++i) y[i] = v;
  } else if (args.scalar_a) {
    const T v = *a;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = F(v, b[i]);
  } else if (args.scalar_b) {
    const T v = *b;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = F(a[i], v);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = F(a[i], b[i]);
  }
}

template <typename T>
void select(const Args& args) {
  const uint8_t* a = static_cast<const uint8_t*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  const T* c = static_cast<const T*>(args.c);
  T* y = static_cast<T*>(args.dst);
  const int64_t n = args.n;
  if (args.scalar_b && args.scalar_c) {
    const T v = *b, w = *c;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] ? v : w;
  } else if (args.scalar_b) {
    const T v = *b;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] ? v : c[i];
  } else if (args.scalar_c) {
    const T w = *c;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] ? b[i] : w;
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T v = b[i], w = c[i];
      y[i] = a[i] ? v : w;
    }
  }
}

// f(vector, p, q) over f32. The last vector overlaps the one before it and is computed first, from
// sources that are still untouched.
template <auto F>
void vectors(const Args& args) {
  const float* a = static_cast<const float*>(args.a);
  float* y = static_cast<float*>(args.dst);
  const int64_t n = args.n, whole = n - n % kLanes;
  const vf p = splat(args.p), q = splat(args.q);
  const vf last = whole == n ? vf{} : F(load(a + n - kLanes), p, q);
  for (int64_t i = 0; i < whole; i += kLanes) store(y + i, F(load(a + i), p, q));
  if (whole != n) store(y + n - kLanes, last);
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
