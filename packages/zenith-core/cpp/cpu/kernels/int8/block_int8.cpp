// A block of rows times a range of panels, tile by tile.
#include "cpu/kernels/int8/rows.h"

namespace zenith::ZENITH_ISA {
namespace {

// Where a tile is among the channels and in y.
struct Channels {
  int64_t g, channel, cols;
};

// Results of a run, without those of the columns between lines.
void store(const BlockProduct& b, const Run& run, int32_t* sums, const Channels& c) {
  int64_t line = run.line, col = run.col;
  for (int64_t r = 0; r < run.rows;) {
    const int64_t count = least(b.held.width - col, run.rows - r);
    if (count > 0) {
      b.finish.tile<kCols>(sums + r * kCols, c.g, c.channel,
                           b.held.first + line * b.held.width + col, c.g * b.p.n + c.channel, count,
                           c.cols);
    }
    r += b.held.columns - col;
    ++line, col = 0;
  }
}

template <typename Tiles>
void multiply_tile(const BlockProduct& b, Tiles& tiles, int64_t t, const Right* panel,
                   const Ahead& ahead, const Channels& c) {
  const Run* runs = b.runs + t * kParts;
  const int64_t depth = b.p.pieces.depth, copied = t - b.held.in_place;
  LeftTile<Left, kParts> left{
      {}, {}, copied < 0 ? b.held.row : depth, b.offsets, b.p.pieces.taps, depth, c.cols};
  const int64_t used = least(kParts, b.held.runs - t * kParts);
  for (int64_t part = 0; part < used; ++part) {
    left.part[part] =
        copied < 0 ? runs[part].from : b.tail + (copied * kParts + part) * kPartRows * depth;
    left.rows[part] = runs[part].rows;
    const int64_t first = b.held.first + runs[part].line * b.held.width + runs[part].col;
    b.finish.fetch(first, c.g * b.p.n + c.channel, runs[part].rows);
  }
  const int64_t row = b.held.first + runs->line * b.held.width + runs->col;
  const bool all_kept = runs->col + runs->rows <= b.held.width;
  if constexpr (kParts == 1) {
    const int64_t line = row / b.p.width;
    if (b.border != nullptr && all_kept && line == (row + runs->rows - 1) / b.p.width) {
      const ZeroBorder::Range seen = b.border->pieces(line);
      left.offsets += seen.begin, left.taps = seen.end - seen.begin;
      panel += seen.begin * depth * kCols;
    }
  }
  if constexpr (requires { tiles.packs(left); }) {
    if (tiles.packs(left) && b.finish.packs_tiles() && all_kept) {
      tiles.pack(left, panel, ahead,
                 {b.finish, c.g * b.finish.group_stride + c.channel, row, c.g * b.p.n + c.channel});
      return;
    }
  }
  alignas(64) int32_t sums[kTileRows * kCols];
  tiles.multiply(left, panel, ahead, sums);
  for (int64_t part = 0; part < used; ++part) {
    store(b, runs[part], sums + part * kPartRows * kCols, c);
  }
}

}  // namespace

void BlockProduct::run(const Right* weights, int64_t g, int64_t begin, int64_t end) const {
  constexpr int64_t kNearBytes = 128 << 10;
  const int64_t panel_size = p.pieces.panel(), count = end - begin;
  const int64_t bytes = panel_size * static_cast<int64_t>(sizeof(Right));
  // Few weights stay near: then results are written row by row, else panel by panel, and tiles
  // fetch the next panel, slice by slice.
  const bool by_rows = count * bytes <= kNearBytes;
  const int64_t slice = by_rows ? 0 : bytes / held.tiles;
  weights += (g * p.panels() + begin) * panel_size;
  TileProduct tiles(p.pieces.length);
  const auto one = [&](int64_t j, int64_t t) {
    const Right* panel = weights + j * panel_size;
    const char* next = reinterpret_cast<const char*>(j + 1 < count ? panel + panel_size : panel);
    const int64_t channel = (begin + j) * kCols;
    multiply_tile(*this, tiles, t, panel, {next + t * slice, slice},
                  {g, channel, least(kCols, p.n - channel)});
  };
  const int64_t outer = by_rows ? held.tiles : count, inner = by_rows ? count : held.tiles;
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t k = 0; k < inner; ++k) by_rows ? one(k, i) : one(i, k);
  }
}

}  // namespace zenith::ZENITH_ISA
