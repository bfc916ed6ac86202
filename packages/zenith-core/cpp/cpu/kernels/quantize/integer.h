// The packer of 16-bit weights, and what becomes of the sums of QLinearMatMul and its kin.
#pragma once

#include "cpu/kernels/quantize/pairs.h"

namespace zenith::ZENITH_ISA {
namespace {

// Packs [groups, K, N] of int16: 8-bit weights less their zero points.
int64_t pack_bytes(const TensorRef& src, const void*) {
  return src.shape[0] * packed_size(src.shape[1], src.shape[2]) * 2;
}
Columns columns_of(const TensorRef& t, int64_t group) {
  const char* data = static_cast<const char*>(t.data) + group * t.strides[0] * item_size(t.dtype);
  return {t.dtype, data, t.strides[1], t.strides[2], t.shape[1], t.shape[2]};
}
void pack(const TensorRef& src, void* dst, const void*) {
  int16_t* to = static_cast<int16_t*>(dst);
  for (int64_t g = 0; g < src.shape[0]; ++g) {
    const Columns b = columns_of(src, g);
    for (int64_t col = 0; col < b.n; col += kCols, to += panel_size(b.depth)) {
      pack_columns(b, col, {DType::kI16, nullptr, 0}, to);
    }
  }
}
void unpack(const void* src, const TensorRef& dst, const void*) {
  const int16_t* from = static_cast<const int16_t*>(src);
  for (int64_t g = 0; g < dst.shape[0]; ++g) {
    const Columns b = columns_of(dst, g);
    int16_t* to = static_cast<int16_t*>(const_cast<void*>(b.data));
    for (int64_t k = 0; k < b.depth; ++k) {
      for (int64_t j = 0; j < b.n; ++j) {
        to[k * b.step + j * b.col] =
            from[j / kCols * panel_size(b.depth) + (k / 2 * kCols + j % kCols) * 2 + k % 2];
      }
    }
    from += packed_size(b.depth, b.n);
  }
}

// What becomes of a sum: itself as int32, or a requantized byte
//   rint((sum + bias) * (x_scale * w_scale / y_scale)) + y_zero.
// The factor is float32 as everywhere, its product with the exact sum float64.
struct Finish {
  bool integer;
  DType dtype;          // of y
  const int32_t* bias;  // per column of all groups, or null
  int64_t bias_stride;
  const float* x_scale;  // per row
  int64_t x_stride;
  const float* w_scale;  // per column
  int64_t w_stride;
  float y_scale;
  int32_t y_zero;

  void factors(int64_t row, int64_t col, int64_t n, float* to) const {
    const float x = x_scale[row * x_stride];
    for (int64_t j = 0; j < n; ++j) to[j] = x * w_scale[(col + j) * w_stride] / y_scale;
  }
  // n neighbouring columns of one row, in place.
  void apply(int32_t* sums, int64_t col, int64_t n, const float* factor) const {
    if (bias != nullptr) {
      for (int64_t j = 0; j < n; ++j) {
        sums[j] = static_cast<int32_t>(static_cast<uint32_t>(sums[j]) +
                                       static_cast<uint32_t>(bias[(col + j) * bias_stride]));
      }
    }
    if (integer) return;
    const double low = dtype == DType::kI8 ? -128 : 0, high = low + 255;
    const double zero = y_zero;
    for (int64_t j = 0; j < n; ++j) {
      const double value = __builtin_rint(static_cast<double>(sums[j]) * factor[j]) + zero;
      const double bounded = value > low ? value : low;
      sums[j] = static_cast<int32_t>(bounded < high ? bounded : high);
    }
  }
  void store(const int32_t* values, int64_t n, void* y, int64_t at, int64_t stride) const {
    if (integer) {
      int32_t* to = static_cast<int32_t*>(y) + at;
      for (int64_t j = 0; j < n; ++j) to[j * stride] = values[j];
    } else {
      uint8_t* to = static_cast<uint8_t*>(y) + at;
      for (int64_t j = 0; j < n; ++j) to[j * stride] = static_cast<uint8_t>(values[j]);
    }
  }
};

bool given(const Call& call, int i) { return i < call.n_in && call.in[i].rank >= 0; }

// The part of Finish that does not depend on the item: inputs 4 bias [columns], 7 scale of y, 8
// zero point of y, both of one element.
Finish finish_of(const Call& call) {
  Finish f{};
  f.dtype = call.out[0].dtype;
  f.integer = f.dtype == DType::kI32;
  if (given(call, 4)) {
    f.bias = static_cast<const int32_t*>(call.in[4].data);
    f.bias_stride = call.in[4].strides[0];
  }
  if (f.integer) return f;
  f.y_scale = *static_cast<const float*>(call.in[7].data);
  if (given(call, 8)) f.y_zero = integer_at(call.in[8].dtype, call.in[8].data, 0);
  return f;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
