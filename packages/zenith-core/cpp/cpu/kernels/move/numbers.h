// Single elements of every dtype as numbers, for kernels whose work is not arithmetic.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/tensor.h"

namespace zenith::ZENITH_ISA {
namespace {

inline float float_of_bits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline uint32_t bits_of_float(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

struct Half {
  uint16_t v;
};
struct Brain {
  uint16_t v;
};

// The exponent is rebased by a multiplication, which also makes subnormals right.
inline float to_f32(Half h) {
  const uint32_t magnitude = static_cast<uint32_t>(h.v & 0x7fff) << 13;
  const uint32_t finite = bits_of_float(float_of_bits(magnitude) * 0x1p112f);
  const uint32_t sign = static_cast<uint32_t>(h.v & 0x8000) << 16;
  return float_of_bits((magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite) | sign);
}
inline float to_f32(Brain h) { return float_of_bits(static_cast<uint32_t>(h.v) << 16); }

// Round to nearest even.
inline void from_f32(float f, Half* h) {
  const uint32_t bits = bits_of_float(f), magnitude = bits & 0x7fffffffu;
  uint32_t r;
  if (magnitude > 0x7f800000u) {
    r = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    r = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // adding 0.5 leaves the rounded bits at the bottom
    r = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    r = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  h->v = static_cast<uint16_t>(r | ((bits >> 16) & 0x8000u));
}
inline void from_f32(float f, Brain* h) {
  const uint32_t bits = bits_of_float(f);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  h->v = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

// What a T is computed in.
template <typename T>
struct Work {
  using type = T;
};
template <>
struct Work<Half> {
  using type = float;
};
template <>
struct Work<Brain> {
  using type = float;
};

template <typename T>
[[gnu::always_inline]] inline typename Work<T>::type get(const T& v) {
  if constexpr (sizeof(typename Work<T>::type) != sizeof(T)) {
    return to_f32(v);
  } else {
    return v;
  }
}
template <typename T, typename W>
[[gnu::always_inline]] inline void put(T* to, W v) {
  if constexpr (sizeof(typename Work<T>::type) != sizeof(T)) {
    from_f32(static_cast<float>(v), to);
  } else {
    *to = static_cast<T>(v);
  }
}

// One integer of any integer dtype, or the integer part of a float.
inline int64_t read_integer(const char* p, DType dtype) {
  switch (dtype) {
    case DType::kI64:
    case DType::kU64:
      return *reinterpret_cast<const int64_t*>(p);
    case DType::kI32:
      return *reinterpret_cast<const int32_t*>(p);
    case DType::kU32:
      return *reinterpret_cast<const uint32_t*>(p);
    case DType::kI16:
      return *reinterpret_cast<const int16_t*>(p);
    case DType::kU16:
      return *reinterpret_cast<const uint16_t*>(p);
    case DType::kI8:
      return *reinterpret_cast<const int8_t*>(p);
    case DType::kU8:
    case DType::kBool:
      return *reinterpret_cast<const uint8_t*>(p);
    default:
      break;
  }
  double v = 0;
  if (dtype == DType::kF32) v = *reinterpret_cast<const float*>(p);
  if (dtype == DType::kF64) v = *reinterpret_cast<const double*>(p);
  if (dtype == DType::kF16) v = to_f32(*reinterpret_cast<const Half*>(p));
  if (dtype == DType::kBF16) v = to_f32(*reinterpret_cast<const Brain*>(p));
  return v > -9e18 && v < 9e18 ? static_cast<int64_t>(v) : INT64_MIN;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
