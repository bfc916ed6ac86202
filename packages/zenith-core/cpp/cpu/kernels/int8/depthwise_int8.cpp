// Depthwise convolution of bytes: every channel has its own kernel.
//
// Note [Stacked rows]: the bytes that rows of the kernel see in one column are stacked in the 32
// bits of a channel's lane, four rows where the machine multiplies and adds four bytes at once, two
// as 16-bit numbers elsewhere. The stacks under a piece of a line of results are made first, with
// the border, and lie in L1: each serves every output whose window has its column. Where a stack
// has a row more than the kernel, and lines of results are neighbours, it serves two of them.
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
constexpr int kPixels = kLanes == 16 ? 7 : 4;  // of one line of results, computed together
constexpr int64_t kPiece = 4 * kPixels;        // of a line whose stacks are made together
constexpr int64_t kBlock = 4 * kLanes;         // channels of those

// How the work is cut: chunks of channels, ranges of output lines.
struct Work {
  ConvShape s;
  int64_t groups, columns;  // of stacks; under a piece of a line
  int64_t together;         // lines of results from the same stacks
  int64_t chunk, chunks, rows, row_tasks;

  explicit Work(const Call& call) : s(call) {
    if (empty()) return;
    const int64_t threads = call.parallel.threads, lines = s.n * s.oh;
    groups = ceil_div(s.kh, kStack);
    together = s.kh < kStack && s.sh * s.dh == 1 ? 2 : 1;
    columns = (kPiece - 1) * s.sw + (s.kw - 1) * s.dw + 1;
    const int64_t units = ceil_div(s.c, 64), wanted = threads == 1 ? 1 : 4 * threads;
    // Ranges of few lines are uneven: then chunks of channels are tasks, too.
    chunks = lines < wanted * s.kh ? least(units, wanted) : 1;
    chunk = ceil_div(units, chunks) * 64;
    chunks = ceil_div(s.c, chunk);
    rows = most(1, least(lines, ceil_div(lines * chunks, wanted)));
    row_tasks = ceil_div(lines, rows);
  }
  bool empty() const { return s.pixels() == 0 || s.c == 0; }
  int64_t stacks() const { return groups * columns * kBlock; }
  int64_t worker_bytes() const { return (stacks() + kPiece * kBlock) * 4; }
};

// Bytes of a channel block in columns of x, `step` apart.
struct Row {
  const uint8_t* at;
  int64_t step;
};

// `flip` (conv.h) of all bytes of a stack.
vi flip_of_stacks(uint8_t flip) {
  return splat_i(static_cast<int32_t>(flip * (kStack == 4 ? 0x01010101u : 0x00010001u)));
}

// One vector of channels of a column, n of them.
template <int kRows>
[[gnu::always_inline]] inline void stack(const Row* rows, int64_t column, int64_t at, int n,
                                         vi flip, int32_t* to) {
  vi all = wide_bytes(rows[0].at + column * rows[0].step + at, n, 0);
#pragma GCC unroll 4
  for (int r = 1; r < kRows; ++r) {
    all |= wide_bytes(rows[r].at + column * rows[r].step + at, n, 0) << (r * kBits);
  }
  *reinterpret_cast<vi_u*>(to + at) = all ^ flip;
}

// Four vectors of channels of a column.
template <int kRows>
[[gnu::always_inline]] inline void stack_block(const Row* rows, int64_t column, vi flip,
                                               int32_t* to) {
#if defined(__AVX512VNNI__) && ZENITH_VEC_BYTES == 64
  // Bytes and pairs are interleaved within 16 bytes: four neighbours of every vector go there.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i row[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const Row& from = rows[r < kRows ? r : kRows - 1];
    const __m512i bytes = _mm512_loadu_si512(from.at + column * from.step);
    row[r] = _mm512_maskz_permutexvar_epi32(0xffff, order, bytes);
  }
  const __m512i low[2] = {_mm512_unpacklo_epi8(row[0], row[1]),
                          _mm512_unpacklo_epi8(row[2], row[3])};
  const __m512i high[2] = {_mm512_unpackhi_epi8(row[0], row[1]),
                           _mm512_unpackhi_epi8(row[2], row[3])};
  const vi stacks[4] = {
      (vi)_mm512_unpacklo_epi16(low[0], low[1]), (vi)_mm512_unpackhi_epi16(low[0], low[1]),
      (vi)_mm512_unpacklo_epi16(high[0], high[1]), (vi)_mm512_unpackhi_epi16(high[0], high[1])};
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) *reinterpret_cast<vi_u*>(to + v * kLanes) = stacks[v] ^ flip;
#else
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) stack<kRows>(rows, column, v * kLanes, kLanes, flip, to);
#endif
}

// Two vectors of channels of a column.
template <int kRows>
[[gnu::always_inline]] inline void stack_half(const Row* rows, int64_t column, int64_t at, vi flip,
                                              int32_t* to) {
#if defined(__AVX512VNNI__) && ZENITH_VEC_BYTES == 64
  const __m512i order = _mm512_setr_epi32(0, 4, 0, 4, 1, 5, 1, 5, 2, 6, 2, 6, 3, 7, 3, 7);
  __m512i row[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const Row& from = rows[r < kRows ? r : kRows - 1];
    const auto* bytes = reinterpret_cast<const __m256i*>(from.at + column * from.step + at);
    row[r] = _mm512_maskz_permutexvar_epi32(0xffff, order,
                                            _mm512_castsi256_si512(_mm256_loadu_si256(bytes)));
  }
  const __m512i first = _mm512_unpacklo_epi8(row[0], row[1]);
  const __m512i last = _mm512_unpacklo_epi8(row[2], row[3]);
  *reinterpret_cast<vi_u*>(to + at) = (vi)_mm512_unpacklo_epi16(first, last) ^ flip;
  *reinterpret_cast<vi_u*>(to + at + kLanes) = (vi)_mm512_unpackhi_epi16(first, last) ^ flip;
#else
  stack<kRows>(rows, column, at, kLanes, flip, to);
  stack<kRows>(rows, column, at + kLanes, kLanes, flip, to);
#endif
}

// The first `channels` of a block in `count` columns.
template <int kRows>
void stack_columns(const Row* rows, int64_t count, int64_t channels, vi flip, int32_t* to) {
  if (channels == kBlock) {
    for (int64_t i = 0; i < count; ++i) stack_block<kRows>(rows, i, flip, to + i * kBlock);
    return;
  }
  for (int64_t i = 0; i < count; ++i, to += kBlock) {
    int64_t c = 0;
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) stack_half<kRows>(rows, i, c, flip, to);
    for (; c + kLanes <= channels; c += kLanes) stack<kRows>(rows, i, c, kLanes, flip, to);
    if (c < channels) stack<kRows>(rows, i, c, static_cast<int>(channels - c), flip, to);
  }
}
using StackFn = void (*)(const Row*, int64_t, int64_t, vi, int32_t*);
// By rows; a stack of two has the first ones only.
constexpr StackFn kStackFns[] = {stack_columns<1>, stack_columns<2>, stack_columns<kStack - 1>,
                                 stack_columns<kStack>};

// Stacks [groups][columns][kBlock] and what they are multiplied by.
struct Stacks {
  int64_t groups, group, width, stride, dilation;
  int64_t weights_row;
};

// sums[kPixels][kBlock] of one vector of channels; the first row of the kernel meets row `skip` of
// the stacks. kWidth, kStride: of a kernel whose columns are neighbours, or 0 for any.
template <int kWidth, int kStride>
void sum_pixels(const Stacks& s, const int32_t* stacks, int skip, const int32_t* weights,
                int32_t* sums) {
  vi sum[kPixels] = {};
  const auto column = [&](int64_t c) __attribute__((always_inline)) {
    return *reinterpret_cast<const vi_u*>(stacks + c * kBlock);
  };
  for (int64_t q = 0; q < s.groups; ++q, stacks += s.group) {
    if constexpr (kWidth > 0) {
      vi w[kWidth];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j, weights += s.weights_row) {
        w[j] = *reinterpret_cast<const vi_u*>(weights) << (skip * kBits);
      }
#pragma GCC unroll 32
      for (int c = 0; c < (kPixels - 1) * kStride + kWidth; ++c) {
        const vi x = column(c);
#pragma GCC unroll 8
        for (int j = 0; j < kWidth; ++j) {
          const int p = (c - j) / kStride;
          if (c >= j && (c - j) % kStride == 0 && p < kPixels) add_products(sum[p], x, w[j]);
        }
      }
    } else {
      for (int64_t j = 0; j < s.width; ++j, weights += s.weights_row) {
        const vi w = *reinterpret_cast<const vi_u*>(weights) << (skip * kBits);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          add_products(sum[p], column(j * s.dilation + p * s.stride), w);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) *reinterpret_cast<vi_u*>(sums + p * kBlock) = sum[p];
}

// Two vectors of channels of kPixels pixels, the first of which are `channel` and `row` of y,
// become bytes without a way through memory.
template <int kStride>
void pack_pixels(const Stacks& s, const int32_t* stacks, int skip, const int32_t* weights,
                 const Finish& finish, int64_t channel, int64_t row) {
  if constexpr (kPacksRows) {
    constexpr int kWidth = 3;
    vi sum[kPixels][2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const vi offset = *reinterpret_cast<const vi_u*>(finish.offset + channel + v * kLanes);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) sum[p][v] = offset;
    }
    for (int64_t q = 0; q < s.groups; ++q, stacks += s.group) {
      vi w[kWidth][2];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j, weights += s.weights_row) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          w[j][v] = *reinterpret_cast<const vi_u*>(weights + v * kLanes) << (skip * kBits);
        }
      }
#pragma GCC unroll 32
      for (int c = 0; c < (kPixels - 1) * kStride + kWidth; ++c) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          const vi x = *reinterpret_cast<const vi_u*>(stacks + c * kBlock + v * kLanes);
#pragma GCC unroll 8
          for (int j = 0; j < kWidth; ++j) {
            const int p = (c - j) / kStride;
            if (c >= j && (c - j) % kStride == 0 && p < kPixels) {
              add_products(sum[p][v], x, w[j][v]);
            }
          }
        }
      }
    }
    finish.pack_tile(sum, channel, row, channel);
  }
}

using PackFn = void (*)(const Stacks&, const int32_t*, int, const int32_t*, const Finish&, int64_t,
                        int64_t);
// Null if there is no such.
PackFn pack_fn(const ConvShape& s, const Finish& finish) {
  if (!finish.packs_tiles() || s.kw != 3 || s.dw != 1 || s.sw > 2) return nullptr;
  return s.sw == 1 ? pack_pixels<1> : pack_pixels<2>;
}

using SumFn = void (*)(const Stacks&, const int32_t*, int, const int32_t*, int32_t*);
SumFn sum_fn(const ConvShape& s) {
  if (s.kw != 3 || s.dw != 1 || s.sw > 2) return sum_pixels<0, 0>;
  return s.sw == 1 ? sum_pixels<3, 1> : sum_pixels<3, 2>;
}

// Where in the padded image a piece of a line begins.
struct Place {
  const uint8_t* image;
  int64_t top, left;
};

// Stacks of `height` rows and `count` columns, `channels` from `begin` on. border: a block of bytes
// of what lies around the image, as they are in x.
void make_stacks(const Work& w, const Place& place, int64_t height, int64_t count, int64_t begin,
                 int64_t channels, const uint8_t* border, int32_t* to) {
  const ConvShape& s = w.s;
  const int64_t from = least(count, most(0, s.pw - place.left));
  const int64_t until = most(from, least(count, s.w + s.pw - place.left));
  const vi flip = flip_of_stacks(s.flip);
  for (int64_t q = 0; q < w.groups; ++q, to += w.columns * kBlock) {
    const int64_t used = least(kStack, height - q * kStack);
    Row rows[kStack], none[kStack];
    for (int64_t r = 0; r < used; ++r) {
      const int64_t ih = place.top + (q * kStack + r) * s.dh - s.ph;
      none[r] = rows[r] = {border, 0};
      if (ih >= 0 && ih < s.h) {
        rows[r] = {place.image + ih * s.xh + (place.left + from - s.pw) * s.xw + begin, s.xw};
      }
    }
    const StackFn make = kStackFns[used - 1];
    make(none, from, channels, flip, to);
    make(rows, until - from, channels, flip, to + from * kBlock);
    make(none, count - until, channels, flip, to + until * kBlock);
  }
}

int64_t scratch(const Call& call) {
  const Work w(call);
  return w.empty() ? 0 : call.parallel.threads * w.worker_bytes();
}

// A range of lines of results, a chunk of channels.
void run_task(const Call& call, const Work& w, const Finish& finish, int64_t task, char* memory) {
  const ConvShape& s = w.s;
  const int64_t begin = task / w.row_tasks * w.chunk, chunk_end = least(s.c, begin + w.chunk);
  auto* stacks = reinterpret_cast<int32_t*>(memory);
  int32_t* sums = stacks + w.stacks();
  uint8_t border[kBlock];
  std::memset(border, s.zero ^ s.flip, sizeof(border));
  const Stacks all{w.groups, w.columns * kBlock, s.kw, s.sw, s.dw, round_up(s.c, kLanes)};
  const auto* weights = static_cast<const int32_t*>(call.in[1].data);
  const SumFn sum = sum_fn(s);
  const PackFn pack = pack_fn(s, finish);
  const int64_t end = least(s.n * s.oh, (task % w.row_tasks + 1) * w.rows);
  int64_t lines;
  for (int64_t line = task % w.row_tasks * w.rows; line < end; line += lines) {
    lines = least(w.together, least(end - line, s.oh - line % s.oh));
    for (int64_t col = 0; col < s.ow; col += kPiece) {
      const Place place{s.x + line / s.oh * s.xn, line % s.oh * s.sh, col * s.sw};
      const int64_t pixels = least(kPiece, s.ow - col);
      const int64_t columns = (pixels - 1) * s.sw + (s.kw - 1) * s.dw + 1;
      for (int64_t c = begin; c < chunk_end; c += kBlock) {
        const int64_t channels = least(kBlock, chunk_end - c);
        make_stacks(w, place, s.kh + lines - 1, columns, c, channels, border, stacks);
        // Pixels and channels that are packed at once, and what is left of both.
        const int64_t whole = pack == nullptr ? 0 : pixels / kPixels * kPixels;
        const int64_t packed = whole == 0 ? 0 : channels / (2 * kLanes) * (2 * kLanes);
        for (int64_t i = 0; i < lines; ++i) {
          const int64_t row = (line + i) * s.ow + col;
          const int skip = static_cast<int>(i);
          for (int64_t p = 0; p < pixels; p += kPixels) {
            const int32_t* from = stacks + p * s.sw * kBlock;
            int64_t v = 0;
            for (; p < whole && v < packed; v += 2 * kLanes) {
              pack(all, from + v, skip, weights + c + v, finish, c + v, row + p);
            }
            for (; v < channels; v += kLanes) {
              sum(all, from + v, skip, weights + c + v, sums + p * kBlock + v);
            }
          }
          if (whole > 0 && packed < channels) {
            finish.tile<kBlock>(sums + packed, 0, c + packed, row, c + packed, whole,
                                channels - packed);
          }
          if (whole < pixels) {
            finish.tile<kBlock>(sums + whole * kBlock, 0, c, row + whole, c, pixels - whole,
                                channels);
          }
        }
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
