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
[[gnu::always_inline]] inline vi stack(const uint8_t* const* rows, int64_t at, int n,
                                       uint8_t flip) {
  vi all{};
#pragma GCC unroll 4
  for (int r = 0; r < kStack; ++r) {
    vu8 bytes{};
    if (n == kLanes) {
      std::memcpy(&bytes, rows[r] + at, kLanes);
    } else {
      std::memcpy(&bytes, rows[r] + at, static_cast<size_t>(n));
    }
    all |= __builtin_convertvector(bytes ^ flip, vi) << (r * kBits);
  }
  return all;
}

// Columns of the kernel's rows [kStack * q, kStack * (q + 1)): where the pixel of x is, or the
// padding. Rows beyond the kernel have weights of zero and may be any.
struct Columns8 {
  const ConvShape& s;
  const uint8_t* image;
  const uint8_t* padding;  // s.c bytes of the zero point, as they are in x
  const uint8_t* rows[kStack];

  void rows_from(int64_t top, int64_t q) {
    for (int r = 0; r < kStack; ++r) {
      const int64_t i = q * kStack + r < s.kh ? q * kStack + r : s.kh - 1;
      const int64_t ih = top + i * s.dh;
      rows[r] = ih < 0 || ih >= s.h ? nullptr : image + ih * s.xh;
    }
  }
  void at(int64_t iw, const uint8_t** to) const {
    for (int r = 0; r < kStack; ++r) {
      to[r] = rows[r] == nullptr || iw < 0 || iw >= s.w ? padding : rows[r] + iw * s.xw;
    }
  }
};

// sums[kPixels][kLanes] of `count` pixels from column `col` of an output row on, for one vector of
// channels. kWidth and kStride are those of the kernel's columns if neighbouring outputs share
// stacks; 0 is any.
template <int kWidth, int kStride>
void sum_pixels(Columns8& columns, int64_t top, int64_t col, int64_t count, int64_t channel, int n,
                const int32_t* weights, int64_t weights_row, int32_t* sums) {
  const ConvShape& s = columns.s;
  vi sum[kPixels] = {};
  const uint8_t* from[kStack];
  const int64_t left = col * s.sw - s.pw;
  for (int64_t q = 0; q * kStack < s.kh; ++q, weights += s.kw * weights_row) {
    columns.rows_from(top, q);
    const auto weight = [&](int64_t j) {
      return *reinterpret_cast<const vi_u*>(weights + j * weights_row);
    };
    if constexpr (kWidth > 0) {
      constexpr int kSpan = (kPixels - 1) * kStride + kWidth;
      vi stacks[kSpan];
#pragma GCC unroll 16
      for (int x = 0; x < kSpan; ++x) {
        columns.at(left + x, from);
        stacks[x] = stack(from, channel, n, s.flip);
      }
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) {
        const vi w = weight(j);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) add_products(sum[p], stacks[p * kStride + j], w);
      }
    } else {
      for (int64_t j = 0; j < s.kw; ++j) {
        const vi w = weight(j);
        for (int64_t p = 0; p < count; ++p) {
          columns.at(left + p * s.sw + j * s.dw, from);
          add_products(sum[p], stack(from, channel, n, s.flip), w);
        }
      }
    }
  }
  std::memcpy(sums, sum, sizeof(sum));
}

using SumFn = void (*)(Columns8&, int64_t, int64_t, int64_t, int64_t, int, const int32_t*, int64_t,
                       int32_t*);
SumFn sum_fn(const ConvShape& s) {
  if (s.kw == 3 && s.dw == 1 && s.sw == 1) return sum_pixels<3, 1>;
  if (s.kw == 3 && s.dw == 1 && s.sw == 2) return sum_pixels<3, 2>;
  return sum_pixels<0, 0>;
}

int64_t scratch(const Call& call) { return round_up(call.in[0].shape[3], 64); }

const char* run(const Call& call) {
  const ConvShape s(call);
  if (s.pixels() == 0 || s.c == 0) return nullptr;
  const Finish finish(call, static_cast<const ConvParams*>(call.params)->finish);
  uint8_t* padding = reinterpret_cast<uint8_t*>(call.scratch);
  std::memset(padding, s.zero ^ s.flip, static_cast<size_t>(s.c));
  const auto* weights = static_cast<const int32_t*>(call.in[1].data);
  const int64_t weights_row = round_up(s.c, kLanes);
  const SumFn sum = sum_fn(s);
  const int64_t lines = s.n * s.oh;
  const int64_t tasks = least(lines, call.parallel.threads == 1 ? 1 : 4 * call.parallel.threads);
  parallel_for(call, tasks, [&](int64_t task, int) {
    alignas(64) int32_t sums[kPixels * kLanes];
    for (int64_t line = lines * task / tasks; line < lines * (task + 1) / tasks; ++line) {
      const int64_t image = line / s.oh, top = line % s.oh * s.sh - s.ph;
      Columns8 columns{s, s.x + image * s.xn, padding, {}};
      for (int64_t channel = 0; channel < s.c; channel += kLanes) {
        const int64_t n = least(kLanes, s.c - channel);
        for (int64_t col = 0; col < s.ow; col += kPixels) {
          const int64_t count = least(kPixels, s.ow - col);
          sum(columns, top, col, count, channel, static_cast<int>(n), weights + channel,
              weights_row, sums);
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
