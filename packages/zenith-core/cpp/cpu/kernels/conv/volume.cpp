// Convolution of up to three spatial axes, and transposed convolution, with the register tile of
// direct.cpp: x [N, D, H, W, C] -> y [N, OD, OH, OW, M], channels with stride 1.
//
// Note [Phases]: along an axis, result o of a transposed convolution of stride s meets tap k where
// o + pad - k * dilation = s * i for an element i of x. So results with the same (o + pad) mod s
// meet the same taps, at neighbouring elements: each such phase is a plain convolution of stride 1
// whose results lie s apart. A plain convolution is one phase.
#include "cpu/kernels/conv/tile.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kAxes = 3;

struct VolumeParams {
  Ints<kAxes> kernel_shape;
  Ints<kAxes> strides;
  Ints<kAxes> pads;  // before the first element
  Ints<kAxes> dilations;
  int64_t group;
  int64_t joined;  // taps along W lie together in memory and are one long piece (x is padded)
  StepCodes epilogue;
};
const Field kVolumeFields[] = {
    ZENITH_FIELD(VolumeParams, kernel_shape, kInts, kAxes),
    ZENITH_FIELD(VolumeParams, strides, kInts, kAxes),
    ZENITH_FIELD(VolumeParams, pads, kInts, kAxes),
    ZENITH_FIELD(VolumeParams, dilations, kInts, kAxes),
    ZENITH_FIELD(VolumeParams, group, kInt, 1),
    ZENITH_FIELD(VolumeParams, joined, kInt, 1),
    ZENITH_FIELD(VolumeParams, epilogue, kInts, kMaxSteps),
};

int64_t modulo(int64_t a, int64_t n) { return (a % n + n) % n; }

// One axis of one phase: result q lies at out_first + q * out_step of y and meets x at
// q * in_step + offset[t] with tap id[t].
struct Along {
  int64_t in, count, in_step, out_first, out_step;
  int64_t taps, low, high;  // how many, and the range of their offsets
  int64_t* offset;
  int64_t* id;
};

struct Volume {
  const VolumeParams* p;
  const float* x;
  float* y;
  bool transposed;
  int64_t n, in[kAxes], out[kAxes], c, m, group;
  int64_t xn, xs[kAxes], ldy;
  int64_t length;         // values in a piece
  int64_t kernel[kAxes];  // taps along each axis, where a joined W is one
  int64_t phases[kAxes];
};

Volume volume_of(const Call& call, bool transposed) {
  const auto& p = *static_cast<const VolumeParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  Volume v{};
  v.p = &p, v.transposed = transposed;
  v.x = static_cast<const float*>(x.data), v.y = static_cast<float*>(y.data);
  v.n = y.shape[0], v.c = x.shape[4], v.m = y.shape[4], v.group = p.group;
  v.xn = x.strides[0], v.ldy = pixel_stride(y);
  v.length = v.c / v.group;
  for (int i = 0; i < kAxes; ++i) {
    v.in[i] = x.shape[i + 1], v.out[i] = y.shape[i + 1], v.xs[i] = x.strides[i + 1];
    v.kernel[i] = p.kernel_shape.v[i];
    v.phases[i] = transposed ? p.strides.v[i] : 1;
  }
  if (p.joined != 0) v.length *= v.kernel[2], v.kernel[2] = 1;
  return v;
}

// Axis `i` of phase `r`. Lists are left out where offset is null.
Along along_of(const Volume& v, int i, int64_t r, int64_t* offset, int64_t* id) {
  const int64_t stride = v.p->strides.v[i], pad = v.p->pads.v[i], step = v.p->dilations.v[i];
  Along a{};
  a.in = v.in[i], a.offset = offset, a.id = id;
  a.in_step = v.transposed ? 1 : stride, a.out_step = v.transposed ? stride : 1;
  a.out_first = v.transposed ? modulo(r - pad, stride) : 0;
  a.count = a.out_first < v.out[i] ? ceil_div(v.out[i] - a.out_first, a.out_step) : 0;
  for (int64_t k = 0; k < v.kernel[i]; ++k) {
    int64_t at = k * step - pad;
    if (v.transposed) {
      if (modulo(k * step, stride) != r) continue;
      at = (a.out_first + pad - k * step) / stride;  // a multiple of the stride
    }
    a.low = a.taps == 0 ? at : least(a.low, at);
    a.high = a.taps == 0 ? at : most(a.high, at);
    if (offset != nullptr) offset[a.taps] = at, id[a.taps] = k;
    ++a.taps;
  }
  return a;
}

// The tiles of one phase and how they are cut into tasks. Results that are a constant distance
// apart make a line: all of a plain convolution, one row of a transposed one.
struct Phase {
  Along axis[kAxes];
  int64_t lines, width, line_tiles, tiles;
  int64_t pieces;
  int64_t panels, panel_ranges, block_tiles, blocks;

  int64_t table_bytes() const {
    const int64_t rows = block_tiles * kTileRows;
    return round_up(rows * pieces * 8 + block_tiles * 8 + block_tiles * pieces * 4, 64);
  }
};

constexpr int64_t kBlockFloats = 40 * 1024;  // input of one block: stays in L2 beside a panel
constexpr int64_t kTableEntries = 8 * 1024;  // pointers of one block

Phase phase_of(const Volume& v, const int64_t (&r)[kAxes], int64_t* lists, int threads) {
  Phase f{};
  f.pieces = 1;
  for (int i = 0; i < kAxes; ++i) {
    f.axis[i] = along_of(v, i, r[i], lists, lists == nullptr ? nullptr : lists + v.kernel[i]);
    if (lists != nullptr) lists += 2 * v.kernel[i];
    f.pieces *= f.axis[i].taps;
  }
  f.lines = v.n * f.axis[0].count * f.axis[1].count;
  f.width = f.axis[2].count;
  if (!v.transposed) f.width *= f.lines, f.lines = 1;
  f.line_tiles = ceil_div(f.width, kTileRows);
  f.tiles = f.lines * f.line_tiles;
  f.panels = ceil_div(v.m / v.group, kPanel);
  // As in direct.cpp: panels are cut first, then blocks down to a few tiles.
  const int64_t rows = least(kBlockFloats / most(1, v.length), kTableEntries / most(1, f.pieces));
  f.block_tiles = most(4, rows / kTileRows);
  f.blocks = ceil_div(f.tiles, f.block_tiles);
  f.panel_ranges = 1;
  const int64_t wanted = threads == 1 ? 1 : threads * int64_t{4};
  if (f.tiles > 0 && v.group * f.blocks < wanted) {
    f.panel_ranges = least(f.panels, ceil_div(wanted, v.group * f.blocks));
    const int64_t missing = ceil_div(wanted, v.group * f.panel_ranges);
    f.blocks = most(1, least(most(f.blocks, missing), ceil_div(f.tiles, 2)));
  }
  f.block_tiles = f.blocks == 0 ? 0 : ceil_div(f.tiles, f.blocks);
  f.blocks = f.block_tiles == 0 ? 0 : ceil_div(f.tiles, f.block_tiles);
  return f;
}

struct Place {
  int64_t image, q[kAxes];
};

// Position `at` of a line of phase f.
Place place_of(const Phase& f, int64_t line, int64_t at) {
  Place s{};
  s.q[2] = at % f.axis[2].count;
  int64_t rest = line + at / f.axis[2].count;  // one of the two is 0
  s.q[1] = rest % f.axis[1].count, rest /= f.axis[1].count;
  s.q[0] = rest % f.axis[0].count;
  s.image = rest / f.axis[0].count;
  return s;
}

// Pointers and tap numbers of one tile; taps outside x for all of its rows are left out.
int64_t fill(const Volume& v, const Phase& f, const float* x, const float* zeros, Place at,
             int64_t rows, const float** table, int32_t* ids) {
  int64_t start[kMostRows][kAxes], from[kMostRows];
  bool inside = true;
  for (int64_t r = 0; r < rows; ++r) {
    from[r] = at.image * v.xn;
    for (int i = 0; i < kAxes; ++i) {
      const Along& a = f.axis[i];
      start[r][i] = at.q[i] * a.in_step;
      from[r] += start[r][i] * v.xs[i];
      inside = inside && start[r][i] + a.low >= 0 && start[r][i] + a.high < a.in;
    }
    for (int i = kAxes - 1; i >= 0; --i) {
      if (++at.q[i] < f.axis[i].count) break;
      at.q[i] = 0;
      if (i == 0) ++at.image;
    }
  }
  const Along &deep = f.axis[0], &down = f.axis[1], &across = f.axis[2];
  int64_t count = 0;
  for (int64_t d = 0; d < deep.taps; ++d) {
    for (int64_t i = 0; i < down.taps; ++i) {
      const int64_t line = deep.offset[d] * v.xs[0] + down.offset[i] * v.xs[1];
      const int64_t line_id = (deep.id[d] * v.kernel[1] + down.id[i]) * v.kernel[2];
      for (int64_t j = 0; j < across.taps; ++j) {
        const int64_t step = line + across.offset[j] * v.xs[2];
        bool any = inside;
        for (int64_t r = 0; r < rows; ++r) {
          bool exists = inside;
          if (!inside) {
            const int64_t at_d = start[r][0] + deep.offset[d], at_h = start[r][1] + down.offset[i];
            const int64_t at_w = start[r][2] + across.offset[j];
            exists = at_d >= 0 && at_d < deep.in && at_h >= 0 && at_h < down.in && at_w >= 0 &&
                     at_w < across.in;
            any = any || exists;
          }
          table[count * rows + r] = exists ? x + (from[r] + step) : zeros;
        }
        if (any) ids[count++] = static_cast<int32_t>(line_id + across.id[j]);
      }
    }
  }
  return count;
}

void multiply(const Call& call, const Volume& v, const Phase& f, const float* zeros, char* tables,
              const Finish& finish) {
  const int64_t of_group = v.m / v.group, in_group = v.c / v.group;
  const int64_t depth = v.kernel[0] * v.kernel[1] * v.kernel[2] * v.length;
  const int64_t group_floats = packed_floats(depth, of_group);
  const int64_t padded = round_up(of_group, kLanes), bytes = f.table_bytes();
  const int64_t step = f.axis[2].out_step;  // between results of a line
  const auto* weights = static_cast<const float*>(call.in[1].data);
  parallel_for(call, v.group * f.blocks * f.panel_ranges, [&](int64_t task, int worker) {
    const int64_t g = task / (f.blocks * f.panel_ranges);
    const int64_t range = task / f.blocks % f.panel_ranges;
    const int64_t first = task % f.blocks * f.block_tiles;
    const int64_t tiles = least(f.block_tiles, f.tiles - first);
    auto* table = reinterpret_cast<const float**>(tables + worker * bytes);
    auto* counts = reinterpret_cast<int64_t*>(table + f.block_tiles * kTileRows * f.pieces);
    auto* ids = reinterpret_cast<int32_t*>(counts + f.block_tiles);
    const auto begin = [&](int64_t tile) { return f.width * tile / f.line_tiles; };
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t line = (first + t) / f.line_tiles, tile = (first + t) % f.line_tiles;
      counts[t] =
          fill(v, f, v.x + g * in_group, zeros, place_of(f, line, begin(tile)),
               begin(tile + 1) - begin(tile), table + t * kTileRows * f.pieces, ids + t * f.pieces);
    }
    const int64_t last_panel = f.panels * (range + 1) / f.panel_ranges;
    for (int64_t p = f.panels * range / f.panel_ranges; p < last_panel; ++p) {
      const int64_t cols = least(kPanel, of_group - p * kPanel);
      const int64_t col = g * of_group + p * kPanel;
      const float* panel = weights + g * group_floats + p * kPanel * depth;
      const float* next = p + 1 < f.panels ? panel + kPanel * depth : panel;
      const int64_t next_floats = least(kPanel, padded - p * kPanel) * depth;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t line = (first + t) / f.line_tiles, tile = (first + t) % f.line_tiles;
        const int64_t rows = begin(tile + 1) - begin(tile);
        const Place at = place_of(f, line, begin(tile));
        int64_t pixel = at.image;
        for (int i = 0; i < kAxes; ++i) {
          pixel = pixel * v.out[i] + f.axis[i].out_first + at.q[i] * f.axis[i].out_step;
        }
        const Pieces left{table + t * kTileRows * f.pieces, ids + t * f.pieces, counts[t], v.length,
                          ahead_slice(next, next_floats, depth, t)};
        const StepOperand& add = finish.add;
        const TileEnd end{finish.bias + g * padded + p * kPanel,
                          add.data == nullptr ? nullptr : add.data + pixel * add.row + col,
                          add.row * step, finish.lo, finish.hi};
        float* y = v.y + pixel * v.ldy + col;
        tile_fn(rows, ceil_div(cols, kLanes))(left, panel, end, y, v.ldy * step, cols);
        if (finish.rest.n > 0) {
          apply_epilogue(finish.rest, pixel, col, rows, cols, y, v.ldy * step);
        }
      }
    }
  });
}

// Calls visit(phase numbers) for every phase.
template <typename F>
void for_each_phase(const Volume& v, const F& visit) {
  int64_t r[kAxes];
  for (r[0] = 0; r[0] < v.phases[0]; ++r[0]) {
    for (r[1] = 0; r[1] < v.phases[1]; ++r[1]) {
      for (r[2] = 0; r[2] < v.phases[2]; ++r[2]) visit(r);
    }
  }
}

struct Layout {
  int64_t zeros, lists, tables, total;  // offsets in scratch behind the bias
};

Layout layout_of(const Volume& v, int threads) {
  Layout l{};
  l.zeros = round_up(bias_floats(v.m, v.group) * 4, 64);
  l.lists = l.zeros + round_up(v.length * 4, 64);
  l.tables = l.lists + round_up((v.kernel[0] + v.kernel[1] + v.kernel[2]) * 16, 64);
  int64_t most_bytes = 0;
  for_each_phase(v, [&](const int64_t (&r)[kAxes]) {
    most_bytes = most(most_bytes, phase_of(v, r, nullptr, threads).table_bytes());
  });
  l.total = l.tables + threads * most_bytes;
  return l;
}

template <bool kTransposed>
int64_t volume_scratch(const Call& call) {
  if (element_count(call.out[0]) == 0) return 0;
  return layout_of(volume_of(call, kTransposed), call.parallel.threads).total;
}

template <bool kTransposed>
const char* run_volume(const Call& call) {
  if (element_count(call.out[0]) == 0) return nullptr;
  const Volume v = volume_of(call, kTransposed);
  const Layout l = layout_of(v, call.parallel.threads);
  const Finish finish =
      make_finish(call.in + 2, v.p->epilogue, v.m, v.group, reinterpret_cast<float*>(call.scratch));
  auto* zeros = reinterpret_cast<float*>(call.scratch + l.zeros);
  std::memset(zeros, 0, static_cast<size_t>(v.length) * 4);
  for_each_phase(v, [&](const int64_t (&r)[kAxes]) {
    const Phase f =
        phase_of(v, r, reinterpret_cast<int64_t*>(call.scratch + l.lists), call.parallel.threads);
    if (f.tiles > 0) multiply(call, v, f, zeros, call.scratch + l.tables, finish);
  });
  return nullptr;
}

#define ZENITH_TILE_NAME (kLanes == 16 ? "7x64" : kLanes == 8 ? "6x16" : "6x8")
const Kernel kKernels[] = {
    {"conv_volume_f32", ZENITH_TILE_NAME, kVolumeFields, 7, sizeof(VolumeParams),
     volume_scratch<false>, run_volume<false>},
    {"conv_transpose_f32", ZENITH_TILE_NAME, kVolumeFields, 7, sizeof(VolumeParams),
     volume_scratch<true>, run_volume<true>},
};

}  // namespace

Table conv_volume_table();
Table conv_volume_table() { return {kKernels, 2, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
