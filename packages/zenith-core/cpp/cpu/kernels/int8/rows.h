// Products of many rows of bytes with packed weights, cut into tasks and blocks.
#pragma once

#include "cpu/kernels/int8/finish.h"
#include "cpu/kernels/int8/micro.h"

namespace zenith::ZENITH_ISA {
namespace {

inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Elements of packed weights [depth, n].
inline int64_t panel_elements(int64_t depth) { return round_up(depth, kDepthStep) * kCols; }
inline int64_t packed_elements(int64_t depth, int64_t n) {
  return ceil_div(n, kCols) * panel_elements(depth);
}

// `groups` products [rows, depth] x [depth, n], side by side in the columns of y.
struct Product {
  int64_t rows, depth, n, groups;
  bool copied;  // rows of the left side are written to scratch; else they are bytes in place

  int64_t panels() const { return ceil_div(n, kCols); }
  int64_t padded() const { return round_up(depth, kDepthStep); }
};

// Tasks are blocks of rows times ranges of panels.
struct Blocks {
  int64_t rows, count;  // of a block; how many
  int64_t ranges;

  Blocks(const Product& p, int threads) {
    // A block of the left side stays in L2 beside a panel.
    constexpr int64_t kBlockBytes = 384 << 10;
    // Products below this are not worth a task, more than this many tasks per worker not either.
    constexpr int64_t kLeastWork = 1 << 20, kTasks = 4;
    const int64_t bytes = most(1, p.padded()) * static_cast<int64_t>(sizeof(Left));
    const int64_t limit = least(most(kBlockBytes / bytes, 2 * kTileRows), 1024);
    count = most(1, ceil_div(p.rows, limit / kTileRows * kTileRows));
    ranges = 1;
    const int64_t work = p.rows * p.n * most(1, p.depth) * p.groups / kLeastWork;
    const int64_t wanted = threads == 1 ? 1 : least(kTasks * threads, work);
    const int64_t missing = ceil_div(wanted, p.groups * count);
    if (missing > 1) {
      // Every range of panels reads all rows, and every block all weights: the larger of the two is
      // cut. Copies would be made once per range, so they are cut by rows too, down to a few tiles.
      if (p.copied || p.rows > p.n) {
        count = least(count * missing, ceil_div(p.rows, 2 * kTileRows));
      }
      ranges = least(p.panels(), ceil_div(wanted, p.groups * count));
      const int64_t still = ceil_div(wanted, p.groups * count * ranges);
      if (still > 1) count = least(count * still, ceil_div(p.rows, kTileRows));
    }
    count = most(1, count);
    rows = round_up(ceil_div(p.rows, count), kTileRows);
    count = ceil_div(p.rows, most(1, rows));
  }
};

// Whether rows of `depth` bytes are read where they lie: the few behind the end would be copied.
inline bool in_place_pays(int64_t rows, int64_t depth) {
  return depth % kDepthStep == 0 || (rows > 2 * kTileRows && depth >= kDepthStep / 4);
}
// A worker's copy of a block, or of a last tile.
inline int64_t left_bytes(const Product& p, const Blocks& b) {
  const int64_t rows = p.copied ? b.rows : kTileRows;
  return round_up(rows * p.padded() * static_cast<int64_t>(sizeof(Left)), 64);
}
inline int64_t rows_scratch(const Call& call, const Product& p) {
  return call.parallel.threads * left_bytes(p, Blocks(p, call.parallel.threads));
}

// A left side in place. Tiles read its rows up to p.padded(), into the next row, which weights of
// zero take out; those of the last rows, which have nothing behind them, are copied.
struct InPlace {
  const uint8_t* data;
  int64_t row;

  int64_t safe_rows(const Product& p) const {
    const int64_t over = p.padded() - p.depth;
    return over == 0 ? p.rows : most(0, p.rows - ceil_div(over, most(1, row)));
  }
};

// in_place: where uncopied rows lie. fill(g, row, to): p.depth elements of a row of group g; what
// is behind them may be anything.
template <typename Fill>
void run_rows_product(const Call& call, const Product& p, const InPlace& in_place, const Fill& fill,
                      const Finish& finish) {
  const Blocks blocks(p, call.parallel.threads);
  const Right* weights = static_cast<const Right*>(call.in[1].data);
  const int64_t depth = p.padded(), panels = p.panels(), bytes = left_bytes(p, blocks);
  const int64_t safe = p.copied ? p.rows : in_place.safe_rows(p);
  parallel_for(call, p.groups * blocks.count * blocks.ranges, [&](int64_t task, int worker) {
    const int64_t range = task % blocks.ranges, g = task / blocks.ranges / blocks.count;
    const int64_t first = task / blocks.ranges % blocks.count * blocks.rows;
    const int64_t rows = least(blocks.rows, p.rows - first);
    // The copy: of all rows of the block, or of the last tile's if those cannot be read in place.
    Left* copy = reinterpret_cast<Left*>(call.scratch + worker * bytes);
    const int64_t last = (rows - 1) / kTileRows * kTileRows;
    const int64_t copied = p.copied ? 0 : first + rows > safe ? last : rows;
    for (int64_t i = copied; i < rows; ++i) fill(g, first + i, copy + (i - copied) * depth);
    TileProduct tiles;
    alignas(64) int32_t sums[kTileRows * kCols];
    const Right* panel = weights + g * packed_elements(p.depth, p.n);
    const int64_t end = panels * (range + 1) / blocks.ranges;
    for (int64_t j = panels * range / blocks.ranges; j < end; ++j) {
      const int64_t channel = j * kCols, cols = least(kCols, p.n - channel);
      const Right* from = panel + j * panel_elements(p.depth);
      // Tiles fetch the next panel, slice by slice.
      const char* ahead =
          reinterpret_cast<const char*>(j + 1 < panels ? from + depth * kCols : from);
      const int64_t slice =
          depth * kCols * static_cast<int64_t>(sizeof(Right)) / most(1, ceil_div(rows, kTileRows));
      for (int64_t i = 0, t = 0; i < rows; i += kTileRows, ++t) {
        const int64_t count = least(kTileRows, rows - i);
        const bool there = i < copied;
        const Left* left =
            there ? reinterpret_cast<const Left*>(in_place.data + (first + i) * in_place.row)
                  : copy + (i - copied) * depth;
        tiles.multiply(left, there ? in_place.row : depth, count, depth, from, ahead + t * slice,
                       sums);
        finish.tile<kCols>(sums, g, channel, first + i, g * p.n + channel, count, cols);
      }
    }
  });
}

// Bytes as the product reads them; signed ones with 128 added.
inline void copy_bytes(const uint8_t* from, int64_t n, uint8_t flip, Left* to) {
  if constexpr (sizeof(Left) == 1) {
    if (flip == 0) {
      std::memcpy(to, from, static_cast<size_t>(n));
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<Left>(static_cast<uint8_t>(from[i] ^ flip));
}
inline uint8_t flip_of(DType dtype) { return dtype == DType::kI8 ? 0x80 : 0; }

}  // namespace
}  // namespace zenith::ZENITH_ISA
