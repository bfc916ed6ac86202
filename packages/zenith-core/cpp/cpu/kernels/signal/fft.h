// A discrete Fourier transform of any length n, in double: steps of small radices (Stockham's
// order, so nothing is permuted), or for lengths with a large prime factor a convolution with a
// chirp (Bluestein) by way of a power of two. Real and imaginary parts lie apart.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kLargestRadix = 31;

struct Parts {  // n real parts, n imaginary ones
  double* re;
  double* im;
};

inline bool has_large_factor(int64_t n) {
  for (int64_t p = 2; p <= kLargestRadix; ++p) {
    while (n % p == 0) n /= p;
  }
  return n > 1;
}

inline int64_t convolution_size(int64_t n) {
  int64_t size = 1;
  while (size < 2 * n - 1) size *= 2;
  return size;
}

// re[k] + i im[k] = exp(-2 pi i k / n).
inline void fill_circle(int64_t n, Parts to) {
  for (int64_t k = 0; k < n; ++k) {
    // The nearest eighth of the circle first: the argument of sin and cos stays small.
    const int64_t eighth = (8 * k + n / 2) / n;
    const double turn = static_cast<double>(8 * k - eighth * n) / static_cast<double>(8 * n);
    const double angle = turn * 6.283185307179586;
    const double c = __builtin_cos(angle), s = __builtin_sin(angle), h = 0.7071067811865476;
    const double base_c[8] = {1, h, 0, -h, -1, -h, 0, h};
    const double base_s[8] = {0, h, 1, h, 0, -h, -1, -h};
    const double bc = base_c[eighth % 8], bs = base_s[eighth % 8];
    to.re[k] = bc * c - bs * s;
    to.im[k] = -(bs * c + bc * s);
  }
}

// One Stockham step: of m * radix points at stride s (n = m * radix * s in all).
template <int R>
void small_step(int64_t m, int64_t s, int64_t n, Parts circle, Parts x, Parts y) {
  double wr[R], wi[R];
  for (int k = 0; k < R; ++k) {
    wr[k] = circle.re[k * (n / R)];
    wi[k] = circle.im[k * (n / R)];
  }
  for (int64_t p = 0; p < m; ++p) {
    double tr[R], ti[R];
    for (int k = 0; k < R; ++k) {
      tr[k] = circle.re[p * k * s];
      ti[k] = circle.im[p * k * s];
    }
    const double *xr = x.re + s * p, *xi = x.im + s * p;
    double *yr = y.re + s * R * p, *yi = y.im + s * R * p;
#pragma GCC ivdep
    for (int64_t q = 0; q < s; ++q) {
      double ar[R], ai[R];
      for (int j = 0; j < R; ++j) {
        ar[j] = xr[q + s * m * j];
        ai[j] = xi[q + s * m * j];
      }
      for (int k = 0; k < R; ++k) {
        double br = ar[0], bi = ai[0];
        if constexpr (R == 4) {
          const double sign = k % 2 == 0 ? 1 : -1;
          const double er = ar[0] + sign * ar[2], ei = ai[0] + sign * ai[2];
          const double orr = ar[1] + sign * ar[3], oi = ai[1] + sign * ai[3];
          br = k == 0 ? er + orr : k == 2 ? er - orr : k == 1 ? er + oi : er - oi;
          bi = k == 0 ? ei + oi : k == 2 ? ei - oi : k == 1 ? ei - orr : ei + orr;
        } else {
          for (int j = 1; j < R; ++j) {
            const double c = wr[j * k % R], d = wi[j * k % R];
            br += ar[j] * c - ai[j] * d;
            bi += ar[j] * d + ai[j] * c;
          }
        }
        yr[q + s * k] = br * tr[k] - bi * ti[k];
        yi[q + s * k] = br * ti[k] + bi * tr[k];
      }
    }
  }
}

inline void any_step(int64_t r, int64_t m, int64_t s, int64_t n, Parts circle, Parts x, Parts y) {
  for (int64_t p = 0; p < m; ++p) {
    for (int64_t k = 0; k < r; ++k) {
      const double tr = circle.re[p * k * s], ti = circle.im[p * k * s];
      for (int64_t q = 0; q < s; ++q) {
        double br = 0, bi = 0;
        for (int64_t j = 0; j < r; ++j) {
          const int64_t at = j * k % r * (n / r), from = q + s * (p + m * j);
          br += x.re[from] * circle.re[at] - x.im[from] * circle.im[at];
          bi += x.re[from] * circle.im[at] + x.im[from] * circle.re[at];
        }
        y.re[q + s * (r * p + k)] = br * tr - bi * ti;
        y.im[q + s * (r * p + k)] = br * ti + bi * tr;
      }
    }
  }
}

// Transforms x by small radices; `other` is as large. The result is in the returned one of the two.
inline Parts transform_small(int64_t n, Parts circle, Parts x, Parts other) {
  int64_t rest = n, s = 1;
  while (rest > 1) {
    int64_t r = rest % 4 == 0 ? 4 : 2;
    while (rest % r != 0) ++r;
    const int64_t m = rest / r;
    switch (r) {
      case 2:
        small_step<2>(m, s, n, circle, x, other);
        break;
      case 3:
        small_step<3>(m, s, n, circle, x, other);
        break;
      case 4:
        small_step<4>(m, s, n, circle, x, other);
        break;
      case 5:
        small_step<5>(m, s, n, circle, x, other);
        break;
      default:
        any_step(r, m, s, n, circle, x, other);
        break;
    }
    rest = m;
    s *= r;
    const Parts swap = x;
    x = other;
    other = swap;
  }
  return x;
}

// What all transforms of one length share, in memory the caller gives.
struct Transform {
  int64_t n;
  int64_t size;  // of the inner transform: n, or the convolution's
  Parts circle;  // of the inner transform
  Parts chirp;   // Bluestein: exp(-pi i k^2 / n), n of them
  Parts kernel;  // the transform of its conjugate

  static bool is_direct(int64_t n) { return !has_large_factor(n); }
  static int64_t inner(int64_t n) { return is_direct(n) ? n : convolution_size(n); }
  // Doubles of the tables, and of one worker's two arrays.
  static int64_t table_doubles(int64_t n) {
    const int64_t m = inner(n);
    return is_direct(n) ? 2 * m : 2 * m + 2 * n + 2 * m + 4 * m;
  }
  static int64_t worker_doubles(int64_t n) { return 4 * inner(n) + 2 * n; }

  Transform(int64_t length, double* memory) : n(length), size(inner(length)) {
    const auto take = [&memory](int64_t count) {
      const Parts parts{memory, memory + count};
      memory += 2 * count;
      return parts;
    };
    circle = take(size);
    fill_circle(size, circle);
    if (is_direct(n)) return;
    chirp = take(n);
    kernel = take(size);
    const Parts half = take(size), other = take(size);
    // exp(-pi i k^2 / n) is the circle of 2n at k^2 mod 2n.
    for (int64_t k = 0; k < n; ++k) {
      const int64_t at = static_cast<int64_t>(static_cast<uint64_t>(k) * static_cast<uint64_t>(k) %
                                              static_cast<uint64_t>(2 * n));
      const double angle = static_cast<double>(at) / static_cast<double>(n) * 3.141592653589793;
      chirp.re[k] = __builtin_cos(angle);
      chirp.im[k] = -__builtin_sin(angle);
    }
    for (int64_t k = 0; k < size; ++k) half.re[k] = half.im[k] = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t mirror = k == 0 ? 0 : size - k;
      half.re[k] = half.re[mirror] = chirp.re[k];
      half.im[k] = half.im[mirror] = -chirp.im[k];
    }
    const Parts done = transform_small(size, circle, half, other);
    for (int64_t k = 0; k < size; ++k) {
      kernel.re[k] = done.re[k] / static_cast<double>(size);
      kernel.im[k] = done.im[k] / static_cast<double>(size);
    }
  }

  // The n points in `memory` (n real parts, then n imaginary ones), transformed; the rest of it,
  // worker_doubles(n) in all, is scratch. The result lies in the returned part of it.
  Parts run(double* memory) const {
    const Parts x{memory, memory + n};
    double* rest = memory + 2 * n;
    const Parts a{rest, rest + size}, b{rest + 2 * size, rest + 3 * size};
    if (is_direct(n)) return transform_small(n, circle, x, a);
    for (int64_t k = 0; k < size; ++k) a.re[k] = a.im[k] = 0;
    for (int64_t k = 0; k < n; ++k) {
      a.re[k] = x.re[k] * chirp.re[k] - x.im[k] * chirp.im[k];
      a.im[k] = x.re[k] * chirp.im[k] + x.im[k] * chirp.re[k];
    }
    const Parts f = transform_small(size, circle, a, b);
    // The inverse is a transform with real and imaginary parts exchanged, before and after.
    for (int64_t k = 0; k < size; ++k) {
      const double re = f.re[k] * kernel.re[k] - f.im[k] * kernel.im[k];
      const double im = f.re[k] * kernel.im[k] + f.im[k] * kernel.re[k];
      f.re[k] = im;
      f.im[k] = re;
    }
    const Parts other = f.re == a.re ? b : a;
    const Parts g = transform_small(size, circle, f, other);
    for (int64_t k = 0; k < n; ++k) {
      x.re[k] = g.im[k] * chirp.re[k] - g.re[k] * chirp.im[k];
      x.im[k] = g.im[k] * chirp.im[k] + g.re[k] * chirp.re[k];
    }
    return x;
  }
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
