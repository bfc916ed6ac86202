// The product of the int8 family with AMX tiles (micro.h). The process has been allowed to use them
// when the instruction set is chosen (isa/registry.cpp).
#pragma once

#include "cpu/isa/tiles.h"
#include "cpu/kernels/int8/left.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

using Left = uint8_t;
using Right = int8_t;
constexpr int64_t kGroup = 4, kDepthStep = 64;
constexpr int kCols = 32;
constexpr int64_t kParts = 2, kPartRows = 16;
constexpr int64_t kTileCost = 1, kRowCost = 0;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tiles 0..3 are sums [2][2], 4 and 5 rows of the left side, 6 and 7 columns of the panel.

class TileProduct {
 public:
  // length: elements of a piece. Of short ones no more than those are read and multiplied.
  explicit TileProduct(int64_t length) {
    if (length > 0 && length < kDepthStep) {
      step_bytes_ = static_cast<int>(ceil_div(length, kGroup) * kGroup);
    }
  }
  TileProduct(const TileProduct&) = delete;
  TileProduct& operator=(const TileProduct&) = delete;
  ~TileProduct() {
    if (rows_[0] != 0) _tile_release();
  }

  // sums[kParts * kPartRows][kCols]; those of the second part begin at row kPartRows.
  void multiply(const LeftTile<Left, kParts>& left, const Right* panel, const Ahead& ahead,
                int32_t* sums) {
    if (left.rows[0] != rows_[0] || left.rows[1] != rows_[1]) configure(left.rows);
    if (left.rows[1] > 0) {
      multiply_parts<true>(left, panel, ahead, sums);
    } else {
      multiply_parts<false>(left, panel, ahead, sums);
    }
  }

 private:
  int step_bytes_ = static_cast<int>(kDepthStep);
  int64_t rows_[2] = {};  // configured

  void configure(const int64_t (&rows)[2]) {
    TileConfig config;
    for (int part = 0; part < 2; ++part) {
      const int used = static_cast<int>(rows[part]);
      if (used == 0) continue;
      config.set(2 * part, used, 64);
      config.set(2 * part + 1, used, 64);
      config.set(4 + part, used, step_bytes_);
    }
    for (int right = 6; right < 8; ++right) {
      config.set(right, step_bytes_ / static_cast<int>(kGroup), 64);
    }
    load_tiles(config);
    rows_[0] = rows[0], rows_[1] = rows[1];
  }

  template <bool kTwo>
  void multiply_parts(const LeftTile<Left, kParts>& left, const Right* panel, const Ahead& ahead,
                      int32_t* sums) {
    constexpr int64_t kPanelRow = kCols * 4;
    ZENITH_TILE_ZERO(0);
    ZENITH_TILE_ZERO(1);
    if constexpr (kTwo) {
      ZENITH_TILE_ZERO(2);
      ZENITH_TILE_ZERO(3);
    }
    const int64_t row = left.row, steps = left.taps * (left.depth / 64);
    const int64_t fetch = ahead.bytes == 0 ? 0 : ceil_div(ahead.bytes, steps);
    const char* next = ahead.from;
    for (int64_t t = 0; t < left.taps; ++t) {
      const Left* upper = left.part[0] + left.offsets[t];
      const Left* lower = kTwo ? left.part[1] + left.offsets[t] : upper;
      for (int64_t k = 0; k < left.depth; k += 64, panel += 16 * kPanelRow, next += fetch) {
        ZENITH_TILE_LOAD(6, panel, kPanelRow);
        ZENITH_TILE_LOAD(4, upper + k, row);
        ZENITH_TILE_MULTIPLY(tdpbusd, 0, 4, 6);
        ZENITH_TILE_LOAD(7, panel + 64, kPanelRow);
        ZENITH_TILE_MULTIPLY(tdpbusd, 1, 4, 7);
        if constexpr (kTwo) {
          ZENITH_TILE_LOAD(5, lower + k, row);
          ZENITH_TILE_MULTIPLY(tdpbusd, 2, 5, 6);
          ZENITH_TILE_MULTIPLY(tdpbusd, 3, 5, 7);
        }
        for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(next + i, 0, 2);
      }
    }
    ZENITH_TILE_STORE(0, sums, kPanelRow);
    ZENITH_TILE_STORE(1, sums + 16, kPanelRow);
    if constexpr (kTwo) {
      ZENITH_TILE_STORE(2, sums + 16 * kCols, kPanelRow);
      ZENITH_TILE_STORE(3, sums + 16 * kCols + 16, kPanelRow);
    }
  }
};
[[maybe_unused]] const char* const kInt8Tile = "32x32";

}  // namespace
}  // namespace zenith::ZENITH_ISA
