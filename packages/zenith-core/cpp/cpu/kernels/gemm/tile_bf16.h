// The microkernel of bfloat16 products, float32 sums: rows of A times one packed panel of B. Three
// of them, by what the instruction set has; they share the layout of B.
//
// Note [Pair panels]: B [K, N] is packed as [ceil(N / kCols)][Kp / 2][kCols][2], zero padded; Kp is
// K rounded up to whole steps. Two neighbours of the depth lie side by side, as VDPBF16PS and
// TDPBF16PS want them, and as two shifts take them apart elsewhere.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/isa/tiles.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

[[gnu::always_inline]] inline int64_t round_to(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

#if defined(__AMX_TILE__)
// Two tiles of 16 rows by two of 16 columns: four sums, each load feeds two products.
using APart = bf16;
constexpr int64_t kParts = 2, kPartRows = 16, kCols = 32, kStep = 32;
constexpr bool kReadsInPlace = true;  // A is read where it lies when its depth needs no padding
constexpr bool kEndsTiles = false;    // Multiplier takes a TileEnd
// A part of few rows takes as long as a full one.
[[maybe_unused]] constexpr bool kWholeParts = true;
[[maybe_unused]] const char* const kPairTile = "32x32";
#elif defined(__AVX512BF16__) && ZENITH_VEC_BYTES == 64
// 28 sums, two vectors of B, one broadcast of A. Seven divides the images of many networks.
using APart = bf16;
constexpr int64_t kParts = 2, kPartRows = 7, kCols = 32, kStep = 2;
constexpr bool kReadsInPlace = true, kEndsTiles = true;
[[maybe_unused]] constexpr bool kWholeParts = false;
[[maybe_unused]] const char* const kPairTile = "14x32";
#else
using APart = float;  // without products of pairs, A is widened ahead
constexpr int64_t kParts = 1, kPartRows = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 6;
constexpr int64_t kCols = (kLanes == 4 ? 2 : 3) * kLanes, kStep = 2;
constexpr bool kReadsInPlace = false, kEndsTiles = false;
[[maybe_unused]] constexpr bool kWholeParts = false;
[[maybe_unused]] const char* const kPairTile = kLanes == 16 ? "8x48" : kLanes == 8 ? "4x24" : "6x8";
#endif
constexpr int64_t kRows = kParts * kPartRows;

// Elements of the depth that one step takes, an even number: kStep, or less where that divides the
// depth, which then needs no padding, in few steps.
[[maybe_unused]] int64_t step_of(int64_t depth) {
  if (depth < kStep && depth % 2 == 0) return depth;
  for (int64_t step = kStep; 2 * step >= kStep && step > 0; step -= 2) {
    if (depth % step == 0) return step;
  }
  return kStep;
}

}  // namespace

// A of one tile: rows in kParts parts, those of a part `row` apart. A row is `taps` pieces of
// `depth` elements, a multiple of the step, at `offsets` from where it begins.
struct LeftTile {
  const APart* part[kParts];
  int64_t rows[kParts];  // the first part has some
  int64_t row;
  const int64_t* offsets;
  int64_t taps, depth;
};

// Where the results of a tile go: sums as they are, or, where these steps are all, bfloat16 that
// never were sums in memory, y = clamp(bias + products + add) of kCols columns.
struct TileEnd {
  float* sums[kParts];  // null with y
  bf16* y[kParts];
  const bf16* add[kParts];  // null without one
  const bf16* bias;         // null without one
  int64_t sums_row, y_row, add_row;
  float low, high;
};

// `bytes` from `from` on are fetched during a tile.
struct Ahead {
  const char* from;
  int64_t bytes;
};

namespace {

// `rows` rows of a matrix, of one piece each.
[[maybe_unused]] LeftTile left_rows(const APart* a, int64_t a_row, int64_t rows, int64_t depth) {
  static constexpr int64_t kStart = 0;
  LeftTile left{{}, {}, a_row, &kStart, 1, depth};
  for (int64_t i = 0, r = 0; i < kParts; ++i, r += kPartRows) {
    left.part[i] = a + r * a_row;
    left.rows[i] = rows - r < kPartRows ? (rows > r ? rows - r : 0) : kPartRows;
  }
  return left;
}

#if defined(__AMX_TILE__)

// Sums c[kRows][kCols] of a tile, rows `c_row` apart; those of the second part begin at row
// kPartRows.
class Multiplier {
 public:
  explicit Multiplier(int64_t step = kStep) : step_(step) {}
  void run(const LeftTile& a, const bf16* panel, float* c, int64_t c_row, const Ahead& ahead) {
    const bool two = a.rows[1] > 0;
    if (a.rows[0] != rows_[0] || (two && a.rows[1] != rows_[1])) configure(a.rows[0], a.rows[1]);
    if (two) {
      multiply<true>(a, panel, c, c_row, ahead);
    } else {
      multiply<false>(a, panel, c, c_row, ahead);
    }
  }
  Multiplier(const Multiplier&) = delete;
  Multiplier& operator=(const Multiplier&) = delete;
  ~Multiplier() { _tile_release(); }

 private:
  template <bool kTwo>
  void multiply(const LeftTile& a, const bf16* panel, float* c, int64_t c_row, const Ahead& ahead) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTwo) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const size_t row = static_cast<size_t>(a.row) * sizeof(APart);
    const int64_t step = step_, fetch = ahead.bytes / (a.taps * (a.depth / step));
    const char* next = ahead.from;
    for (int64_t t = 0; t < a.taps; ++t) {
      const APart* upper = a.part[0] + a.offsets[t];
      const APart* lower = kTwo ? a.part[1] + a.offsets[t] : upper;
      for (int64_t k = 0; k < a.depth; k += step, panel += step * kCols) {
        _tile_loadd(4, upper + k, row);
        _tile_loadd(6, panel, kCols * 4);
        _tile_loadd(7, panel + kCols, kCols * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (kTwo) {
          _tile_loadd(5, lower + k, row);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(next + i, 0, 2);
        next += fetch;
      }
    }
    const size_t c_bytes = static_cast<size_t>(c_row) * 4;
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    if constexpr (kTwo) {
      _tile_stored(2, c + kPartRows * c_row, c_bytes);
      _tile_stored(3, c + kPartRows * c_row + 16, c_bytes);
    }
  }

  void configure(int64_t first, int64_t second) {
    TileConfig config;
    const int depth = static_cast<int>(step_), upper = static_cast<int>(first);
    for (int sum = 0; sum < 2; ++sum) config.set(sum, upper, 64);
    config.set(4, upper, 2 * depth);
    if (second > 0) {
      const int lower = static_cast<int>(second);
      for (int sum = 2; sum < 4; ++sum) config.set(sum, lower, 64);
      config.set(5, lower, 2 * depth);
    }
    for (int right = 6; right < 8; ++right) config.set(right, depth / 2, 64);
    load_tiles(config);
    rows_[0] = first, rows_[1] = second;
  }
  int64_t rows_[2] = {};
  int64_t step_;
};

#else
}  // namespace

void multiply_pairs(const LeftTile& a, const bf16* panel, const TileEnd& end, const Ahead& ahead);

namespace {

class Multiplier {
 public:
  explicit Multiplier(int64_t = kStep) {}
  // Sums c[kRows][kCols], rows `c_row` apart; those of the second part begin at row kPartRows.
  void run(const LeftTile& a, const bf16* panel, float* c, int64_t c_row, const Ahead& ahead) {
    TileEnd end{};
    for (int64_t i = 0; i < kParts; ++i) end.sums[i] = c + i * kPartRows * c_row;
    end.sums_row = c_row;
    multiply_pairs(a, panel, end, ahead);
  }
  void run(const LeftTile& a, const bf16* panel, const TileEnd& end, const Ahead& ahead) {
    multiply_pairs(a, panel, end, ahead);
  }
};
#endif

}  // namespace
}  // namespace zenith::ZENITH_ISA
