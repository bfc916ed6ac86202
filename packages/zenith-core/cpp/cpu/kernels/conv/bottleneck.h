// Shared by the inverted residual blocks: a 1x1 convolution that expands the channels, a depthwise
// convolution, and a 1x1 convolution that projects them back. The expanded image is several times
// larger than input and output and would travel through the outer caches twice; here it exists only
// as rings of a few rows, float32, one ring per chunk of channels.
//
// A task is a range of output rows, cut into strips. In a strip one chunk after the other is
// expanded and convolved for all rows, so that its ring is in L1 meanwhile, and then the strip is
// projected as one sequence of pixels. Rings are kept from strip to strip, and from task to task
// where a worker's next one is the next in the image, as it is unless a core is late; else the rows
// of the kernel that reach into the next task's range are expanded by both.
#pragma once

#include "cpu/isa/bf16.h"
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
// Without weights of the first, x itself is convolved: a row of it goes to the ring as it is.
constexpr int kFirstOperand = 4;

// What a worker's rings hold: rows of the image before `done`, for the line after the last.
struct Reached {
  int64_t line, done;
};

struct Bottleneck {
  ConvShape s;  // of the depthwise convolution, but sizes of x and y are the block's
  bool expands;
  int64_t expanded;             // channels
  int64_t pixel;                // floats of one expanded pixel: whole vectors
  int64_t chunk, chunks;        // of expanded channels
  int64_t columns, height;      // of a ring
  int64_t together;             // rows that are expanded at once
  int64_t strip;                // output rows
  int64_t rows_of_task, tasks;  // output rows
  int64_t rings;                // one where no strip goes on where another ends
  int64_t bias, ring;           // bytes of these parts of scratch

  int64_t taps() const { return round_up(s.kh * 8 + int64_t{sizeof(Reached)}, 64); }
  // The first column of x in a ring, and how many there are.
  int64_t left() const { return most(0, s.pw); }
  int64_t inside() const { return most(0, least(s.w + s.pw, columns) - left()); }
  // Rows of x that are expanded for one strip, at most.
  int64_t rows_of_strip() const { return (strip - 1) * s.sh + s.kh + together - 1; }
};

constexpr int64_t kLeastRows = 7;  // of a task, while all workers have one

template <typename Products>
Bottleneck bottleneck_of(const Call& call) {
  constexpr int64_t kStripBytes = 256 << 10;  // of depthwise results, to stay in L2
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
  b.expands = call.in[1].rank >= 0;
  b.expanded = p.expanded;
  b.pixel = round_up(b.expanded, kLanes);
  b.columns = (s.ow - 1) * s.sw + s.kw;
  b.chunk = Products::chunk_of(b);
  b.chunks = ceil_div(b.expanded, b.chunk);
  // Several rows: at each change from products to depthwise sums a core waits for the last results.
  const bool whole = b.chunks == 1;
  b.together = whole ? 1 : most(1, least(s.h, Products::kTogether / most(1, s.w * b.chunk)));
  b.height = s.kh + b.together - 1;
  const int64_t rows = s.n * s.oh, threads = call.parallel.threads;
  const int64_t per_worker = threads == 1 ? 1 : most(1, least(4, rows / (threads * kLeastRows)));
  b.rows_of_task = most(1, ceil_div(rows, threads * per_worker));
  b.tasks = ceil_div(rows, b.rows_of_task);
  const int64_t row_bytes = s.ow * Products::row_of(b.expanded) * Products::kItem;
  const int64_t lines = least(least(s.oh, b.rows_of_task), kStripBytes / most(1, row_bytes));
  b.strip = whole ? 1 : most(1, lines);
  b.bias = round_up((2 * b.pixel + round_up(s.m, kLanes)) * 4, 64);
  const bool at_once = b.strip >= (b.tasks <= threads ? least(s.oh, b.rows_of_task) : s.oh);
  b.rings = at_once ? 1 : b.chunks;
  b.ring = round_up(b.rings * b.height * b.columns * b.chunk * 4, 64);
  return b;
}

inline int count_operands(const StepCodes& codes) {
  int count = 0;
  for (int64_t i = 0; i < codes.n; ++i) count += codes.v[i] <= kStepMul ? 1 : 0;
  return count;
}

// A row of x that is not expanded, to its ring.
template <typename T>
[[maybe_unused]] void keep_row(const T* x, int64_t step, int64_t count, int64_t channels, float* to,
                               int64_t chunk) {
  if (step == chunk && channels == chunk) return convert_row(x, count * chunk, to);
  for (int64_t i = 0; i < count; ++i) convert_row(x + i * step, channels, to + i * chunk);
}

// `count` results of channels from `channel` on, with what follows.
[[maybe_unused]] void finish_depthwise(DepthwiseTile& at, int64_t count, int64_t channels,
                                       const Finish& finish, int64_t channel) {
  at.end = {finish.bias + channel, nullptr, 0, finish.lo, finish.hi};
  run_depthwise(at, count, channels);
  if (finish.rest.n > 0) {
    apply_epilogue(finish.rest, 0, channel, count, channels, at.y, at.ldy);
  }
}

// A worker's part in a task. Products is
//   T                      the type of the image's elements
//   chunk_of()             expanded channels of a chunk; of a single one, strips are single rows
//   kTogether              expanded results after which sums follow products, at least one row
//   kItem, row_of()        how a depthwise result is kept: bytes, and elements of a pixel
//   call_bytes(), worker_bytes()    its own parts of scratch
//   Expansion              what lasts while rows are expanded:
//     run(x, slot, rows, count, channel, target)    `count` pixels of `rows` rows of x, a chunk of
//                          them from `channel` on to target(row); slot: number of the first row in
//                          the strip. The first chunk comes first
//   depthwise(memory, tile, count, channel, place)  runs a tile, whose results are kept as those
//                          of pixel `place` of the strip
//   project(memory, line, lines)    the strip to the results from `line` on
template <typename Products>
struct Strip {
  using T = typename Products::T;
  const Bottleneck& b;
  const Products& products;
  const T* x;
  const float* weights;  // of the depthwise convolution
  float* rings;
  Reached* reached;
  const float** taps;  // rows of a ring under one output row
  char* memory;        // of the products

  float* ring_row(int64_t chunk, int64_t ih) const {
    return rings + (least(chunk, b.rings - 1) * b.height + ih % b.height) * b.columns * b.chunk;
  }

  // Nothing is written there later.
  void clear_borders() const {
    const int64_t row = b.columns * b.chunk, before = b.left() * b.chunk;
    const int64_t end = before + b.inside() * b.chunk;
    float* to = rings;
    for (int64_t i = 0; i < b.rings * b.height; ++i, to += row) {
      std::memset(to, 0, static_cast<size_t>(before) * sizeof(float));
      std::memset(to + end, 0, static_cast<size_t>(row - end) * sizeof(float));
    }
  }

  void depthwise(int64_t chunk, int64_t row_number, int64_t place) const {
    const ConvShape& s = b.s;
    const int64_t channel = chunk * b.chunk;
    DepthwiseTile at{
        taps, s.kh,    s.kw, 0, s.kw, b.chunk, s.sw * b.chunk, weights + channel * s.kh * s.kw,
        {},   nullptr, 0};
    for (int64_t r = 0; r < s.kh; ++r) {
      const int64_t ih = row_number * s.sh - s.ph + r;
      taps[r] = ih < 0 || ih >= s.h ? nullptr : ring_row(chunk, ih);
    }
    const int64_t count = least(s.ow, kPixels);
    for (int64_t done = 0, step = count;; done += step) {  // whole tiles: the last one may overlap
      products.depthwise(memory, at, count, channel, place + done);
      step = least(count, s.ow - count - done);
      if (step == 0) break;
      for (int64_t r = 0; r < s.kh; ++r) {
        if (taps[r] != nullptr) taps[r] += step * at.pixel;
      }
    }
  }

  // One chunk of the strip of lines [first, last) of an image, whose rows before `done` are, or
  // were, in the rings; returns what `done` is then. Below row `end` nothing is needed.
  int64_t run_chunk(typename Products::Expansion& expansion, int64_t chunk, int64_t first,
                    int64_t last, int64_t done, int64_t end) const {
    const ConvShape& s = b.s;
    const int64_t image = first / s.oh, before = first % s.oh - first;
    const int64_t skipped = b.left() - s.pw;  // columns of x
    const int64_t start = most(done, (first + before) * s.sh - s.ph);
    for (int64_t line = first; line < last; ++line) {
      const int64_t top = (line + before) * s.sh - s.ph;
      done = most(done, top);
      while (done < least(top + s.kh, s.h)) {
        const int64_t rows = least(b.together, end - done);
        expansion.run(x + image * s.xn + done * s.xh + skipped * s.xw, done - start, rows,
                      b.inside(), chunk * b.chunk, [&](int64_t row) {
                        return ring_row(chunk, done + row) + b.left() * b.chunk;
                      });
        done += rows;
      }
      depthwise(chunk, line + before, (line - first) * s.ow);
    }
    return done;
  }

  void run(int64_t first, int64_t last) const {
    const ConvShape& s = b.s;
    if (reached->line < 0) clear_borders();
    int64_t done = b.rings == b.chunks && reached->line == first ? reached->done : 0;
    for (int64_t line = first, next; line < last; line = next) {
      const int64_t image_end = least(last, (line / s.oh + 1) * s.oh);
      next = least(line + b.strip, image_end);
      if (line % s.oh == 0) done = 0;
      const int64_t bottom = (image_end - 1) % s.oh * s.sh - s.ph + s.kh;
      int64_t after = done;
      {
        typename Products::Expansion expansion(products, memory);
        for (int64_t chunk = 0; chunk < b.chunks; ++chunk) {
          after = run_chunk(expansion, chunk, line, next, done, least(bottom, s.h));
        }
      }
      done = after;
      products.project(memory, line, next - line);
    }
    *reached = {last, done};
  }
};

template <typename Products>
int64_t bottleneck_scratch(const Call& call) {
  const auto b = bottleneck_of<Products>(call);
  const int64_t of_worker = b.ring + b.taps() + Products::worker_bytes(b);
  return b.bias + Products::call_bytes(b) + call.parallel.threads * of_worker;
}

template <typename Products>
const char* run_bottleneck(const Call& call) {
  using T = typename Products::T;
  const auto b = bottleneck_of<Products>(call);
  if (element_count(call.out[0]) == 0) return nullptr;
  const Products products(call, b, reinterpret_cast<float*>(call.scratch));
  const int64_t of_worker = b.ring + b.taps() + Products::worker_bytes(b);
  char* workers = call.scratch + b.bias + Products::call_bytes(b);
  const auto reached_by = [&](int64_t worker) {
    return reinterpret_cast<Reached*>(workers + worker * of_worker + b.ring);
  };
  for (int worker = 0; worker < call.parallel.threads; ++worker) *reached_by(worker) = {-1, 0};
  parallel_for(call, b.tasks, [&](int64_t task, int worker) {
    char* rings = workers + worker * of_worker;
    Reached* reached = reached_by(worker);
    const Strip<Products> strip{b,
                                products,
                                static_cast<const T*>(call.in[0].data),
                                static_cast<const float*>(call.in[2].data),
                                reinterpret_cast<float*>(rings),
                                reached,
                                reinterpret_cast<const float**>(reached + 1),
                                rings + b.ring + b.taps()};
    const int64_t first = task * b.rows_of_task;
    strip.run(first, least(b.s.n * b.s.oh, first + b.rows_of_task));
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
