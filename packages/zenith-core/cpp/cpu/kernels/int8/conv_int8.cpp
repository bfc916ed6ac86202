// Convolution as a product of rows: a 1x1 kernel multiplies pixels where they lie, any other one
// windows that are copied side by side, a block at a time.
#include "cpu/kernels/int8/conv.h"

namespace zenith::ZENITH_ISA {
namespace {

Product product_of(const Call& call, const ConvShape& s) {
  const TensorRef& x = call.in[0];
  const int64_t in_group = s.c / s.group;
  const bool pixels = s.kh * s.kw * s.sh * s.sw * s.group == 1 && s.ph == 0 && s.pw == 0 &&
                      s.oh == s.h && s.ow == s.w && s.xh == s.w * s.xw && s.xn == s.h * s.xh;
  const bool bytes = sizeof(Left) == 1 && x.dtype == DType::kU8 && in_place_pays(s.pixels(), s.c);
  return {s.pixels(), s.kh * s.kw * in_group, s.m / s.group, s.group, !(pixels && bytes)};
}

int64_t scratch(const Call& call) { return rows_scratch(call, product_of(call, ConvShape(call))); }

// A run of a few or many bytes: what memcpy would call for, inline.
[[gnu::always_inline]] inline void copy_run(const uint8_t* from, int64_t n, uint8_t flip,
                                            Left* to) {
  if constexpr (sizeof(Left) == 1) {
    if (flip == 0 && n >= 16) {
      int64_t i = 0;
      for (; i + 64 <= n; i += 64) std::memcpy(to + i, from + i, 64);
      for (; i + 16 <= n; i += 16) std::memcpy(to + i, from + i, 16);
      std::memcpy(to + n - 16, from + n - 16, 16);
      return;
    }
    if (flip == 0 && n >= 8) {
      std::memcpy(to, from, 8);
      std::memcpy(to + n - 8, from + n - 8, 8);
      return;
    }
  }
  copy_bytes(from, n, flip, to);
}

inline void fill_zero(int64_t n, uint8_t zero, Left* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = zero;
}

// The window of one output pixel, channels of group g.
void fill_window(const ConvShape& s, int64_t g, int64_t pixel, Left* to) {
  const int64_t in_group = s.c / s.group;
  const int64_t line = pixel / s.ow, col = pixel - line * s.ow;
  const int64_t image = line / s.oh, top = (line - image * s.oh) * s.sh - s.ph;
  const int64_t left = col * s.sw - s.pw;
  const uint8_t* x = s.x + image * s.xn + g * in_group;
  const bool joined = s.dw == 1 && s.xw == in_group;  // taps of a row are neighbours
  for (int64_t i = 0; i < s.kh; ++i, to += s.kw * in_group) {
    const int64_t ih = top + i * s.dh;
    if (ih < 0 || ih >= s.h) {
      fill_zero(s.kw * in_group, s.zero, to);
      continue;
    }
    const uint8_t* row = x + ih * s.xh;
    if (joined) {
      const int64_t begin = least(s.kw, most(0, -left));
      const int64_t end = most(begin, least(s.kw, s.w - left));
      fill_zero(begin * in_group, s.zero, to);
      copy_run(row + (left + begin) * s.xw, (end - begin) * in_group, s.flip,
               to + begin * in_group);
      fill_zero((s.kw - end) * in_group, s.zero, to + end * in_group);
      continue;
    }
    for (int64_t j = 0; j < s.kw; ++j) {
      const int64_t iw = left + j * s.dw;
      if (iw < 0 || iw >= s.w) {
        fill_zero(in_group, s.zero, to + j * in_group);
      } else {
        copy_run(row + iw * s.xw, in_group, s.flip, to + j * in_group);
      }
    }
  }
}

const char* run(const Call& call) {
  const ConvShape s(call);
  const Product p = product_of(call, s);
  if (p.rows == 0 || s.m == 0) return nullptr;
  const Finish finish(call, static_cast<const ConvParams*>(call.params)->finish);
  run_rows_product(
      call, p, {s.x, s.xw},
      [&](int64_t g, int64_t pixel, Left* to) { fill_window(s, g, pixel, to); }, finish);
  return nullptr;
}

const Kernel kKernels[] = {
    {"conv_int8", kInt8Tile, kConvFields, kConvFieldCount, sizeof(ConvParams), scratch, run},
};

}  // namespace

Table int8_conv_table();
Table int8_conv_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
