// The inverted residual block of bfloat16: products of bfloat16 pairs with float32 sums; what is
// between them is float32.
#include "cpu/kernels/conv/bottleneck.h"
#include "cpu/kernels/conv/bottleneck_pairs.h"
#include "cpu/kernels/conv/depth_bf16.h"
#include "cpu/kernels/gemm/finish_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

void take_row(const bf16* from, int64_t n, APart* to) {
  if constexpr (sizeof(APart) == sizeof(bf16)) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(bf16));
  } else {
    convert_row(from, n, to);
  }
}
void take_row(const float* from, int64_t n, APart* to) {
  if constexpr (sizeof(APart) == sizeof(bf16)) {
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      store_two(to + i, load(from + i), load(from + i + kLanes));
    }
    convert_row(from + i, n - i, to + i);
  } else {  // rounded all the same
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = static_cast<int>(least(kLanes, n - i));
      const vf v = widen(narrow(count == kLanes ? load(from + i) : load_n(from + i, count)));
      std::memcpy(to + i, &v, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

// Pixels of one tile part. The first `done` are another part's too, which finishes them.
template <typename Place>
struct Part {
  const APart* from;
  int64_t rows, done;
  Place place;
};

// `count` pixels as parts: visit(first pixel, rows, done).
template <typename F>
void each_part(int64_t count, const F& visit) {
  for (int64_t at = 0; at < count; at += kPartRows) {
    // Full ones where that takes no longer: the tiles' shape is set rarely.
    const int64_t begin = kWholeParts && count >= kPartRows ? least(at, count - kPartRows) : at;
    visit(begin, least(kPartRows, count - begin), at - begin);
  }
}

// Products of parts with panels: done(sums, place of the first, rows, channel, cols).
template <typename Place>
class Tiles {
 public:
  Tiles(const Depth& depth, int64_t pixel, const bf16* weights, int64_t begin, int64_t end)
      : depth_(depth), pixel_(pixel), weights_(weights), begin_(begin), end_(end) {}

  template <typename Done>
  void add(Multiplier& multiplier, const Part<Place>& part, const Done& done) {
    parts_[n_++] = part;
    if (n_ == kParts) run(multiplier, done);
  }

  template <typename Done>
  void run(Multiplier& multiplier, const Done& done) {
    if (n_ == 0) return;
    alignas(64) float sums[kRows * kCols];
    LeftTile left = left_rows(parts_[0].from, pixel_, parts_[0].rows, depth_.padded);
    for (int64_t i = 1; i < n_; ++i) left.part[i] = parts_[i].from, left.rows[i] = parts_[i].rows;
    for (int64_t channel = begin_; channel < end_; channel += kCols) {
      const bf16* panel = weights_ + channel * depth_.padded;
#ifdef ZENITH_PAIR_TILES
      const bool whole = left.rows[0] == kPixels && left.rows[1] == kPixels &&
                         left.part[1] - left.part[0] == kPixels * pixel_;
      if (whole && end_ - channel <= kLanes) {
        product_tile(left.part[0], pixel_, depth_.padded, panel, sums, kCols);
      } else
#endif
        multiplier.run(left, panel, sums, kCols, {nullptr, 0});
      for (int64_t i = 0; i < n_; ++i) {
        const Part<Place>& part = parts_[i];
        done(sums + (i * kPartRows + part.done) * kCols, part.place, part.rows - part.done, channel,
             least(kCols, end_ - channel));
      }
    }
    n_ = 0;
  }

 private:
  const Depth& depth_;
  int64_t pixel_;
  const bf16* weights_;
  int64_t begin_, end_;  // channels
  Part<Place> parts_[kParts];
  int64_t n_ = 0;
};

StepOperand operand_of(const TensorRef& t) {
  return t.rank == 1 ? step_operand(t) : pixel_operand(t);
}

class Products {
 public:
  using T = bf16;

  static constexpr int64_t kChunk = kCols, kItem = sizeof(APart);
#ifdef ZENITH_PAIR_TILES
  static constexpr int64_t kTogether = 2 << 10;
#else
  static constexpr int64_t kTogether = 8 << 10;
#endif
  static int64_t chunk_of(const Bottleneck&) { return kChunk; }
  static int64_t row_of(int64_t expanded) { return depth(expanded).padded; }

  // float32 copies of the operands that are added to expanded channels.
  static int64_t call_bytes(const Bottleneck& b) { return 2 * kMaxSteps * b.pixel * 4; }
  // What is projected, and rows of x that are not read where they lie.
  static int64_t worker_bytes(const Bottleneck& b) {
    const int64_t copies = b.rows_of_strip() * b.s.w * depth(b.s.c).padded;
    return kept_bytes(b) + round_up(copies * kItem, 64);
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
    depthwise_ =
        widened(operand, params().depthwise_epilogue, bias + b.pixel, copies + kMaxSteps * b.pixel);
  }

  class Expansion {
   public:
    Expansion(const Products& products, char* memory)
        : of_(products),
          copies_(reinterpret_cast<APart*>(memory + kept_bytes(products.b_))),
          multiplier_(products.in_.step) {}

    template <typename Target>
    void run(const bf16* x, int64_t slot, int64_t rows, int64_t count, int64_t channel,
             const Target& target) {
      const ConvShape& s = of_.b_.s;
      const Depth& depth = of_.in_;
      if (!of_.b_.expands) {
        const int64_t channels = least(kChunk, s.c - channel);
        for (int64_t i = 0; i < rows; ++i) {
          keep_row(x + i * s.xh + channel, s.xw, count, channels, target(i), kChunk);
        }
        return;
      }
      const bool in_place = kReadsInPlace && depth.padded == s.c;
      const int64_t pixel = in_place ? s.xw : depth.padded;
      const int64_t row = in_place ? s.xh : s.w * depth.padded;
      const APart* from = reinterpret_cast<const APart*>(x);
      if (!in_place) {
        APart* copy = copies_ + slot * row;
        for (int64_t i = 0; channel == 0 && i < rows; ++i) {
          copy_pixels(x + i * s.xh, count, copy + i * row);
        }
        from = copy;
      }
#ifdef ZENITH_PAIR_TILES
      if (count >= kPixels) {
        for (int64_t i = 0; i < rows; ++i) {
          of_.expand_row(from + i * row, pixel, count, channel, target(i));
        }
        return;
      }
#endif
      const int64_t end = least(of_.b_.expanded, channel + kChunk);
      Tiles<float*> tiles(depth, pixel, of_.weights(1), channel, end);
      const auto finish = [&](auto... tile) { of_.finish_expansion(tile...); };
      for (int64_t i = 0; i < rows; ++i) {
        float* to = target(i);
        each_part(count, [&](int64_t first, int64_t height, int64_t done) {
          tiles.add(multiplier_,
                    {from + i * row + first * pixel, height, done, to + (first + done) * kChunk},
                    finish);
        });
      }
      tiles.run(multiplier_, finish);
    }

   private:
    void copy_pixels(const bf16* from, int64_t count, APart* to) const {
      const int64_t channels = of_.b_.s.c, padded = of_.in_.padded;
      for (int64_t i = 0; i < count; ++i, from += of_.b_.s.xw, to += padded) {
        take_row(from, channels, to);
        for (int64_t c = channels; c < padded; ++c) to[c] = 0;
      }
    }

    const Products& of_;
    APart* copies_;
    Multiplier multiplier_;
  };

  void depthwise(char* memory, DepthwiseTile& at, int64_t count, int64_t channel,
                 int64_t place) const {
    const int64_t channels = least(kChunk, b_.expanded - channel), padded = out_.padded;
    APart* to = reinterpret_cast<APart*>(memory) + place * padded + channel;
#ifdef ZENITH_PAIR_TILES
    if (count == kPixels && depthwise_.rest.n == 0 && channels % kLanes == 0) {
      const NarrowFn narrow = channels == kLanes ? narrow_fn<1>(b_.s) : narrow_fn<2>(b_.s);
      if (narrow != nullptr) {
        at.end = {depthwise_.bias + channel, nullptr, 0, depthwise_.lo, depthwise_.hi};
        return narrow(at, to, padded);
      }
    }
#endif
    alignas(64) float tile[kPixels * kChunk];
    at.y = tile, at.ldy = kChunk;
    finish_depthwise(at, count, channels, depthwise_, channel);
    const bool last = channel + kChunk >= b_.expanded;
    for (int64_t i = 0; i < count; ++i, to += padded) {
      take_row(tile + i * kChunk, channels, to);
      for (int64_t c = channels; last && c < padded - channel; ++c) to[c] = 0;
    }
  }

  void project(char* memory, int64_t line, int64_t lines) const {
    const APart* rows = reinterpret_cast<const APart*>(memory);
    const int64_t pixel = out_.padded, place = line * b_.s.ow;
    Multiplier multiplier(out_.step);
    Tiles<int64_t> tiles(out_, pixel, weights(3), 0, b_.s.m);
    const auto finish = [&](float* sums, int64_t at, int64_t n, int64_t channel, int64_t cols) {
      project_.tile(sums, kCols, at, channel, n, cols);
    };
    each_part(lines * b_.s.ow, [&](int64_t first, int64_t height, int64_t done) {
      tiles.add(multiplier, {rows + first * pixel, height, done, place + first + done}, finish);
    });
    tiles.run(multiplier, finish);
  }

 private:
  static Depth depth(int64_t channels) { return {1, 1, 1, channels}; }
  static int64_t kept_bytes(const Bottleneck& b) {
    return round_up(b.strip * b.s.ow * row_of(b.expanded) * kItem, 64);
  }
#ifdef ZENITH_PAIR_TILES
  // `count` pixels, at least kPixels, as whole tiles: the last one may overlap.
  void expand_row(const bf16* x, int64_t pixel, int64_t count, int64_t channel, float* to) const {
    const zenith::TileEnd end{expand_.bias + channel, nullptr, 0, expand_.lo, expand_.hi};
    const bf16* panel = weights(1) + channel * in_.padded;
    const int64_t cols = least(kChunk, b_.expanded - channel);
    for (int64_t at = 0; at < count;) {
      const bool two = count - at > kPixels && count >= 2 * kPixels;
      const int64_t height = two ? 2 * kPixels : kPixels, begin = least(at, count - height);
      float* tile = to + begin * kChunk;
      expand_fn(two, cols > kLanes)(x + begin * pixel, pixel, in_.padded, panel, end, tile, kChunk);
      if (expand_.rest.n > 0) apply_epilogue(expand_.rest, 0, channel, height, cols, tile, kChunk);
      at = begin + height;
    }
  }
#endif
  // Sums of an expanded chunk to its ring.
  void finish_expansion(const float* sums, float* to, int64_t rows, int64_t channel,
                        int64_t cols) const {
    const vf low = splat(expand_.lo), high = splat(expand_.hi);
    for (int64_t j = 0; j < cols; j += kLanes) {
      const vf bias = load(expand_.bias + channel + j);
      for (int64_t r = 0; r < rows; ++r) {
        store(to + r * kChunk + j, clamp(load(sums + r * kCols + j) + bias, low, high));
      }
    }
    if (expand_.rest.n > 0) apply_epilogue(expand_.rest, 0, channel, rows, cols, to, kChunk);
  }
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
      const bf16* from = static_cast<const bf16*>(operand[i].data);
      const int64_t n = operand[i].shape[0], stride = n == 1 ? 1 : operand[i].strides[0];
      const int64_t piece = stride == 1 ? n : 1;
      for (int64_t c = 0; c < n; c += piece) {
        convert_row(from + c * stride, piece, copies + i * b_.pixel + c);
      }
    }
    return make_finish(wide, codes, b_.expanded, 1, bias);
  }

  const Bottleneck& b_;
  const Call& call_;
  Depth in_, out_;
  TileFinish project_;
  Finish expand_{}, depthwise_{};
};

const Kernel kKernels[] = {
    {"conv_bottleneck_bf16", kPairTile, kBottleneckFields, kBottleneckFieldCount,
     sizeof(BottleneckParams), bottleneck_scratch<Products>, run_bottleneck<Products>},
};

}  // namespace

Table conv_bottleneck_bf16_table();
Table conv_bottleneck_bf16_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
