// Pooling of channels-last volumes: x [N, D, H, W, C] -> y [N, OD, OH, OW, C], channels with stride
// 1, all other strides free. The norms raise to the power p and sum; their root comes at the end.
// T is the type in memory, float or bf16; all arithmetic is float32.
#include "cpu/kernels/pool/pool.h"

#include "cpu/isa/bf16.h"
#include "cpu/isa/vecmath.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kVecs = 4;  // of channels, held in registers together

// The larger one; NaN if either is.
[[gnu::always_inline]] inline vf larger(vf a, vf b) {
  const vi take_b = (vi)(b > a) | (vi)(b != b);
  return take_b ? b : a;
}

// How a window becomes a number: values are taken in by `prepare`, joined by `step`, and `finish`
// makes the result.
struct Max {
  [[gnu::always_inline]] static vf start() { return splat(-__builtin_inff()); }
  [[gnu::always_inline]] vf prepare(vf a) const { return a; }
  [[gnu::always_inline]] static vf step(vf a, vf b) { return larger(a, b); }
  [[gnu::always_inline]] vf finish(vf a) const { return a; }
};
struct Sum {
  float scale;
  [[gnu::always_inline]] static vf start() { return splat(0); }
  [[gnu::always_inline]] vf prepare(vf a) const { return a; }
  [[gnu::always_inline]] static vf step(vf a, vf b) { return a + b; }
  [[gnu::always_inline]] vf finish(vf a) const { return a * scale; }
};
struct Norm1 : Sum {
  [[gnu::always_inline]] vf prepare(vf a) const { return vabs(a); }
  [[gnu::always_inline]] vf finish(vf a) const { return a; }
};
struct Norm2 : Sum {
  [[gnu::always_inline]] vf prepare(vf a) const { return a * a; }
  [[gnu::always_inline]] vf finish(vf a) const { return vsqrt(a); }
};
struct NormP : Sum {  // scale is p
  [[gnu::always_inline]] vf prepare(vf a) const { return vpow(vabs(a), splat(scale)); }
  [[gnu::always_inline]] vf finish(vf a) const { return vpow(a, splat(1.0f / scale)); }
};

// Elements of a window: counts and strides of its axes, outermost first.
struct Grid {
  int64_t count[3], step[3];
};

// y[0, count) = Op over a grid of pixels; count <= kLanes * kN and kN whole vectors unless kN is 1.
// Rows are reduced on their own first: long sums keep their accuracy.
template <typename Op, int kN, bool kWhole, typename T>
void reduce_pixels(const Op& op, const T* x, const Grid& grid, T* y, int count) {
  vf total[kN];
#pragma GCC unroll 8
  for (int j = 0; j < kN; ++j) total[j] = Op::start();
  for (int64_t d = 0; d < grid.count[0]; ++d, x += grid.step[0]) {
    const T* row = x;
    for (int64_t r = 0; r < grid.count[1]; ++r, row += grid.step[1]) {
      vf line[kN];
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) line[j] = Op::start();
      const T* from = row;
      for (int64_t c = 0; c < grid.count[2]; ++c, from += grid.step[2]) {
#pragma GCC unroll 8
        for (int j = 0; j < kN; ++j) {
          const vf v = kWhole ? load(from + j * kLanes) : load_n(from, count);
          line[j] = Op::step(line[j], op.prepare(v));
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) total[j] = Op::step(total[j], line[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kN; ++j) {
    if (kWhole) {
      store(y + j * kLanes, op.finish(total[j]));
    } else {
      store_n(y, op.finish(total[j]), count);
    }
  }
}

// Channels [0, channels) of one output pixel.
template <typename Op, typename T>
void reduce_channels(const Op& op, const T* x, const Grid& grid, T* y, int64_t channels) {
  int64_t c = 0;
  for (; c + kVecs * kLanes <= channels; c += kVecs * kLanes) {
    reduce_pixels<Op, kVecs, true>(op, x + c, grid, y + c, 0);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    reduce_pixels<Op, 1, true>(op, x + c, grid, y + c, 0);
  }
  if (c < channels) {
    reduce_pixels<Op, 1, false>(op, x + c, grid, y + c, static_cast<int>(channels - c));
  }
}

template <typename Op, typename T = float>
const char* run_pool(const Call& call) {
  const auto& p = *static_cast<const PoolParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  for_each_box(call, [&](int64_t image, const int64_t (&out)[3], const Box& box) {
    Op op{};
    if constexpr (__is_same(Op, NormP)) op.scale = static_cast<float>(p.p);
    if constexpr (__is_same(Op, Sum)) {
      op.scale = 1.0f / static_cast<float>(p.include_pad != 0 ? box.padded : box.size());
    }
    Grid grid{};
    for (int i = 0; i < 3; ++i) {
      grid.count[i] = box.count[i];
      grid.step[i] = p.dilations.v[i] * x.strides[i + 1];
    }
    const int64_t from = box.size() > 0 ? offset_of(x, image, box.at) : 0;
    reduce_channels(op, static_cast<const T*>(x.data) + from, grid,
                    static_cast<T*>(y.data) + offset_of(y, image, out), y.shape[4]);
  });
  return nullptr;
}

// y [N, 1, 1, 1, C]: one value per image and channel.
template <typename Op, typename T = float>
const char* run_global(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  constexpr int64_t kChunk = kVecs * kLanes;
  const int64_t channels = y.shape[4], chunks = ceil_div(channels, kChunk);
  Op op{};
  if constexpr (__is_same(Op, NormP)) {
    op.scale = static_cast<float>(static_cast<const PoolParams*>(call.params)->p);
  }
  const Grid grid{{x.shape[1], x.shape[2], x.shape[3]}, {x.strides[1], x.strides[2], x.strides[3]}};
  if constexpr (__is_same(Op, Sum)) {
    op.scale = 1.0f / static_cast<float>(x.shape[1] * x.shape[2] * x.shape[3]);
  }
  parallel_for(call, y.shape[0] * chunks, [&](int64_t task, int) {
    const int64_t image = task / chunks, c = task % chunks * kChunk;
    reduce_channels(op, static_cast<const T*>(x.data) + image * x.strides[0] + c, grid,
                    static_cast<T*>(y.data) + image * y.strides[0] + c,
                    least(kChunk, channels - c));
  });
  return nullptr;
}

template <bool kGlobal>
const char* run_norm(const Call& call) {
  const int64_t p = static_cast<const PoolParams*>(call.params)->p;
  if constexpr (kGlobal) {
    return p == 1   ? run_global<Norm1>(call)
           : p == 2 ? run_global<Norm2>(call)
                    : run_global<NormP>(call);
  } else {
    return p == 1 ? run_pool<Norm1>(call) : p == 2 ? run_pool<Norm2>(call) : run_pool<NormP>(call);
  }
}

#define ZENITH_POOL(name, run) \
  {name, "", kPoolFields, kPoolFieldCount, sizeof(PoolParams), nullptr, run}
const Kernel kKernels[] = {
    ZENITH_POOL("max_pool_f32", run_pool<Max>),
    ZENITH_POOL("average_pool_f32", run_pool<Sum>),
    ZENITH_POOL("lp_pool_f32", run_norm<false>),
    ZENITH_POOL("global_max_pool_f32", run_global<Max>),
    ZENITH_POOL("global_average_pool_f32", run_global<Sum>),
    ZENITH_POOL("global_lp_pool_f32", run_norm<true>),
    ZENITH_POOL("max_pool_bf16", (run_pool<Max, bf16>)),
    ZENITH_POOL("average_pool_bf16", (run_pool<Sum, bf16>)),
    ZENITH_POOL("global_max_pool_bf16", (run_global<Max, bf16>)),
    ZENITH_POOL("global_average_pool_bf16", (run_global<Sum, bf16>)),
};

}  // namespace

Table pool_table();
Table pool_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
