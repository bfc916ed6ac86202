// Depthwise convolution (every channel has its own kernel). A tile is a few pixels of one output
// row times two vectors of channels, with the sums in registers. It never meets a border:
//
// Note [Ring]: where each value is read often, the rows of x under one row of outputs are copied, a
// chunk of channels at a time, into a small ring with their borders of zeros: a row is copied once
// and read kh times from L1. Small kernels read x where it lies, which saves a pass over data that
// comes from far; there, results at a border are tiles of one pixel with fewer taps.
#include "cpu/kernels/conv/depthwise.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kPair = 2 * kLanes;
constexpr int64_t kRingFloats = 6 * 1024;   // half of L1
constexpr int64_t kChunkFloats = 4 * 1024;  // weights used together
constexpr int64_t kManyTaps = 16;           // from here on the ring pays

// How the work is cut: chunks of channels, segments of output columns, ranges of output rows.
struct DepthwiseCut {
  bool ring;
  int64_t chunk, chunks;
  int64_t columns, segments;
  int64_t rows, row_tasks;
};

// Rows and columns of x under `count` neighbouring outputs.
int64_t rows_under(const ConvShape& s) { return (s.kh - 1) * s.dh + 1; }
int64_t columns_under(const ConvShape& s, int64_t count) {
  return (count - 1) * s.sw + (s.kw - 1) * s.dw + 1;
}

DepthwiseCut depthwise_cut(const ConvShape& s, int threads) {
  const int64_t wanted = threads == 1 ? 1 : threads * int64_t{4};
  const int64_t rows = s.n * s.oh, height = rows_under(s), pairs = ceil_div(s.c, kPair);
  DepthwiseCut cut{};
  cut.ring = s.kh * s.kw >= kManyTaps;
  cut.columns = s.ow;
  int64_t fit = kChunkFloats / (s.kh * s.kw);
  if (cut.ring) {
    const int64_t pieces = ceil_div(height * columns_under(s, s.ow) * kPair, 2 * kRingFloats);
    cut.columns = least(s.ow, round_up(ceil_div(s.ow, pieces), kPixels));
    fit = least(fit, kRingFloats / (height * columns_under(s, cut.columns)));
  }
  cut.segments = ceil_div(s.ow, cut.columns);
  cut.chunks = ceil_div(pairs, most(1, fit / kPair));
  // Few rows: tasks of whole columns, or each would copy most rows again.
  if (rows < wanted * height) cut.chunks = most(cut.chunks, least(pairs, wanted));
  cut.chunk = ceil_div(pairs, cut.chunks) * kPair;
  cut.chunks = ceil_div(s.c, cut.chunk);
  cut.rows = least(rows, ceil_div(rows * cut.chunks * cut.segments, wanted));
  cut.row_tasks = ceil_div(rows, cut.rows);
  return cut;
}

// Copied rows of x, for one chunk of channels; row i of the image lies at i modulo `rows`.
struct Ring {
  float* data;
  int64_t rows, columns, pixel;  // pixel: floats from one column to the next

  float* row(int64_t i) const { return data + i % rows * columns * pixel; }
};

// Row `ih` of an image at `x`: columns from `left` on, channels [begin, end).
void copy_row(const ConvShape& s, const float* x, int64_t ih, int64_t left, int64_t begin,
              int64_t end, const Ring& ring) {
  float* to = ring.row(ih);
  for (int64_t i = 0; i < ring.columns; ++i, to += ring.pixel) {
    const int64_t iw = left + i;
    if (iw < 0 || iw >= s.w) {
      std::memset(to, 0, static_cast<size_t>(ring.pixel) * 4);
      continue;
    }
    const float* from = x + ih * s.xh + iw * s.xw;
    int64_t c = begin;
    for (; c + kLanes <= end; c += kLanes) store(to + c - begin, load(from + c));
    if (c < end) store(to + c - begin, load_n(from + c, static_cast<int>(end - c)));
  }
}

// One output row: its segment of columns and chunk of channels.
struct DepthwiseRow {
  int64_t image, row;
  int64_t first, width;  // columns
  int64_t begin, channels;
};

// The taps of the results from column `col` on: in the ring, which begins at the line's first
// column, or in x.
void locate(const ConvShape& s, const DepthwiseRow& line, int64_t col, const Ring* ring,
            DepthwiseTile& at) {
  const float* x = s.x + line.image * s.xn + line.begin;
  const int64_t top = line.row * s.sh - s.ph, left = col * s.sw - s.pw;
  for (int64_t r = 0; r < s.kh; ++r) {
    const int64_t ih = top + r * s.dh;
    if (ih < 0 || ih >= s.h) {
      at.rows[r] = nullptr;
    } else if (ring != nullptr) {
      at.rows[r] = ring->row(ih) + (col - line.first) * at.pixel;
    } else {
      at.rows[r] = x + (ih * s.xh + left * s.xw);
    }
  }
  at.from = 0, at.to = s.kw;
  if (ring != nullptr) return;
  at.from = least(s.kw, ceil_div(most(0, -left), s.dw));
  at.to = most(at.from, least(s.kw, ceil_div(most(0, s.w - left), s.dw)));
}

// Results of one row from column `col` on.
void depthwise_tile(const ConvShape& s, const Finish& finish, const DepthwiseRow& line, int64_t col,
                    int64_t count, const Ring* ring, DepthwiseTile& at) {
  locate(s, line, col, ring, at);
  const int64_t pixel = (line.image * s.oh + line.row) * s.ow + col;
  const StepOperand& add = finish.add;
  at.y = s.y + pixel * s.ldy + line.begin;
  at.end.add = add.data == nullptr ? nullptr : add.data + pixel * add.row + line.begin;
  run_depthwise(at, count, line.channels);
  if (finish.rest.n > 0) {
    apply_epilogue(finish.rest, pixel, line.begin, count, line.channels, at.y, s.ldy);
  }
}

// Columns [begin, end) in tiles of nearly equal width.
void depthwise_tiles(const ConvShape& s, const Finish& finish, const DepthwiseRow& line,
                     int64_t begin, int64_t end, const Ring* ring, DepthwiseTile& at) {
  const int64_t width = end - begin, tiles = ceil_div(width, kPixels);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t col = begin + width * t / tiles;
    depthwise_tile(s, finish, line, col, begin + width * (t + 1) / tiles - col, ring, at);
  }
}

void depthwise_row(const ConvShape& s, const Finish& finish, const DepthwiseRow& line,
                   const Ring* ring, DepthwiseTile at) {
  const int64_t last = line.first + line.width;
  if (ring != nullptr) return depthwise_tiles(s, finish, line, line.first, last, ring, at);
  // All taps of columns [begin, end) are inside x.
  const int64_t begin = least(last, most(0, ceil_div(s.pw, s.sw)));
  const int64_t fit = s.w + s.pw - columns_under(s, 1);
  const int64_t end = most(begin, least(last, fit < 0 ? 0 : fit / s.sw + 1));
  for (int64_t col = 0; col < begin; ++col) depthwise_tile(s, finish, line, col, 1, ring, at);
  depthwise_tiles(s, finish, line, begin, end, ring, at);
  for (int64_t col = end; col < last; ++col) depthwise_tile(s, finish, line, col, 1, ring, at);
}

// As one group: the bias then is one row of channels.
ConvShape depthwise_shape(const Call& call) {
  ConvShape s = conv_shape(call);
  s.group = 1;
  return s;
}

// Of one worker: the rows of a tile, then the ring.
int64_t row_bytes(const ConvShape& s) { return round_up(s.kh * 8, 64); }
int64_t worker_bytes(const ConvShape& s, const DepthwiseCut& cut) {
  const int64_t ring = rows_under(s) * columns_under(s, cut.columns) * cut.chunk;
  return row_bytes(s) + (cut.ring ? round_up(ring * 4, 64) : 0);
}

int64_t depthwise_scratch(const Call& call) {
  const ConvShape s = depthwise_shape(call);
  if (s.pixels() == 0 || s.c == 0) return 0;
  const DepthwiseCut cut = depthwise_cut(s, call.parallel.threads);
  return round_up(bias_floats(s) * 4, 64) + call.parallel.threads * worker_bytes(s, cut);
}

// The rows of one task, one after the other.
void depthwise_task(const ConvShape& s, const DepthwiseCut& cut, const Finish& finish,
                    const float* weights, int64_t task, char* memory) {
  DepthwiseRow line{};
  line.begin = task / cut.row_tasks / cut.segments * cut.chunk;
  line.channels = least(cut.chunk, s.c - line.begin);
  line.first = task / cut.row_tasks % cut.segments * cut.columns;
  line.width = least(cut.columns, s.ow - line.first);
  const int64_t left = line.first * s.sw - s.pw;
  const int64_t pixel = cut.ring ? round_up(line.channels, kLanes) : s.xw;
  const Ring ring{reinterpret_cast<float*>(memory + row_bytes(s)), rows_under(s),
                  columns_under(s, line.width), pixel};
  const DepthwiseTile at{reinterpret_cast<const float**>(memory),
                         s.kh,
                         s.kw,
                         0,
                         s.kw,
                         s.dw * pixel,
                         s.sw * pixel,
                         weights + line.begin * s.kh * s.kw,
                         {finish.bias + line.begin, nullptr, finish.add.row, finish.lo, finish.hi},
                         nullptr,
                         s.ldy};
  const int64_t end = least(s.n * s.oh, (task % cut.row_tasks + 1) * cut.rows);
  int64_t copied = 0;  // rows of the image that are, or were, in the ring
  for (int64_t i = task % cut.row_tasks * cut.rows; i < end; ++i) {
    line.image = i / s.oh, line.row = i % s.oh;
    if (cut.ring) {
      const int64_t top = line.row * s.sh - s.ph;
      if (line.row == 0) copied = 0;
      for (copied = most(copied, top); copied < least(top + ring.rows, s.h); ++copied) {
        copy_row(s, s.x + line.image * s.xn, copied, left, line.begin, line.begin + line.channels,
                 ring);
      }
    }
    depthwise_row(s, finish, line, cut.ring ? &ring : nullptr, at);
  }
}

const char* run_depthwise_conv(const Call& call) {
  const ConvShape s = depthwise_shape(call);
  if (s.pixels() == 0 || s.c == 0) return nullptr;
  const Finish finish = make_finish(call, s, reinterpret_cast<float*>(call.scratch));
  const DepthwiseCut cut = depthwise_cut(s, call.parallel.threads);
  char* memory = call.scratch + round_up(bias_floats(s) * 4, 64);
  const auto* weights = static_cast<const float*>(call.in[1].data);
  parallel_for(call, cut.chunks * cut.segments * cut.row_tasks, [&](int64_t task, int worker) {
    depthwise_task(s, cut, finish, weights, task, memory + worker * worker_bytes(s, cut));
  });
  return nullptr;
}

// Weights [C, 1, kh, kw] -> [C / kLanes][kh][kw][kLanes], the last block filled with zeros.
int64_t pack_bytes(const TensorRef& w, const void*) {
  const Filter f = filter_of(w);
  return round_up(f.m, kLanes) * f.kh * f.kw * 4;
}

template <typename F>
void for_each_weight(const Filter& w, const F& visit) {
  for (int64_t c = 0; c < w.m; ++c) {
    for (int64_t i = 0; i < w.kh; ++i) {
      for (int64_t j = 0; j < w.kw; ++j) {
        visit(c * w.sm + i * w.si + j * w.sj,
              ((c / kLanes * w.kh + i) * w.kw + j) * kLanes + c % kLanes);
      }
    }
  }
}

void pack_weights(const TensorRef& w, void* to, const void* params) {
  const float* from = static_cast<const float*>(w.data);
  float* packed = static_cast<float*>(to);
  std::memset(to, 0, static_cast<size_t>(pack_bytes(w, params)));
  for_each_weight(filter_of(w), [&](int64_t a, int64_t b) { packed[b] = from[a]; });
}

void unpack_weights(const void* from, const TensorRef& w, const void*) {
  const float* packed = static_cast<const float*>(from);
  float* to = static_cast<float*>(w.data);
  for_each_weight(filter_of(w), [&](int64_t a, int64_t b) { to[a] = packed[b]; });
}

const Kernel kKernels[] = {
    {"conv_depthwise_f32", "", kConvFields, kConvFieldCount, sizeof(ConvParams), depthwise_scratch,
     run_depthwise_conv},
};
const Packer kPackers[] = {
    {"conv_depthwise_weights_f32", nullptr, 0, 0, pack_bytes, pack_weights, unpack_weights},
};

}  // namespace

Table conv_depthwise_table();
Table conv_depthwise_table() { return {kKernels, 1, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
