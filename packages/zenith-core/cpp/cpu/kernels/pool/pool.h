// Shared by the pooling kernels: parameters, and the taps of a window that lie inside the input.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

struct PoolParams {
  Ints<3> kernel_shape;
  Ints<3> strides;
  Ints<6> pads;  // before each axis, then after
  Ints<3> dilations;
  int64_t include_pad;   // average: padding counts as zeros
  int64_t p;             // of a norm
  int64_t column_major;  // indices count the first spatial axis fastest
};
[[maybe_unused]] const Field kPoolFields[] = {
    ZENITH_FIELD(PoolParams, kernel_shape, kInts, 3), ZENITH_FIELD(PoolParams, strides, kInts, 3),
    ZENITH_FIELD(PoolParams, pads, kInts, 6),         ZENITH_FIELD(PoolParams, dilations, kInts, 3),
    ZENITH_FIELD(PoolParams, include_pad, kInt, 1),   ZENITH_FIELD(PoolParams, p, kInt, 1),
    ZENITH_FIELD(PoolParams, column_major, kInt, 1),
};
constexpr int kPoolFieldCount = 7;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Taps [first, first + count) of one output position along one axis that lie inside x, where the
// first one is, and how many taps lie inside the padded input.
struct Span {
  int64_t first, count, at, padded;
};

inline Span span_of(const PoolParams& p, int axis, int64_t out, int64_t size) {
  const int64_t step = p.dilations.v[axis], taps = p.kernel_shape.v[axis];
  const int64_t start = out * p.strides.v[axis] - p.pads.v[axis];
  const int64_t first = start >= 0 ? 0 : ceil_div(-start, step);
  const int64_t last = least(taps, ceil_div(most(size - start, 0), step));
  const int64_t end = size + p.pads.v[axis + 3];
  return {first, most(0, last - first), start + first * step,
          least(taps, ceil_div(most(end - start, 0), step))};
}

// A window of one output position: the first element of x inside it, and how many there are.
struct Box {
  int64_t at[3], count[3], padded;
  int64_t size() const { return count[0] * count[1] * count[2]; }
};

// Along one axis of a box whose `padded` is that of the axes before.
inline void place_box(const PoolParams& p, const TensorRef& x, int axis, int64_t out, Box& b) {
  const Span s = span_of(p, axis, out, x.shape[axis + 1]);
  b.at[axis] = s.at, b.count[axis] = s.count, b.padded *= s.padded;
}

// Calls visit(image, position, its window) for all output positions, in tasks of a few lines.
template <typename F>
void for_each_box(const Call& call, const F& visit) {
  const auto& p = *static_cast<const PoolParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t lines = y.shape[0] * y.shape[1] * y.shape[2];
  const int64_t per_task = most(1, ceil_div(lines, call.parallel.threads * int64_t{4}));
  parallel_for(call, ceil_div(lines, per_task), [&](int64_t task, int) {
    const int64_t end = least(lines, (task + 1) * per_task);
    for (int64_t line = task * per_task; line < end; ++line) {
      int64_t out[3] = {line / y.shape[2] % y.shape[1], line % y.shape[2], 0};
      const int64_t image = line / y.shape[2] / y.shape[1];
      Box of_line{};
      of_line.padded = 1;
      for (int axis = 0; axis < 2; ++axis) place_box(p, x, axis, out[axis], of_line);
      for (; out[2] < y.shape[3]; ++out[2]) {
        Box box = of_line;
        place_box(p, x, 2, out[2], box);
        visit(image, out, box);
      }
    }
  });
}

inline int64_t offset_of(const TensorRef& t, int64_t image, const int64_t (&at)[3]) {
  return image * t.strides[0] + at[0] * t.strides[1] + at[1] * t.strides[2] + at[2] * t.strides[3];
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
