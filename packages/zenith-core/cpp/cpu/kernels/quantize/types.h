// Elements of any type the family takes, to and from runs of float32.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/kernels/pointwise/small_floats.h"
#include "zenith/tensor.h"

namespace zenith::ZENITH_ISA {
namespace {

// The type an element has, in ONNX's codes: those of DType, and types of a byte or less, which
// tensors hold as bytes, one each.
enum Code : int64_t {
  kE4M3FNCode = 17,
  kE4M3FNUZCode = 18,
  kE5M2Code = 19,
  kE5M2FNUZCode = 20,
  kU4Code = 21,
  kI4Code = 22,
  kE2M1Code = 23,
  kE8M0Code = 24,
  kU2Code = 25,
  kI2Code = 26,
};
constexpr int64_t code_of(DType dtype) { return static_cast<int64_t>(dtype); }

[[maybe_unused]] bool is_float(int64_t code) {
  return (code >= kE4M3FNCode && code <= kE5M2FNUZCode) || code == kE2M1Code;
}

template <typename T>
void read_numbers(const void* from, int64_t n, int64_t stride, float* to) {
  const T* p = static_cast<const T*>(from);
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(p[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(p[i * stride]);
  }
}
template <typename T>
void read_codes(const void* from, int64_t n, int64_t stride, float* to) {
  const T* p = static_cast<const T*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = decode(p[i * stride]);
}
// The low bits of a byte; `sign` is the value of the sign bit, or 0.
void read_bits(const void* from, int64_t n, int64_t stride, int mask, int sign, float* to) {
  const uint8_t* p = static_cast<const uint8_t*>(from);
  for (int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<float>(((p[i * stride] & mask) ^ sign) - sign);
  }
}

// n elements from `index` on, `stride` apart, as float32; int32 rounds to nearest.
[[maybe_unused]] void read_floats(const TensorRef& t, int64_t code, int64_t index, int64_t n,
                                  int64_t stride, float* to) {
  const char* from = static_cast<const char*>(t.data) + index * item_size(t.dtype);
  switch (code) {
    case code_of(DType::kF32):
      return read_numbers<float>(from, n, stride, to);
    case code_of(DType::kI8):
      return read_numbers<int8_t>(from, n, stride, to);
    case code_of(DType::kU8):
      return read_numbers<uint8_t>(from, n, stride, to);
    case code_of(DType::kI16):
      return read_numbers<int16_t>(from, n, stride, to);
    case code_of(DType::kU16):
      return read_numbers<uint16_t>(from, n, stride, to);
    case code_of(DType::kI32):
      return read_numbers<int32_t>(from, n, stride, to);
    case code_of(DType::kF16):
      return read_codes<Half>(from, n, stride, to);
    case code_of(DType::kBF16):
      if (stride == 1) return convert_row(reinterpret_cast<const bf16*>(from), n, to);
      return read_codes<BFloat>(from, n, stride, to);
    case kE4M3FNCode:
      return read_codes<E4M3FN>(from, n, stride, to);
    case kE4M3FNUZCode:
      return read_codes<E4M3FNUZ>(from, n, stride, to);
    case kE5M2Code:
      return read_codes<E5M2>(from, n, stride, to);
    case kE5M2FNUZCode:
      return read_codes<E5M2FNUZ>(from, n, stride, to);
    case kE2M1Code:
      return read_codes<E2M1FN>(from, n, stride, to);
    case kE8M0Code:
      return read_codes<E8M0>(from, n, stride, to);
    case kU4Code:
      return read_bits(from, n, stride, 15, 0, to);
    case kI4Code:
      return read_bits(from, n, stride, 15, 8, to);
    case kU2Code:
      return read_bits(from, n, stride, 3, 0, to);
    case kI2Code:
      return read_bits(from, n, stride, 3, 2, to);
    default:
      return;
  }
}

template <typename T>
void write_integers(const float* from, int64_t n, int mask, void* to) {
  T* p = static_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<T>(static_cast<int32_t>(from[i]) & mask);
}
template <typename T>
void write_halves(const float* from, int64_t n, void* to) {
  T* p = static_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) encode(from[i], p[i]);
}
template <typename T>
void write_codes(const float* from, int64_t n, bool saturate, void* to) {
  T* p = static_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) encode(from[i], p[i], saturate);
}

// n neighbours from `index` on; integers are given as whole numbers within range. `saturate` is for
// floats of a byte.
[[maybe_unused]] void write_floats(const float* from, int64_t n, const TensorRef& t, int64_t code,
                                   int64_t index, bool saturate) {
  char* to = static_cast<char*>(t.data) + index * item_size(t.dtype);
  switch (code) {
    case code_of(DType::kF32):
      std::memcpy(to, from, static_cast<size_t>(n) * 4);
      return;
    case code_of(DType::kI8):
    case code_of(DType::kU8):
      return write_integers<uint8_t>(from, n, 0xff, to);
    case code_of(DType::kI16):
    case code_of(DType::kU16):
      return write_integers<uint16_t>(from, n, 0xffff, to);
    case code_of(DType::kF16):
      return write_halves<Half>(from, n, to);
    case code_of(DType::kBF16):
      return write_halves<BFloat>(from, n, to);
    case kE4M3FNCode:
      return write_codes<E4M3FN>(from, n, saturate, to);
    case kE4M3FNUZCode:
      return write_codes<E4M3FNUZ>(from, n, saturate, to);
    case kE5M2Code:
      return write_codes<E5M2>(from, n, saturate, to);
    case kE5M2FNUZCode:
      return write_codes<E5M2FNUZ>(from, n, saturate, to);
    case kE2M1Code:
      return write_codes<E2M1FN>(from, n, saturate, to);
    case kU4Code:
    case kI4Code:
      return write_integers<uint8_t>(from, n, 15, to);
    case kU2Code:
    case kI2Code:
      return write_integers<uint8_t>(from, n, 3, to);
    default:
      return;
  }
}

// What an integer type holds.
struct Range {
  float low, high;
};
[[maybe_unused]] Range range_of(int64_t code) {
  switch (code) {
    case code_of(DType::kI8):
      return {-128, 127};
    case code_of(DType::kU8):
      return {0, 255};
    case code_of(DType::kI16):
      return {-32768, 32767};
    case kU4Code:
      return {0, 15};
    case kI4Code:
      return {-8, 7};
    case kU2Code:
      return {0, 3};
    case kI2Code:
      return {-2, 1};
    default:
      return {0, 65535};
  }
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
