// Shared by the convolutions of the int8 family. x is [N, H, W, C], y [N, OH, OW, M], both with
// channels of stride 1; pixels of y lie at one distance. Padding counts as the zero point of x.
#pragma once

#include "cpu/kernels/int8/rows.h"

namespace zenith::ZENITH_ISA {
namespace {

struct ConvParams {
  Ints<2> kernel_shape, strides, pads, dilations;  // pads: those at the beginning
  int64_t group;
  FinishParams finish;
};
#define ZENITH_FINISH_FIELD(member, kind, capacity) \
  {#member, ::zenith::Field::kind,                  \
   static_cast<int32_t>(offsetof(ConvParams, finish) + offsetof(FinishParams, member)), capacity}
[[maybe_unused]] const Field kConvFields[] = {
    ZENITH_FIELD(ConvParams, kernel_shape, kInts, 2),
    ZENITH_FIELD(ConvParams, strides, kInts, 2),
    ZENITH_FIELD(ConvParams, pads, kInts, 2),
    ZENITH_FIELD(ConvParams, dilations, kInts, 2),
    ZENITH_FIELD(ConvParams, group, kInt, 1),
    ZENITH_FINISH_FIELD(epilogue, kInts, kMaxSteps),
    ZENITH_FINISH_FIELD(x_zero, kInt, 1),
    ZENITH_FINISH_FIELD(add_scale, kFloat, 1),
    ZENITH_FINISH_FIELD(add_zero, kInt, 1),
    ZENITH_FINISH_FIELD(y_inverse, kFloat, 1),
    ZENITH_FINISH_FIELD(y_zero, kInt, 1),
};
constexpr int kConvFieldCount = 5 + kFinishFieldCount;

struct ConvShape {
  const uint8_t* x;
  int64_t n, h, w, c, oh, ow, m;
  int64_t xn, xh, xw, xc;  // strides of x
  int64_t kh, kw, sh, sw, ph, pw, dh, dw, group;
  uint8_t flip;  // of the bytes of x (rows.h)
  uint8_t zero;  // point of x, flipped

  explicit ConvShape(const Call& call) {
    const auto& p = *static_cast<const ConvParams*>(call.params);
    const TensorRef &from = call.in[0], &to = call.out[0];
    x = static_cast<const uint8_t*>(from.data);
    n = to.shape[0], oh = to.shape[1], ow = to.shape[2], m = to.shape[3];
    h = from.shape[1], w = from.shape[2], c = from.shape[3];
    xn = from.strides[0], xh = from.strides[1], xw = from.strides[2];
    xc = from.strides[3];
    kh = p.kernel_shape.v[0], kw = p.kernel_shape.v[1];
    sh = p.strides.v[0], sw = p.strides.v[1];
    ph = p.pads.v[0], pw = p.pads.v[1];
    dh = p.dilations.v[0], dw = p.dilations.v[1];
    group = p.group;
    flip = flip_of(from.dtype);
    zero = static_cast<uint8_t>(static_cast<uint8_t>(p.finish.x_zero) ^ flip);
  }
  int64_t pixels() const { return n * oh * ow; }
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
