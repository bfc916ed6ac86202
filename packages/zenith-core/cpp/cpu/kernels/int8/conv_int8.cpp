// Convolution as a product of rows (Note [Lines of rows]): a 1x1 kernel multiplies pixels where
// they lie, any other one pieces of a copy of the image, a block of lines at a time, with its
// border.
#include "cpu/kernels/int8/conv.h"

namespace zenith::ZENITH_ISA {
namespace {

struct Work {
  ConvShape s;
  int64_t in_group, columns, row;  // channels; columns and elements of a copied row

  explicit Work(const Call& call)
      : s(call),
        in_group(s.c / s.group),
        columns((s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1),
        row(columns * in_group) {}

  bool empty() const { return s.pixels() == 0 || s.m == 0; }
  // Whether pixels of x and y are the rows of two matrices. Of an axis of size 1, a stride may be
  // anything.
  bool dense() const {
    return s.sh * s.sw == 1 && s.oh == s.h && s.ow == s.w && s.xh == s.w * s.xw &&
           s.xn == s.h * s.xh;
  }
  // Rows of x under `count` lines of one image.
  int64_t rows_under(int64_t count) const { return (count - 1) * s.sh + (s.kh - 1) * s.dh + 1; }

  Product product(DType dtype) const {
    const bool bytes = sizeof(Left) == 1 && dtype == DType::kU8 && s.xc == 1;
    const bool copied =
        !bytes || s.kh * s.kw != 1 || s.ph > 0 || s.pw > 0 || !in_place_pays(s.pixels(), in_group);
    const RowPieces pieces = filter_pieces(s.kh, s.kw, s.dw, in_group);
    const int64_t of_group = s.m / s.group;
    if (!copied && dense()) {
      return {s.pixels(), 1, s.pixels(), of_group, s.group, pieces, false, in_group, in_group};
    }
    const int64_t next = copied ? s.sh * row : s.ow * in_group;
    const int64_t first = copied ? rows_under(1) * row : next;
    return {s.n * s.oh, s.ow, s.oh, of_group, s.group, pieces, copied, first, next};
  }
  int64_t offset_bytes() const { return round_up(s.kh * s.kw * 8, 64); }
};

int64_t scratch(const Call& call) {
  const Work w(call);
  if (w.empty()) return 0;
  return w.offset_bytes() + product_scratch(call, w.product(call.in[0].dtype));
}

void fill_zero(int64_t n, uint8_t zero, Left* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = zero;
}

// Pixels of kChannels channels that are planes of x: whole ones are written, which the compiler
// makes vectors of.
template <int kChannels>
void join_planes(const uint8_t* from, int64_t plane, int64_t count, uint8_t flip,
                 Left* __restrict to) {
  for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      to[i * kChannels + c] = static_cast<Left>(static_cast<uint8_t>(from[c * plane + i] ^ flip));
    }
  }
}

// `count` pixels of x to one after the other.
void copy_pixels(const Work& w, const uint8_t* from, int64_t count, Left* to) {
  const ConvShape& s = w.s;
  if (s.xc == 1 && s.xw == w.in_group) return copy_bytes(from, count * w.in_group, s.flip, to);
  if (s.xc == 1) {
    for (int64_t i = 0; i < count; ++i, to += w.in_group) {
      copy_bytes(from + i * s.xw, w.in_group, s.flip, to);
    }
    return;
  }
  if (s.xw == 1 && w.in_group == 3) return join_planes<3>(from, s.xc, count, s.flip, to);
  if (s.xw == 1 && w.in_group == 4) return join_planes<4>(from, s.xc, count, s.flip, to);
  // Copies: as far as the compiler can tell, bytes that are stored may be the shape.
  const int64_t channels = w.in_group, plane = s.xc, step = s.xw;
  const uint8_t flip = s.flip;
  for (int64_t c = 0; c < channels; ++c) {
    const uint8_t* source = from + c * plane;
    for (int64_t i = 0; i < count; ++i) {
      to[i * channels + c] = static_cast<Left>(static_cast<uint8_t>(source[i * step] ^ flip));
    }
  }
}

// The rows of x under `count` lines from `line` on, channels of group g, with their border.
void copy_rows(const Work& w, int64_t g, int64_t line, int64_t count, Left* to) {
  const ConvShape& s = w.s;
  const int64_t image = line / s.oh, top = line % s.oh * s.sh - s.ph;
  const int64_t begin = least(w.columns, most(0, s.pw));
  const int64_t end = most(begin, least(w.columns, s.w + s.pw));
  const uint8_t* x = s.x + image * s.xn + g * w.in_group * s.xc + (begin - s.pw) * s.xw;
  for (int64_t i = 0; i < w.rows_under(count); ++i, to += w.row) {
    const int64_t ih = top + i;
    const bool there = ih >= 0 && ih < s.h;
    const int64_t from = there ? begin : w.columns, until = there ? end : w.columns;
    fill_zero(from * w.in_group, s.zero, to);
    if (until > from) copy_pixels(w, x + ih * s.xh, until - from, to + from * w.in_group);
    fill_zero((w.columns - until) * w.in_group, s.zero, to + until * w.in_group);
  }
}

const char* run(const Call& call) {
  const Work w(call);
  if (w.empty()) return nullptr;
  const ConvShape& s = w.s;
  const Product p = w.product(call.in[0].dtype);
  const Finish finish(call, static_cast<const ConvParams*>(call.params)->finish);
  auto* offsets = reinterpret_cast<int64_t*>(call.scratch);
  const int64_t of_row = p.pieces.taps / s.kh;  // pieces
  for (int64_t t = 0; t < p.pieces.taps; ++t) {
    offsets[t] = t / of_row * s.dh * w.row + t % of_row * s.dw * w.in_group;
  }
  const int64_t extent = (s.n - 1) * s.xn + (s.h - 1) * s.xh + (s.w - 1) * s.xw + s.c;
  const auto place = [&](int64_t g, int64_t line, int64_t count, Left* copy) -> Grid {
    if (p.copied) {
      copy_rows(w, g, line, count, copy);
      return {copy, count, s.ow, s.sw * w.in_group, s.sh * w.row, nullptr};
    }
    // Of bytes that are no Left, nothing is read in place.
    const auto* x = reinterpret_cast<const Left*>(s.x);
    const Left* from = x + g * w.in_group;
    if (w.dense()) return {from + line * s.xw, count, 1, s.xw, s.xw, x + extent};
    from += line / s.oh * s.xn + (line % s.oh * s.sh - s.ph) * s.xh - s.pw * s.xw;
    return {from, count, s.ow, s.sw * s.xw, s.sh * s.xh, x + extent};
  };
  const ZeroBorder border{s.oh, s.sh, s.ph, s.h, s.kh, s.dh, of_row};
  run_product(call, p, offsets, call.scratch + w.offset_bytes(), place, finish,
              p.copied && s.zero == 0 ? &border : nullptr);
  return nullptr;
}

const Kernel kKernels[] = {
    {"conv_int8", kInt8Tile, kConvFields, kConvFieldCount, sizeof(ConvParams), scratch, run},
};

}  // namespace

Table int8_conv_table();
Table int8_conv_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
