// What the product on integer tiles and its packer share: numbers as digits.
//
// Note [Digits]: the numbers of a row of x (a column of W) in one pass over the depth are whole
// multiples of one step, the largest of them some 2^23 steps: d1 * 2^16 + d2 * 2^8 + d3, digits
// from -128 to 127. Of the nine products of digits the smallest, d3 * d3, is left out; the others
// add up in four sums by their weight.
//
// Note [Passes]: within kPassSteps * kDeep numbers the largest is at most sqrt(kPassSteps * kDeep)
// times the root mean square, whatever they are, so no row and no column loses more than a few
// bits to its largest number. That bound is why a pass is short, not the sums, which would fit.
#pragma once

#include "cpu/isa/simd.h"
#include "cpu/isa/tiles.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A tile of digits: 16 rows of x (columns of W) times 64 of the depth.
constexpr int64_t kRows = 16, kDeep = 64, kTile = kRows * kDeep;
constexpr int64_t kDigits = 3, kSums = 4;
constexpr int64_t kPassSteps = 6, kPassDepth = kPassSteps * kDeep;
// The largest whole number of steps, with room for the rounding of the scale: 127 and 127 and 127.
constexpr float kMostSteps = 8355000;
// Numbers are whole multiples of a step that is not below the smallest normal number.
constexpr float kLeastSize = 1e-30f;

// How the depth is cut; the same for x and W.
struct Depth {
  int64_t size, steps, passes;

  explicit Depth(int64_t depth)
      : size(depth), steps(ceil_div(depth, kDeep)), passes(most(1, ceil_div(steps, kPassSteps))) {}
  int64_t begin(int64_t pass) const { return steps * pass / passes; }  // in steps
};

// Packed weights: for each 16 columns their scales, [pass][16], and digits, [step][digit][16][16
// columns][4]; then the last bytes of all weights, [n][depth]; then how many are listed, and those.
struct Listed {
  uint32_t column, k;
  float value;
};

struct Layout {
  Depth depth;
  int64_t n, tiles;

  Layout(int64_t k, int64_t columns) : depth(k), n(columns), tiles(ceil_div(columns, kRows)) {}
  int64_t tile_bytes() const { return depth.passes * kRows * 4 + depth.steps * kDigits * kTile; }
  const float* scales(const char* w, int64_t tile) const {
    return reinterpret_cast<const float*>(w + tile * tile_bytes());
  }
  const int8_t* digits(const char* w, int64_t tile, int64_t step) const {
    return reinterpret_cast<const int8_t*>(w + tile * tile_bytes() + depth.passes * kRows * 4) +
           step * kDigits * kTile;
  }
  int64_t last_bytes() const { return tiles * tile_bytes(); }
  int64_t count() const { return last_bytes() + ceil_div(n * depth.size, 8) * 8; }
  int64_t bytes(int64_t listed) const {
    return count() + 8 + listed * static_cast<int64_t>(sizeof(Listed));
  }
};

// steps = number * per_unit; number = steps * step.
struct Scale {
  float per_unit, step;

  explicit Scale(float size) {
    per_unit = kMostSteps / (size > kLeastSize ? size : kLeastSize);
    step = static_cast<float>(1.0 / static_cast<double>(per_unit));
  }
};

// The largest magnitude of n numbers that lie side by side; not finite where one of them is not.
inline float magnitude(const float* x, int64_t n) {
  vi found{};
  const auto take_in = [&](vf v) {
    const vi size = (vi)vabs(v);
    found = size > found ? size : found;
  };
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) take_in(load(x + k));
  if (k < n) take_in(load_n(x + k, static_cast<int>(n - k)));
  int32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits = found[lane] > bits ? found[lane] : bits;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// Digits of n numbers, and zeros up to a whole step: [step][digit][64], `apart` bytes between the
// digits. The second and the first are rounded to nearest, which is what makes the next one signed.
inline void write_digits(const float* x, int64_t n, float per_unit, int64_t apart, int8_t* to) {
  for (int64_t k = 0; k < ceil_div(n, kDeep) * kDeep; k += kLanes) {
    const vf v = k + kLanes <= n ? load(x + k)
                 : k < n         ? load_n(x + k, static_cast<int>(n - k))
                                 : vf{};
    const vi d3 = (vi)_mm512_maskz_cvtps_epi32(0xffff, (__m512)(v * per_unit));
    const vi d2 = (d3 + 128) >> 8, d1 = (d2 + 128) >> 8;
    int8_t* at = to + k / kDeep * kDigits * apart + k % kDeep;
    _mm512_mask_cvtepi32_storeu_epi8(at, 0xffff, (__m512i)d1);
    _mm512_mask_cvtepi32_storeu_epi8(at + apart, 0xffff, (__m512i)d2);
    _mm512_mask_cvtepi32_storeu_epi8(at + 2 * apart, 0xffff, (__m512i)d3);
  }
}

// Steps of weight (k, j of the tile).
inline int32_t steps_at(const Layout& l, const char* w, int64_t tile, int64_t k, int64_t lane) {
  const int8_t* at = l.digits(w, tile, k / kDeep) + k % kDeep / 4 * kRows * 4 + lane * 4 + k % 4;
  return at[0] * 65536 + at[kTile] * 256 + at[2 * kTile];
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
