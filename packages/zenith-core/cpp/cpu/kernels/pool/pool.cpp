// Pooling of channels-last images: x [N, H, W, C] -> y [N, OH, OW, C], channels with stride 1, all
// other strides free.
#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

struct PoolParams {
  Ints<2> kernel_shape;
  Ints<2> strides;
  Ints<4> pads;  // top, left, bottom, right
  Ints<2> dilations;
  int64_t include_pad;  // average: padding counts as zeros
};
const Field kPoolFields[] = {
    ZENITH_FIELD(PoolParams, kernel_shape, kInts, 2), ZENITH_FIELD(PoolParams, strides, kInts, 2),
    ZENITH_FIELD(PoolParams, pads, kInts, 4),         ZENITH_FIELD(PoolParams, dilations, kInts, 2),
    ZENITH_FIELD(PoolParams, include_pad, kInt, 1),
};

constexpr int kVecs = 4;  // of channels, held in registers together

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Taps [first, last) of one output position along one axis that lie inside x, where the first one
// is, and how many lie inside the padded input.
struct Span {
  int64_t first, last, start, padded;
};

Span span_of(const PoolParams& p, int axis, int64_t out, int64_t size) {
  const int64_t step = p.dilations.v[axis], taps = p.kernel_shape.v[axis];
  const int64_t start = out * p.strides.v[axis] - p.pads.v[axis];
  const int64_t first = start >= 0 ? 0 : ceil_div(-start, step);
  const int64_t last = least(taps, ceil_div(most(size - start, 0), step));
  const int64_t end = size + p.pads.v[axis + 2];
  return {first, most(first, last), start, least(taps, ceil_div(most(end - start, 0), step))};
}

// The larger one; NaN if either is.
[[gnu::always_inline]] inline vf larger(vf a, vf b) {
  const vi take_b = (vi)(b > a) | (vi)(b != b);
  return take_b ? b : a;
}

struct Max {
  [[gnu::always_inline]] static vf start() { return splat(-__builtin_inff()); }
  [[gnu::always_inline]] static vf step(vf a, vf b) { return larger(a, b); }
};
struct Sum {
  [[gnu::always_inline]] static vf start() { return splat(0); }
  [[gnu::always_inline]] static vf step(vf a, vf b) { return a + b; }
};

// y[0, count) = scale * Op over a grid of pixels; count <= kLanes * kN and kN whole vectors unless
// kN is 1. Rows are reduced on their own first: long sums keep their accuracy.
template <typename Op, int kN, bool kWhole>
void reduce_pixels(const float* x, int64_t rows, int64_t cols, int64_t row_step, int64_t col_step,
                   float scale, float* y, int count) {
  vf total[kN];
#pragma GCC unroll 8
  for (int j = 0; j < kN; ++j) total[j] = Op::start();
  for (int64_t r = 0; r < rows; ++r, x += row_step) {
    vf line[kN];
#pragma GCC unroll 8
    for (int j = 0; j < kN; ++j) line[j] = Op::start();
    const float* from = x;
    for (int64_t c = 0; c < cols; ++c, from += col_step) {
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) {
        line[j] = Op::step(line[j], kWhole ? load(from + j * kLanes) : load_n(from, count));
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kN; ++j) total[j] = Op::step(total[j], line[j]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kN; ++j) {
    if (kWhole) {
      store(y + j * kLanes, total[j] * scale);
    } else {
      store_n(y, total[j] * scale, count);
    }
  }
}

// Channels [0, channels) of one output pixel.
template <typename Op>
void reduce_channels(const float* x, int64_t rows, int64_t cols, int64_t row_step, int64_t col_step,
                     float scale, float* y, int64_t channels) {
  int64_t c = 0;
  for (; c + kVecs * kLanes <= channels; c += kVecs * kLanes) {
    reduce_pixels<Op, kVecs, true>(x + c, rows, cols, row_step, col_step, scale, y + c, 0);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    reduce_pixels<Op, 1, true>(x + c, rows, cols, row_step, col_step, scale, y + c, 0);
  }
  if (c < channels) {
    reduce_pixels<Op, 1, false>(x + c, rows, cols, row_step, col_step, scale, y + c,
                                static_cast<int>(channels - c));
  }
}

template <typename Op>
const char* run_pool(const Call& call) {
  const auto& p = *static_cast<const PoolParams*>(call.params);
  const TensorRef& x = call.in[0];
  const TensorRef& y = call.out[0];
  const int64_t lines = y.shape[0] * y.shape[1], channels = y.shape[3];
  const int64_t per_task = most(1, ceil_div(lines, call.parallel.threads * int64_t{4}));
  const int64_t row_step = p.dilations.v[0] * x.strides[1];
  const int64_t col_step = p.dilations.v[1] * x.strides[2];
  parallel_for(call, ceil_div(lines, per_task), [&](int64_t task, int) {
    const int64_t end = least(lines, (task + 1) * per_task);
    for (int64_t line = task * per_task; line < end; ++line) {
      const int64_t image = line / y.shape[1], oh = line % y.shape[1];
      const Span down = span_of(p, 0, oh, x.shape[1]);
      for (int64_t ow = 0; ow < y.shape[2]; ++ow) {
        const Span across = span_of(p, 1, ow, x.shape[2]);
        const int64_t rows = down.last - down.first, cols = across.last - across.first;
        float scale = 1;
        if constexpr (__is_same(Op, Sum)) {
          const int64_t n = p.include_pad != 0 ? down.padded * across.padded : rows * cols;
          scale = 1.0f / static_cast<float>(n);
        }
        const float* from = static_cast<const float*>(x.data) + image * x.strides[0];
        if (rows > 0 && cols > 0) {
          from += (down.start + down.first * p.dilations.v[0]) * x.strides[1] +
                  (across.start + across.first * p.dilations.v[1]) * x.strides[2];
        }
        float* to = static_cast<float*>(y.data) + image * y.strides[0] + oh * y.strides[1] +
                    ow * y.strides[2];
        reduce_channels<Op>(from, rows, cols > 0 ? cols : 0, row_step, col_step, scale, to,
                            channels);
      }
    }
  });
  return nullptr;
}

// y [N, 1, 1, C]: one value per image and channel.
template <typename Op>
const char* run_global(const Call& call) {
  const TensorRef& x = call.in[0];
  const TensorRef& y = call.out[0];
  constexpr int64_t kChunk = kVecs * kLanes;
  const int64_t channels = y.shape[3], chunks = ceil_div(channels, kChunk);
  float scale = 1;
  if constexpr (__is_same(Op, Sum)) scale = 1.0f / static_cast<float>(x.shape[1] * x.shape[2]);
  parallel_for(call, y.shape[0] * chunks, [&](int64_t task, int) {
    const int64_t image = task / chunks, c = task % chunks * kChunk;
    reduce_channels<Op>(static_cast<const float*>(x.data) + image * x.strides[0] + c, x.shape[1],
                        x.shape[2], x.strides[1], x.strides[2], scale,
                        static_cast<float*>(y.data) + image * y.strides[0] + c,
                        least(kChunk, channels - c));
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"max_pool_f32", "", kPoolFields, 5, sizeof(PoolParams), nullptr, run_pool<Max>},
    {"average_pool_f32", "", kPoolFields, 5, sizeof(PoolParams), nullptr, run_pool<Sum>},
    {"global_max_pool_f32", "", nullptr, 0, 0, nullptr, run_global<Max>},
    {"global_average_pool_f32", "", nullptr, 0, 0, nullptr, run_global<Sum>},
};

}  // namespace

Table pool_table();
Table pool_table() { return {kKernels, 4, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
