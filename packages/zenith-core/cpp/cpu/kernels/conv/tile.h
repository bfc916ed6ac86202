// The register tile of a product with packed weights: kTileRows output pixels times kTileVecs
// vectors of output channels. Rows of the left side are found through pointers, so one tile serves
// 1x1, kxk with borders, strides, groups and the products of Winograd's algorithm.
#pragma once

#include "cpu/kernels/conv/conv.h"

namespace zenith {

// How a tile ends.
struct TileEnd {
  const float* bias;  // whole vectors
  const float* add;   // at the tile's first element, or null
  int64_t add_row;
  float lo, hi;
};

namespace ZENITH_ISA {

// The left side of one tile: `count` pieces of `length` values. Piece s of row r starts at
// rows[s * tile rows + r] and multiplies the weights from depth ids[s] * length on.
struct Pieces {
  const float* const* rows;
  const int32_t* ids;
  int64_t count;
  int64_t length;
  const float* ahead;  // a slice of what comes next
};

using TileFn = void (*)(const Pieces&, const float*, const TileEnd&, float*, int64_t, int64_t);

// The tile of `rows` pixels and `vecs` vectors.
TileFn tile_fn(int64_t rows, int64_t vecs);

// Of one or two vectors, the tile of two whole ones in a row: a piece is found through its first
// row, the only one in the table. All of it lies in memory, since the sums leave no register.
struct LongTile {
  Pieces left;
  int64_t distance;    // between rows
  const float* panel;  // from the first of the tile's channels on
  int64_t width;       // channels of the panel, of which the tile may be a part
  TileEnd end;
  float* y;
  int64_t ldy, cols;
};
using LongTileFn = void (*)(const LongTile&);
// Null where the registers do not hold it.
LongTileFn long_tile_fn(int64_t vecs);

namespace {

// 32 vector registers hold 7x4 sums, 16 hold 6x2; both leave general registers for the pointers.
constexpr int kTileRows = kLanes == 16 ? 7 : 6;
constexpr int kTileVecs = kLanes == 16 ? 4 : 2;
constexpr int64_t kPanel = kTileVecs * kLanes;
constexpr int kUnroll = 4;  // steps of a product between two tests for its end

// Weights of one group: panels of kPanel output channels, [depth][kPanel] each; the last panel has
// only as many vectors as its channels need.
inline int64_t packed_floats(int64_t depth, int64_t channels) {
  return depth * round_up(channels, kLanes);
}

// Note [Ahead]: weights come from far, and a panel is long gone when a net is run again. So each
// tile fetches a slice of the panel that its worker multiplies by next.
constexpr int64_t kLine = 16;                   // floats of a cache line
constexpr int64_t kAheadLines = kTileVecs / 2;  // fetched in kUnroll steps

// Slice `tile` of what comes next, `floats` long, for tiles of `depth` steps; the last one again
// when all is fetched.
inline const float* ahead_slice(const float* next, int64_t floats, int64_t depth, int64_t tile) {
  const int64_t slice = depth / kUnroll * kAheadLines * kLine;
  return slice == 0 ? next : next + least(tile, floats / slice - (floats >= slice)) * slice;
}

// `rows` as tiles of nearly equal height: tile i has rows [begin(i), begin(i + 1)).
struct RowTiles {
  int64_t rows, count;
  explicit RowTiles(int64_t r) : rows(r), count(ceil_div(r, kTileRows)) {}
  int64_t begin(int64_t i) const { return rows * i / count; }
};

constexpr int kMostRows = 8;

struct Taps {
  int64_t rows, cols;  // pieces of one output pixel
  int64_t length;      // values in a piece
};

// Pointers and piece numbers of one tile. A piece that is outside x for all rows is left out.
[[maybe_unused]] int64_t fill_tile(const ConvShape& s, const Taps& taps, const float* x,
                                   const float* zeros, int64_t first, int64_t rows,
                                   const float** table, int32_t* ids) {
  int64_t top[kMostRows], left[kMostRows];
  const float* from[kMostRows];  // where the first piece of a row would be
  int64_t line = first / s.ow, col = first - line * s.ow;
  int64_t image = line / s.oh, row = line - image * s.oh;
  bool inside = true;
  for (int64_t r = 0; r < rows; ++r) {
    top[r] = row * s.sh - s.ph;
    left[r] = col * s.sw - s.pw;
    from[r] = x + image * s.xn;
    inside = inside && top[r] >= 0 && top[r] + (taps.rows - 1) * s.dh < s.h && left[r] >= 0 &&
             left[r] + (taps.cols - 1) * s.dw < s.w;
    if (++col == s.ow) {
      col = 0;
      if (++row == s.oh) row = 0, ++image;
    }
  }
  int64_t count = 0;
  if (inside) {
    for (int64_t r = 0; r < rows; ++r) from[r] += top[r] * s.xh + left[r] * s.xw;
    for (int64_t i = 0; i < taps.rows; ++i) {
      for (int64_t j = 0; j < taps.cols; ++j, ++count) {
        const int64_t step = i * s.dh * s.xh + j * s.dw * s.xw;
        for (int64_t r = 0; r < rows; ++r) table[count * rows + r] = from[r] + step;
        ids[count] = static_cast<int32_t>(count);
      }
    }
    return count;
  }
  for (int64_t i = 0; i < taps.rows; ++i) {
    for (int64_t j = 0; j < taps.cols; ++j) {
      bool any = false;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t ih = top[r] + i * s.dh, iw = left[r] + j * s.dw;
        const bool exists = ih >= 0 && ih < s.h && iw >= 0 && iw < s.w;
        any = any || exists;
        table[count * rows + r] = exists ? from[r] + ih * s.xh + iw * s.xw : zeros;
      }
      if (any) ids[count++] = static_cast<int32_t>(i * taps.cols + j);
    }
  }
  return count;
}

}  // namespace
}  // namespace ZENITH_ISA
}  // namespace zenith
