// Products of many rows of bytes with packed weights, cut into tasks, blocks and tiles.
//
// Note [Lines of rows]: rows are the lines of an image, or of one that is as high as there are rows
// and one wide. They are read where they lie, or from a copy of a block of lines with the border
// that a filter needs; a row is a few pieces of it, one for each row of the filter. A tile wants
// its rows at one distance: pixels of a line are that, and those of neighbouring lines as well, if
// the columns between them are computed too and dropped.
#pragma once

#include "cpu/kernels/int8/finish.h"
#include "cpu/kernels/int8/micro.h"

namespace zenith::ZENITH_ISA {
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t kTileRows = kParts * kPartRows;

// What a row consists of: `taps` pieces of `length` elements, `depth` with those of weight zero.
struct RowPieces {
  int64_t taps, length, depth;

  RowPieces(int64_t count, int64_t of_length)
      : taps(count), length(of_length), depth(round_up(of_length, kDepthStep)) {}
  int64_t panel() const { return taps * depth * kCols; }  // elements
};
// Columns that are neighbours are one piece.
inline RowPieces filter_pieces(int64_t kh, int64_t kw, int64_t column_dilation, int64_t channels) {
  return column_dilation == 1 ? RowPieces(kh, kw * channels) : RowPieces(kh * kw, channels);
}

// `groups` products, side by side in the columns of y. A block does not leave a `unit` of lines.
struct Product {
  int64_t lines, width, unit;
  int64_t n, groups;
  RowPieces pieces;
  bool copied;
  int64_t first_line, next_line;  // elements under one line, and under each further one

  int64_t panels() const { return ceil_div(n, kCols); }
  int64_t copy_elements(int64_t count) const {
    return first_line + (count - 1) * next_line + kDepthStep;
  }
};

// Tasks are blocks of lines times ranges of panels.
struct Cut {
  int64_t block, blocks, ranges = 1;

  Cut(const Product& p, int threads) {
    // A block of the left side stays in L2 beside a panel.
    constexpr int64_t kBlockBytes = 384 << 10, kBlockRows = 1024;
    // Products below this are not worth a task, more than this many tasks per worker not either.
    constexpr int64_t kLeastWork = 1 << 20, kTasks = 4;
    const int64_t units = p.lines / p.unit, tile_lines = ceil_div(kTileRows, p.width);
    const int64_t bytes = most(1, p.next_line) * static_cast<int64_t>(sizeof(Left));
    const int64_t limit = most(least(kBlockBytes / bytes, kBlockRows / p.width), 2 * tile_lines);
    int64_t pieces = ceil_div(p.unit, limit);
    const int64_t depth = p.pieces.taps * most(1, p.pieces.length);
    const int64_t work = p.lines * p.width * p.n * depth * p.groups / kLeastWork;
    const int64_t wanted = threads == 1 ? 1 : least(kTasks * threads, work);
    const int64_t each = p.groups * units, missing = ceil_div(wanted, each * pieces);
    if (missing > 1) {
      // Every range of panels reads all rows, and every block all weights: the larger of the two is
      // cut. What is copied is written, too.
      const int64_t left = p.lines * p.next_line * (p.copied ? 2 : 1);
      if (left > p.n * depth) pieces = least(pieces * missing, ceil_div(p.unit, 2 * tile_lines));
      ranges = least(p.panels(), ceil_div(wanted, each * pieces));
      const int64_t still = ceil_div(wanted, each * pieces * ranges);
      if (still > 1) pieces = least(pieces * still, ceil_div(p.unit, tile_lines));
    }
    block = ceil_div(p.unit, most(1, pieces));
    if (p.width == 1) block = round_up(block, kTileRows);
    // Larger ones may be shared out more evenly.
    const int64_t step = p.width == 1 ? kTileRows : 1;
    const auto blocks_of = [&](int64_t size) { return ceil_div(p.unit, size) * units; };
    const auto load_of = [&](int64_t size) {
      return ceil_div(blocks_of(size) * p.groups * ranges, threads) * size;
    };
    int64_t best = block;
    for (int64_t more = block + step; more <= least(2 * block, most(limit, block)); more += step) {
      if (load_of(more) < load_of(best)) best = more;
    }
    block = best;
    blocks = blocks_of(block);
  }
};

// Rows of a block where they lie: row `col` of `line` is at from + line * line_step + col * row.
struct Grid {
  const Left* from;
  int64_t lines, width, row, line_step;
  const Left* end;  // behind what may be read, null if all that is asked for may
};

// Neighbouring rows of a grid, at one distance. `col` may be behind the end of the line.
struct Run {
  const Left* from;
  int64_t line, col, rows;
};

// What a worker keeps from task to task: the block it copied, and where its rows are.
struct Held {
  int64_t block;  // -1 for none
  int64_t first;  // row of the product
  int64_t width, columns, row;
  int64_t runs, tiles, in_place;  // tiles from `in_place` on are copied
};

struct Scratch {
  int64_t runs, copy, tail, bytes;     // where they begin in the memory of a worker
  static constexpr int64_t kTail = 2;  // tiles

  Scratch(const Product& p, const Cut& cut) {
    const int64_t size = static_cast<int64_t>(sizeof(Left));
    runs = round_up(static_cast<int64_t>(sizeof(Held)), 64);
    copy =
        runs +
        round_up(cut.block * ceil_div(p.width, kPartRows) * static_cast<int64_t>(sizeof(Run)), 64);
    tail = copy + (p.copied ? round_up(p.copy_elements(cut.block) * size, 64) : 0);
    bytes = tail + (p.copied ? 0 : round_up(kTail * kTileRows * p.pieces.depth * size, 64));
  }
};
inline int64_t product_scratch(const Call& call, const Product& p) {
  if (p.lines == 0) return 0;
  return call.parallel.threads * Scratch(p, Cut(p, call.parallel.threads)).bytes;
}

// Cuts the rows of a grid into runs.
inline void cut_runs(Grid g, Run* runs, Held& held) {
  if (g.line_step == g.width * g.row) g.width *= g.lines, g.lines = 1;
  const int64_t parts = ceil_div(g.width, kPartRows);
  const int64_t columns = g.lines == 1 ? g.width : g.line_step / most(1, g.row);
  const int64_t all = (g.lines - 1) * columns + g.width;
  int64_t& n = held.runs;
  n = 0, held.width = g.width, held.columns = columns, held.row = g.row;
  const auto cost = [](int64_t tiles, int64_t rows) { return tiles * kTileCost + rows * kRowCost; };
  if (columns * g.row == g.line_step &&
      cost(ceil_div(all, kPartRows), all) < cost(g.lines * parts, g.lines * g.width)) {
    for (int64_t i = 0; i < all; i += kPartRows) {
      runs[n++] = {g.from + i * g.row, i / columns, i % columns, least(kPartRows, all - i)};
    }
    return;
  }
  // Where a tile costs what its rows do, full ones first.
  const int64_t rest = g.width % kPartRows;
  int64_t full = kRowCost > 0 ? g.width / kPartRows : 0;
  if (full > 0 && rest > 0 && 2 * rest < kPartRows) --full;
  const auto begins = [&](int64_t part) {
    const int64_t behind = part - full, first = least(part, full) * kPartRows;
    return behind <= 0 ? first : first + (g.width - first) * behind / (parts - full);
  };
  for (int64_t line = 0; line < g.lines; ++line) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = begins(part), end = begins(part + 1);
      runs[n++] = {g.from + line * g.line_step + begin * g.row, line, begin, end - begin};
    }
  }
}

// Tiles that would read behind the end of the left side, a few of its last rows: copied.
inline void copy_tail(const Product& p, const Left* end, const Run* runs, Held& held, Left* tail) {
  const int64_t depth = p.pieces.depth;
  held.tiles = ceil_div(held.runs, kParts), held.in_place = held.tiles;
  if (end == nullptr) return;
  while (held.in_place > 0) {
    const Run& last = runs[least(held.runs, held.in_place * kParts) - 1];
    if (end - (last.from + (last.rows - 1) * held.row) >= depth) break;
    --held.in_place;
  }
  for (int64_t i = held.in_place * kParts; i < held.runs; ++i) {
    Left* to = tail + (i - held.in_place * kParts) * kPartRows * depth;
    for (int64_t r = 0; r < runs[i].rows; ++r) {
      std::memcpy(to + r * depth, runs[i].from + r * held.row,
                  static_cast<size_t>(p.pieces.length) * sizeof(Left));
    }
  }
}

// The border of zeros above and below an image: what its rows are multiplied by does not matter.
struct ZeroBorder {
  int64_t lines, step, before;             // of results of an image; in lines of it; of the border
  int64_t height, rows, dilation, of_row;  // of the image; of the filter, and pieces of one

  struct Range {
    int64_t begin, end;
  };
  // Pieces of a row of results of `line` that see the image.
  Range pieces(int64_t line) const {
    const int64_t top = line % lines * step - before;
    const int64_t begin = top < 0 ? least(rows, ceil_div(-top, dilation)) : 0;
    const int64_t end = least(rows, ceil_div(most(0, height - top), dilation));
    return {begin * of_row, most(begin, end) * of_row};
  }
};

// The rows of a worker's block times panels [begin, end) of group g.
struct BlockProduct {
  const Product& p;
  const int64_t* offsets;  // of the pieces of a row
  const Finish& finish;
  const Held& held;
  const Run* runs;
  const Left* tail;
  const ZeroBorder* border;  // or null

  void run(const Right* weights, int64_t g, int64_t begin, int64_t end) const;
};

// place(g, line, count, copy): the grid of `count` lines of group g from `line` on, copied there if
// they are. offsets: of the pieces of a row.
template <typename Place>
void run_product(const Call& call, const Product& p, const int64_t* offsets, char* scratch,
                 const Place& place, const Finish& finish, const ZeroBorder* border = nullptr) {
  const Cut cut(p, call.parallel.threads);
  const Scratch parts(p, cut);
  const int64_t of_unit = ceil_div(p.unit, cut.block);
  for (int worker = 0; worker < call.parallel.threads; ++worker) {
    reinterpret_cast<Held*>(scratch + worker * parts.bytes)->block = -1;
  }
  parallel_for(call, p.groups * cut.blocks * cut.ranges, [&](int64_t task, int worker) {
    char* memory = scratch + worker * parts.bytes;
    Held& held = *reinterpret_cast<Held*>(memory);
    Run* runs = reinterpret_cast<Run*>(memory + parts.runs);
    Left* tail = reinterpret_cast<Left*>(memory + parts.tail);
    const int64_t range = task % cut.ranges, block = task / cut.ranges, g = block / cut.blocks;
    if (held.block != block) {
      const int64_t at = block % cut.blocks, in_unit = at % of_unit * cut.block;
      const int64_t line = at / of_unit * p.unit + in_unit;
      const int64_t count = least(cut.block, p.unit - in_unit);
      const Grid grid = place(g, line, count, reinterpret_cast<Left*>(memory + parts.copy));
      cut_runs(grid, runs, held);
      copy_tail(p, grid.end, runs, held, tail);
      held.first = line * p.width, held.block = block;
    }
    BlockProduct{p, offsets, finish, held, runs, tail, border}.run(
        static_cast<const Right*>(call.in[1].data), g, p.panels() * range / cut.ranges,
        p.panels() * (range + 1) / cut.ranges);
  });
}

// Whether rows of `length` bytes are read where they lie: the few behind the end are copied.
inline bool in_place_pays(int64_t rows, int64_t length) {
  return length % kDepthStep == 0 || (rows > 2 * kTileRows && length >= kDepthStep / 4);
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

}  // namespace zenith::ZENITH_ISA
