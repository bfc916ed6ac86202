// Resize of the types most images have, and of any type to the nearest element.
#include "cpu/kernels/resize/blend.h"

namespace zenith::ZENITH_ISA {
namespace {

// Nearest only moves elements, of any type with this size.
template <typename T>
const char* run_nearest_of(const Call& call, T fill) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const Plan s = make_plan<float>(call);
  Taps<float> a, b;
  fill_tables(call, s, &a, &b);
  const int64_t step = x.strides[2], pixel = y.shape[2] == 1 ? s.inner : y.strides[2];
  const bool together = pixel == s.inner;
  const auto bytes = static_cast<size_t>(s.line) * sizeof(T);
  const bool whole = together && !s.b.active && (step == s.inner || x.shape[2] == 1);
  parallel_for(call, s.outer * s.blocks, [&](int64_t task, int) {
    const int64_t first = task % s.blocks * s.block_rows, image = task / s.blocks;
    const int64_t last = least(first + s.block_rows, s.a.after);
    for (int64_t o = first; o < last; ++o) {
      T* to = static_cast<T*>(y.data) + image * y.strides[0] + o * y.strides[1];
      const T* from = static_cast<const T*>(x.data) + image * x.strides[0];
      const int32_t row = a.index[o];
      if (row < 0) {
        for (int64_t i = 0; i < s.line; ++i) to[i / s.inner * pixel + i % s.inner] = fill;
        continue;
      }
      from += row * x.strides[1];
      if (together && o > first && row == a.index[o - 1]) {
        std::memcpy(to, to - y.strides[1], bytes);
      } else if (whole) {
        std::memcpy(to, from, bytes);
      } else if (s.inner == 1) {
        for (int64_t i = 0; i < s.line; ++i) {
          to[i * pixel] = b.index[i] < 0 ? fill : from[b.index[i] * step];
        }
      } else {
        for (int64_t i = 0; i < s.b.after; ++i, to += pixel) {
          if (b.index[i] < 0) {
            for (int64_t c = 0; c < s.inner; ++c) to[c] = fill;
          } else {
            std::memcpy(to, from + b.index[i] * step, static_cast<size_t>(s.inner) * sizeof(T));
          }
        }
      }
    }
  });
  return nullptr;
}

uint16_t half_bits(float f) {
  // Exact for the few values anyone extrapolates with; others are truncated.
  uint32_t b;
  std::memcpy(&b, &f, 4);
  const uint32_t sign = b >> 16 & 0x8000u;
  const int32_t exponent = static_cast<int32_t>(b >> 23 & 0xff) - 112;
  if (exponent <= 0) return static_cast<uint16_t>(sign);
  if (exponent >= 31) return static_cast<uint16_t>(sign | 0x7c00u);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | (b >> 13 & 0x3ffu));
}

const char* run_nearest(const Call& call) {
  if (element_count(call.out[0]) == 0) return nullptr;
  const float fill = static_cast<const ResizeParams*>(call.params)->extrapolation_value;
  uint32_t bits;
  std::memcpy(&bits, &fill, 4);
  switch (call.out[0].dtype) {
    case DType::kF32:
      return run_nearest_of<float>(call, fill);
    case DType::kF64:
      return run_nearest_of<double>(call, static_cast<double>(fill));
    case DType::kU8:
      return run_nearest_of<uint8_t>(call, result_of<uint8_t>(fill));
    case DType::kBool:
      return run_nearest_of<uint8_t>(call, fill != 0);
    case DType::kI8:
      return run_nearest_of<int8_t>(call, result_of<int8_t>(fill));
    case DType::kU16:
      return run_nearest_of<uint16_t>(call, result_of<uint16_t>(fill));
    case DType::kI16:
      return run_nearest_of<int16_t>(call, result_of<int16_t>(fill));
    case DType::kF16:
      return run_nearest_of<uint16_t>(call, half_bits(fill));
    case DType::kBF16:
      return run_nearest_of<uint16_t>(call, static_cast<uint16_t>(bits >> 16));
    case DType::kI32:
    case DType::kU32:
      return run_nearest_of<int32_t>(call, result_of<int32_t>(static_cast<double>(fill)));
    default:
      return run_nearest_of<int64_t>(call, result_of<int32_t>(static_cast<double>(fill)));
  }
}

int64_t nearest_scratch(const Call& call) { return make_plan<float>(call).total; }

const Kernel kKernels[] = {
    {"resize_nearest", "", kResizeFields, kResizeFieldCount, sizeof(ResizeParams), nearest_scratch,
     run_nearest},
    ZENITH_RESIZE("resize_float32", float, float),
    ZENITH_RESIZE("resize_bfloat16", Brain, Brain),
    ZENITH_RESIZE_INTEGER("uint8", uint8_t, float),
    ZENITH_RESIZE_INTEGER("int8", int8_t, float),
};

}  // namespace

Table resize_table();
Table resize_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
