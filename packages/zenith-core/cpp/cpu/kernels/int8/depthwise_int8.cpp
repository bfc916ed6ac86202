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
constexpr int kPixels = 4;  // of one output row, computed together

// One vector of channels of a column: kStack rows of bytes.
template <bool kWhole>
[[gnu::always_inline]] inline vi stack(const uint8_t* const* rows, int64_t at, int n,
                                       uint8_t flip) {
  vi all{};
#pragma GCC unroll 4
  for (int r = 0; r < kStack; ++r) {
    all |= wide_bytes(rows[r] + at, kWhole ? kLanes : n, flip) << (r * kBits);
  }
  return all;
}

// Where the bytes of a stack are: rows [kStack * q, kStack * (q + 1)) of the kernel at column iw of
// x. Rows beyond the kernel have weights of zero and may be any.
void stack_rows(const ConvShape& s, const uint8_t* image, const uint8_t* padding, int64_t top,
                int64_t q, int64_t iw, const uint8_t** to) {
  for (int r = 0; r < kStack; ++r) {
    const int64_t i = least(q * kStack + r, s.kh - 1), ih = top + i * s.dh;
    const bool inside = ih >= 0 && ih < s.h && iw >= 0 && iw < s.w;
    to[r] = inside ? image + ih * s.xh + iw * s.xw : padding;
  }
}

// sums[kPixels][kLanes] for one vector of channels. `columns` has the stacks of each group of rows:
// kSpan of neighbouring columns that the pixels share, or (kWidth = 0) kw for each of the pixels.
struct Stacks {
  const uint8_t* const* columns;
  int64_t groups, width;
  const int32_t* weights;
  int64_t weights_row;
  uint8_t flip;
};

template <int kWidth, int kStride, bool kWhole>
void sum_pixels(const Stacks& s, int64_t channel, int n, int32_t* sums) {
  vi sum[kPixels] = {};
  const uint8_t* const* from = s.columns;
  const int32_t* weights = s.weights + channel;
  for (int64_t q = 0; q < s.groups; ++q) {
    if constexpr (kWidth > 0) {
      constexpr int kSpan = (kPixels - 1) * kStride + kWidth;
      vi stacks[kSpan];
#pragma GCC unroll 16
      for (int x = 0; x < kSpan; ++x, from += kStack) {
        stacks[x] = stack<kWhole>(from, channel, n, s.flip);
      }
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j, weights += s.weights_row) {
        const vi w = *reinterpret_cast<const vi_u*>(weights);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) add_products(sum[p], stacks[p * kStride + j], w);
      }
    } else {
      for (int64_t j = 0; j < s.width; ++j, weights += s.weights_row) {
        const vi w = *reinterpret_cast<const vi_u*>(weights);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p, from += kStack) {
          add_products(sum[p], stack<kWhole>(from, channel, n, s.flip), w);
        }
      }
    }
  }
  std::memcpy(sums, sum, sizeof(sum));
}

using SumFn = void (*)(const Stacks&, int64_t, int, int32_t*);

// How the columns of a kernel are taken: `span` columns serve kPixels outputs together, or none.
struct Method {
  SumFn whole, tail;
  int64_t span;
};
Method method_of(const ConvShape& s) {
  if (s.kw == 3 && s.dw == 1 && s.sw == 1) {
    return {sum_pixels<3, 1, true>, sum_pixels<3, 1, false>, kPixels + 2};
  }
  if (s.kw == 3 && s.dw == 1 && s.sw == 2) {
    return {sum_pixels<3, 2, true>, sum_pixels<3, 2, false>, 2 * kPixels + 1};
  }
  return {sum_pixels<0, 0, true>, sum_pixels<0, 0, false>, 0};
}

int64_t stacks_of_tile(const ConvShape& s, const Method& method) {
  return ceil_div(s.kh, kStack) * (method.span > 0 ? method.span : s.kw * kPixels);
}

void find_stacks(const ConvShape& s, const Method& method, const uint8_t* image,
                 const uint8_t* padding, int64_t top, int64_t left, const uint8_t** to) {
  for (int64_t q = 0; q * kStack < s.kh; ++q) {
    if (method.span > 0) {
      for (int64_t x = 0; x < method.span; ++x, to += kStack) {
        stack_rows(s, image, padding, top, q, left + x, to);
      }
      continue;
    }
    for (int64_t j = 0; j < s.kw; ++j) {
      for (int64_t p = 0; p < kPixels; ++p, to += kStack) {
        stack_rows(s, image, padding, top, q, left + p * s.sw + j * s.dw, to);
      }
    }
  }
}

int64_t table_bytes(const ConvShape& s) {
  return round_up(stacks_of_tile(s, method_of(s)) * kStack * 8, 64);
}

int64_t scratch(const Call& call) {
  const ConvShape s(call);
  return round_up(s.c, 64) + call.parallel.threads * table_bytes(s);
}

const char* run(const Call& call) {
  const ConvShape s(call);
  if (s.pixels() == 0 || s.c == 0) return nullptr;
  const Finish finish(call, static_cast<const ConvParams*>(call.params)->finish);
  uint8_t* padding = reinterpret_cast<uint8_t*>(call.scratch);
  std::memset(padding, s.zero ^ s.flip, static_cast<size_t>(s.c));
  const Method method = method_of(s);
  const int64_t lines = s.n * s.oh, bytes = table_bytes(s);
  const int64_t tasks = least(lines, call.parallel.threads == 1 ? 1 : 4 * call.parallel.threads);
  parallel_for(call, tasks, [&](int64_t task, int worker) {
    alignas(64) int32_t sums[kPixels * kLanes];
    auto** table =
        reinterpret_cast<const uint8_t**>(call.scratch + round_up(s.c, 64) + worker * bytes);
    const Stacks stacks{table,
                        ceil_div(s.kh, kStack),
                        s.kw,
                        static_cast<const int32_t*>(call.in[1].data),
                        round_up(s.c, kLanes),
                        s.flip};
    for (int64_t line = lines * task / tasks; line < lines * (task + 1) / tasks; ++line) {
      const int64_t image = line / s.oh, top = line % s.oh * s.sh - s.ph;
      for (int64_t col = 0; col < s.ow; col += kPixels) {
        const int64_t count = least(kPixels, s.ow - col);
        find_stacks(s, method, s.x + image * s.xn, padding, top, col * s.sw - s.pw, table);
        for (int64_t channel = 0; channel < s.c; channel += kLanes) {
          const int64_t n = least(kLanes, s.c - channel);
          (n == kLanes ? method.whole : method.tail)(stacks, channel, static_cast<int>(n), sums);
          finish.tile<kLanes>(sums, 0, channel, line * s.ow + col, channel, count, n);
        }
      }
    }
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
