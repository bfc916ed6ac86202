// Where each result of a Resize along one axis comes from: indices and weights of its taps.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// The order of ONNX's text; the emitter uses the same numbers.
enum ResizeMode : int64_t { kNearest, kLinear, kCubic };
enum Coordinates : int64_t {
  kHalfPixel,
  kHalfPixelSymmetric,
  kPytorchHalfPixel,
  kAlignCorners,
  kAsymmetric,
  kCropAndResize,
};
enum Rounding : int64_t { kPreferFloor, kPreferCeil, kFloor, kCeil };
enum Policy : int64_t { kStretch, kNotLarger, kNotSmaller };

struct ResizeParams {
  int64_t mode;
  int64_t coordinates;
  int64_t rounding;  // of nearest
  int64_t antialias;
  int64_t exclude_outside;
  int64_t policy;   // other than stretch: one scale for all axes, from sizes / of
  Ints<8> sizes;    // asked for
  Ints<8> of;       // the axes' own
  Ints<2> active;   // for the two axes: 0 keeps the axis as it is
  Floats<2> scale;  // 0: from the sizes
  Ints<2> roi;      // which entry of the roi is an axis' start; the end is roi_axes further
  int64_t roi_axes;
  float cubic_coeff_a;
  float extrapolation_value;
};
const Field kResizeFields[] = {
    ZENITH_FIELD(ResizeParams, mode, kInt, 1),
    ZENITH_FIELD(ResizeParams, coordinates, kInt, 1),
    ZENITH_FIELD(ResizeParams, rounding, kInt, 1),
    ZENITH_FIELD(ResizeParams, antialias, kInt, 1),
    ZENITH_FIELD(ResizeParams, exclude_outside, kInt, 1),
    ZENITH_FIELD(ResizeParams, policy, kInt, 1),
    ZENITH_FIELD(ResizeParams, sizes, kInts, 8),
    ZENITH_FIELD(ResizeParams, of, kInts, 8),
    ZENITH_FIELD(ResizeParams, active, kInts, 2),
    ZENITH_FIELD(ResizeParams, scale, kFloats, 2),
    ZENITH_FIELD(ResizeParams, roi, kInts, 2),
    ZENITH_FIELD(ResizeParams, roi_axes, kInt, 1),
    ZENITH_FIELD(ResizeParams, cubic_coeff_a, kFloat, 1),
    ZENITH_FIELD(ResizeParams, extrapolation_value, kFloat, 1),
};
constexpr int kResizeFieldCount = 14;

// Scale of one axis as numer / denom, both exact: quotients that are whole numbers come out so.
struct Axis {
  int64_t before, after;
  double numer, denom;
  bool given;  // a float scale: quotients are rounded to float, as everyone who wrote 0.6f expects
  bool active;
  int64_t taps;
  int64_t first;  // of the taps, relative to the last element left of a position
};

inline double least_of(double a, double b) { return a < b ? a : b; }

Axis make_axis(const ResizeParams& p, int which, int64_t before, int64_t after) {
  Axis a{};
  a.before = before, a.after = after, a.active = p.active.v[which] != 0;
  a.numer = static_cast<double>(after), a.denom = static_cast<double>(before);
  if (p.policy != kStretch) {
    for (int64_t i = 0; i < p.sizes.n; ++i) {
      const auto n = static_cast<double>(p.sizes.v[i]), d = static_cast<double>(p.of.v[i]);
      const bool better =
          p.policy == kNotLarger ? n * a.denom < a.numer * d : n * a.denom > a.numer * d;
      if (i == 0 || better) a.numer = n, a.denom = d;
    }
  } else if (p.scale.v[which] > 0) {
    a.numer = static_cast<double>(p.scale.v[which]), a.denom = 1, a.given = true;
  }
  a.taps = 1;
  if (!a.active || p.mode == kNearest) return a;
  const double reach = p.mode == kLinear ? 1 : 2;
  const double scale = p.antialias != 0 ? least_of(a.numer / a.denom, 1) : 1;
  a.first = static_cast<int64_t>(__builtin_floor(-reach / scale)) + 1;
  a.taps = 2 - 2 * a.first;
  return a;
}

// Position of result `i` among the elements, by ONNX's formulas.
double position(const ResizeParams& p, const Axis& a, int64_t i, const float* roi) {
  const auto x = static_cast<double>(i), n = static_cast<double>(a.before);
  const double length = a.given ? n * a.numer : n * a.numer / a.denom;  // perhaps with a fraction
  const auto divide = [&](double v) {
    const double q = v * a.denom / a.numer;
    return a.given ? static_cast<double>(static_cast<float>(q)) : q;
  };
  switch (p.coordinates) {
    case kAlignCorners:
      return length == 1 ? 0 : x * (n - 1) / (length - 1);
    case kAsymmetric:
      return divide(x);
    case kCropAndResize: {
      const auto start = static_cast<double>(roi[0]), end = static_cast<double>(roi[1]);
      if (length == 1) return (end - start) * (n - 1) / 2 + start * (n - 1);
      return x * (end - start) * (n - 1) / (length - 1) + start * (n - 1);
    }
    case kPytorchHalfPixel:
      return length == 1 ? -0.5 : divide(x + 0.5) - 0.5;
    case kHalfPixelSymmetric:
      return n / 2 * (1 - static_cast<double>(a.after) / length) + divide(x + 0.5) - 0.5;
    default:
      return divide(x + 0.5) - 0.5;
  }
}

double cubic_weight(double x, double a) {
  x = x < 0 ? -x : x;
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

int32_t clamp_index(int64_t i, int64_t n) {
  return static_cast<int32_t>(i < 0 ? 0 : i >= n ? n - 1 : i);
}

// Fills index[after][taps] and weight[after][taps]; a result outside x has a first index of -1.
template <typename W>
void fill_axis(const ResizeParams& p, const Axis& a, const float* roi, int32_t* index, W* weight) {
  // Beyond these no position means anything else; it keeps conversions to integers defined.
  const double far = static_cast<double>(a.before) + 2;
  const double scale = p.antialias != 0 ? least_of(a.numer / a.denom, 1) : 1;
  for (int64_t i = 0; i < a.after; ++i, index += a.taps, weight += a.taps) {
    if (!a.active) {
      index[0] = static_cast<int32_t>(i), weight[0] = 1;
      continue;
    }
    double at = position(p, a, i, roi);
    const bool outside = !(at >= 0 && at <= static_cast<double>(a.before - 1));
    at = at > -far ? (at < far ? at : far) : -far;
    const auto left = static_cast<int64_t>(__builtin_ceil(at)) - 1;  // so that 0 < ratio <= 1
    const double ratio = at - static_cast<double>(left);
    if (p.mode == kNearest) {
      bool right = ratio == 1;
      if (p.rounding == kPreferFloor) right = ratio > 0.5;
      if (p.rounding == kPreferCeil) right = ratio >= 0.5;
      if (p.rounding == kCeil) right = true;
      index[0] = clamp_index(left + right, a.before), weight[0] = 1;
    } else {
      double total = 0;
      for (int64_t t = 0; t < a.taps; ++t) {
        const int64_t from = left + a.first + t;
        const double distance = (static_cast<double>(a.first + t) - ratio) * scale;
        const double near = 1 - (distance < 0 ? -distance : distance);
        double w = near > 0 ? near : 0;
        if (p.mode == kCubic) w = cubic_weight(distance, static_cast<double>(p.cubic_coeff_a));
        if (p.exclude_outside != 0 && (from < 0 || from >= a.before)) w = 0;
        index[t] = clamp_index(from, a.before), weight[t] = static_cast<W>(w);
        total += w;
      }
      // Weights of every mode sum to 1 on their own, but where some are left out or spread.
      if ((p.exclude_outside != 0 || p.antialias != 0) && total != 0) {
        for (int64_t t = 0; t < a.taps; ++t) {
          weight[t] = static_cast<W>(static_cast<double>(weight[t]) / total);
        }
      }
    }
    if (outside && p.coordinates == kCropAndResize) index[0] = -1;
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
