// Elements of any type the family takes, to and from runs of float32.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/tensor.h"

namespace zenith::ZENITH_ISA {
namespace {

// The exponent is rebased by a multiplication, which also makes subnormals right.
[[gnu::always_inline]] inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &magnitude, 4);
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits;
  bits |= static_cast<uint32_t>(h & 0x8000) << 16;
  std::memcpy(&value, &bits, 4);
  return value;
}
// Round to nearest even. Subnormal halves: adding 0.5 leaves the rounded bits at the bottom.
[[gnu::always_inline]] inline uint16_t float_to_half(float f) {
  uint32_t bits, small;
  std::memcpy(&bits, &f, 4);
  const uint32_t magnitude = bits & 0x7fffffffu;
  float shifted;
  std::memcpy(&shifted, &magnitude, 4);
  shifted += 0.5f;
  std::memcpy(&small, &shifted, 4);
  small -= 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t h = magnitude < 0x38800000u ? small : normal;
  h = magnitude >= 0x477ff000u ? 0x7c00u : h;
  h = magnitude > 0x7f800000u ? 0x7e00u : h;
  return static_cast<uint16_t>(h | ((bits >> 16) & 0x8000u));
}
[[gnu::always_inline]] inline float bfloat_to_float(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
[[gnu::always_inline]] inline uint16_t float_to_bfloat(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

template <typename T>
void read_numbers(const char* from, int64_t n, int64_t stride, float* to) {
  const T* p = reinterpret_cast<const T*>(from);
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(p[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(p[i * stride]);
  }
}
template <float (*kConvert)(uint16_t)>
void read_short_floats(const char* from, int64_t n, int64_t stride, float* to) {
  const uint16_t* p = reinterpret_cast<const uint16_t*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = kConvert(p[i * stride]);
}

// n elements from `index` on, `stride` apart, as float32; int32 rounds to nearest.
[[maybe_unused]] void read_floats(const TensorRef& t, int64_t index, int64_t n, int64_t stride,
                                  float* to) {
  const char* from = static_cast<const char*>(t.data) + index * item_size(t.dtype);
  switch (t.dtype) {
    case DType::kF32:
      return read_numbers<float>(from, n, stride, to);
    case DType::kI8:
      return read_numbers<int8_t>(from, n, stride, to);
    case DType::kU8:
      return read_numbers<uint8_t>(from, n, stride, to);
    case DType::kI16:
      return read_numbers<int16_t>(from, n, stride, to);
    case DType::kU16:
      return read_numbers<uint16_t>(from, n, stride, to);
    case DType::kI32:
      return read_numbers<int32_t>(from, n, stride, to);
    case DType::kF16:
      return read_short_floats<half_to_float>(from, n, stride, to);
    case DType::kBF16:
      return read_short_floats<bfloat_to_float>(from, n, stride, to);
    default:
      return;
  }
}

template <typename T>
void write_integers(const float* from, int64_t n, char* to) {
  T* p = reinterpret_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<T>(static_cast<int32_t>(from[i]));
}
template <uint16_t (*kConvert)(float)>
void write_short_floats(const float* from, int64_t n, char* to) {
  uint16_t* p = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < n; ++i) p[i] = kConvert(from[i]);
}

// n neighbours from `index` on; integers are given as whole numbers within range.
[[maybe_unused]] void write_floats(const float* from, int64_t n, const TensorRef& t,
                                   int64_t index) {
  char* to = static_cast<char*>(t.data) + index * item_size(t.dtype);
  switch (t.dtype) {
    case DType::kF32:
      std::memcpy(to, from, static_cast<size_t>(n) * 4);
      return;
    case DType::kI8:
      return write_integers<int8_t>(from, n, to);
    case DType::kU8:
      return write_integers<uint8_t>(from, n, to);
    case DType::kI16:
      return write_integers<int16_t>(from, n, to);
    case DType::kU16:
      return write_integers<uint16_t>(from, n, to);
    case DType::kF16:
      return write_short_floats<float_to_half>(from, n, to);
    case DType::kBF16:
      return write_short_floats<float_to_bfloat>(from, n, to);
    default:
      return;
  }
}

struct Range {
  float low, high;
};
[[maybe_unused]] Range range_of(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return {-128, 127};
    case DType::kU8:
      return {0, 255};
    case DType::kI16:
      return {-32768, 32767};
    default:
      return {0, 65535};
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
