// The product of the int8 family with AMX tiles (micro.h). The process has been allowed to use them
// when the instruction set is chosen (isa/registry.cpp).
#pragma once

#include "cpu/isa/simd.h"
#include "cpu/isa/tiles.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

using Left = uint8_t;
using Right = int8_t;
constexpr int64_t kGroup = 4, kDepthStep = 64;
constexpr int kCols = 32;
constexpr int64_t kTileRows = 32;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tiles 0..3 are sums [2][2], 4 and 5 rows of the left side, 6 and 7 columns of the panel.

class TileProduct {
 public:
  TileProduct() = default;
  TileProduct(const TileProduct&) = delete;
  TileProduct& operator=(const TileProduct&) = delete;
  ~TileProduct() {
    if (configured_ != 0) _tile_release();
  }

  void multiply(const Left* a, int64_t a_row, int64_t rows, int64_t depth, const Right* panel,
                const char* ahead, int32_t* sums) {
    if (configured_ != rows) configure(rows);
    if (rows > 16) {
      multiply_rows<true>(a, a_row, depth, panel, ahead, sums);
    } else {
      multiply_rows<false>(a, a_row, depth, panel, ahead, sums);
    }
  }

 private:
  int64_t configured_ = 0;  // rows

  void configure(int64_t rows) {
    TileConfig config;
    const int first = static_cast<int>(rows < 16 ? rows : 16);
    const int second = static_cast<int>(rows) - first;
    for (int tile = 0; tile < 8; ++tile) {
      const bool lower = tile == 2 || tile == 3 || tile == 5;
      const int used = tile >= 6 ? 16 : lower ? second : first;
      if (used > 0) config.set(tile, used, 64);
    }
    load_tiles(config);
    configured_ = rows;
  }

  template <bool kTwo>
  void multiply_rows(const Left* a, int64_t a_row, int64_t depth, const Right* panel,
                     const char* ahead, int32_t* sums) {
    constexpr int64_t kPanelRow = kCols * 4;
    ZENITH_TILE_ZERO(0);
    ZENITH_TILE_ZERO(1);
    if constexpr (kTwo) {
      ZENITH_TILE_ZERO(2);
      ZENITH_TILE_ZERO(3);
    }
    const Left* lower = a + 16 * a_row;
    for (int64_t k = 0; k < depth; k += 64, a += 64, lower += 64, panel += 16 * kPanelRow) {
      ZENITH_TILE_LOAD(6, panel, kPanelRow);
      ZENITH_TILE_LOAD(4, a, a_row);
      ZENITH_TILE_MULTIPLY(tdpbusd, 0, 4, 6);
      ZENITH_TILE_LOAD(7, panel + 64, kPanelRow);
      ZENITH_TILE_MULTIPLY(tdpbusd, 1, 4, 7);
      if constexpr (kTwo) {
        ZENITH_TILE_LOAD(5, lower, a_row);
        ZENITH_TILE_MULTIPLY(tdpbusd, 2, 5, 6);
        ZENITH_TILE_MULTIPLY(tdpbusd, 3, 5, 7);
      }
      for (int i = 0; i < 8; ++i, ahead += 64) __builtin_prefetch(ahead, 0, 2);
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
