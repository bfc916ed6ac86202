// Small neighbourhood operators: Col2Im, LRN, LpNormalization, and BatchNormalization in training.
#include "cpu/isa/vecmath.h"
#include "cpu/kernels/sample/sample.h"

namespace zenith::ZENITH_ISA {
namespace {

struct Col2ImParams {
  Ints<3> block;
  Ints<3> strides;
  Ints<3> pads;  // before each axis
  Ints<3> dilations;
  Ints<3> blocks;  // how many windows along each axis
};
const Field kCol2ImFields[] = {
    ZENITH_FIELD(Col2ImParams, block, kInts, 3),  ZENITH_FIELD(Col2ImParams, strides, kInts, 3),
    ZENITH_FIELD(Col2ImParams, pads, kInts, 3),   ZENITH_FIELD(Col2ImParams, dilations, kInts, 3),
    ZENITH_FIELD(Col2ImParams, blocks, kInts, 3),
};

// x [N, C * block, windows] row-major -> y [N, C, D, H, W] row-major: windows added where they lie.
const char* run_col2im(const Call& call) {
  const auto& p = *static_cast<const Col2ImParams*>(call.params);
  const TensorRef& y = call.out[0];
  const int64_t image = y.shape[2] * y.shape[3] * y.shape[4];
  const int64_t taps = p.block.v[0] * p.block.v[1] * p.block.v[2];
  const int64_t windows = p.blocks.v[0] * p.blocks.v[1] * p.blocks.v[2];
  for_each_line(call, y.shape[0] * y.shape[1], [&](int64_t line, int) {
    const float* from = static_cast<const float*>(call.in[0].data) + line * taps * windows;
    float* to = static_cast<float*>(y.data) + line * image;
    std::memset(to, 0, static_cast<size_t>(image) * 4);
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t k[3] = {t / p.block.v[2] / p.block.v[1], t / p.block.v[2] % p.block.v[1],
                            t % p.block.v[2]};
      const auto at = [&](int axis, int64_t i) {
        return i * p.strides.v[axis] - p.pads.v[axis] + k[axis] * p.dilations.v[axis];
      };
      for (int64_t d = 0; d < p.blocks.v[0]; ++d) {
        for (int64_t h = 0; h < p.blocks.v[1]; ++h, from += p.blocks.v[2]) {
          if (at(0, d) < 0 || at(0, d) >= y.shape[2]) continue;
          if (at(1, h) < 0 || at(1, h) >= y.shape[3]) continue;
          float* row = to + (at(0, d) * y.shape[3] + at(1, h)) * y.shape[4];
          for (int64_t w = 0; w < p.blocks.v[2]; ++w) {
            const int64_t col = at(2, w);
            if (col >= 0 && col < y.shape[4]) row[col] += from[w];
          }
        }
      }
    }
  });
  return nullptr;
}

struct LrnParams {
  int64_t size;
  float alpha;
  float beta;
  float bias;
};
const Field kLrnFields[] = {
    ZENITH_FIELD(LrnParams, size, kInt, 1),
    ZENITH_FIELD(LrnParams, alpha, kFloat, 1),
    ZENITH_FIELD(LrnParams, beta, kFloat, 1),
    ZENITH_FIELD(LrnParams, bias, kFloat, 1),
};

int64_t lrn_floats(const Call& call) {
  const auto& p = *static_cast<const LrnParams*>(call.params);
  return ceil_div(call.out[0].shape[1] + p.size + 2 * kLanes, 16) * 16;
}
int64_t lrn_scratch(const Call& call) { return lrn_floats(call) * 4 * call.parallel.threads; }

// x and y [pixels, C], channels with stride 1: squares of `size` neighbouring channels are summed.
const char* run_lrn(const Call& call) {
  const auto& p = *static_cast<const LrnParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t channels = y.shape[1], before = (p.size - 1) / 2, floats = lrn_floats(call);
  const vf scale = splat(p.alpha / static_cast<float>(p.size));
  for_each_line(call, y.shape[0], [&](int64_t line, int worker) {
    const float* from = static_cast<const float*>(x.data) + line * x.strides[0];
    float* to = static_cast<float*>(y.data) + line * y.strides[0];
    float* squares = reinterpret_cast<float*>(call.scratch) + worker * floats;
    std::memset(squares, 0, static_cast<size_t>(floats) * 4);
    for (int64_t c = 0; c < channels; ++c) squares[before + c] = from[c] * from[c];
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int n = static_cast<int>(least(kLanes, channels - c));
      vf total{};
      for (int64_t k = 0; k < p.size; ++k) total += load(squares + c + k);
      const vf base = scale * total + p.bias;
      vf power = vpow(base, splat(p.beta));
      if (p.beta == 0.75f) power = vsqrt(base) * vsqrt(vsqrt(base));  // the usual one
      const vf v = n == kLanes ? load(from + c) : load_n(from + c, n);
      if (n == kLanes) {
        store(to + c, v / power);
      } else {
        store_n(to + c, v / power, n);
      }
    }
  });
  return nullptr;
}

struct LpParams {
  int64_t p;
};
const Field kLpFields[] = {ZENITH_FIELD(LpParams, p, kInt, 1)};

// x and y [outer, n, inner], any strides: divided by the 1- or 2-norm along n, 0 where that is 0.
const char* run_lp(const Call& call) {
  const int64_t p = static_cast<const LpParams*>(call.params)->p;
  const TensorRef &x = call.in[0], &y = call.out[0];
  for_each_line(call, y.shape[0] * y.shape[2], [&](int64_t line, int) {
    const int64_t outer = line / y.shape[2], inner = line % y.shape[2];
    const float* from =
        static_cast<const float*>(x.data) + outer * x.strides[0] + inner * x.strides[2];
    float* to = static_cast<float*>(y.data) + outer * y.strides[0] + inner * y.strides[2];
    double total = 0;
    for (int64_t i = 0; i < y.shape[1]; ++i) {
      const auto v = static_cast<double>(from[i * x.strides[1]]);
      total += p == 2 ? v * v : v < 0 ? -v : v;
    }
    const double norm = p == 2 ? __builtin_sqrt(total) : total;
    const double scale = norm == 0 ? 0 : 1 / norm;
    for (int64_t i = 0; i < y.shape[1]; ++i) {
      to[i * y.strides[1]] =
          static_cast<float>(static_cast<double>(from[i * x.strides[1]]) * scale);
    }
  });
  return nullptr;
}

struct BatchNormParams {
  int64_t training;  // statistics of this batch, else the given ones
  float epsilon;
  float momentum;
};
const Field kBatchNormFields[] = {
    ZENITH_FIELD(BatchNormParams, training, kInt, 1),
    ZENITH_FIELD(BatchNormParams, epsilon, kFloat, 1),
    ZENITH_FIELD(BatchNormParams, momentum, kFloat, 1),
};

// x, scale, bias, mean, variance -> y, and the running mean and variance where they are asked for.
// x and y [N, C, P], any strides; the others [C].
const char* run_batch_norm(const Call& call) {
  const auto& p = *static_cast<const BatchNormParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  const auto count = static_cast<double>(y.shape[0] * y.shape[2]);
  const auto given = [&](int i, int64_t c) {
    return static_cast<double>(
        static_cast<const float*>(call.in[i].data)[c * call.in[i].strides[0]]);
  };
  const auto put = [&](int i, int64_t c, double v) {
    if (i >= call.n_out || call.out[i].data == nullptr) return;
    static_cast<float*>(call.out[i].data)[c * call.out[i].strides[0]] = static_cast<float>(v);
  };
  for_each_line(call, y.shape[1], [&](int64_t c, int) {
    const float* from = static_cast<const float*>(x.data) + c * x.strides[1];
    float* to = static_cast<float*>(y.data) + c * y.strides[1];
    const auto each = [&](const auto& visit) {
      for (int64_t n = 0; n < y.shape[0]; ++n) {
        for (int64_t i = 0; i < y.shape[2]; ++i) visit(n, i);
      }
    };
    double mean = given(3, c), variance = given(4, c);
    if (p.training != 0) {
      double sum = 0, squares = 0;
      each([&](int64_t n, int64_t i) {
        sum += static_cast<double>(from[n * x.strides[0] + i * x.strides[2]]);
      });
      mean = sum / count;
      each([&](int64_t n, int64_t i) {
        const double v = static_cast<double>(from[n * x.strides[0] + i * x.strides[2]]) - mean;
        squares += v * v;
      });
      variance = squares / count;
    }
    const double scale = given(1, c) / __builtin_sqrt(variance + static_cast<double>(p.epsilon));
    const double bias = given(2, c);
    each([&](int64_t n, int64_t i) {
      const double v = static_cast<double>(from[n * x.strides[0] + i * x.strides[2]]) - mean;
      to[n * y.strides[0] + i * y.strides[2]] = static_cast<float>(v * scale + bias);
    });
    const auto keep = static_cast<double>(p.momentum);
    put(1, c, given(3, c) * keep + mean * (1 - keep));
    put(2, c, given(4, c) * keep + variance * (1 - keep));
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"col2im_f32", "", kCol2ImFields, 5, sizeof(Col2ImParams), nullptr, run_col2im},
    {"lrn_f32", "", kLrnFields, 4, sizeof(LrnParams), lrn_scratch, run_lrn},
    {"lp_normalize_f32", "", kLpFields, 1, sizeof(LpParams), nullptr, run_lp},
    {"batch_norm_f32", "", kBatchNormFields, 3, sizeof(BatchNormParams), nullptr, run_batch_norm},
};

}  // namespace

Table sample_local_table();
Table sample_local_table() { return {kKernels, 4, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
