// Inverted residual block: a 1x1 convolution that expands the channels, a depthwise convolution,
// and a 1x1 convolution that projects them back. Between them nothing is stored but a ring of
// expanded rows and one depthwise row per worker, which stay in L2: the expanded image is several
// times larger than input and output and would travel through the outer caches twice.
//
// A task is a range of output rows. The rows of the kernel that reach into the next task's range
// are expanded by both.
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
const Field kBottleneckFields[] = {
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
  ConvShape s;                  // of the depthwise convolution, but x and y are those of the block
  int64_t expanded;             // channels
  int64_t pixel;                // floats of one expanded pixel: whole vectors
  int64_t columns;              // of the ring
  int64_t rows_of_task, tasks;  // output rows
  int64_t bias, ring, row;      // bytes of these parts of scratch

  int64_t worker_bytes() const { return ring + row + round_up(s.kh * 8, 64); }
};

constexpr int64_t kLeastRows = 7;  // of a task, while all workers have one

Bottleneck bottleneck_of(const Call& call) {
  const auto& p = *static_cast<const BottleneckParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  Bottleneck b{};
  ConvShape& s = b.s;
  s.x = static_cast<const float*>(x.data);
  s.y = static_cast<float*>(y.data);
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

// The three epilogues.
struct Finishes {
  Finish expand, depthwise, project;
};

int count_operands(const StepCodes& codes) {
  int count = 0;
  for (int64_t i = 0; i < codes.n; ++i) count += codes.v[i] <= kStepMul ? 1 : 0;
  return count;
}

Finishes make_finishes(const Call& call, const Bottleneck& b) {
  const auto& p = *static_cast<const BottleneckParams*>(call.params);
  const TensorRef* operand = call.in + kFirstOperand;
  float* bias = reinterpret_cast<float*>(call.scratch);
  Finishes f{};
  f.expand = make_finish(operand, p.expand_epilogue, b.expanded, 1, bias);
  operand += count_operands(p.expand_epilogue);
  f.depthwise = make_finish(operand, p.depthwise_epilogue, b.expanded, 1, bias + b.pixel);
  operand += count_operands(p.depthwise_epilogue);
  f.project = make_finish(operand, p.epilogue, b.s.m, 1, bias + 2 * b.pixel);
  return f;
}

// y = finish(x * weights) for `count` pixels in a row: x has `depth` channels, y `m`. `place` is
// the pixel's number where the epilogue reads operands.
void multiply_row(const float* x, int64_t x_pixel, int64_t depth, const float* weights, int64_t m,
                  const Finish& finish, int64_t place, int64_t count, float* y, int64_t ldy) {
  const RowTiles tiles(count);
  const int32_t piece = 0;
  for (int64_t col = 0; col < m; col += kPanel) {
    const int64_t cols = least(kPanel, m - col);
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t at = tiles.begin(t), height = tiles.begin(t + 1) - at;
      const float* rows[kTileRows];
      for (int64_t r = 0; r < height; ++r) rows[r] = x + (at + r) * x_pixel;
      const StepOperand& add = finish.add;
      const TileEnd end{finish.bias + col,
                        add.data == nullptr ? nullptr : add.data + (place + at) * add.row + col,
                        add.row, finish.lo, finish.hi};
      float* to = y + at * ldy + col;
      tile_fn(height, ceil_div(cols, kLanes))({rows, &piece, 1, depth, weights + col * depth},
                                              weights + col * depth, end, to, ldy, cols);
      if (finish.rest.n > 0) apply_epilogue(finish.rest, place + at, col, height, cols, to, ldy);
    }
  }
}

// Output rows of one task.
struct Strip {
  const Call& call;
  const Bottleneck& b;
  const Finishes& finish;
  float* ring;
  float* row;          // depthwise results
  const float** taps;  // rows of the ring under one output row

  float* ring_row(int64_t ih) const { return ring + ih % b.s.kh * b.columns * b.pixel; }
  const float* weights(int i) const { return static_cast<const float*>(call.in[i].data); }

  void expand(int64_t image, int64_t ih) const {
    const ConvShape& s = b.s;
    const int64_t begin = most(0, -s.pw), end = least(s.w, b.columns - s.pw);
    multiply_row(s.x + image * s.xn + ih * s.xh + begin * s.xw, s.xw, s.c, weights(1), b.expanded,
                 finish.expand, 0, most(0, end - begin), ring_row(ih) + (begin + s.pw) * b.pixel,
                 b.pixel);
  }

  void depthwise(int64_t row_number) const {
    const ConvShape& s = b.s;
    DepthwiseTile at{taps,
                     s.kh,
                     s.kw,
                     0,
                     s.kw,
                     b.pixel,
                     s.sw * b.pixel,
                     weights(2),
                     {finish.depthwise.bias, nullptr, 0, finish.depthwise.lo, finish.depthwise.hi},
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
      if (finish.depthwise.rest.n > 0) {
        apply_epilogue(finish.depthwise.rest, 0, 0, count, b.expanded, at.y, b.pixel);
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
      multiply_row(row, b.pixel, b.expanded, weights(3), s.m, finish.project, line * s.ow, s.ow,
                   s.y + line * s.ow * s.ldy, s.ldy);
    }
  }
};

int64_t bottleneck_scratch(const Call& call) {
  const Bottleneck b = bottleneck_of(call);
  return b.bias + call.parallel.threads * b.worker_bytes();
}

const char* run_bottleneck(const Call& call) {
  const Bottleneck b = bottleneck_of(call);
  if (element_count(call.out[0]) == 0) return nullptr;
  const Finishes finish = make_finishes(call, b);
  parallel_for(call, b.tasks, [&](int64_t task, int worker) {
    char* memory = call.scratch + b.bias + worker * b.worker_bytes();
    const Strip strip{call,
                      b,
                      finish,
                      reinterpret_cast<float*>(memory),
                      reinterpret_cast<float*>(memory + b.ring),
                      reinterpret_cast<const float**>(memory + b.ring + b.row)};
    const int64_t first = task * b.rows_of_task;
    strip.run(first, least(b.s.n * b.s.oh, first + b.rows_of_task));
  });
  return nullptr;
}

#define ZENITH_TILE_NAME (kLanes == 16 ? "7x64" : kLanes == 8 ? "6x16" : "6x8")
const Kernel kKernels[] = {
    {"conv_bottleneck_f32", ZENITH_TILE_NAME, kBottleneckFields, kBottleneckFieldCount,
     sizeof(BottleneckParams), bottleneck_scratch, run_bottleneck},
};

}  // namespace

Table conv_bottleneck_table();
Table conv_bottleneck_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
