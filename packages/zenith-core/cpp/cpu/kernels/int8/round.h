// Bytes in memory and numbers in registers: from one to the other.
#pragma once

#include "cpu/isa/bytes.h"
#include "zenith/tensor.h"

#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace zenith::ZENITH_ISA {

// Numbers to 8-bit integers. NaN becomes the lowest.
struct Rounding {
  bool is_signed;
  float inverse, zero, low, high;

  Rounding(DType dtype, float inverse_scale, int64_t zero_point)
      : is_signed(dtype == DType::kI8),
        inverse(inverse_scale),
        zero(static_cast<float>(zero_point)),
        low((dtype == DType::kI8 ? -128.0f : 0.0f) - zero),
        high(low + 255.0f) {}

  bool plain() const { return !is_signed && zero == 0 && low == 0; }

  // Numbers are first clamped to [least, most].
  void clamp(float least, float most) {
    const float from = __builtin_rintf(least * inverse), to = __builtin_rintf(most * inverse);
    low = from > low ? from : low;
    high = to < high ? to : high;
  }

  [[gnu::always_inline]] void store(vf value, uint8_t* to, int n) const {
    store_steps(value * inverse, to, n);
  }
  // Of numbers that are multiples of a step already.
  [[gnu::always_inline]] void store_steps(vf v, uint8_t* to, int n) const {
    const vi shift = splat_i(static_cast<int32_t>(zero));
    const vu8 bytes = rounded_bytes(v, splat(low), splat(high), shift);
    std::memcpy(to, &bytes, static_cast<size_t>(n));
  }
};

#if defined(__AVX512BW__) && ZENITH_VEC_BYTES == 64
inline constexpr bool kPacksRows = true;

// Two neighbouring vectors of each of two rows at once, by narrowing that saturates: it takes half
// as long as to convert one vector after the other. The result is that of Rounding. kPlain: its
// zero and lowest byte are 0, as behind a relu. kWhole: all bytes of a row and not the first n.
template <bool kPlain, bool kWhole>
class RowPacker {
 public:
  RowPacker(const Rounding& r, int64_t n)
      : mask_(static_cast<__mmask32>((uint64_t{1} << n) - 1)),
        high_(splat(r.high)),
        zero_(_mm512_set1_epi16(static_cast<int16_t>(lifted(r, r.zero)))),
        least_(_mm512_set1_epi8(static_cast<char>(lifted(r, r.low + r.zero)))),
        flip_(_mm512_set1_epi8(static_cast<char>(r.is_signed ? 0x80 : 0))) {}

  // Vector `v` of the bytes of a row.
  [[gnu::always_inline]] vi wide(const uint8_t* row, int v, uint8_t flip) const {
    if constexpr (kWhole) return wide_bytes(row + v * kLanes, kLanes, flip);
    const auto mask = static_cast<__mmask16>(mask_ >> (v * kLanes));
    const __m128i bytes = _mm_xor_si128(_mm_maskz_loadu_epi8(mask, row + v * kLanes),
                                        _mm_set1_epi8(static_cast<char>(flip)));
    return (vi)_mm512_maskz_cvtepu8_epi32(0xffff, bytes);
  }

  // Of numbers that are multiples of a step.
  [[gnu::always_inline]] void store_steps(const vf (&upper)[2], const vf (&lower)[2],
                                          uint8_t* to_upper, uint8_t* to_lower) const {
    __m512i bytes = _mm512_packus_epi16(pairs(upper), pairs(lower));
    if constexpr (!kPlain) bytes = _mm512_xor_si512(_mm512_max_epu8(bytes, least_), flip_);
    // Every 16 of them are four of each vector.
    const vi rows = __builtin_shufflevector((vi)bytes, (vi)bytes, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6,
                                            10, 14, 3, 7, 11, 15);
    const auto first = __builtin_shufflevector(rows, rows, 0, 1, 2, 3, 4, 5, 6, 7);
    const auto second = __builtin_shufflevector(rows, rows, 8, 9, 10, 11, 12, 13, 14, 15);
    store_row((__m256i)first, to_upper);
    store_row((__m256i)second, to_lower);
  }

 private:
  // Signed bytes are moved to the range of unsigned ones meanwhile.
  static int lifted(const Rounding& r, float v) {
    return static_cast<int>(v) + (r.is_signed ? 128 : 0);
  }

  // NaN and what is below the range of 32 bits become their lowest number.
  [[gnu::always_inline]] __m512i pairs(const vf (&v)[2]) const {
    const __m512i first = _mm512_maskz_cvtps_epi32(0xffff, (__m512)vmin(high_, v[0]));
    const __m512i second = _mm512_maskz_cvtps_epi32(0xffff, (__m512)vmin(high_, v[1]));
    const __m512i both = _mm512_packs_epi32(first, second);
    return kPlain ? both : _mm512_adds_epi16(both, zero_);
  }

  [[gnu::always_inline]] void store_row(__m256i bytes, uint8_t* to) const {
    if constexpr (kWhole) {
      std::memcpy(to, &bytes, sizeof(bytes));
    } else {
      _mm256_mask_storeu_epi8(to, mask_, bytes);
    }
  }

  __mmask32 mask_;
  vf high_;
  __m512i zero_, least_, flip_;
};
#else
inline constexpr bool kPacksRows = false;
template <bool kPlain, bool kWhole>
class RowPacker;
#endif

}  // namespace zenith::ZENITH_ISA
