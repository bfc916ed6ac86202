// 3x3 convolution of stride 1 by Winograd's minimal filtering F(m x m, 3 x 3): a tile of m x m
// outputs takes (m+2)^2 products per channel instead of 9 m^2. Three phases: transform the input
// tiles, one matrix product per point and group, transform back and finish.
//
// Note [Points]: F(4, 3) evaluates at 0, +-5/8, +-3/2 and infinity. The usual +-1, +-2 give twice
// the rms error and three times the largest one (128 channels of normal data); these points are
// exact in binary and cost the same operations, as even and odd halves are shared.
#include "cpu/kernels/conv/tile.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr double kA = 0.625, kB = 1.5;
constexpr double kAA = kA * kA, kBB = kB * kB;

template <int m>
constexpr int kPoints = m + 2;

// One line of the input transform: d -> B^T d.
template <typename T>
[[gnu::always_inline]] inline void input_line(const T (&d)[4], T (&r)[4]) {
  r[0] = d[0] - d[2];
  r[1] = d[1] + d[2];
  r[2] = d[2] - d[1];
  r[3] = d[1] - d[3];
}
template <typename T>
[[gnu::always_inline]] inline void input_line(const T (&d)[6], T (&r)[6]) {
  constexpr float a = kA, b = kB, aa = kAA, bb = kBB, both = kAA * kBB, sum = kAA + kBB;
  const T even_a = d[4] - d[2] * bb, odd_a = (d[3] - d[1] * bb) * a;
  const T even_b = d[4] - d[2] * aa, odd_b = (d[3] - d[1] * aa) * b;
  r[0] = d[0] * both - d[2] * sum + d[4];
  r[1] = even_a + odd_a;
  r[2] = even_a - odd_a;
  r[3] = even_b + odd_b;
  r[4] = even_b - odd_b;
  r[5] = d[1] * both - d[3] * sum + d[5];
}

// One line of the output transform: p -> A^T p.
template <typename T>
[[gnu::always_inline]] inline void output_line(const T (&p)[4], T (&r)[2]) {
  r[0] = p[0] + p[1] + p[2];
  r[1] = p[1] - p[2] - p[3];
}
template <typename T>
[[gnu::always_inline]] inline void output_line(const T (&p)[6], T (&r)[4]) {
  constexpr float a = kA, b = kB, aa = kAA, bb = kBB, aaa = kAA * kA, bbb = kBB * kB;
  const T even_a = p[1] + p[2], odd_a = p[1] - p[2];
  const T even_b = p[3] + p[4], odd_b = p[3] - p[4];
  r[0] = p[0] + even_a + even_b;
  r[1] = odd_a * a + odd_b * b;
  r[2] = even_a * aa + even_b * bb;
  r[3] = odd_a * aaa + odd_b * bbb + p[5];
}

// One line of the weight transform: g -> G g.
void weight_line(const double (&g)[3], double (&r)[4]) {
  r[0] = g[0];
  r[1] = (g[0] + g[1] + g[2]) / 2;
  r[2] = (g[0] - g[1] + g[2]) / 2;
  r[3] = g[2];
}
void weight_line(const double (&g)[3], double (&r)[6]) {
  constexpr double na = 2 * kAA * (kAA - kBB), nb = 2 * kBB * (kBB - kAA);
  r[0] = g[0] / (kAA * kBB);
  r[1] = (g[0] + kA * g[1] + kAA * g[2]) / na;
  r[2] = (g[0] - kA * g[1] + kAA * g[2]) / na;
  r[3] = (g[0] + kB * g[1] + kBB * g[2]) / nb;
  r[4] = (g[0] - kB * g[1] + kBB * g[2]) / nb;
  r[5] = g[2];
}

// Transformed inputs and products of `tiles` tiles: [points^2][tiles][padded channels]. Points lie
// a few lines apart from a power of two, so that the many streams do not share a cache set.
struct Layout {
  int64_t down, across;  // tiles of one image
  int64_t tiles, all_tiles;
  int64_t c, m;              // padded channels
  int64_t v_point, p_point;  // floats from one point to the next
  int64_t v_bytes, p_bytes;
};

constexpr int64_t kBlockBytes = 4 << 20;  // of one block of tiles: well inside L3

template <int m>
Layout make_layout(const ConvShape& s) {
  constexpr int64_t kAll = kPoints<m> * kPoints<m>;
  Layout l{};
  l.down = ceil_div(s.oh, m), l.across = ceil_div(s.ow, m);
  l.all_tiles = s.n * l.down * l.across;
  l.c = round_up(s.c, kLanes), l.m = round_up(s.m, kLanes);
  const int64_t fit = kBlockBytes / (kAll * (l.c + l.m) * 4);
  const int64_t blocks = ceil_div(l.all_tiles, most(fit, 16 * kTileRows));
  l.tiles = ceil_div(l.all_tiles, most(blocks, 1));
  l.v_point = round_up(l.tiles * l.c, 1024) + 80;
  l.p_point = round_up(l.tiles * l.m, 1024) + 80;
  l.v_bytes = round_up(kAll * l.v_point * 4, 64);
  l.p_bytes = round_up(kAll * l.p_point * 4, 64);
  return l;
}

struct Tile {
  int64_t image, row, col;  // first output
};

template <int m>
Tile tile_at(const Layout& l, int64_t t) {
  const int64_t line = t / l.across, image = line / l.down;
  return {image, (line - image * l.down) * m, (t - line * l.across) * m};
}

template <int m>
void transform_input(const ConvShape& s, const Layout& l, int64_t tile, int64_t slot,
                     const float* zeros, float* v) {
  constexpr int p = kPoints<m>;
  const Tile at = tile_at<m>(l, tile);
  const float* from[p][p];
  for (int i = 0; i < p; ++i) {
    const int64_t ih = at.row - s.ph + i;
    for (int j = 0; j < p; ++j) {
      const int64_t iw = at.col - s.pw + j;
      const bool inside = ih >= 0 && ih < s.h && iw >= 0 && iw < s.w;
      from[i][j] = inside ? s.x + at.image * s.xn + ih * s.xh + iw * s.xw : zeros;
    }
  }
  v += slot * l.c;
  for (int64_t c = 0; c < s.c; c += kLanes) {
    const int64_t left = s.c - c;
    vf half[p][p];
    for (int j = 0; j < p; ++j) {
      vf d[p], r[p];
#pragma GCC unroll 8
      for (int i = 0; i < p; ++i) {
        d[i] =
            left >= kLanes ? load(from[i][j] + c) : load_n(from[i][j] + c, static_cast<int>(left));
      }
      input_line(d, r);
#pragma GCC unroll 8
      for (int i = 0; i < p; ++i) half[i][j] = r[i];
    }
    for (int i = 0; i < p; ++i) {
      vf r[p];
      input_line(half[i], r);
#pragma GCC unroll 8
      for (int j = 0; j < p; ++j) store(v + (i * p + j) * l.v_point + c, r[j]);
    }
  }
}

template <int m>
void transform_output(const ConvShape& s, const Layout& l, const Finish& finish, int64_t tile,
                      int64_t slot, const float* products) {
  constexpr int p = kPoints<m>;
  const Tile at = tile_at<m>(l, tile);
  const int64_t rows = least(m, s.oh - at.row), cols = least(m, s.ow - at.col);
  const int64_t pixel = (at.image * s.oh + at.row) * s.ow + at.col;
  products += slot * l.m;
  const vf lo = splat(finish.lo), hi = splat(finish.hi);
  for (int64_t c = 0; c < s.m; c += kLanes) {
    const int left = static_cast<int>(least(s.m - c, kLanes));
    vf half[m][p];
    for (int j = 0; j < p; ++j) {
      vf d[p], r[m];
#pragma GCC unroll 8
      for (int i = 0; i < p; ++i) d[i] = load(products + (i * p + j) * l.p_point + c);
      output_line(d, r);
#pragma GCC unroll 8
      for (int i = 0; i < m; ++i) half[i][j] = r[i];
    }
    const vf bias = load(finish.bias + c);
    for (int64_t i = 0; i < rows; ++i) {
      vf r[m];
      output_line(half[i], r);
      for (int64_t j = 0; j < cols; ++j) {
        const int64_t place = pixel + i * s.ow + j;
        float* y = s.y + place * s.ldy + c;
        vf value = r[j] + bias;
        if (finish.add.data != nullptr) {
          const float* add = finish.add.data + place * finish.add.row + c;
          value += left == kLanes ? load(add) : load_n(add, left);
        }
        value = clamp(value, lo, hi);
        if (left == kLanes) {
          store(y, value);
        } else {
          store_n(y, value, left);
        }
      }
    }
  }
  if (finish.rest.n == 0) return;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t place = pixel + i * s.ow;
    apply_epilogue(finish.rest, place, 0, cols, s.m, s.y + place * s.ldy, s.ldy);
  }
}

// products[point] = v[point] * weights[point] for rows [begin, end) of one point, group by group.
// `after`: the weights this worker most likely multiplies by next.
void multiply_point(const ConvShape& s, const Layout& l, const float* v, const float* weights,
                    const float* after, const float* zeros, int64_t begin, int64_t end,
                    float* products) {
  const RowTiles tiles(end - begin);
  const int32_t first_piece = 0;
  const int64_t in_group = s.c / s.group, of_group = s.m / s.group;
  const int64_t padded = round_up(of_group, kLanes), panels = ceil_div(of_group, kPanel);
  for (int64_t i = 0; i < s.group * panels; ++i) {
    const int64_t g = i / panels, col = i % panels * kPanel;
    const int64_t width = least(kPanel, padded - col);
    const float* panel = weights + g * in_group * padded + col * in_group;
    const bool last = i + 1 == s.group * panels;
    const int64_t next_col = i % panels + 1 < panels ? col + kPanel : 0;
    const float* next = last ? after : panel + width * in_group;
    const int64_t next_floats = least(kPanel, padded - next_col) * in_group;
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t at = begin + tiles.begin(t), height = tiles.begin(t + 1) - tiles.begin(t);
      const float* rows[kTileRows];
      for (int64_t r = 0; r < height; ++r) rows[r] = v + (at + r) * l.c + g * in_group;
      const TileEnd tile_end{zeros, nullptr, 0, -__builtin_inff(), __builtin_inff()};
      const float* ahead = ahead_slice(next, next_floats, in_group, t);
      tile_fn(height, width / kLanes)({rows, &first_piece, 1, in_group, ahead}, panel, tile_end,
                                      products + at * l.m + g * of_group + col, l.m,
                                      least(kPanel, of_group - col));
    }
  }
}

int64_t bias_bytes(const ConvShape& s) { return round_up(bias_floats(s.m, 1) * 4, 64); }
int64_t zero_floats(const ConvShape& s) { return round_up(most(s.c, kPanel), 16); }

template <int m>
int64_t winograd_scratch(const Call& call) {
  const ConvShape s = conv_shape(call);
  if (s.pixels() == 0 || s.m == 0) return 0;
  const Layout l = make_layout<m>(s);
  return bias_bytes(s) + zero_floats(s) * 4 + l.v_bytes + l.p_bytes;
}

template <int m>
const char* run_winograd(const Call& call) {
  constexpr int64_t kAll = kPoints<m> * kPoints<m>;
  const ConvShape s = conv_shape(call);
  if (s.pixels() == 0 || s.m == 0) return nullptr;
  const Layout l = make_layout<m>(s);
  // Results of all groups are finished together.
  const Finish finish =
      make_finish(call.in + 2, static_cast<const ConvParams*>(call.params)->epilogue, s.m, 1,
                  reinterpret_cast<float*>(call.scratch));
  const auto zeros = reinterpret_cast<float*>(call.scratch + bias_bytes(s));
  std::memset(zeros, 0, static_cast<size_t>(zero_floats(s)) * 4);
  float* v = zeros + zero_floats(s);
  float* products = v + l.v_bytes / 4;
  const float* weights = static_cast<const float*>(call.in[1].data);
  const int64_t point_floats = s.group * packed_floats(s.c / s.group, s.m / s.group);
  const int threads = call.parallel.threads;
  for (int64_t first = 0; first < l.all_tiles; first += l.tiles) {
    const int64_t count = least(l.tiles, l.all_tiles - first);
    const int64_t per_task = threads == 1 ? count : most(1, count / (threads * 4));
    const int64_t tasks = ceil_div(count, per_task);
    parallel_for(call, tasks, [&](int64_t task, int) {
      const int64_t end = least(count, (task + 1) * per_task);
      for (int64_t t = task * per_task; t < end; ++t) {
        transform_input<m>(s, l, first + t, t, zeros, v);
      }
    });
    // One point a task; more when there are more workers than that keeps busy.
    const int64_t cuts =
        least(ceil_div(threads * 4, kAll), ceil_div(count, int64_t{2} * kTileRows));
    parallel_for(call, kAll * cuts, [&](int64_t task, int) {
      const int64_t point = task / cuts, cut = task % cuts;
      const int64_t after = least(point + most(1, threads / cuts), kAll - 1);
      multiply_point(s, l, v + point * l.v_point, weights + point * point_floats,
                     weights + after * point_floats, zeros, count * cut / cuts,
                     count * (cut + 1) / cuts, products + point * l.p_point);
    });
    parallel_for(call, tasks, [&](int64_t task, int) {
      const int64_t end = least(count, (task + 1) * per_task);
      for (int64_t t = task * per_task; t < end; ++t) {
        transform_output<m>(s, l, finish, first + t, t, products);
      }
    });
  }
  return nullptr;
}

// Weights [M, C / group, 3, 3] -> [points^2][group] packed panels, transformed in float64, and
// after them the weights themselves: the transform is not exactly invertible in f32.
struct PackParams {
  int64_t group;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, group, kInt, 1)};

// Floats of one group at one point, and of one point.
struct PackedSize {
  int64_t group, point;
  PackedSize(const TensorRef& w, const void* params) {
    const int64_t groups = static_cast<const PackParams*>(params)->group;
    group = packed_floats(w.shape[1], w.shape[0] / groups), point = groups * group;
  }
};

template <int m>
int64_t pack_bytes(const TensorRef& w, const void* params) {
  return (kPoints<m> * kPoints<m> * PackedSize(w, params).point + element_count(w)) * 4;
}

template <int m>
void pack_weights(const TensorRef& w, void* to, const void* params) {
  constexpr int p = kPoints<m>;
  const PackedSize size(w, params);
  const int64_t in = w.shape[1];
  const int64_t of_group = w.shape[0] / static_cast<const PackParams*>(params)->group;
  const float* from = static_cast<const float*>(w.data);
  float* packed = static_cast<float*>(to);
  float* plain = packed + p * p * size.point;
  std::memset(to, 0, static_cast<size_t>(pack_bytes<m>(w, params)));
  for (int64_t o = 0; o < w.shape[0]; ++o) {
    const int64_t row = o % of_group, panel = row / kPanel * kPanel;
    const int64_t width = least(kPanel, round_up(of_group - panel, kLanes));
    float* column_of = packed + o / of_group * size.group + panel * in + row - panel;
    for (int64_t c = 0; c < in; ++c) {
      double half[p][3], column[3], line[p];
      for (int j = 0; j < 3; ++j) {
        for (int i = 0; i < 3; ++i) {
          const float g =
              from[o * w.strides[0] + c * w.strides[1] + i * w.strides[2] + j * w.strides[3]];
          column[i] = g;
          plain[((o * in + c) * 3 + i) * 3 + j] = g;
        }
        weight_line(column, line);
        for (int i = 0; i < p; ++i) half[i][j] = line[i];
      }
      for (int i = 0; i < p; ++i) {
        weight_line(half[i], line);
        for (int j = 0; j < p; ++j) {
          column_of[(i * p + j) * size.point + c * width] = static_cast<float>(line[j]);
        }
      }
    }
  }
}

template <int m>
void unpack_weights(const void* from, const TensorRef& w, const void* params) {
  const float* plain =
      static_cast<const float*>(from) + kPoints<m> * kPoints<m> * PackedSize(w, params).point;
  float* to = static_cast<float*>(w.data);
  for (int64_t o = 0; o < w.shape[0]; ++o) {
    for (int64_t c = 0; c < w.shape[1]; ++c) {
      for (int64_t i = 0; i < 3; ++i) {
        for (int64_t j = 0; j < 3; ++j) {
          to[o * w.strides[0] + c * w.strides[1] + i * w.strides[2] + j * w.strides[3]] = *plain++;
        }
      }
    }
  }
}

#define ZENITH_WINOGRAD(m)    \
  {"conv_winograd" #m "_f32", \
   "",                        \
   kConvFields,               \
   kConvFieldCount,           \
   sizeof(ConvParams),        \
   winograd_scratch<m>,       \
   run_winograd<m>}
#define ZENITH_WINOGRAD_PACKER(m)     \
  {"conv_winograd" #m "_weights_f32", \
   kPackFields,                       \
   1,                                 \
   sizeof(PackParams),                \
   pack_bytes<m>,                     \
   pack_weights<m>,                   \
   unpack_weights<m>}
const Kernel kKernels[] = {ZENITH_WINOGRAD(2), ZENITH_WINOGRAD(4)};
const Packer kPackers[] = {ZENITH_WINOGRAD_PACKER(2), ZENITH_WINOGRAD_PACKER(4)};

}  // namespace

Table conv_winograd_table();
Table conv_winograd_table() { return {kKernels, 2, kPackers, 2}; }

}  // namespace zenith::ZENITH_ISA
