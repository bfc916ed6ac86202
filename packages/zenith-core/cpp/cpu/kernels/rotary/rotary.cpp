// Rotary position embedding, ai.onnx:RotaryEmbedding.
#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// in: x[B, H, S, D]; cos and sin, either [B, S, R/2], or [positions, R/2] with ids[B, S] (int64)
// that pick rows. out: y like x. The last axis of x, cos, sin and y has stride 1; other strides are
// free. The first R = `dim` features of a head turn, the others are copied. Pairs that turn
// together are (i, i + R/2), or (2i, 2i + 1) when interleaved.
struct Params {
  int64_t dim, interleaved;
};
const Field kFields[] = {ZENITH_FIELD(Params, dim, kInt, 1),
                         ZENITH_FIELD(Params, interleaved, kInt, 1)};

constexpr int64_t kGrain = 1 << 13;  // elements worth a task

void turn_halves(const float* __restrict x, const float* __restrict cos,
                 const float* __restrict sin, float* __restrict y, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[half + i] * sin[i];
    y[half + i] = x[i] * sin[i] + x[half + i] * cos[i];
  }
}

void turn_pairs(const float* __restrict x, const float* __restrict cos, const float* __restrict sin,
                float* __restrict y, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    y[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * sin[i];
    y[2 * i + 1] = x[2 * i] * sin[i] + x[2 * i + 1] * cos[i];
  }
}

const char* run_rotary(const Call& call) {
  const Params& p = *static_cast<const Params*>(call.params);
  const TensorRef &tx = call.in[0], &cos = call.in[1], &sin = call.in[2], &ty = call.out[0];
  const bool indexed = call.n_in > 3 && call.in[3].rank >= 0;
  if (element_count(ty) == 0) return nullptr;
  const int64_t heads = tx.shape[1], rows = tx.shape[2], d = tx.shape[3];
  if (indexed) {
    const TensorRef& ids = call.in[3];
    for (int64_t i = 0; i < tx.shape[0] * rows; ++i) {
      const int64_t id = static_cast<const int64_t*>(
          ids.data)[i / rows * ids.strides[0] + i % rows * ids.strides[1]];
      if (id < 0 || id >= cos.shape[0] || id >= sin.shape[0]) {
        return "a position id is outside the cos and sin caches";
      }
    }
  }
  const int64_t items = tx.shape[0] * rows;
  const int64_t grain = heads * d < kGrain ? kGrain / (heads * d) : 1;
  parallel_for(call, (items + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t end = (task + 1) * grain < items ? (task + 1) * grain : items;
    for (int64_t item = task * grain; item < end; ++item) {
      const int64_t b = item / rows, s = item % rows;
      int64_t at_cos = 0, at_sin = 0;
      if (indexed) {
        const TensorRef& ids = call.in[3];
        const int64_t id =
            static_cast<const int64_t*>(ids.data)[b * ids.strides[0] + s * ids.strides[1]];
        at_cos = id * cos.strides[0];
        at_sin = id * sin.strides[0];
      } else {
        at_cos = b * cos.strides[0] + s * cos.strides[1];
        at_sin = b * sin.strides[0] + s * sin.strides[1];
      }
      const float* c = static_cast<const float*>(cos.data) + at_cos;
      const float* w = static_cast<const float*>(sin.data) + at_sin;
      const float* x = static_cast<const float*>(tx.data) + b * tx.strides[0] + s * tx.strides[2];
      float* y = static_cast<float*>(ty.data) + b * ty.strides[0] + s * ty.strides[2];
      for (int64_t h = 0; h < heads; ++h, x += tx.strides[1], y += ty.strides[1]) {
        if (p.interleaved != 0) {
          turn_pairs(x, c, w, y, p.dim / 2);
        } else {
          turn_halves(x, c, w, y, p.dim / 2);
        }
        for (int64_t i = p.dim; i < d; ++i) y[i] = x[i];
      }
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"rotary_f32", "", kFields, 2, sizeof(Params), nullptr, run_rotary},
};

}  // namespace

Table rotary_table();
Table rotary_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
