// Depthwise convolution of bytes: every channel has its own kernel.
//
// Note [Stacked rows]: the bytes that rows of the kernel see in one column are stacked in the 32
// bits of a channel's lane, four rows where the machine multiplies and adds four bytes at once, two
// as 16-bit numbers elsewhere. A stack serves every output whose window has that column.
#include "cpu/kernels/int8/conv.h"

namespace zenith::ZENITH_ISA {
namespace {

#if defined(__AVX512VNNI__) && ZENITH_VEC_BYTES == 64
constexpr int kStack = 4;
[[gnu::always_inline]] inline void add_products(vi& sum, vi x, vi w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
}
#else
constexpr int kStack = 2;
[[gnu::always_inline]] inline void add_products(vi& sum, vi x, vi w) {
  sum = (vi)((vw)sum + pair_products((vs)x, (vs)w));
}
#endif
constexpr int kBits = 32 / kStack;
constexpr int kPixels = kLanes == 16 ? 7 : 4;  // of one output row, computed together

// How the work is cut: chunks of channels, ranges of output rows. The rows of x under one row of
// results are copied, a chunk at a time, into a ring with their borders, so that no tile meets one.
struct Work {
  ConvShape s;
  int64_t height, columns, pixel;  // of the ring; pixel: bytes from column to column
  int64_t chunk, chunks, rows, row_tasks;

  explicit Work(const Call& call) : s(call) {
    if (empty()) return;
    constexpr int64_t kRingBytes = 36 << 10;  // most of L1: whole rows are copied at once
    const int64_t threads = call.parallel.threads, lines = s.n * s.oh;
    height = (s.kh - 1) * s.dh + 1;
    columns = (round_up(s.ow, kPixels) - 1) * s.sw + (s.kw - 1) * s.dw + 1;
    const int64_t units = ceil_div(s.c, 64), wanted = threads == 1 ? 1 : 4 * threads;
    chunks = most(1, least(units, ceil_div(height * columns * round_up(s.c, kLanes), kRingBytes)));
    // Few rows: tasks of whole columns, or each would copy most rows again.
    if (lines < wanted * height) chunks = most(chunks, least(units, wanted));
    chunk = ceil_div(units, chunks) * 64;
    chunks = ceil_div(s.c, chunk);
    pixel = round_up(least(chunk, s.c), kLanes);
    rows = most(1, least(lines, ceil_div(lines * chunks, wanted)));
    row_tasks = ceil_div(lines, rows);
  }
  bool empty() const { return s.pixels() == 0 || s.c == 0; }
  int64_t stack_rows() const { return round_up(s.kh, kStack); }
  int64_t pointer_bytes() const { return round_up(stack_rows() * 8, 64); }
  int64_t ring_row() const { return columns * pixel; }
  // Vectors of bytes are read whole.
  int64_t worker_bytes() const { return pointer_bytes() + round_up(height * ring_row() + 64, 64); }
};

// One vector of channels of a column: kRows rows of bytes.
template <int kRows>
[[gnu::always_inline]] inline vi stack(const uint8_t* const* rows, int64_t at) {
  vi all = wide_bytes(rows[0] + at, kLanes, 0);
#pragma GCC unroll 4
  for (int r = 1; r < kRows; ++r) all |= wide_bytes(rows[r] + at, kLanes, 0) << (r * kBits);
  return all;
}

// The rows of the ring under one row of results, stack by stack; those behind the kernel have
// weights of zero and may be any.
struct Stacks {
  const uint8_t* const* rows;
  int64_t groups, width, pixel, stride, dilation;
  const int32_t* weights;
  int64_t weights_row;
};

// sums[kPixels][kLanes] for one vector of channels, `at` bytes behind the first column. kWidth,
// kStride: of a kernel whose columns are neighbours, or 0 for any; kRows: of a stack.
template <int kWidth, int kStride, int kRows>
void sum_pixels(const Stacks& s, int64_t at, int64_t channel, int32_t* sums) {
  vi sum[kPixels] = {};
  const uint8_t* const* rows = s.rows;
  const int32_t* weights = s.weights + channel;
  for (int64_t q = 0; q < s.groups; ++q, rows += kStack) {
    if constexpr (kWidth > 0) {
      vi w[kWidth];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j, weights += s.weights_row) {
        w[j] = *reinterpret_cast<const vi_u*>(weights);
      }
#pragma GCC unroll 32
      for (int c = 0; c < (kPixels - 1) * kStride + kWidth; ++c) {
        const vi x = stack<kRows>(rows, at + c * s.pixel);
#pragma GCC unroll 8
        for (int j = 0; j < kWidth; ++j) {
          const int p = (c - j) / kStride;
          if (c >= j && (c - j) % kStride == 0 && p < kPixels) add_products(sum[p], x, w[j]);
        }
      }
    } else {
      for (int64_t j = 0; j < s.width; ++j, weights += s.weights_row) {
        const vi w = *reinterpret_cast<const vi_u*>(weights);
        const int64_t tap = at + j * s.dilation * s.pixel;
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          add_products(sum[p], stack<kRows>(rows, tap + p * s.stride * s.pixel), w);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) *reinterpret_cast<vi_u*>(sums + p * kLanes) = sum[p];
}

using SumFn = void (*)(const Stacks&, int64_t, int64_t, int32_t*);
SumFn sum_fn(const ConvShape& s) {
  constexpr int kFewer = kStack == 4 ? 3 : kStack;  // rows of a stack of a 3x3 kernel
  if (s.kw != 3 || s.dw != 1 || s.sw > 2) return sum_pixels<0, 0, kStack>;
  if (s.kh == 3) return s.sw == 1 ? sum_pixels<3, 1, kFewer> : sum_pixels<3, 2, kFewer>;
  return s.sw == 1 ? sum_pixels<3, 1, kStack> : sum_pixels<3, 2, kStack>;
}

// Row `ih` of an image at x, channels [begin, begin + n), to a row of the ring.
void copy_row(const Work& w, const uint8_t* x, int64_t ih, int64_t begin, int64_t n, uint8_t* to) {
  const ConvShape& s = w.s;
  const int64_t first = least(w.columns, most(0, s.pw));
  const int64_t last = most(first, least(w.columns, s.w + s.pw));
  const bool there = ih >= 0 && ih < s.h;
  const int64_t from = there ? first : w.columns, end = there ? last : w.columns;
  std::memset(to, s.zero, static_cast<size_t>(from * w.pixel));
  std::memset(to + end * w.pixel, s.zero, static_cast<size_t>((w.columns - end) * w.pixel));
  if (end == from) return;
  const uint8_t* source = x + ih * s.xh + (from - s.pw) * s.xw + begin;
  uint8_t* target = to + from * w.pixel;
  const int64_t run = n == w.pixel && s.xw == n ? (end - from) * n : n;  // at once
  for (int64_t i = from; i < end; i += run / n, source += s.xw, target += w.pixel) {
    int64_t c = 0;
    for (; c + 16 <= run; c += 16) std::memcpy(target + c, source + c, 16);
    if (c < run) std::memcpy(target + c, source + c, static_cast<size_t>(run - c));
  }
  if (s.flip != 0) {
    for (int64_t i = from * w.pixel; i < end * w.pixel; ++i) to[i] ^= s.flip;
  }
}

int64_t scratch(const Call& call) {
  const Work w(call);
  return w.empty() ? 0 : call.parallel.threads * w.worker_bytes();
}

// A range of rows of results, a chunk of channels.
void run_task(const Call& call, const Work& w, const Finish& finish, int64_t task, char* memory) {
  const ConvShape& s = w.s;
  const int64_t begin = task / w.row_tasks * w.chunk, channels = least(w.chunk, s.c - begin);
  const auto rows = reinterpret_cast<const uint8_t**>(memory);
  auto* ring = reinterpret_cast<uint8_t*>(memory + w.pointer_bytes());
  const Stacks stacks{rows,
                      w.stack_rows() / kStack,
                      s.kw,
                      w.pixel,
                      s.sw,
                      s.dw,
                      static_cast<const int32_t*>(call.in[1].data),
                      round_up(s.c, kLanes)};
  const SumFn sum = sum_fn(s);
  alignas(64) int32_t sums[kPixels * kLanes];
  const int64_t end = least(s.n * s.oh, (task % w.row_tasks + 1) * w.rows);
  int64_t copied = 0;  // row of the padded image behind the last one in the ring
  for (int64_t line = task % w.row_tasks * w.rows; line < end; ++line) {
    const int64_t image = line / s.oh, top = line % s.oh * s.sh;
    if (line % s.oh == 0) copied = 0;
    for (copied = most(copied, top); copied < top + w.height; ++copied) {
      copy_row(w, s.x + image * s.xn, copied - s.ph, begin, channels,
               ring + copied % w.height * w.ring_row());
    }
    for (int64_t i = 0; i < w.stack_rows(); ++i) {
      rows[i] = ring + (top + least(i, s.kh - 1) * s.dh) % w.height * w.ring_row();
    }
    for (int64_t col = 0; col < s.ow; col += kPixels) {
      for (int64_t c = 0; c < channels; c += kLanes) {
        sum(stacks, col * s.sw * w.pixel + c, begin + c, sums);
        finish.tile<kLanes>(sums, 0, begin + c, line * s.ow + col, begin + c,
                            least(kPixels, s.ow - col), least(kLanes, channels - c));
      }
    }
  }
}

const char* run(const Call& call) {
  const Work w(call);
  if (w.empty()) return nullptr;
  const Finish finish(call, static_cast<const ConvParams*>(call.params)->finish);
  parallel_for(call, w.chunks * w.row_tasks, [&](int64_t task, int worker) {
    run_task(call, w, finish, task, call.scratch + worker * w.worker_bytes());
  });
  return nullptr;
}

// Weights [C, 1, kh, kw] -> [ceil(kh / kStack)][kw][C to whole vectors] stacks.
struct Filter8 {
  int64_t c, kh, kw, sc, si, sj, row;

  explicit Filter8(const TensorRef& w) {
    const bool flat = w.rank == 3;
    const int last = w.rank - 1;
    c = w.shape[0], kh = flat ? 1 : w.shape[2], kw = w.shape[last];
    sc = w.strides[0], si = flat ? 0 : w.strides[2], sj = w.strides[last];
    row = round_up(c, kLanes);
  }
  template <typename F>
  void each(const F& visit) const {
    for (int64_t channel = 0; channel < c; ++channel) {
      for (int64_t i = 0; i < kh; ++i) {
        for (int64_t j = 0; j < kw; ++j) {
          const int64_t at = (i / kStack * kw + j) * row + channel;
          visit(channel * sc + i * si + j * sj, at, i % kStack * kBits);
        }
      }
    }
  }
};

int64_t pack_bytes(const TensorRef& t, const void*) {
  const Filter8 w(t);
  return ceil_div(w.kh, kStack) * w.kw * w.row * 4;
}
void pack(const TensorRef& t, void* to, const void* params) {
  constexpr uint32_t kMask = 0xffffffffu >> (32 - kBits);
  std::memset(to, 0, static_cast<size_t>(pack_bytes(t, params)));
  auto* packed = static_cast<uint32_t*>(to);
  const auto* from = static_cast<const int8_t*>(t.data);
  Filter8(t).each([&](int64_t a, int64_t b, int64_t shift) {
    packed[b] |= (static_cast<uint32_t>(from[a]) & kMask) << shift;
  });
}
void unpack(const void* from, const TensorRef& t, const void*) {
  const auto* packed = static_cast<const uint32_t*>(from);
  auto* to = static_cast<int8_t*>(t.data);
  Filter8(t).each([&](int64_t a, int64_t b, int64_t shift) {
    to[a] = static_cast<int8_t>(packed[b] >> shift);
  });
}

const Kernel kKernels[] = {
    {"depthwise_int8", "", kConvFields, kConvFieldCount, sizeof(ConvParams), scratch, run},
};
const Packer kPackers[] = {
    {"depthwise_int8_weights", nullptr, 0, 0, pack_bytes, pack, unpack},
};

}  // namespace

Table int8_depthwise_table();
Table int8_depthwise_table() { return {kKernels, 1, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
