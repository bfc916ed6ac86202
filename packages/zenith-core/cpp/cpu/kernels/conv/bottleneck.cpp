// The inverted residual block of float32.
#include "cpu/kernels/conv/bottleneck.h"

namespace zenith::ZENITH_ISA {
namespace {

// y = finish(x * weights) for `count` pixels in a row: x has `depth` channels, y `m`. `place` is
// the pixel's number where the epilogue reads operands.
void multiply_row(const float* x, int64_t x_pixel, int64_t depth, const float* weights, int64_t m,
                  const Finish& finish, int64_t place, int64_t count, float* y, int64_t ldy) {
  const RowTiles tiles(count);
  const int32_t piece = 0;
  for (int64_t col = 0; col < m; col += kPanel) {
    const int64_t cols = least(kPanel, m - col);
    const LongTileFn long_tile = long_tile_fn(ceil_div(cols, kLanes));
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t at = tiles.begin(t);
      const bool two =
          long_tile != nullptr && t + 2 <= tiles.count && tiles.begin(t + 2) - at == 2 * kTileRows;
      const int64_t height = tiles.begin(t + (two ? 2 : 1)) - at;
      const float* rows[kTileRows];
      for (int64_t r = 0; r < kTileRows; ++r) rows[r] = x + (at + r) * x_pixel;
      const StepOperand& add = finish.add;
      const TileEnd end{finish.bias + col,
                        add.data == nullptr ? nullptr : add.data + (place + at) * add.row + col,
                        add.row, finish.lo, finish.hi};
      float* to = y + at * ldy + col;
      const float* panel = weights + col * depth;
      const Pieces left{rows, &piece, 1, depth, panel};
      if (two) {
        long_tile({left, x_pixel, panel, round_up(cols, kLanes), end, to, ldy, cols});
        ++t;
      } else {
        tile_fn(height, ceil_div(cols, kLanes))(left, panel, end, to, ldy, cols);
      }
      if (finish.rest.n > 0) apply_epilogue(finish.rest, place + at, col, height, cols, to, ldy);
    }
  }
}

class Products {
 public:
  using T = float;
  static constexpr int64_t kItem = sizeof(float), kTogether = 8 << 10;
  // Rings of few channels, in L1, where that of all is far from it: else products take most of the
  // time, and those of whole panels are faster.
  static int64_t chunk_of(const Bottleneck& b) {
    constexpr int64_t kChunk = 2 * kLanes, kNear = 96 << 10;
    const bool chunks = b.s.kh * b.columns * b.expanded * 4 > kNear && b.inside() >= kLong;
    return chunks && long_tile_fn(2) != nullptr ? kChunk : row_of(b.expanded);
  }
  static int64_t row_of(int64_t expanded) { return round_up(expanded, kLanes); }
  static int64_t call_bytes(const Bottleneck&) { return 0; }
  static int64_t worker_bytes(const Bottleneck& b) {
    return round_up(b.strip * b.s.ow * b.pixel * kItem, 64);
  }

  Products(const Call& call, const Bottleneck& b, float* bias) : b_(b), call_(call) {
    const auto& p = *static_cast<const BottleneckParams*>(call.params);
    const TensorRef* operand = call.in + kFirstOperand;
    expand_ = make_finish(operand, p.expand_epilogue, b.expanded, 1, bias);
    operand += count_operands(p.expand_epilogue);
    depthwise_ = make_finish(operand, p.depthwise_epilogue, b.expanded, 1, bias + b.pixel);
    operand += count_operands(p.depthwise_epilogue);
    project_ = make_finish(operand, p.epilogue, b.s.m, 1, bias + 2 * b.pixel);
  }

  class Expansion {
   public:
    Expansion(const Products& products, char*) : of_(products) {}
    template <typename Target>
    void run(const float* x, int64_t, int64_t rows, int64_t count, int64_t channel,
             const Target& target) const {
      const Bottleneck& b = of_.b_;
      if (!b.expands) {
        const int64_t channels = least(b.chunk, b.expanded - channel);
        for (int64_t i = 0; i < rows; ++i) {
          keep_row(x + i * b.s.xh + channel, b.s.xw, count, channels, target(i), b.chunk);
        }
        return;
      }
      if (b.chunks > 1) {
        for (int64_t i = 0; i < rows; ++i) of_.expand(x + i * b.s.xh, channel, count, target(i));
        return;
      }
      for (int64_t i = 0; i < rows; ++i) {
        multiply_row(x + i * b.s.xh, b.s.xw, b.s.c, of_.weights(1), b.expanded, of_.expand_, 0,
                     count, target(i), b.pixel);
      }
    }

   private:
    const Products& of_;
  };

  void depthwise(char* memory, DepthwiseTile& at, int64_t count, int64_t channel,
                 int64_t place) const {
    at.y = reinterpret_cast<float*>(memory) + place * b_.pixel + channel;
    at.ldy = b_.pixel;
    finish_depthwise(at, count, least(b_.chunk, b_.expanded - channel), depthwise_, channel);
  }

  void project(const char* memory, int64_t line, int64_t lines) const {
    const ConvShape& s = b_.s;
    multiply_row(reinterpret_cast<const float*>(memory), b_.pixel, b_.expanded, weights(3), s.m,
                 project_, line * s.ow, lines * s.ow,
                 static_cast<float*>(call_.out[0].data) + line * s.ow * s.ldy, s.ldy);
  }

 private:
  static constexpr int64_t kLong = 2 * kTileRows;

  // A chunk of `count` pixels, as whole tiles: the last one may overlap.
  void expand(const float* x, int64_t channel, int64_t count, float* to) const {
    const ConvShape& s = b_.s;
    const int64_t panel = channel / kPanel * kPanel, cols = least(b_.chunk, b_.expanded - channel);
    const int64_t width = least(kPanel, b_.pixel - panel);
    const LongTileFn tile = long_tile_fn(ceil_div(cols, kLanes));
    const float* from = weights(1) + panel * s.c + channel - panel;
    const TileEnd end{expand_.bias + channel, nullptr, 0, expand_.lo, expand_.hi};
    const int32_t piece = 0;
    for (int64_t at = 0; at < count; at += kLong) {
      at = least(at, count - kLong);
      const float* row = x + at * s.xw;
      float* y = to + at * b_.chunk;
      tile({{&row, &piece, 1, s.c, nullptr}, s.xw, from, width, end, y, b_.chunk, cols});
      if (expand_.rest.n > 0) apply_epilogue(expand_.rest, 0, channel, kLong, cols, y, b_.chunk);
    }
  }

  const float* weights(int i) const { return static_cast<const float*>(call_.in[i].data); }

  const Bottleneck& b_;
  const Call& call_;
  Finish expand_{}, depthwise_{}, project_{};
};

#define ZENITH_TILE_NAME (kLanes == 16 ? "7x64" : kLanes == 8 ? "6x16" : "6x8")
const Kernel kKernels[] = {
    {"conv_bottleneck_f32", ZENITH_TILE_NAME, kBottleneckFields, kBottleneckFieldCount,
     sizeof(BottleneckParams), bottleneck_scratch<Products>, run_bottleneck<Products>},
};

}  // namespace

Table conv_bottleneck_table();
Table conv_bottleneck_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
