// Depthwise convolution of bfloat16 images: every channel has its own kernel. Products are float32;
// what bfloat16 saves is memory.
//
// The rows of x under a segment of a row of results are copied, a chunk of channels at a time, into
// a small ring with their borders of zeros, so no tile meets a border. A tile is kPixels results of
// a row times a vector of channels; a value is widened once for all results of the tile that read
// it.
#include "cpu/kernels/conv/conv.h"
#include "cpu/kernels/gemm/finish_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kPixels = kLanes == 16 ? 7 : 6;
constexpr int kTileVecs = 2;  // vectors of channels that are finished together
constexpr int64_t kTileChannels = kTileVecs * kLanes;

struct Work {
  ConvShape s;
  int64_t height, columns, pixel;  // of the ring; pixel: between its columns
  int64_t chunk, chunks;           // of channels
  int64_t width, segments;         // of a row of results
  int64_t rows, row_tasks;

  explicit Work(const Call& call) : s(conv_shape(call)) {
    if (empty()) return;
    height = (s.kh - 1) * s.dh + 1;
    const int threads = call.parallel.threads;
    const int64_t tiles = ceil_div(s.c, kTileChannels), lines = s.n * s.oh;
    const int64_t wanted = threads == 1 ? 1 : threads * int64_t{4};
    chunks = ceil_div(tiles, tiles_at_once(tiles));
    // Few rows: tasks of whole columns, or each would copy most rows again.
    if (lines < wanted * height) chunks = most(chunks, least(tiles, wanted));
    chunk = ceil_div(tiles, chunks);
    segments = ceil_div(s.ow, segment(chunk));
    width = least(s.ow, round_up(ceil_div(s.ow, segments), kPixels));
    segments = ceil_div(s.ow, width);
    chunk *= kTileChannels;
    chunks = ceil_div(s.c, chunk);
    columns = columns_under(width);
    pixel = least(chunk, round_up(s.c, kTileChannels));
    rows = most(1, least(lines, ceil_div(lines * chunks * segments, wanted)));
    row_tasks = ceil_div(lines, rows);
  }
  bool empty() const { return s.pixels() == 0 || s.c == 0; }
  int64_t rows_bytes() const { return round_up(s.kh * 8, 64); }
  int64_t worker_bytes() const { return rows_bytes() + round_up(height * columns * pixel * 2, 64); }

 private:
  int64_t columns_under(int64_t results) const {
    return (round_up(results, kPixels) - 1) * s.sw + (s.kw - 1) * s.dw + 1;
  }
  // Results side by side of `tiles` tiles of channels whose ring is half of L1, at least one tile.
  int64_t segment(int64_t tiles) const {
    constexpr int64_t kRingBytes = 24 << 10;
    const int64_t fit = kRingBytes / most(1, height * tiles * kTileChannels * 2);
    return most(kPixels, ((fit - columns_under(1)) / s.sw + kPixels) / kPixels * kPixels);
  }
  // Pieces of several cache lines are read fast; most columns are copied once.
  int64_t tiles_at_once(int64_t tiles) const {
    constexpr int64_t kMost = 8, kOnce = 6;  // kOnce: columns in a segment for each that is shared
    const int64_t shared = (s.kw - 1) * s.dw;
    int64_t n = least(tiles, kMost);
    while (n > 1 && segment(n) < s.ow && segment(n) * s.sw < kOnce * shared) --n;
    return n;
  }
};

// A row of results in the ring: the first column in each row of the kernel.
struct Taps {
  const bf16* const* rows;
  int64_t kh, kw, pixel, stride, dilation;
};

// sums[kPixels][kTileChannels] of one vector of channels, `from` elements behind the first column.
// kWidth, kStride: of the kernel, whose columns are neighbours; 0 for any.
template <int kWidth, int kStride>
void sum_pixels(const Taps& at, int64_t from, const float* weights, float* sums) {
  vf sum[kPixels] = {};
  for (int64_t i = 0; i < at.kh; ++i, weights += at.kw * kLanes) {
    const bf16* x = at.rows[i] + from;
    if constexpr (kWidth > 0) {
      vf w[kWidth];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) w[j] = load(weights + j * kLanes);
#pragma GCC unroll 32
      for (int c = 0; c < (kPixels - 1) * kStride + kWidth; ++c) {
        const vf value = load(x + c * at.pixel);
#pragma GCC unroll 8
        for (int j = 0; j < kWidth; ++j) {
          const int p = (c - j) / kStride;
          if (c >= j && (c - j) % kStride == 0 && p < kPixels) multiply_add(sum[p], w[j], value);
        }
      }
    } else {
      for (int64_t j = 0; j < at.kw; ++j, x += at.dilation * at.pixel) {
        const vf w = load(weights + j * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          multiply_add(sum[p], w, load(x + p * at.stride * at.pixel));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) store(sums + p * kTileChannels, sum[p]);
}

using SumFn = void (*)(const Taps&, int64_t, const float*, float*);
SumFn sum_fn(const ConvShape& s) {
  if (s.dw != 1 || s.sw > 2) return sum_pixels<0, 0>;
  if (s.kw == 3) return s.sw == 1 ? sum_pixels<3, 1> : sum_pixels<3, 2>;
  if (s.kw == 5) return s.sw == 1 ? sum_pixels<5, 1> : sum_pixels<5, 2>;
  if (s.kw == 7 && s.sw == 1) return sum_pixels<7, 1>;
  return sum_pixels<0, 0>;
}

// Row `ih` of an image at x from column `left` on, channels [begin, begin + n), to one of the ring.
void copy_row(const Work& w, const bf16* x, int64_t ih, int64_t left, int64_t begin, int64_t n,
              bf16* to) {
  const ConvShape& s = w.s;
  const int64_t first = least(w.columns, most(0, -left));
  const int64_t last = most(first, least(w.columns, s.w - left));
  const bool there = ih >= 0 && ih < s.h;
  const int64_t from = there ? first : w.columns, end = there ? last : w.columns;
  std::memset(to, 0, static_cast<size_t>(from * w.pixel) * 2);
  std::memset(to + end * w.pixel, 0, static_cast<size_t>((w.columns - end) * w.pixel) * 2);
  if (n == w.pixel && s.xw == w.pixel && end > from) {
    std::memcpy(to + from * w.pixel, x + ih * s.xh + (from + left) * s.xw + begin,
                static_cast<size_t>((end - from) * w.pixel) * 2);
    return;
  }
  for (int64_t i = from; i < end; ++i) {
    const bf16* source = x + ih * s.xh + (i + left) * s.xw + begin;
    bf16* target = to + i * w.pixel;
    int64_t c = 0;
    for (; c + kLanes <= n; c += kLanes) std::memcpy(target + c, source + c, kLanes * 2);
    if (c < n) {
      vh rest{};
      std::memcpy(&rest, source + c, static_cast<size_t>(n - c) * 2);
      std::memcpy(target + c, &rest, kLanes * 2);
    }
  }
}

int64_t scratch(const Call& call) {
  const Work w(call);
  return w.empty() ? 0 : call.parallel.threads * w.worker_bytes();
}

// A range of rows of results, a segment of each, a chunk of channels.
void run_task(const Call& call, const Work& w, const TileFinish& finish, int64_t task,
              char* memory) {
  const ConvShape& s = w.s;
  const int64_t begin = task / w.row_tasks / w.segments * w.chunk;
  const int64_t channels = least(w.chunk, s.c - begin);
  const int64_t start = task / w.row_tasks % w.segments * w.width;
  const int64_t width = least(w.width, s.ow - start);
  const auto rows = reinterpret_cast<const bf16**>(memory);
  bf16* ring = reinterpret_cast<bf16*>(memory + w.rows_bytes());
  const int64_t ring_row = w.columns * w.pixel;
  const float* weights = static_cast<const float*>(call.in[1].data) + begin * s.kh * s.kw;
  const Taps taps{rows, s.kh, s.kw, w.pixel, s.sw, s.dw};
  const SumFn sum = sum_fn(s);
  alignas(64) float sums[kPixels * kTileChannels];
  const int64_t end = least(s.n * s.oh, (task % w.row_tasks + 1) * w.rows);
  int64_t copied = 0;  // row of the padded image behind the last one in the ring
  for (int64_t line = task % w.row_tasks * w.rows; line < end; ++line) {
    const int64_t image = line / s.oh, top = line % s.oh * s.sh;
    const bf16* x = static_cast<const bf16*>(call.in[0].data) + image * s.xn;
    if (line % s.oh == 0) copied = 0;
    for (copied = most(copied, top); copied < top + w.height; ++copied) {
      copy_row(w, x, copied - s.ph, start * s.sw - s.pw, begin, channels,
               ring + copied % w.height * ring_row);
    }
    for (int64_t i = 0; i < s.kh; ++i) rows[i] = ring + (top + i * s.dh) % w.height * ring_row;
    for (int64_t col = 0; col < width; col += kPixels) {
      const int64_t from = col * s.sw * w.pixel;
      for (int64_t c = 0; c < channels; c += kTileChannels) {
        for (int64_t v = 0; v < kTileChannels && c + v < channels; v += kLanes) {
          sum(taps, from + c + v, weights + (c + v) * s.kh * s.kw, sums + v);
        }
        finish.tile(sums, kTileChannels, line * s.ow + start + col, begin + c,
                    least(kPixels, width - col), least(kTileChannels, channels - c));
      }
    }
  }
}

StepOperand operand_of(const TensorRef& t) {
  return t.rank == 1 ? step_operand(t) : pixel_operand(t);
}

const char* run(const Call& call) {
  const Work w(call);
  if (w.empty()) return nullptr;
  const StepCodes& codes = static_cast<const ConvParams*>(call.params)->epilogue;
  const TileFinish finish(call.out[0], w.s.ldy, codes, call.in + 2, operand_of);
  parallel_for(call, w.chunks * w.segments * w.row_tasks, [&](int64_t task, int worker) {
    run_task(call, w, finish, task, call.scratch + worker * w.worker_bytes());
  });
  return nullptr;
}

// Weights [C, 1, kh, kw] -> float32 [C / kLanes][kh][kw][kLanes], the last block with zeros.
int64_t pack_bytes(const TensorRef& t, const void*) {
  const Filter f = filter_of(t);
  return round_up(f.m, kLanes) * f.kh * f.kw * 4;
}
template <typename F>
void for_each_weight(const Filter& f, const F& visit) {
  for (int64_t c = 0; c < f.m; ++c) {
    for (int64_t i = 0; i < f.kh; ++i) {
      for (int64_t j = 0; j < f.kw; ++j) {
        visit(c * f.sm + i * f.si + j * f.sj,
              ((c / kLanes * f.kh + i) * f.kw + j) * kLanes + c % kLanes);
      }
    }
  }
}
void pack(const TensorRef& t, void* to, const void* params) {
  std::memset(to, 0, static_cast<size_t>(pack_bytes(t, params)));
  for_each_weight(filter_of(t), [&](int64_t a, int64_t b) {
    convert_row(static_cast<const bf16*>(t.data) + a, 1, static_cast<float*>(to) + b);
  });
}
void unpack(const void* from, const TensorRef& t, const void*) {
  for_each_weight(filter_of(t), [&](int64_t a, int64_t b) {
    convert_row(static_cast<const float*>(from) + b, 1, static_cast<bf16*>(t.data) + a);
  });
}

const Kernel kKernels[] = {
    {"conv_depthwise_bf16", "", kConvFields, kConvFieldCount, sizeof(ConvParams), scratch, run},
};
const Packer kPackers[] = {
    {"conv_depthwise_weights_bf16", nullptr, 0, 0, pack_bytes, pack, unpack},
};

}  // namespace

Table conv_depthwise_bf16_table();
Table conv_depthwise_bf16_table() { return {kKernels, 1, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
