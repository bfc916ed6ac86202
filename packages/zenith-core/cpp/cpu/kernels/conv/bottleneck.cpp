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
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t at = tiles.begin(t), height = tiles.begin(t + 1) - at;
      const float* rows[kTileRows];
      for (int64_t r = 0; r < height; ++r) rows[r] = x + (at + r) * x_pixel;
      const StepOperand& add = finish.add;
      const TileEnd end{finish.bias + col,
                        add.data == nullptr ? nullptr : add.data + (place + at) * add.row + col,
                        add.row, finish.lo, finish.hi};
      float* to = y + at * ldy + col;
      tile_fn(height, ceil_div(cols, kLanes))({rows, &piece, 1, depth, weights + col * depth},
                                              weights + col * depth, end, to, ldy, cols);
      if (finish.rest.n > 0) apply_epilogue(finish.rest, place + at, col, height, cols, to, ldy);
    }
  }
}

class Products {
 public:
  using T = float;

  static int64_t call_bytes(const Bottleneck&) { return 0; }
  static int64_t worker_bytes(const Bottleneck&) { return 0; }

  Products(const Call& call, const Bottleneck& b, float* bias) : b_(b), call_(call) {
    const auto& p = *static_cast<const BottleneckParams*>(call.params);
    const TensorRef* operand = call.in + kFirstOperand;
    expand_ = make_finish(operand, p.expand_epilogue, b.expanded, 1, bias);
    operand += count_operands(p.expand_epilogue);
    depthwise = make_finish(operand, p.depthwise_epilogue, b.expanded, 1, bias + b.pixel);
    operand += count_operands(p.depthwise_epilogue);
    project_ = make_finish(operand, p.epilogue, b.s.m, 1, bias + 2 * b.pixel);
  }

  void expand(char*, const float* x, int64_t count, float* y) const {
    multiply_row(x, b_.s.xw, b_.s.c, weights(1), b_.expanded, expand_, 0, count, y, b_.pixel);
  }
  void project(char*, const float* row, int64_t line) const {
    const ConvShape& s = b_.s;
    multiply_row(row, b_.pixel, b_.expanded, weights(3), s.m, project_, line * s.ow, s.ow,
                 static_cast<float*>(call_.out[0].data) + line * s.ow * s.ldy, s.ldy);
  }

  Finish depthwise{};

 private:
  const float* weights(int i) const { return static_cast<const float*>(call_.in[i].data); }

  const Bottleneck& b_;
  const Call& call_;
  Finish expand_{}, project_{};
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
