// How the depth of a convolution of bfloat16 is laid out, in its weights and in what they multiply.
#pragma once

#include "cpu/kernels/conv/conv.h"
#include "cpu/kernels/gemm/tile_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kFewChannels = 16;

// How the depth of a product is laid out: `taps` pieces of `length` elements, `padded` with zeros.
struct Depth {
  bool joined;    // a piece is a row of the kernel, else one tap
  int64_t pixel;  // elements of a copied pixel
  int64_t taps, length, padded, step;

  Depth(int64_t kh, int64_t kw, int64_t column_dilation, int64_t channels)
      : pixel(round_to(most(1, channels), 2)) {
    // A joined piece is whole steps: what lies behind it may be no number.
    joined =
        channels < kFewChannels && column_dilation == 1 && kw * pixel % step_of(kw * pixel) == 0;
    taps = joined ? kh : kh * kw;
    length = joined ? kw * pixel : channels;
    step = step_of(joined ? length : pixel);
    padded = round_to(most(1, length), step);
    if (!joined) pixel = padded;
  }
  int64_t panel() const { return taps * padded * kCols; }  // elements
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
