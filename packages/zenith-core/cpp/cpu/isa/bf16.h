// bfloat16 in memory, float32 in registers: reading, rounding to nearest even, writing.
#pragma once

#include "cpu/isa/simd.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace zenith::ZENITH_ISA {
namespace {

using bf16 = uint16_t;
typedef uint32_t vu __attribute__((vector_size(ZENITH_VEC_BYTES)));
typedef uint16_t vh __attribute__((vector_size(ZENITH_VEC_BYTES / 2)));  // kLanes of them
typedef uint16_t vh_u __attribute__((vector_size(ZENITH_VEC_BYTES / 2), aligned(2), may_alias));

// By the machine's instruction: GCC 12 makes two halves of a conversion.
[[gnu::always_inline]] inline vf widen(vh h) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  typedef int16_t v16 __attribute__((vector_size(32)));
  return (vf)(__builtin_ia32_pmovzxwd512_mask((v16)h, vi{}, 0xffff) << 16);
#elif defined(__AVX2__) && ZENITH_VEC_BYTES == 32
  typedef int16_t v8 __attribute__((vector_size(16)));
  return (vf)(__builtin_ia32_pmovzxwd256((v8)h) << 16);
#else
  return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
[[gnu::always_inline]] inline vf load(const bf16* p) {
  return widen(*reinterpret_cast<const vh_u*>(p));
}
[[gnu::always_inline]] inline vf load_n(const bf16* p, int n) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  return widen((vh)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p));
#else
  vh h{};
  std::memcpy(&h, p, static_cast<size_t>(n) * 2);
  return widen(h);
#endif
}

// A NaN stays one. Where the hardware rounds, numbers below 2^-126 become 0.
[[gnu::always_inline]] inline vh narrow(vf v) {
#if defined(__AVX512BF16__) && ZENITH_VEC_BYTES == 64
  return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
  const vu bits = (vu)v;
  const vu rounded = bits + 0x7fff + (bits >> 16 & 1);
  const vu quiet = bits | 0x400000;
  return __builtin_convertvector((v != v ? quiet : rounded) >> 16, vh);
#endif
}
[[gnu::always_inline]] inline void store(bf16* p, vf v) { *reinterpret_cast<vh_u*>(p) = narrow(v); }
[[gnu::always_inline]] inline void store_n(bf16* p, vf v, int n) {
  const vh h = narrow(v);
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)h);
#else
  std::memcpy(p, &h, static_cast<size_t>(n) * 2);
#endif
}

// Two neighbouring vectors, where the machine can as one.
[[gnu::always_inline]] inline void store_two(bf16* p, vf first, vf second) {
#if defined(__AVX512BF16__) && ZENITH_VEC_BYTES == 64
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  std::memcpy(p, &both, sizeof(both));
#else
  store(p, first), store(p + kLanes, second);
#endif
}
[[gnu::always_inline]] inline void store_two(float* p, vf first, vf second) {
  store(p, first), store(p + kLanes, second);
}

// n numbers from one type of memory to the other.
template <typename To, typename From>
[[maybe_unused]] void convert_row(const From* from, int64_t n, To* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  if (i < n) store_n(to + i, load_n(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
