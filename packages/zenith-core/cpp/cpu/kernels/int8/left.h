// The left side of a product of the int8 family, as the innermost products read it.
#pragma once

#include <cstdint>

#include "cpu/isa/simd.h"

namespace zenith::ZENITH_ISA {
namespace {

// Rows that are multiplied together, in kParts parts of neighbours `row` elements apart; the first
// part has some. A row is `taps` pieces of `depth` elements, whole steps, at `offsets` from where
// it begins.
template <typename T, int kParts>
struct LeftTile {
  const T* part[kParts];
  int64_t rows[kParts];
  int64_t row;
  const int64_t* offsets;
  int64_t taps, depth;
  int64_t cols;  // of the panel that are asked for
};

// `bytes` from `from` on are fetched during a tile.
struct Ahead {
  const char* from;
  int64_t bytes;
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
