// Convolution of bfloat16 images, float32 sums: output pixels times packed weights (Note [Pair
// panels]), each row of the left side a few pieces of the image, one per tap of the kernel.
//
// Note [Lines]: a tile wants its rows at one distance. Pixels of one output row are that for every
// tap, as long as no border is met, so tiles are cut from output rows, and taps are read
//   in place    where all of them are inside, and channels fill whole steps; if x is a matrix of
//               pixels (a 1x1 kernel), lines are as long as a tile
//   from a halo else: the rows under a block of lines are copied with their border of zeros, and
//               with channels filled up to whole steps. Its pixels are one sequence from line to
//               line: where that makes fewer parts, they are cut from it, and what lies between two
//               lines is computed too and left out
// Lines of y may lie further apart than their pixels fill (rows of a transposed convolution, one of
// several), by whole pixels, where no image is added.
// Of few channels, those of neighbouring columns lie together and the taps of a row are one piece.
#include "cpu/kernels/conv/conv.h"
#include "cpu/kernels/conv/depth_bf16.h"
#include "cpu/kernels/gemm/finish_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

// What is computed, and how it is cut: tasks are groups times blocks of lines times ranges of
// panels. The pointers of `s` are to no floats.
struct Work {
  ConvShape s;
  int64_t x_channel;  // stride
  Depth depth;
  bool in_place = false;
  bool matrix = false;                // pixels of x and y are rows of matrices
  bool through = false;               // parts of a tile go from one line to the next
  int64_t lines, width, image_lines;  // results as lines; how many an image has
  int64_t pitch;                      // pixels of y from line to line
  int64_t columns, row;               // of a halo; from row to row
  int64_t images = 1;                 // that a block may have
  int64_t panels, ranges = 1, block = 1, blocks = 1;

  explicit Work(const Call& call)
      : s(conv_shape(call)),
        x_channel(call.in[0].strides[3]),
        depth(s.kh, s.kw, s.dw, s.c / s.group),
        lines(s.n * s.oh),
        width(s.ow),
        image_lines(s.oh),
        pitch(line_pitch(call.out[0], s)),
        // Padding at the end that no window reaches is not copied.
        columns((s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1),
        row(columns * depth.pixel),
        panels(ceil_div(of_group(), kCols)) {
    if (empty()) return;
    in_place = kReadsInPlace && !depth.joined && depth.padded == depth.length && x_channel == 1 &&
               inside();
    if (in_place) {
      matrix = s.kh * s.kw * s.sh * s.sw == 1 && s.oh == s.h && s.ow == s.w && s.xh == s.w * s.xw &&
               s.xn == s.h * s.xh && pitch == s.ow;
      if (matrix) {
        lines = ceil_div(s.pixels(), kRows);
        // Evenly: tiles of few rows would wait for their sums.
        pitch = width = kWholeParts ? least(kRows, s.pixels()) : ceil_div(s.pixels(), lines);
        lines = ceil_div(s.pixels(), width);
      }
    }
    through = kWholeParts && !in_place && s.sh == s.sw &&
              ceil_div((s.oh - 1) * columns + width, kPartRows) < s.oh * parts();
    cut(call.parallel.threads);
  }

  bool empty() const { return s.pixels() == 0 || s.m == 0; }
  int64_t in_group() const { return s.c / s.group; }
  int64_t of_group() const { return s.m / s.group; }
  int64_t parts() const { return ceil_div(width, kPartRows); }  // of a line
  // Rows of x under `count` lines of one image.
  int64_t rows_under(int64_t count) const { return (count - 1) * s.sh + (s.kh - 1) * s.dh + 1; }
  // Blocks do not leave a unit: images where they are copied.
  int64_t unit() const { return in_place ? lines : images * image_lines; }
  // From a line of the halo to the next, and from an image to the next.
  int64_t halo_line() const { return s.sh * row; }
  int64_t halo_image() const { return rows_under(least(block, image_lines)) * row; }

 private:
  static int64_t line_pitch(const TensorRef& y, const ConvShape& s) {
    const int64_t stride = s.oh > 1 ? y.strides[1] : y.strides[0];
    return s.n * s.oh > 1 ? stride / most(1, s.ldy) : s.ow;
  }
  // Whether every tap of every result is in x.
  bool inside() const {
    return s.ph <= 0 && s.pw <= 0 && (s.oh - 1) * s.sh - s.ph + (s.kh - 1) * s.dh < s.h &&
           (s.ow - 1) * s.sw - s.pw + (s.kw - 1) * s.dw < s.w;
  }

  void cut(int threads) {
    constexpr int64_t kBlockBytes = 512 << 10;  // of the left side, to stay in L2 beside a panel
    constexpr int64_t kHeavyBytes = 256 << 10;  // of weights
    constexpr int64_t kLeastWork = 1 << 21;     // products that are worth a task
    const int64_t line = s.sh * (in_place ? width * s.sw * in_group() : row);
    const int64_t bytes = most(1, line * static_cast<int64_t>(sizeof(APart)));
    const int64_t depth_size = depth.taps * depth.padded;
    const int64_t work = lines * width * s.m * depth_size / kLeastWork;
    // Every task reads its weights anew, the first panel without a fetch ahead: heavy ones are read
    // once per thread.
    const int64_t weights = of_group() * depth_size * 2;
    const int64_t wanted =
        threads == 1 ? 1 : least(weights > kHeavyBytes ? threads : 3 * threads, work);
    // Small images share a reading of the weights, as long as there are enough tasks.
    if (!in_place) {
      const int64_t near = kBlockBytes / (bytes * image_lines);
      images = most(1, least(near, s.n * s.group / most(1, wanted)));
      images = least(s.n, ceil_div(s.n, ceil_div(s.n, images)));
    }
    const int64_t units = ceil_div(lines, unit()) * s.group;
    int64_t pieces = ceil_div(unit(), most(1, kBlockBytes / bytes));
    // Rows are cut first: a core then reads what it wrote itself. Few rows share their weights.
    if (weights > kHeavyBytes && lines * width < 4 * kRows) {
      ranges = most(1, least(panels, ceil_div(wanted, units * pieces)));
    }
    pieces = least(pieces * most(1, ceil_div(wanted, units * pieces * ranges)), unit());
    ranges = most(ranges, least(panels, ceil_div(wanted, units * pieces)));
    block = ceil_div(unit(), pieces);
    blocks = ceil_div(unit(), block) * ceil_div(lines, unit());
  }
};

// Scratch of one worker: runs of a block, offsets of taps, the copied rows.
struct Run {
  const APart* from;
  int64_t pixel, rows;
  int64_t column;  // of the first row in its line
};
struct Scratch {
  int64_t runs, offsets, halo;  // bytes

  explicit Scratch(const Work& w)
      : runs(round_to(w.block * w.parts() * static_cast<int64_t>(sizeof(Run)), 64)),
        offsets(round_to(w.depth.taps * 8, 64)),
        halo(0) {
    const int64_t elements = ceil_div(w.block, w.image_lines) * w.halo_image();
    if (!w.in_place) halo = round_to(elements * static_cast<int64_t>(sizeof(APart)), 64);
  }
  int64_t bytes() const { return runs + offsets + halo; }
};

int64_t scratch(const Call& call) {
  const Work w(call);
  return w.empty() ? 0 : call.parallel.threads * Scratch(w).bytes();
}

[[gnu::always_inline]] inline void take_one(bf16 from, APart* to) {
  if constexpr (sizeof(APart) == sizeof(bf16)) {
    *to = from;
  } else {
    const uint32_t wide = static_cast<uint32_t>(from) << 16;
    std::memcpy(to, &wide, sizeof(wide));
  }
}
void take(const bf16* from, int64_t n, APart* to) {
  if constexpr (sizeof(APart) == sizeof(bf16)) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(bf16));
  } else {
    convert_row(from, n, to);
  }
}

// Pixels of kChannels channels that are planes of x: whole ones are written.
constexpr int kPixel = 4;
template <int kChannels>
void join_planes(const bf16* from, int64_t plane, int64_t count, APart* to) {
  for (int64_t i = 0; i < count; ++i, to += kPixel) {
    if constexpr (sizeof(APart) == sizeof(bf16)) {
      uint64_t pixel = 0;
#pragma GCC unroll 4
      for (int c = 0; c < kChannels; ++c) {
        pixel |= static_cast<uint64_t>(from[c * plane + i]) << 16 * c;
      }
      std::memcpy(to, &pixel, sizeof(pixel));
    } else {
#pragma GCC unroll 4
      for (int c = 0; c < kPixel; ++c) take_one(c < kChannels ? from[c * plane + i] : 0, to + c);
    }
  }
}

// `count` pixels of x to one after the other.
void copy_pixels(const Work& w, const bf16* from, int64_t count, APart* to) {
  const int64_t channels = w.in_group(), step = w.s.xw, pixel = w.depth.pixel;
  if (w.x_channel == 1 && step == channels && pixel == channels) {
    take(from, count * channels, to);
  } else if (w.x_channel == 1 && channels >= kFewChannels) {
    for (int64_t i = 0; i < count; ++i, from += step, to += pixel) {
      take(from, channels, to);
      std::memset(to + channels, 0, static_cast<size_t>(pixel - channels) * sizeof(APart));
    }
  } else if (step == 1 && channels == 3 && pixel == kPixel) {
    join_planes<3>(from, w.x_channel, count, to);
  } else if (step == 1 && channels == 4 && pixel == kPixel) {
    join_planes<4>(from, w.x_channel, count, to);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      const bf16* source = from + c * w.x_channel;
      for (int64_t i = 0; i < count; ++i) take_one(source[i * step], to + i * pixel + c);
    }
    for (int64_t c = channels; c < pixel; ++c) {
      for (int64_t i = 0; i < count; ++i) to[i * pixel + c] = 0;
    }
  }
}

// The rows of x under `count` lines from `line` on, channels of group g, with their border.
void copy_rows(const Work& w, const bf16* x, int64_t g, int64_t line, int64_t count, APart* to) {
  const ConvShape& s = w.s;
  const int64_t image = line / w.image_lines, top = line % w.image_lines * s.sh - s.ph;
  const int64_t begin = least(w.columns, most(0, s.pw));
  const int64_t end = most(begin, least(w.columns, s.w + s.pw));
  x += image * s.xn + g * w.in_group() * w.x_channel + (begin - s.pw) * s.xw;
  const int64_t pixel = w.depth.pixel;
  for (int64_t i = 0; i < w.rows_under(count); ++i, to += w.row) {
    const int64_t ih = top + i;
    const bool there = ih >= 0 && ih < s.h;
    const int64_t from = there ? begin : w.columns, until = there ? end : w.columns;
    std::memset(to, 0, static_cast<size_t>(from * pixel) * sizeof(APart));
    if (until > from) copy_pixels(w, x + ih * s.xh, until - from, to + from * pixel);
    std::memset(to + until * pixel, 0, static_cast<size_t>(w.row - until * pixel) * sizeof(APart));
  }
}

// One task: a range of panels of a block of lines.
class Block {
 public:
  Block(const Call& call, const Work& w, int64_t task, char* memory) : w_(w) {
    range_ = task % w.ranges, group_ = task / w.ranges / w.blocks;
    const int64_t unit = w.unit(), of_unit = ceil_div(unit, w.block);
    const int64_t at = task / w.ranges % w.blocks;
    first_ = at / of_unit * unit + at % of_unit * w.block;
    count_ = least(w.block, least(w.lines, at / of_unit * unit + unit) - first_);
    const Scratch scratch(w);
    runs_ = reinterpret_cast<Run*>(memory);
    offsets_ = reinterpret_cast<int64_t*>(memory + scratch.runs);
    APart* halo = reinterpret_cast<APart*>(memory + scratch.runs + scratch.offsets);
    const bf16* x = static_cast<const bf16*>(call.in[0].data);
    for (int64_t i = 0; !w.in_place && i < count_; i += w.image_lines) {
      APart* to = halo + i / w.image_lines * w.halo_image();
      copy_rows(w, x, group_, first_ + i, least(w.image_lines, count_ - i), to);
    }
    place_taps();
    if (w.through) {
      place_sequences(halo);
    } else {
      place_lines(x, halo);
    }
  }

  void run(const Call& call, const TileFinish& finish) const {
    constexpr int64_t kNearBytes = 128 << 10;
    const int64_t panel_size = w_.depth.panel(), begin = w_.panels * range_ / w_.ranges;
    const int64_t panels = w_.panels * (range_ + 1) / w_.ranges - begin;
    const int64_t tiles = ceil_div(n_runs_, kParts), panel_bytes = panel_size * 2;
    const bf16* weights =
        static_cast<const bf16*>(call.in[1].data) + (group_ * w_.panels + begin) * panel_size;
    alignas(64) float sums[kRows * kCols];
    LeftTile left{{}, {}, row_, offsets_, w_.depth.taps, w_.depth.padded};
    Multiplier multiplier(w_.depth.step);
    // Few weights stay near: then results are written row by row, else panel by panel.
    const bool by_rows = panels * panel_bytes <= kNearBytes;
    for (int64_t i = 0; i < panels * tiles; ++i) {
      const int64_t p = by_rows ? i % panels : i / tiles, t = by_rows ? i / panels : i % tiles;
      const bf16* panel = weights + p * panel_size;
      const int64_t channel = (begin + p) * kCols, cols = least(kCols, w_.of_group() - channel);
      const int64_t first = group_ * w_.of_group() + channel;
      int64_t pixels[kParts] = {};
      const Run* runs = runs_ + t * kParts;
      for (int64_t part = 0; part < kParts; ++part) {
        const bool there = t * kParts + part < n_runs_;
        left.part[part] = there ? runs[part].from : nullptr;
        left.rows[part] = there ? runs[part].rows : 0;
        if (!there) continue;
        pixels[part] = runs[part].pixel;
        each_piece(runs[part],
                   [&](int64_t, int64_t pixel, int64_t rows) { finish.fetch(pixel, first, rows); });
      }
      const char* next = reinterpret_cast<const char*>(p + 1 < panels ? panel + panel_size : panel);
      Ahead ahead{next + panel_bytes * t / tiles, by_rows ? 0 : panel_bytes / tiles};
      // The next rows, where more is read of an image than written.
      if (by_rows && w_.matrix && w_.s.c > w_.s.m && !kWholeParts && t + 1 < tiles) {
        const int64_t bytes = kRows * row_ * static_cast<int64_t>(sizeof(APart));
        ahead = {reinterpret_cast<const char*>(runs[kParts].from) + bytes * p / panels,
                 bytes / panels};
      }
      if (finish.whole(multiplier, left, panel, ahead, pixels, first, cols)) continue;
      multiplier.run(left, panel, sums, kCols, ahead);
      for (int64_t part = 0; part < kParts && left.rows[part] > 0; ++part) {
        each_piece(runs[part], [&](int64_t row, int64_t pixel, int64_t rows) {
          finish.tile(sums + (part * kPartRows + row) * kCols, kCols, pixel, first, rows, cols);
        });
      }
    }
  }

 private:
  // visit(row, pixel, rows): the results among the rows of a run, line by line.
  template <typename F>
  void each_piece(const Run& run, const F& visit) const {
    for (int64_t r = 0, pixel = run.pixel, column = run.column; r < run.rows; column = 0) {
      const int64_t rows = least(run.rows - r, w_.width - column);
      visit(r, pixel, rows);
      r += w_.through ? w_.columns - column : rows, pixel += rows + w_.pitch - w_.width;
    }
  }

  void place_taps() {
    const ConvShape& s = w_.s;
    const int64_t taps = w_.depth.joined ? 1 : s.kw;  // of a row of the kernel
    const int64_t image_row = w_.in_place ? s.xh : w_.row;
    const int64_t pixel_step = w_.in_place ? s.xw : w_.depth.pixel;
    row_ = s.sw * pixel_step;
    for (int64_t t = 0; t < w_.depth.taps; ++t) {
      offsets_[t] = t / taps * s.dh * image_row + t % taps * s.dw * pixel_step;
    }
  }

  const APart* copied_line(const APart* copy, int64_t i) const {
    return copy + i / w_.image_lines * w_.halo_image() + i % w_.image_lines * w_.halo_line();
  }

  // Runs through the lines of an image, none of which begins between two lines.
  void place_sequences(const APart* copy) {
    const int64_t step = w_.columns;
    for (int64_t i = 0; i < count_; i += w_.image_lines) {
      const int64_t n = (least(w_.image_lines, count_ - i) - 1) * step + w_.width;
      for (int64_t at = 0; at < n; at += kPartRows) {
        if (at % step >= w_.width) at = round_to(at, step);
        const int64_t pixel = (first_ + i + at / step) * w_.pitch + at % step;
        runs_[n_runs_++] = {copied_line(copy, i) + at * row_, pixel, least(kPartRows, n - at),
                            at % step};
      }
    }
  }

  // Runs within a line.
  void place_lines(const bf16* x, const APart* copy) {
    const ConvShape& s = w_.s;
    // Of bytes that are no APart, nothing is read in place.
    const APart* in_place = reinterpret_cast<const APart*>(x) + group_ * w_.in_group();
    const int64_t parts = w_.parts(), pixels = s.pixels();
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t line = first_ + i, pixel = line * w_.pitch;
      const int64_t width = least(w_.width, pixels - line * w_.width);
      const APart* from;
      if (w_.matrix) {
        from = in_place + pixel * s.xw;
      } else if (w_.in_place) {
        const int64_t image = line / s.oh, row = line % s.oh;
        from = in_place + image * s.xn + (row * s.sh - s.ph) * s.xh - s.pw * s.xw;
      } else {
        from = copied_line(copy, i);
      }
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = kWholeParts ? width * part / parts : least(width, part * kPartRows);
        const int64_t end =
            kWholeParts ? width * (part + 1) / parts : least(width, begin + kPartRows);
        if (end > begin)
          runs_[n_runs_++] = {from + begin * row_, pixel + begin, end - begin, begin};
      }
    }
  }

  const Work& w_;
  int64_t range_, group_, first_, count_;
  Run* runs_;
  int64_t n_runs_ = 0;
  int64_t* offsets_;
  int64_t row_ = 0;
};

StepOperand operand_of(const TensorRef& t) {
  return t.rank == 1 ? step_operand(t) : pixel_operand(t);
}

const char* run(const Call& call) {
  const Work w(call);
  if (w.empty()) return nullptr;
  const StepCodes& codes = static_cast<const ConvParams*>(call.params)->epilogue;
  const TileFinish finish(call.out[0], w.s.ldy, codes, call.in + 2, operand_of);
  const int64_t bytes = Scratch(w).bytes();
  parallel_for(call, w.s.group * w.blocks * w.ranges, [&](int64_t task, int worker) {
    Block(call, w, task, call.scratch + worker * bytes).run(call, finish);
  });
  return nullptr;
}

// Weights [M, C / group, kh, kw] -> panels of each group.
struct PackParams {
  int64_t group, column_dilation;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, group, kInt, 1),
                             ZENITH_FIELD(PackParams, column_dilation, kInt, 1)};

struct Weights {
  Filter f;
  int64_t group, panels;
  Depth depth;

  Weights(const TensorRef& t, const void* params)
      : f(filter_of(t)),
        group(static_cast<const PackParams*>(params)->group),
        panels(ceil_div(f.m / group, kCols)),
        depth(f.kh, f.kw, static_cast<const PackParams*>(params)->column_dilation, f.c) {}
  int64_t bytes() const { return group * panels * depth.panel() * 2; }

  // visit(place in the tensor, place in the packed array)
  template <typename F>
  void each(const F& visit) const {
    const int64_t of_group = f.m / group, row = depth.joined ? depth.padded : f.kw * depth.padded;
    for (int64_t m = 0; m < f.m; ++m) {
      const int64_t g = m / of_group, j = m % of_group;
      const int64_t panel = (g * panels + j / kCols) * depth.panel() + j % kCols * 2;
      for (int64_t t = 0; t < f.kh * f.kw; ++t) {
        const int64_t i = t / f.kw, at = t % f.kw, from = m * f.sm + i * f.si + at * f.sj;
        for (int64_t c = 0; c < f.c; ++c) {
          const int64_t k = i * row + at * depth.pixel + c;
          visit(from + c * f.sc, panel + k / 2 * 2 * kCols + k % 2);
        }
      }
    }
  }
};

int64_t pack_bytes(const TensorRef& t, const void* params) { return Weights(t, params).bytes(); }
void pack(const TensorRef& t, void* to, const void* params) {
  const Weights w(t, params);
  std::memset(to, 0, static_cast<size_t>(w.bytes()));
  w.each([&](int64_t a, int64_t b) {
    static_cast<bf16*>(to)[b] = static_cast<const bf16*>(t.data)[a];
  });
}
void unpack(const void* from, const TensorRef& t, const void* params) {
  Weights(t, params).each([&](int64_t a, int64_t b) {
    static_cast<bf16*>(t.data)[a] = static_cast<const bf16*>(from)[b];
  });
}

const Kernel kKernels[] = {
    {"conv_bf16", kPairTile, kConvFields, kConvFieldCount, sizeof(ConvParams), scratch, run},
};
const Packer kPackers[] = {
    {"conv_weights_bf16", kPackFields, 2, sizeof(PackParams), pack_bytes, pack, unpack},
};

}  // namespace

Table conv_bf16_table();
Table conv_bf16_table() { return {kKernels, 1, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
