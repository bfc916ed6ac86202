// Vectors of numbers and the bytes they are in memory: from one to the other, by the instructions
// that GCC 12 does not make of a conversion of vectors.
#pragma once

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

typedef uint8_t vu8 __attribute__((vector_size(ZENITH_VEC_BYTES / 4)));

// The first n bytes as 32-bit integers; each with `flip` flipped first.
[[gnu::always_inline]] inline vi wide_bytes(const uint8_t* p, int n, uint8_t flip) {
  typedef char v16 __attribute__((vector_size(16), unused));
  typedef uint8_t v16u __attribute__((vector_size(16)));
  v16u bytes{};
#if ZENITH_VEC_BYTES < 64
  if (n == kLanes) {  // through a register: a load behind shorter stores waits for them
    typedef uint64_t v2 __attribute__((vector_size(16)));
    uint64_t word = 0;
    std::memcpy(&word, p, kLanes);
    bytes = (v16u)v2{word, 0};
  } else {
    std::memcpy(&bytes, p, static_cast<size_t>(n));
  }
#else
  std::memcpy(&bytes, p, static_cast<size_t>(n));
#endif
  bytes ^= flip;
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  return (vi)__builtin_ia32_pmovzxbd512_mask((v16)bytes, vi{}, 0xffff);
#elif defined(__AVX2__) && ZENITH_VEC_BYTES == 32
  return (vi)__builtin_ia32_pmovzxbd256((v16)bytes);
#elif defined(__SSE4_1__) && ZENITH_VEC_BYTES == 16
  return (vi)__builtin_ia32_pmovzxbd128((v16)bytes);
#else
  vu8 some;
  std::memcpy(&some, &bytes, kLanes);
  return __builtin_convertvector(some, vi);
#endif
}

// rint(v) + zero of numbers within 2^22, clamped to [low, high] first; NaN becomes the lowest.
[[gnu::always_inline]] inline vu8 rounded_bytes(vf v, vf low, vf high, vi zero) {
  // Adding 1.5 * 2^23 rounds to even, and the last bits of the sum are the integer's.
  constexpr float kRound = 12582912.0f;
  const vi sums = (vi)(vmin(vmax(v, low), high) + kRound) + zero;
#if ZENITH_VEC_BYTES == 64
  return __builtin_convertvector(sums, vu8);
#else
  typedef uint8_t vu8s __attribute__((vector_size(ZENITH_VEC_BYTES)));
#if ZENITH_VEC_BYTES == 32
  return __builtin_shufflevector((vu8s)sums, (vu8s)sums, 0, 4, 8, 12, 16, 20, 24, 28);
#else
  return __builtin_shufflevector((vu8s)sums, (vu8s)sums, 0, 4, 8, 12);
#endif
#endif
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
