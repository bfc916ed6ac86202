// The inverted residual block of bfloat16: products of bfloat16 pairs with float32 sums; what is
// between them is float32.
#include "cpu/kernels/conv/bottleneck.h"
#include "cpu/kernels/conv/depth_bf16.h"
#include "cpu/kernels/gemm/finish_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

// Pixels of one row, as products read them: where they lie, or in a copy that is whole steps deep.
struct Pixels {
  const APart* from;
  int64_t pixel;
};

void take_row(const bf16* from, int64_t n, APart* to) {
  if constexpr (sizeof(APart) == sizeof(bf16)) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(bf16));
  } else {
    convert_row(from, n, to);
  }
}
void take_row(const float* from, int64_t n, APart* to) {
  if constexpr (sizeof(APart) == sizeof(bf16)) {
    convert_row(from, n, to);
  } else {  // rounded all the same
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = static_cast<int>(least(kLanes, n - i));
      const vf v = widen(narrow(count == kLanes ? load(from + i) : load_n(from + i, count)));
      std::memcpy(to + i, &v, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

template <typename From>
Pixels copy_pixels(const From* from, int64_t pixel, int64_t count, const Depth& depth,
                   int64_t channels, APart* to) {
  for (int64_t i = 0; i < count; ++i) {
    APart* at = to + i * depth.padded;
    take_row(from + i * pixel, channels, at);
    for (int64_t c = channels; c < depth.padded; ++c) at[c] = 0;
  }
  return {to, depth.padded};
}

// Products of `count` pixels with all panels: finish(sums, pixel, rows, channel, cols) of each
// tile.
template <typename Done>
void multiply_pixels(const Pixels& x, int64_t count, const Depth& depth, const bf16* weights,
                     int64_t n, const Done& done) {
  alignas(64) float sums[kRows * kCols];
  Multiplier multiplier(depth.step);
  for (int64_t first = 0; first < count; first += kRows) {
    const int64_t rows = least(kRows, count - first);
    const LeftTile left = left_rows(x.from + first * x.pixel, x.pixel, rows, depth.padded);
    for (int64_t channel = 0; channel < n; channel += kCols) {
      const bf16* panel = weights + channel * depth.padded;
      multiplier.run(left, panel, sums, kCols, {nullptr, 0});
      done(sums, first, rows, channel, least(kCols, n - channel));
    }
  }
}

StepOperand operand_of(const TensorRef& t) {
  return t.rank == 1 ? step_operand(t) : pixel_operand(t);
}

class Products {
 public:
  using T = bf16;

  // float32 copies of the operands that are added to expanded channels.
  static int64_t call_bytes(const Bottleneck& b) { return 2 * kMaxSteps * b.pixel * 4; }
  // The pixels of a row, before each of the products.
  static int64_t worker_bytes(const Bottleneck& b) {
    const Depth in = depth(b.s.c), out = depth(b.expanded);
    const int64_t elements = most(b.s.w * in.padded, b.s.ow * out.padded);
    return round_up(elements * static_cast<int64_t>(sizeof(APart)), 64);
  }

  Products(const Call& call, const Bottleneck& b, float* bias)
      : b_(b),
        call_(call),
        in_(depth(b.s.c)),
        out_(depth(b.expanded)),
        project_(call.out[0], b.s.ldy, params().epilogue, call.in + kFirstOperand + operands(),
                 operand_of) {
    float* copies = bias + b.bias / 4;
    const TensorRef* operand = call.in + kFirstOperand;
    expand_ = widened(operand, params().expand_epilogue, bias, copies);
    operand += count_operands(params().expand_epilogue);
    depthwise =
        widened(operand, params().depthwise_epilogue, bias + b.pixel, copies + kMaxSteps * b.pixel);
  }

  void expand(char* memory, const bf16* x, int64_t count, float* y) const {
    const ConvShape& s = b_.s;
    const bool in_place = kReadsInPlace && in_.padded == s.c;
    const Pixels from =
        in_place ? Pixels{reinterpret_cast<const APart*>(x), s.xw}
                 : copy_pixels(x, s.xw, count, in_, s.c, reinterpret_cast<APart*>(memory));
    const vf low = splat(expand_.lo), high = splat(expand_.hi);
    const int64_t pixel = b_.pixel;
    multiply_pixels(
        from, count, in_, weights(1), b_.expanded,
        [&](const float* sums, int64_t first, int64_t rows, int64_t channel, int64_t cols) {
          float* to = y + first * pixel + channel;
          for (int64_t j = 0; j < cols; j += kLanes) {
            const vf bias = load(expand_.bias + channel + j);
            for (int64_t r = 0; r < rows; ++r) {
              const vf sum = load(sums + r * kCols + j) + bias;
              store(to + r * pixel + j, clamp(sum, low, high));
            }
          }
          if (expand_.rest.n > 0) {
            apply_epilogue(expand_.rest, 0, channel, rows, cols, to, pixel);
          }
        });
  }

  void project(char* memory, const float* row, int64_t line) const {
    const ConvShape& s = b_.s;
    const Pixels from =
        copy_pixels(row, b_.pixel, s.ow, out_, b_.expanded, reinterpret_cast<APart*>(memory));
    multiply_pixels(from, s.ow, out_, weights(3), s.m,
                    [&](float* sums, int64_t first, int64_t rows, int64_t channel, int64_t cols) {
                      project_.tile(sums, kCols, line * s.ow + first, channel, rows, cols);
                    });
  }

  Finish depthwise{};

 private:
  static Depth depth(int64_t channels) { return {1, 1, 1, channels}; }
  const BottleneckParams& params() const {
    return *static_cast<const BottleneckParams*>(call_.params);
  }
  const bf16* weights(int i) const { return static_cast<const bf16*>(call_.in[i].data); }
  // Those before the last product's.
  int operands() const {
    return count_operands(params().expand_epilogue) + count_operands(params().depthwise_epilogue);
  }

  // An epilogue of expanded channels whose operands, one number per channel, are copied.
  Finish widened(const TensorRef* operand, const StepCodes& codes, float* bias,
                 float* copies) const {
    TensorRef wide[kMaxSteps];
    for (int i = 0; i < count_operands(codes); ++i) {
      wide[i] = operand[i];
      wide[i].dtype = DType::kF32;
      wide[i].data = copies + i * b_.pixel;
      wide[i].strides[0] = 1;
      for (int64_t c = 0; c < operand[i].shape[0]; ++c) {
        convert_row(static_cast<const bf16*>(operand[i].data) + c * operand[i].strides[0], 1,
                    copies + i * b_.pixel + c);
      }
    }
    return make_finish(wide, codes, b_.expanded, 1, bias);
  }

  const Bottleneck& b_;
  const Call& call_;
  Depth in_, out_;
  TileFinish project_;
  Finish expand_{};
};

const Kernel kKernels[] = {
    {"conv_bottleneck_bf16", kPairTile, kBottleneckFields, kBottleneckFieldCount,
     sizeof(BottleneckParams), bottleneck_scratch<Products>, run_bottleneck<Products>},
};

}  // namespace

Table conv_bottleneck_bf16_table();
Table conv_bottleneck_bf16_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
