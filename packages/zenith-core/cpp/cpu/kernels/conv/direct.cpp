// Direct convolution as a product with packed weights: any kernel, stride, padding, dilation and
// group. The left side of the product is never laid out: each tile has a table of pointers into x,
// and places outside x point to a row of zeros.
#include "cpu/kernels/conv/tile.h"

namespace zenith::ZENITH_ISA {
namespace {

// How the work of one group is cut: blocks of output pixels, in each of them ranges of panels.
struct Cut {
  int64_t block_rows, blocks;
  int64_t panels, panel_ranges;
};

constexpr int64_t kBlockFloats = 40 * 1024;  // input of one block: stays in L2 beside a panel
constexpr int64_t kTableEntries = 8 * 1024;  // pointers of one block

Cut make_cut(int64_t rows, int64_t row_floats, int64_t pieces, const ConvShape& s, int threads) {
  Cut cut{};
  cut.panels = ceil_div(s.m / s.group, kPanel);
  int64_t limit = least(kBlockFloats / most(1, row_floats), kTableEntries / pieces);
  limit = round_up(most(limit, 4 * kTileRows), kTileRows);
  cut.blocks = ceil_div(rows, limit);
  cut.panel_ranges = 1;
  // Enough tasks that workers finish together; panels are cut first, since both workers then keep
  // their own weights, then blocks down to a few tiles.
  const int64_t wanted = threads == 1 ? 1 : threads * 4;
  if (s.group * cut.blocks < wanted) {
    cut.panel_ranges = least(cut.panels, ceil_div(wanted, s.group * cut.blocks));
    const int64_t missing = ceil_div(wanted, s.group * cut.panel_ranges);
    cut.blocks = least(most(cut.blocks, missing), ceil_div(rows, 2 * kTileRows));
    cut.blocks = most(cut.blocks, 1);
  }
  cut.block_rows = round_up(ceil_div(rows, cut.blocks), kTileRows);
  cut.blocks = ceil_div(rows, cut.block_rows);
  return cut;
}

int64_t table_bytes(const Cut& cut, int64_t pieces) {
  return round_up(cut.block_rows * pieces * 8 + ceil_div(cut.block_rows, kTileRows) * 8 +
                      round_up(cut.block_rows, kTileRows) * pieces * 4,
                  64);
}

// Whether no tap of any pixel is outside x.
bool inside(const ConvShape& s, const Taps& taps) {
  return s.ph <= 0 && s.pw <= 0 && (s.oh - 1) * s.sh - s.ph + (taps.rows - 1) * s.dh < s.h &&
         (s.ow - 1) * s.sw - s.pw + (taps.cols - 1) * s.dw < s.w;
}

// All groups of all pixels of s. zeros has taps.length values, tables has one table per worker.
void multiply(const Call& call, const ConvShape& s, const Taps& taps, const Cut& cut,
              int64_t first_pixel, const float* zeros, char* tables, const Finish& finish) {
  const int64_t of_group = s.m / s.group, in_group = s.c / s.group;
  const int64_t pieces = taps.rows * taps.cols, depth = pieces * taps.length;
  const int64_t group_floats = packed_floats(depth, of_group);
  const int64_t padded = round_up(of_group, kLanes);
  const int64_t rows = s.pixels(), bytes = table_bytes(cut, pieces);
  const float* weights = static_cast<const float*>(call.in[1].data);
  const int64_t tasks = s.group * cut.blocks * cut.panel_ranges;
  const LongTileFn long_tile =
      cut.panels == 1 && inside(s, taps) ? long_tile_fn(padded / kLanes) : nullptr;
  parallel_for(call, tasks, [&](int64_t task, int worker) {
    const int64_t g = task / (cut.blocks * cut.panel_ranges);
    const int64_t range = task / cut.blocks % cut.panel_ranges;
    const int64_t begin = task % cut.blocks * cut.block_rows;
    const RowTiles tiles(least(cut.block_rows, rows - begin));
    const auto table = reinterpret_cast<const float**>(tables + worker * bytes);
    const auto counts = reinterpret_cast<int64_t*>(table + cut.block_rows * pieces);
    const auto ids = reinterpret_cast<int32_t*>(counts + ceil_div(cut.block_rows, kTileRows));
    // Whether this tile and the next are one, within a row of results.
    const auto is_long = [&](int64_t t) {
      return long_tile != nullptr && t + 2 <= tiles.count &&
             tiles.begin(t + 2) - tiles.begin(t) == 2 * kTileRows &&
             (begin + tiles.begin(t)) % s.ow + 2 * kTileRows <= s.ow;
    };
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t at = tiles.begin(t);
      if (is_long(t)) {
        counts[t] = fill_tile(s, taps, s.x + g * in_group, zeros, begin + at, 1,
                              table + at * pieces, ids + t * pieces);
        ++t;
        continue;
      }
      counts[t] = fill_tile(s, taps, s.x + g * in_group, zeros, begin + at, tiles.begin(t + 1) - at,
                            table + at * pieces, ids + t * pieces);
    }
    const int64_t last_panel = cut.panels * (range + 1) / cut.panel_ranges;
    for (int64_t p = cut.panels * range / cut.panel_ranges; p < last_panel; ++p) {
      const int64_t cols = least(kPanel, of_group - p * kPanel);
      const int64_t col = g * of_group + p * kPanel;
      const int64_t vecs = ceil_div(cols, kLanes);
      const float* panel = weights + g * group_floats + p * kPanel * depth;
      // The worker's next panel: of this range, or of the range it most likely takes after this
      // one.
      const int64_t other = cut.panels * (range + call.parallel.threads) / cut.panel_ranges;
      const int64_t after = p + 1 < last_panel || cut.panel_ranges == 1 ? p + 1 : other;
      const int64_t next = after < cut.panels ? after : p;
      const int64_t next_floats = least(kPanel, padded - next * kPanel) * depth;
      for (int64_t t = 0; t < tiles.count; ++t) {
        const bool two = is_long(t);
        const int64_t at = tiles.begin(t), height = tiles.begin(t + (two ? 2 : 1)) - at;
        const int64_t row = first_pixel + begin + at;
        const float* ahead =
            ahead_slice(weights + g * group_floats + next * kPanel * depth, next_floats, depth, t);
        const Pieces left{table + at * pieces, ids + t * pieces, counts[t], taps.length, ahead};
        const StepOperand& add = finish.add;
        const TileEnd end{finish.bias + g * padded + p * kPanel,
                          add.data == nullptr ? nullptr : add.data + row * add.row + col, add.row,
                          finish.lo, finish.hi};
        float* y = s.y + row * s.ldy + col;
        if (two) {
          long_tile({left, s.sw * s.xw, panel, vecs * kLanes, end, y, s.ldy, cols});
          ++t;
        } else {
          tile_fn(height, vecs)(left, panel, end, y, s.ldy, cols);
        }
        if (finish.rest.n > 0) apply_epilogue(finish.rest, row, col, height, cols, y, s.ldy);
      }
    }
  });
}

Taps taps_of(const ConvShape& s) { return {s.kh, s.kw, s.c / s.group}; }

int64_t direct_scratch(const Call& call) {
  const ConvShape s = conv_shape(call);
  const Taps taps = taps_of(s);
  const int threads = call.parallel.threads;
  if (s.pixels() == 0 || s.m == 0) return 0;
  const Cut cut = make_cut(s.pixels(), taps.length, s.kh * s.kw, s, threads);
  return round_up(bias_floats(s) * 4, 64) + round_up(taps.length * 4, 64) +
         threads * table_bytes(cut, s.kh * s.kw);
}

const char* run_direct(const Call& call) {
  const ConvShape s = conv_shape(call);
  const Taps taps = taps_of(s);
  if (s.pixels() == 0 || s.m == 0) return nullptr;
  const Cut cut = make_cut(s.pixels(), taps.length, s.kh * s.kw, s, call.parallel.threads);
  const Finish finish = make_finish(call, s, reinterpret_cast<float*>(call.scratch));
  char* zeros = call.scratch + round_up(bias_floats(s) * 4, 64);
  std::memset(zeros, 0, static_cast<size_t>(taps.length) * 4);
  multiply(call, s, taps, cut, 0, reinterpret_cast<const float*>(zeros),
           zeros + round_up(taps.length * 4, 64), finish);
  return nullptr;
}

// Few input channels: images are copied into scratch with their border of zeros, channels-last, so
// that the kw * C values under one row of the kernel lie together and make one long piece.
// x may have any strides here, so a graph input stored as NCHW needs no copy of its own.
// Needs group 1 and a column dilation of 1.
struct Halo {
  int64_t h, w;    // of one padded image
  int64_t images;  // copied at once
  int64_t image_floats;
};

constexpr int64_t kHaloFloats = 256 * 1024;

Halo make_halo(const ConvShape& s) {
  Halo halo{};
  halo.h = (s.oh - 1) * s.sh + (s.kh - 1) * s.dh + 1;
  halo.w = (s.ow - 1) * s.sw + s.kw;
  halo.image_floats = halo.h * halo.w * s.c;
  halo.images = most(1, least(s.n, kHaloFloats / most(1, halo.image_floats)));
  return halo;
}

// s as seen from `images` padded images at `x`.
ConvShape inside_halo(const ConvShape& s, const Halo& halo, const float* x, int64_t images) {
  ConvShape r = s;
  r.x = x;
  r.n = images, r.h = halo.h, r.w = halo.w;
  r.xn = halo.image_floats, r.xh = halo.w * s.c, r.xw = s.c;
  r.ph = r.pw = 0;
  return r;
}

// Row `row` of the padded images; x_c is the stride of x's channels.
void fill_halo_row(const ConvShape& s, const Halo& halo, int64_t first_image, int64_t x_c,
                   int64_t row, float* to) {
  const int64_t image = first_image + row / halo.h, ih = row % halo.h - s.ph;
  to += row * halo.w * s.c;
  const int64_t begin = ih < 0 || ih >= s.h ? halo.w : least(s.pw, halo.w);
  const int64_t end = most(begin, least(halo.w, s.pw + s.w));
  std::memset(to, 0, static_cast<size_t>(begin * s.c) * 4);
  std::memset(to + end * s.c, 0, static_cast<size_t>((halo.w - end) * s.c) * 4);
  if (begin == end) return;
  const float* from = s.x + image * s.xn + ih * s.xh + (begin - s.pw) * s.xw;
  to += begin * s.c;
  if (x_c == 1 && s.xw == s.c) {
    std::memcpy(to, from, static_cast<size_t>((end - begin) * s.c) * 4);
    return;
  }
  if (s.c == 3) {  // colour images
    for (int64_t i = 0; i < end - begin; ++i) {
      to[3 * i] = from[i * s.xw];
      to[3 * i + 1] = from[i * s.xw + x_c];
      to[3 * i + 2] = from[i * s.xw + 2 * x_c];
    }
    return;
  }
  for (int64_t c = 0; c < s.c; ++c) {
    for (int64_t i = 0; i < end - begin; ++i) to[i * s.c + c] = from[i * s.xw + c * x_c];
  }
}

int64_t halo_cut(const ConvShape& s, const Halo& halo, int threads, Cut* cut) {
  *cut = make_cut(halo.images * s.oh * s.ow, s.sw * s.c * s.kh, s.kh, s, threads);
  return threads * table_bytes(*cut, s.kh);
}

int64_t halo_scratch(const Call& call) {
  const ConvShape s = conv_shape(call);
  if (s.pixels() == 0 || s.m == 0) return 0;
  const Halo halo = make_halo(s);
  Cut cut;
  return round_up(bias_floats(s) * 4, 64) + round_up(halo.images * halo.image_floats * 4, 64) +
         halo_cut(s, halo, call.parallel.threads, &cut);
}

const char* run_halo(const Call& call) {
  const ConvShape s = conv_shape(call);
  if (s.pixels() == 0 || s.m == 0) return nullptr;
  const Halo halo = make_halo(s);
  Cut cut;
  halo_cut(s, halo, call.parallel.threads, &cut);
  const Finish finish = make_finish(call, s, reinterpret_cast<float*>(call.scratch));
  const auto images = reinterpret_cast<float*>(call.scratch + round_up(bias_floats(s) * 4, 64));
  char* tables =
      reinterpret_cast<char*>(images) + round_up(halo.images * halo.image_floats * 4, 64);
  const int64_t x_c = call.in[0].strides[3];
  for (int64_t first = 0; first < s.n; first += halo.images) {
    const int64_t count = least(halo.images, s.n - first);
    const int64_t rows = count * halo.h, rows_of_task = 16;
    parallel_for(call, ceil_div(rows, rows_of_task), [&](int64_t task, int) {
      const int64_t end = least(rows, (task + 1) * rows_of_task);
      for (int64_t row = task * rows_of_task; row < end; ++row) {
        fill_halo_row(s, halo, first, x_c, row, images);
      }
    });
    const ConvShape inner = inside_halo(s, halo, images, count);
    Cut part = cut;
    part.blocks = ceil_div(inner.pixels(), cut.block_rows);
    multiply(call, inner, {s.kh, 1, s.kw * s.c}, part, first * s.oh * s.ow, nullptr, tables,
             finish);
  }
  return nullptr;
}

#define ZENITH_TILE_NAME (kLanes == 16 ? "7x64" : kLanes == 8 ? "6x16" : "6x8")
const Kernel kKernels[] = {
    {"conv_f32", ZENITH_TILE_NAME, kConvFields, kConvFieldCount, sizeof(ConvParams), direct_scratch,
     run_direct},
    {"conv_few_channels_f32", ZENITH_TILE_NAME, kConvFields, kConvFieldCount, sizeof(ConvParams),
     halo_scratch, run_halo},
};

}  // namespace

Table conv_table();
Table conv_table() { return {kKernels, 2, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
