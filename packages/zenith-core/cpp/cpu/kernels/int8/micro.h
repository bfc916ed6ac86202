// The innermost product of the int8 family: a few rows of bytes times one packed panel of weights.
//
// Note [Panels of bytes]: weights [K, N] are packed as [ceil(N / kCols)][K /
// kGroup][kCols][kGroup]. K is made of pieces, each padded with zeros to a multiple of kDepthStep:
// one for a matrix, and for a filter its rows (or its taps, where columns are dilated). An
// instruction set multiplies groups of kGroup neighbours along K and adds them up in 32 bits; all
// sums are exact and wrap around at 32 bits.
//   avx512_vnni  u8 x s8, four at a time (vpdpbusd), 14 x 32 sums in registers
//   amx          u8 x s8, tiles of 16 x 64 bytes (tdpbusd), 32 x 32 sums
//   the others   16-bit pairs (vpmaddwd): u8 x s8 pairs would saturate at 16 bits (vpmaddubsw)
//
// Left is the type of a left element as the product reads it. What is read behind the end of a
// piece, up to the next step, meets weights of zero.
#pragma once

#if defined(__AMX_INT8__) && ZENITH_VEC_BYTES == 64
#include "cpu/kernels/int8/micro_amx.h"
#elif defined(__AVX512VNNI__) && ZENITH_VEC_BYTES == 64
#include "cpu/kernels/int8/micro_vnni.h"
#else
#include "cpu/kernels/int8/left.h"
#include "cpu/kernels/quantize/pairs.h"

namespace zenith::ZENITH_ISA {
namespace {

using Left = int16_t;
using Right = int16_t;
constexpr int64_t kGroup = 2, kDepthStep = 2;
constexpr int64_t kParts = 1, kPartRows = kRows;
// Of a tile and of each of its rows, in no unit.
constexpr int64_t kTileCost = 2, kRowCost = 1;

// Scope in which tiles are computed, one per task.
struct TileProduct {
  explicit TileProduct(int64_t) {}
  // sums[rows][kCols] = the rows of a tile times one panel.
  void multiply(const LeftTile<Left, kParts>& left, const Right* panel, const Ahead&,
                int32_t* sums) {
    multiply_pairs(left.part[0], left.row, left.rows[0], {left.offsets, left.taps, left.depth / 2},
                   panel, sums);
  }
};
[[maybe_unused]] const char* const kInt8Tile = kLanes == 16 ? "8x32" : kLanes == 8 ? "4x16" : "4x8";

}  // namespace
}  // namespace zenith::ZENITH_ISA
#endif
