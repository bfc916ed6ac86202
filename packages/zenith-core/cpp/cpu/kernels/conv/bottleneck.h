// Shared by the inverted residual blocks: a 1x1 convolution that expands the channels, a depthwise
// convolution, and a 1x1 convolution that projects them back. Between them nothing is stored but a
// ring of expanded rows and one depthwise row per worker, float32, which stay in L2: the expanded
// image is several times larger than input and output and would travel through the outer caches
// twice.
//
// A task is a range of output rows. The rows of the kernel that reach into the next task's range
// are expanded by both.
#pragma once

#include "cpu/kernels/conv/depthwise.h"

namespace zenith::ZENITH_ISA {
namespace {

struct BottleneckParams {
  Ints<2> kernel_shape;  // of the depthwise convolution, as all of these
  Ints<2> strides;
  Ints<2> pads;
  int64_t expanded;  // channels
  StepCodes expand_epilogue;
  StepCodes depthwise_epilogue;
  StepCodes epilogue;
};
[[maybe_unused]] const Field kBottleneckFields[] = {
    ZENITH_FIELD(BottleneckParams, kernel_shape, kInts, 2),
    ZENITH_FIELD(BottleneckParams, strides, kInts, 2),
    ZENITH_FIELD(BottleneckParams, pads, kInts, 2),
    ZENITH_FIELD(BottleneckParams, expanded, kInt, 1),
    ZENITH_FIELD(BottleneckParams, expand_epilogue, kInts, kMaxSteps),
    ZENITH_FIELD(BottleneckParams, depthwise_epilogue, kInts, kMaxSteps),
    ZENITH_FIELD(BottleneckParams, epilogue, kInts, kMaxSteps),
};
constexpr int kBottleneckFieldCount = 7;

// Inputs: x, the packed weights of the three convolutions, then the operands of their epilogues.
constexpr int kFirstOperand = 4;

struct Bottleneck {
  ConvShape s;       // of the depthwise convolution, but sizes of x and y are the block's
  int64_t expanded;  // channels
  int64_t pixel;     // floats of one expanded pixel: whole vectors
  int64_t columns;   // of the ring
  int64_t rows_of_task, tasks;  // output rows
  int64_t bias, ring, row;      // bytes of these parts of scratch

  int64_t taps() const { return round_up(s.kh * 8, 64); }
};

constexpr int64_t kLeastRows = 7;  // of a task, while all workers have one

inline Bottleneck bottleneck_of(const Call& call) {
  const auto& p = *static_cast<const BottleneckParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  Bottleneck b{};
  ConvShape& s = b.s;
  s.n = y.shape[0], s.oh = y.shape[1], s.ow = y.shape[2], s.m = y.shape[3];
  s.h = x.shape[1], s.w = x.shape[2], s.c = x.shape[3];
  s.xn = x.strides[0], s.xh = x.strides[1], s.xw = x.strides[2];
  s.ldy = pixel_stride(y);
  s.kh = p.kernel_shape.v[0], s.kw = p.kernel_shape.v[1];
  s.sh = p.strides.v[0], s.sw = p.strides.v[1];
  s.ph = p.pads.v[0], s.pw = p.pads.v[1];
  s.dh = s.dw = s.group = 1;
  b.expanded = p.expanded;
  b.pixel = round_up(b.expanded, kLanes);
  b.columns = (s.ow - 1) * s.sw + s.kw;
  const int64_t rows = s.n * s.oh, threads = call.parallel.threads;
  const int64_t per_worker = threads == 1 ? 1 : most(1, least(4, rows / (threads * kLeastRows)));
  b.rows_of_task = most(1, ceil_div(rows, threads * per_worker));
  b.tasks = ceil_div(rows, b.rows_of_task);
  b.bias = round_up((2 * b.pixel + round_up(s.m, kLanes)) * 4, 64);
  b.ring = round_up(s.kh * b.columns * b.pixel * 4, 64);
  b.row = round_up(s.ow * b.pixel * 4, 64);
  return b;
}

inline int count_operands(const StepCodes& codes) {
  int count = 0;
  for (int64_t i = 0; i < codes.n; ++i) count += codes.v[i] <= kStepMul ? 1 : 0;
  return count;
}

// What happens between the two products, and how they are cut. Products is the type of the image's
// elements T, its own part of scratch (call_bytes of a call, worker_bytes of a worker), and
//   depthwise       the epilogue of the depthwise convolution
//   expand(memory, x, count, y)      `count` pixels of x, to b.pixel floats each
//   project(memory, row, line)       a row of b.pixel floats a pixel to line `line` of the results
template <typename Products>
struct Strip {
  const Bottleneck& b;
  const Products& products;
  const typename Products::T* x;
  const float* weights;  // of the depthwise convolution
  float* ring;
  float* row;          // depthwise results
  const float** taps;  // rows of the ring under one output row
  char* memory;        // of the products

  float* ring_row(int64_t ih) const { return ring + ih % b.s.kh * b.columns * b.pixel; }

  void expand(int64_t image, int64_t ih) const {
    const ConvShape& s = b.s;
    const int64_t begin = most(0, -s.pw), end = least(s.w, b.columns - s.pw);
    products.expand(memory, x + image * s.xn + ih * s.xh + begin * s.xw, most(0, end - begin),
                    ring_row(ih) + (begin + s.pw) * b.pixel);
  }

  void depthwise(int64_t row_number) const {
    const ConvShape& s = b.s;
    DepthwiseTile at{
        taps,
        s.kh,
        s.kw,
        0,
        s.kw,
        b.pixel,
        s.sw * b.pixel,
        weights,
        {products.depthwise.bias, nullptr, 0, products.depthwise.lo, products.depthwise.hi},
        nullptr,
        b.pixel};
    const int64_t tiles = ceil_div(s.ow, kPixels);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t col = s.ow * t / tiles, count = s.ow * (t + 1) / tiles - col;
      for (int64_t r = 0; r < s.kh; ++r) {
        const int64_t ih = row_number * s.sh - s.ph + r;
        taps[r] = ih < 0 || ih >= s.h ? nullptr : ring_row(ih) + col * at.pixel;
      }
      at.y = row + col * b.pixel;
      run_depthwise(at, count, b.expanded);
      if (products.depthwise.rest.n > 0) {
        apply_epilogue(products.depthwise.rest, 0, 0, count, b.expanded, at.y, b.pixel);
      }
    }
  }

  void run(int64_t first, int64_t last) const {
    const ConvShape& s = b.s;
    std::memset(ring, 0, static_cast<size_t>(b.ring));  // borders stay zero
    int64_t done = 0;                                   // rows that are, or were, in the ring
    for (int64_t line = first; line < last; ++line) {
      const int64_t image = line / s.oh, row_number = line % s.oh, top = row_number * s.sh - s.ph;
      if (row_number == 0) done = 0;
      for (done = most(done, top); done < least(top + s.kh, s.h); ++done) expand(image, done);
      depthwise(row_number);
      products.project(memory, row, line);
    }
  }
};

template <typename Products>
int64_t bottleneck_scratch(const Call& call) {
  const Bottleneck b = bottleneck_of(call);
  const int64_t of_worker = b.ring + b.row + b.taps() + Products::worker_bytes(b);
  return b.bias + Products::call_bytes(b) + call.parallel.threads * of_worker;
}

template <typename Products>
const char* run_bottleneck(const Call& call) {
  using T = typename Products::T;
  const Bottleneck b = bottleneck_of(call);
  if (element_count(call.out[0]) == 0) return nullptr;
  const Products products(call, b, reinterpret_cast<float*>(call.scratch));
  const int64_t of_worker = b.ring + b.row + b.taps() + Products::worker_bytes(b);
  char* workers = call.scratch + b.bias + Products::call_bytes(b);
  parallel_for(call, b.tasks, [&](int64_t task, int worker) {
    char* ring = workers + worker * of_worker;
    char *row = ring + b.ring, *taps = row + b.row;
    const Strip<Products> strip{b,
                                products,
                                static_cast<const T*>(call.in[0].data),
                                static_cast<const float*>(call.in[2].data),
                                reinterpret_cast<float*>(ring),
                                reinterpret_cast<float*>(row),
                                reinterpret_cast<const float**>(taps),
                                taps + b.taps()};
    const int64_t first = task * b.rows_of_task;
    strip.run(first, least(b.s.n * b.s.oh, first + b.rows_of_task));
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
