// Depthwise convolution (every channel has its own kernel): a tile is a few pixels of one output
// row times two vectors of channels, with the sums in registers.
#include "cpu/kernels/conv/tile.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kPixels = 6;
constexpr int64_t kChunkFloats = 4 * 1024;  // weights used together: half of a small L1

// Where a tile finds its inputs. Inside x they lie at even distances; at a border there is one
// pointer per tap and pixel, to zeros outside x.
struct Window {
  const float* x;  // first tap of the first pixel; null at a border
  int64_t rows, cols, row_step, col_step, pixel_step;
  Pieces pieces;
};

template <int kRows, int kVecs, bool kWhole>
[[gnu::noinline]] void run_depthwise(const Window& at, int64_t channel, const float* weights,
                                     int64_t taps, const TileEnd& end, float* y, int64_t ldy,
                                     int64_t cols) {
  vf sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) {
    const vf bias = load(end.bias + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) sum[i][j] = bias;
  }
  const auto read = [&](const float* p) {
    return kWhole ? load(p) : load_n(p, static_cast<int>(cols));
  };
  if (at.x != nullptr) {
    const float* row = at.x + channel;
    const float* w = weights;
    for (int64_t r = 0; r < at.rows; ++r, row += at.row_step) {
      const float* x = row;
#pragma GCC unroll 1
      for (int64_t c = 0; c < at.cols; ++c, x += at.col_step, w += kLanes) {
        vf tap[kVecs];
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) tap[j] = load(w + j * taps * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
          for (int j = 0; j < kVecs; ++j) {
            sum[i][j] += read(x + i * at.pixel_step + j * kLanes) * tap[j];
          }
        }
      }
    }
  } else {
    for (int64_t s = 0; s < at.pieces.count; ++s) {
      const float* w = weights + at.pieces.ids[s] * kLanes;
      vf tap[kVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) tap[j] = load(w + j * taps * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const float* x = at.pieces.rows[s * kRows + i] + channel;
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) sum[i][j] += read(x + j * kLanes) * tap[j];
      }
    }
  }
  store_tile<kRows, kVecs>(sum, end, y, ldy, cols);
}

using DepthwiseFn = void (*)(const Window&, int64_t, const float*, int64_t, const TileEnd&, float*,
                             int64_t, int64_t);
template <int kVecs, bool kWhole>
constexpr DepthwiseFn kDepthwise[kPixels] = {
    run_depthwise<1, kVecs, kWhole>, run_depthwise<2, kVecs, kWhole>,
    run_depthwise<3, kVecs, kWhole>, run_depthwise<4, kVecs, kWhole>,
    run_depthwise<5, kVecs, kWhole>, run_depthwise<6, kVecs, kWhole>,
};

struct DepthwiseCut {
  int64_t chunk, chunks;  // channels
  int64_t rows_of_task, row_tasks;
};

DepthwiseCut depthwise_cut(const ConvShape& s, int threads) {
  DepthwiseCut cut{};
  cut.chunk = most(kChunkFloats / (s.kh * s.kw), 1);
  cut.chunk = least(round_up(cut.chunk, 2 * kLanes), round_up(s.c, 2 * kLanes));
  cut.chunks = ceil_div(s.c, cut.chunk);
  const int64_t rows = s.n * s.oh;
  cut.rows_of_task = threads == 1 ? rows : most(1, rows * cut.chunks / (threads * 4));
  cut.rows_of_task = least(cut.rows_of_task, rows);
  cut.row_tasks = ceil_div(rows, cut.rows_of_task);
  return cut;
}

int64_t depthwise_table_bytes(const ConvShape& s) {
  return round_up(s.kh * s.kw * (kPixels * 8 + 4), 64);
}

// As one group: the bias then is one row of channels.
ConvShape depthwise_shape(const Call& call) {
  ConvShape s = conv_shape(call);
  s.group = 1;
  return s;
}

int64_t depthwise_scratch(const Call& call) {
  const ConvShape s = depthwise_shape(call);
  return round_up(bias_floats(s) * 4, 64) + round_up(s.c * 4, 64) +
         call.parallel.threads * depthwise_table_bytes(s);
}

// Channels [begin, end) of one tile of `count` pixels.
void depthwise_tile(const ConvShape& s, const Window& at, const float* weights,
                    const Finish& finish, int64_t pixel, int64_t count, int64_t begin,
                    int64_t end) {
  const int64_t taps = s.kh * s.kw;
  float* y = s.y + pixel * s.ldy;
  const StepOperand& add = finish.add;
  for (int64_t c = begin; c < end;) {
    const float* other = add.data == nullptr ? nullptr : add.data + pixel * add.row + c;
    const TileEnd tile_end{finish.bias + c, other, add.row, finish.lo, finish.hi};
    const int64_t left = end - c;
    const float* w = weights + c * taps;
    if (left >= 2 * kLanes) {
      kDepthwise<2, true>[count - 1](at, c, w, taps, tile_end, y + c, s.ldy, 2 * kLanes);
      c += 2 * kLanes;
    } else if (left >= kLanes) {
      kDepthwise<1, true>[count - 1](at, c, w, taps, tile_end, y + c, s.ldy, kLanes);
      c += kLanes;
    } else {
      kDepthwise<1, false>[count - 1](at, c, w, taps, tile_end, y + c, s.ldy, left);
      c = end;
    }
  }
  if (finish.rest.n > 0) {
    apply_epilogue(finish.rest, pixel, begin, count, end - begin, y + begin, s.ldy);
  }
}

const char* run_depthwise_conv(const Call& call) {
  const ConvShape s = depthwise_shape(call);
  if (s.pixels() == 0 || s.c == 0) return nullptr;
  const Finish finish = make_finish(call, s, reinterpret_cast<float*>(call.scratch));
  const auto zeros = reinterpret_cast<float*>(call.scratch + round_up(bias_floats(s) * 4, 64));
  std::memset(zeros, 0, static_cast<size_t>(s.c) * 4);
  char* tables = reinterpret_cast<char*>(zeros) + round_up(s.c * 4, 64);
  const float* weights = static_cast<const float*>(call.in[1].data);
  const DepthwiseCut cut = depthwise_cut(s, call.parallel.threads);
  const int64_t tiles = ceil_div(s.ow, kPixels), taps = s.kh * s.kw;
  parallel_for(call, cut.chunks * cut.row_tasks, [&](int64_t task, int worker) {
    const auto table = reinterpret_cast<const float**>(tables + worker * depthwise_table_bytes(s));
    const auto ids = reinterpret_cast<int32_t*>(table + taps * kPixels);
    const int64_t begin = task / cut.row_tasks * cut.chunk, end = least(s.c, begin + cut.chunk);
    const int64_t first = task % cut.row_tasks * cut.rows_of_task;
    const int64_t last = least(s.n * s.oh, first + cut.rows_of_task);
    for (int64_t line = first; line < last; ++line) {
      const int64_t image = line / s.oh, top = line % s.oh * s.sh - s.ph;
      const bool rows_inside = top >= 0 && top + (s.kh - 1) * s.dh < s.h;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t col = s.ow * t / tiles, count = s.ow * (t + 1) / tiles - col;
        const int64_t left = col * s.sw - s.pw;
        const int64_t right = left + (count - 1) * s.sw + (s.kw - 1) * s.dw;
        Window at{nullptr, s.kh, s.kw, s.dh * s.xh, s.dw * s.xw, s.sw * s.xw, {}};
        const int64_t pixel = line * s.ow + col;
        if (rows_inside && left >= 0 && right < s.w) {
          at.x = s.x + image * s.xn + top * s.xh + left * s.xw;
        } else {
          const int64_t used = fill_tile(s, {s.kh, s.kw, 1}, s.x, zeros, pixel, count, table, ids);
          at.pieces = {table, ids, used, 1};
        }
        depthwise_tile(s, at, weights, finish, pixel, count, begin, end);
      }
    }
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
