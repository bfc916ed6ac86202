// Integer matrix products and convolutions: MatMulInteger, QLinearMatMul, ConvInteger, QLinearConv.
//
// Both kernels take, besides what is said at each: 1 the right side, packed (`packed` = 1, zero
// points taken off) or 8-bit; 3 its zero points; and, all of them missing for a sum that stays
// int32: 4 bias int32 per column, 5 and 6 scales of the sides, 7 scale and 8 zero point of y.
#pragma once

#include "cpu/kernels/quantize/integer.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kBlockRows = 32;
constexpr int64_t kLeastProducts = 1 << 17;  // multiplications worth a task

int64_t round_up(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

// `outer` products [rows, depth] x [depth, n].
struct Shape {
  int64_t outer, rows, depth, n;
  int64_t block_bytes() const { return round_up(kBlockRows * ceil_div(depth, 2) * 4); }
};

template <typename T>
void widen(const T* from, int64_t n, int64_t stride, int32_t zero, int16_t* to) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<int16_t>(from[i] - zero);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<int16_t>(from[i * stride] - zero);
  }
}
// n bytes from element `index` of t on, less their zero point.
void widen_bytes(const TensorRef& t, int64_t index, int64_t n, int64_t stride, int32_t zero,
                 int16_t* to) {
  if (t.dtype == DType::kI8) {
    widen(static_cast<const int8_t*>(t.data) + index, n, stride, zero, to);
  } else {
    widen(static_cast<const uint8_t*>(t.data) + index, n, stride, zero, to);
  }
}

// fill(item, row, to): one row of the left side. panels(item): the packed right side.
// done(item, row, col, n, sums): n sums of one row; `sums` may be overwritten.
template <typename Fill, typename Panels, typename Done>
void run_product(const Call& call, const Shape& p, const Fill& fill, const Panels& panels_of,
                 const Done& done) {
  const int64_t blocks = ceil_div(p.rows, kBlockRows), panels = ceil_div(p.n, kCols);
  const int64_t work = p.outer * blocks;
  // More tasks by columns only where rows and items give too few.
  const int64_t most = kBlockRows * p.depth * p.n / kLeastProducts + 1;
  int64_t groups = work >= 2 * call.parallel.threads ? 1 : 2 * call.parallel.threads;
  groups = groups < most ? groups : most;
  groups = groups < panels ? groups : panels;
  const int64_t pairs = ceil_div(p.depth, 2);
  parallel_for(call, work * groups, [&](int64_t task, int worker) {
    const int64_t group = task % groups, item = task / groups / blocks;
    const int64_t block = task / groups % blocks;
    const int64_t first = p.rows * block / blocks, rows = p.rows * (block + 1) / blocks - first;
    int16_t* left = reinterpret_cast<int16_t*>(call.scratch + worker * p.block_bytes());
    for (int64_t i = 0; i < rows; ++i) {
      if (pairs > 0) left[i * 2 * pairs + 2 * pairs - 1] = 0;
      fill(item, first + i, left + i * 2 * pairs);
    }
    const int16_t* packed = panels_of(item);
    for (int64_t j = panels * group / groups; j < panels * (group + 1) / groups; ++j) {
      const int64_t col = j * kCols, n = p.n - col < kCols ? p.n - col : kCols;
      for (int64_t i = 0; i < rows; i += kRows) {
        const int64_t count = rows - i < kRows ? rows - i : kRows;
        alignas(64) int32_t sums[kRows * kCols];
        multiply_pairs(left + i * 2 * pairs, 2 * pairs, count, {&kNoOffset, 1, pairs},
                       packed + j * panel_size(p.depth), sums);
        for (int64_t r = 0; r < count; ++r) done(item, first + i + r, col, n, sums + r * kCols);
      }
    }
  });
}

// Right sides that are computed: packed into scratch behind the workers' blocks, once per run.
template <typename Source>
const int16_t* pack_all(const Call& call, const Shape& p, int64_t sides, const Source& source) {
  int16_t* to = reinterpret_cast<int16_t*>(call.scratch + call.parallel.threads * p.block_bytes());
  const int64_t panels = ceil_div(p.n, kCols);
  parallel_for(call, sides * panels, [&](int64_t task, int) {
    const int64_t side = task / panels, j = task % panels;
    Columns b;
    ZeroPoint zero;
    source(side, &b, &zero);
    pack_columns(b, j * kCols, zero,
                 to + side * packed_size(p.depth, p.n) + j * panel_size(p.depth));
  });
  return to;
}

// Matrix products. Inputs: 0 a [*batch, M, K], 1 b [*batch, K, N] unless packed, 2 zero points of a
// [*batch, M, 1], 3 of b [*batch, 1, N], 5 and 6 scales in the same shapes; all of y's batch and of
// any strides, also 0. Packed: one right side for all items (`sides` = 1) or one each.
// Output y [*batch, M, N].
struct MatMulParams {
  int64_t packed, sides;
};
const Field kMatMulFields[] = {ZENITH_FIELD(MatMulParams, packed, kInt, 1),
                               ZENITH_FIELD(MatMulParams, sides, kInt, 1)};

Shape matmul_shape(const Call& call) {
  const TensorRef &a = call.in[0], &y = call.out[0];
  int64_t items = 1;
  for (int i = 0; i < y.rank - 2; ++i) items *= y.shape[i];
  return {items, y.shape[y.rank - 2], a.shape[a.rank - 1], y.shape[y.rank - 1]};
}

// Where an item of y's batch begins in t.
int64_t item_offset(const TensorRef& t, int64_t item) {
  int64_t offset = 0;
  for (int i = t.rank - 3; i >= 0; --i) {
    offset += item % t.shape[i] * t.strides[i];
    item /= t.shape[i];
  }
  return offset;
}

int64_t matmul_scratch(const Call& call) {
  const MatMulParams& p = *static_cast<const MatMulParams*>(call.params);
  const Shape shape = matmul_shape(call);
  const int64_t sides = p.sides == 1 ? 1 : shape.outer;
  const int64_t right = p.packed != 0 ? 0 : sides * packed_size(shape.depth, shape.n) * 2;
  return call.parallel.threads * shape.block_bytes() + round_up(right);
}

const char* run_matmul(const Call& call) {
  const MatMulParams& params = *static_cast<const MatMulParams*>(call.params);
  const Shape p = matmul_shape(call);
  const TensorRef &a = call.in[0], &b = call.in[1], &y = call.out[0];
  if (p.outer == 0 || p.rows == 0 || p.n == 0) return nullptr;
  const int row_axis = y.rank - 2, col_axis = y.rank - 1;
  const int64_t sides = params.sides == 1 ? 1 : p.outer;
  const int16_t* packed = static_cast<const int16_t*>(b.data);
  if (params.packed == 0) {
    packed = pack_all(call, p, sides, [&](int64_t side, Columns* from, ZeroPoint* zero) {
      const char* data =
          static_cast<const char*>(b.data) + item_offset(b, side) * item_size(b.dtype);
      *from = {b.dtype, data, b.strides[row_axis], b.strides[col_axis], p.depth, p.n};
      *zero = {};
      if (given(call, 3)) {
        const TensorRef& z = call.in[3];
        *zero = {z.dtype, static_cast<const char*>(z.data) + item_offset(z, side),
                 z.strides[col_axis]};
      }
    });
  }
  const Finish base = finish_of(call);
  run_product(
      call, p,
      [&](int64_t item, int64_t row, int16_t* to) {
        int32_t zero = 0;
        if (given(call, 2)) {
          const TensorRef& z = call.in[2];
          zero = integer_at(z.dtype, z.data, item_offset(z, item) + row * z.strides[row_axis]);
        }
        widen_bytes(a, item_offset(a, item) + row * a.strides[row_axis], p.depth,
                    a.strides[col_axis], zero, to);
      },
      [&](int64_t item) { return packed + (sides == 1 ? 0 : item) * packed_size(p.depth, p.n); },
      [&](int64_t item, int64_t row, int64_t col, int64_t n, int32_t* sums) {
        Finish f = base;
        float factor[kCols];
        if (!f.integer) {
          const TensorRef &xs = call.in[5], &ws = call.in[6];
          f.x_scale = static_cast<const float*>(xs.data) + item_offset(xs, item);
          f.x_stride = xs.strides[row_axis];
          f.w_scale = static_cast<const float*>(ws.data) + item_offset(ws, item);
          f.w_stride = ws.strides[col_axis];
          f.factors(row, col, n, factor);
        }
        f.apply(sums, col, n, factor);
        f.store(sums, n, y.data,
                item_offset(y, item) + row * y.strides[row_axis] + col * y.strides[col_axis],
                y.strides[col_axis]);
      });
  return nullptr;
}

// Convolutions over three spatial axes (fewer: sizes of 1). Inputs: 0 x [N, C, D, H, W] of any
// strides that are not negative; 1 w [groups, K, M / groups] unless packed, K over the kernel's
// axes and then C / groups; 2 zero point of x, one element; 3 zero points of w [groups, M /
// groups]; 4 bias and 6 scales of w [M]; 5 scale of x, one element. Output y [N, M, OD, OH, OW] of
// any strides. Padding counts as the zero point.
struct ConvParams {
  int64_t packed, groups;
  Ints<3> kernel_shape, strides, pads, dilations;  // pads: those at the beginning
};
const Field kConvFields[] = {ZENITH_FIELD(ConvParams, packed, kInt, 1),
                             ZENITH_FIELD(ConvParams, groups, kInt, 1),
                             ZENITH_FIELD(ConvParams, kernel_shape, kInts, 3),
                             ZENITH_FIELD(ConvParams, strides, kInts, 3),
                             ZENITH_FIELD(ConvParams, pads, kInts, 3),
                             ZENITH_FIELD(ConvParams, dilations, kInts, 3)};

Shape conv_shape(const Call& call) {
  const ConvParams& p = *static_cast<const ConvParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  int64_t depth = x.shape[1] / p.groups, rows = 1;
  for (int i = 0; i < 3; ++i) {
    depth *= p.kernel_shape.v[i];
    rows *= y.shape[2 + i];
  }
  return {y.shape[0] * p.groups, rows, depth, y.shape[1] / p.groups};
}

int64_t conv_scratch(const Call& call) {
  const ConvParams& p = *static_cast<const ConvParams*>(call.params);
  const Shape shape = conv_shape(call);
  const int64_t right = p.packed != 0 ? 0 : p.groups * packed_size(shape.depth, shape.n) * 2;
  const int64_t factors = round_up(call.out[0].shape[1] * 4);
  return call.parallel.threads * shape.block_bytes() + round_up(right) + factors;
}

// The end of a convolution, with one factor per output channel in `factors`.
struct ConvFinish {
  Finish f;
  const float* factors;

  ConvFinish(const Call& call, float* room) : f(finish_of(call)), factors(nullptr) {
    if (f.integer) return;
    f.x_scale = static_cast<const float*>(call.in[5].data);
    f.w_scale = static_cast<const float*>(call.in[6].data);
    f.w_stride = call.in[6].strides[0];
    f.factors(0, 0, call.out[0].shape[1], room);
    factors = room;
  }
  // n channels from `channel` on, of the output element that begins at `at`.
  void store(const TensorRef& y, int64_t at, int64_t channel, int64_t n, int32_t* sums) const {
    f.apply(sums, channel, n, factors == nullptr ? nullptr : factors + channel);
    f.store(sums, n, y.data, at + channel * y.strides[1], y.strides[1]);
  }
};

struct Position {
  int64_t v[3];
};
Position position_of(const TensorRef& y, int64_t row) {
  const int64_t w = y.shape[4], h = y.shape[3];
  return {{row / w / h, row / w % h, row % w}};
}

// Where a tap of a window lies in an image of x, or -1 in the padding.
[[gnu::always_inline]] inline int64_t tap_offset(const TensorRef& x, const ConvParams& p,
                                                 const Position& at, const int64_t* tap) {
  int64_t from = 0;
  for (int i = 0; i < 3; ++i) {
    const int64_t pos = at.v[i] * p.strides.v[i] - p.pads.v[i] + tap[i] * p.dilations.v[i];
    if (pos < 0 || pos >= x.shape[2 + i]) return -1;
    from += pos * x.strides[2 + i];
  }
  return from;
}

// One output position's window as a row of the left side.
void fill_window(const TensorRef& x, const ConvParams& p, int64_t base, const Position& at,
                 int32_t zero, int16_t* to) {
  const int64_t channels = x.shape[1] / p.groups;
  int64_t tap[3];
  for (tap[0] = 0; tap[0] < p.kernel_shape.v[0]; ++tap[0]) {
    for (tap[1] = 0; tap[1] < p.kernel_shape.v[1]; ++tap[1]) {
      for (tap[2] = 0; tap[2] < p.kernel_shape.v[2]; ++tap[2], to += channels) {
        const int64_t from = tap_offset(x, p, at, tap);
        if (from >= 0) {
          widen_bytes(x, base + from, channels, x.strides[1], zero, to);
        } else {
          std::memset(to, 0, static_cast<size_t>(channels) * 2);
        }
      }
    }
  }
}

const char* run_conv(const Call& call) {
  const ConvParams& params = *static_cast<const ConvParams*>(call.params);
  const Shape p = conv_shape(call);
  const TensorRef &x = call.in[0], &w = call.in[1], &y = call.out[0];
  if (p.outer == 0 || p.rows == 0 || p.n == 0) return nullptr;
  const int64_t groups = params.groups;
  const int16_t* packed = static_cast<const int16_t*>(w.data);
  if (params.packed == 0) {
    packed = pack_all(call, p, groups, [&](int64_t side, Columns* from, ZeroPoint* zero) {
      *from = columns_of(w, side);
      *zero = {};
      if (given(call, 3)) {
        const TensorRef& z = call.in[3];
        *zero = {z.dtype, static_cast<const char*>(z.data) + side * z.strides[0], z.strides[1]};
      }
    });
  }
  const int32_t zero = given(call, 2) ? integer_at(call.in[2].dtype, call.in[2].data, 0) : 0;
  const int64_t before = conv_scratch(call) - round_up(y.shape[1] * 4);
  const ConvFinish finish(call, reinterpret_cast<float*>(call.scratch + before));
  run_product(
      call, p,
      [&](int64_t item, int64_t row, int16_t* to) {
        const int64_t first = item % groups * (x.shape[1] / groups);
        const int64_t base = item / groups * x.strides[0] + first * x.strides[1];
        fill_window(x, params, base, position_of(y, row), zero, to);
      },
      [&](int64_t item) { return packed + item % groups * packed_size(p.depth, p.n); },
      [&](int64_t item, int64_t row, int64_t col, int64_t n, int32_t* sums) {
        const Position at = position_of(y, row);
        int64_t to = item / groups * y.strides[0];
        for (int i = 0; i < 3; ++i) to += at.v[i] * y.strides[2 + i];
        finish.store(y, to, item % groups * p.n + col, n, sums);
      });
  return nullptr;
}

// One channel per group, both ways: the same inputs, but w is int16 [taps, M] less its zero points,
// and channels of x and y have stride 1.
constexpr int64_t kChannels = 256;  // at a time

int64_t depthwise_scratch(const Call& call) { return round_up(call.out[0].shape[1] * 4); }

template <typename T>
void add_products(const T* x, const int16_t* w, int64_t n, int32_t zero, int32_t* sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += (static_cast<int32_t>(x[i]) - zero) * w[i];
}

// The sums of n channels from `channel` on at one output position.
void sum_window(const Call& call, const ConvParams& p, int64_t base, const Position& at,
                int64_t channel, int64_t n, int32_t zero, int32_t* sums) {
  const TensorRef &x = call.in[0], &w = call.in[1];
  const int16_t* weights = static_cast<const int16_t*>(w.data) + channel;
  std::memset(sums, 0, static_cast<size_t>(n) * 4);
  int64_t tap[3];
  for (tap[0] = 0; tap[0] < p.kernel_shape.v[0]; ++tap[0]) {
    for (tap[1] = 0; tap[1] < p.kernel_shape.v[1]; ++tap[1]) {
      for (tap[2] = 0; tap[2] < p.kernel_shape.v[2]; ++tap[2], weights += w.strides[0]) {
        const int64_t from = tap_offset(x, p, at, tap);
        if (from < 0) continue;
        if (x.dtype == DType::kI8) {
          const int8_t* data = static_cast<const int8_t*>(x.data) + base + from + channel;
          add_products(data, weights, n, zero, sums);
        } else {
          const uint8_t* data = static_cast<const uint8_t*>(x.data) + base + from + channel;
          add_products(data, weights, n, zero, sums);
        }
      }
    }
  }
}

const char* run_depthwise(const Call& call) {
  const ConvParams& p = *static_cast<const ConvParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  if (element_count(y) == 0) return nullptr;
  const int32_t zero = given(call, 2) ? integer_at(call.in[2].dtype, call.in[2].data, 0) : 0;
  const ConvFinish finish(call, reinterpret_cast<float*>(call.scratch));
  const int64_t columns = y.shape[4], lines = y.shape[2] * y.shape[3], channels = y.shape[1];
  parallel_for(call, y.shape[0] * lines, [&](int64_t task, int) {
    const int64_t item = task / lines, line = task % lines;
    for (int64_t i = 0; i < columns; ++i) {
      const Position at = position_of(y, line * columns + i);
      int64_t to = item * y.strides[0];
      for (int axis = 0; axis < 3; ++axis) to += at.v[axis] * y.strides[2 + axis];
      for (int64_t c = 0; c < channels; c += kChannels) {
        const int64_t n = channels - c < kChannels ? channels - c : kChannels;
        int32_t sums[kChannels];
        sum_window(call, p, item * x.strides[0], at, c, n, zero, sums);
        finish.store(y, to, c, n, sums);
      }
    }
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
