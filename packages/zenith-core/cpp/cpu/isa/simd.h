// One vector type per ISA, by compiler vector extensions: no intrinsics, so the same source is
// AVX-512, AVX2, SSE or NEON. Everything here has internal linkage (see zenith/kernel.h).
#pragma once

#include <cstdint>
#include <cstring>

#ifndef ZENITH_ISA
#error "compiled once per ISA: ZENITH_ISA and ZENITH_VEC_BYTES come from CMake"
#endif

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kVecBytes = ZENITH_VEC_BYTES;
constexpr int kLanes = kVecBytes / 4;  // of f32 and i32

typedef float vf __attribute__((vector_size(ZENITH_VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(ZENITH_VEC_BYTES)));
// The same, loadable from any address.
typedef float vf_u __attribute__((vector_size(ZENITH_VEC_BYTES), aligned(4), may_alias));
typedef int32_t vi_u __attribute__((vector_size(ZENITH_VEC_BYTES), aligned(4), may_alias));

[[gnu::always_inline]] inline vf load(const float* p) { return *reinterpret_cast<const vf_u*>(p); }
[[gnu::always_inline]] inline void store(float* p, vf v) { *reinterpret_cast<vf_u*>(p) = v; }
// x - 0 is x for every x, so it compiles to a bare broadcast; 0 + x is not (-0) and costs an add.
[[gnu::always_inline]] inline vf splat(float x) { return x - vf{}; }
[[gnu::always_inline]] inline vi splat_i(int32_t x) { return vi{} + x; }

// acc += x * y, in place. GCC 12 mixes the three forms of the instruction in unrolled products and
// then needs moves between registers and the stack to put sums back where they were.
[[gnu::always_inline]] inline void multiply_add(vf& acc, vf x, vf y) {
#if (defined(__FMA__) && ZENITH_VEC_BYTES == 32) || (defined(__AVX512F__) && ZENITH_VEC_BYTES == 64)
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(y));
#else
  acc += x * y;
#endif
}

// A product as a number of its own, rounded: not part of a multiply-add in one function and rounded
// in another.
[[gnu::always_inline]] inline vf as_rounded(vf product) {
#if (defined(__FMA__) && ZENITH_VEC_BYTES == 32) || (defined(__AVX512F__) && ZENITH_VEC_BYTES == 64)
  asm("" : "+v"(product));
#else
  asm("" : "+m"(product));
#endif
  return product;
}

// The first n lanes, 0 < n < kLanes; the other lanes read as zero and are not written.
[[gnu::always_inline]] inline vf load_n(const float* p, int n) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  return __builtin_ia32_loadups512_mask(p, vf{}, static_cast<uint16_t>((1u << n) - 1));
#else
  vf v{};
  std::memcpy(&v, p, static_cast<size_t>(n) * 4);
  return v;
#endif
}
[[gnu::always_inline]] inline void store_n(float* p, vf v, int n) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  __builtin_ia32_storeups512_mask(p, v, static_cast<uint16_t>((1u << n) - 1));
#else
  std::memcpy(p, &v, static_cast<size_t>(n) * 4);
#endif
}

// The first operand where it is larger (smaller), else the second: NaN gives the second. In one
// instruction, which GCC 12 does not make of a comparison and a choice of 64 bytes.
[[gnu::always_inline]] inline vf vmax(vf a, vf b) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  asm("vmaxps %2, %1, %0" : "=v"(a) : "v"(a), "v"(b));
  return a;
#else
  return a > b ? a : b;
#endif
}
[[gnu::always_inline]] inline vf vmin(vf a, vf b) {
#if defined(__AVX512F__) && ZENITH_VEC_BYTES == 64
  asm("vminps %2, %1, %0" : "=v"(a) : "v"(a), "v"(b));
  return a;
#else
  return a < b ? a : b;
#endif
}
[[gnu::always_inline]] inline vf vabs(vf a) { return (vf)((vi)a & 0x7fffffff); }
[[gnu::always_inline]] inline vi to_int(vf a) { return __builtin_convertvector(a, vi); }
[[gnu::always_inline]] inline vf to_float(vi a) { return __builtin_convertvector(a, vf); }
[[gnu::always_inline]] inline vf vsqrt(vf a) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(a[i]);
  return r;
}

[[gnu::always_inline]] inline float sum(vf a) {
  float s = 0;
  for (int i = 0; i < kLanes; ++i) s += a[i];
  return s;
}
[[gnu::always_inline]] inline float max_lane(vf a) {
  float m = a[0];
  for (int i = 1; i < kLanes; ++i) m = a[i] > m ? a[i] : m;
  return m;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
