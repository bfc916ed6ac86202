// Rotary position embedding, ai.onnx:RotaryEmbedding, of float32 or bfloat16; arithmetic in
// float32.
#include "cpu/isa/bf16.h"
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

void turn(const Params& p, const float* x, const float* cos, const float* sin, float* y,
          int64_t size) {
  if (p.interleaved != 0) {
    turn_pairs(x, cos, sin, y, p.dim / 2);
  } else {
    turn_halves(x, cos, sin, y, p.dim / 2);
  }
  for (int64_t i = p.dim; i < size; ++i) y[i] = x[i];
}

// What of x, cos and sin a head needs, for a worker that widens it: x, cos, sin, y.
int64_t widened_floats(const Call& call) {
  return 2 * call.in[0].shape[3] + static_cast<const Params*>(call.params)->dim;
}
int64_t bf16_scratch(const Call& call) {
  return call.parallel.threads * widened_floats(call) * static_cast<int64_t>(sizeof(float));
}

// The heads of one row of a batch.
struct Heads {
  int64_t count, size;
  int64_t x_step, y_step;
};
void turn_heads(const Params& p, const Heads& heads, const float* x, const float* cos,
                const float* sin, float* y, float*) {
  for (int64_t h = 0; h < heads.count; ++h, x += heads.x_step, y += heads.y_step) {
    turn(p, x, cos, sin, y, heads.size);
  }
}
void turn_heads(const Params& p, const Heads& heads, const bf16* x, const bf16* cos,
                const bf16* sin, bf16* y, float* widened) {
  const int64_t half = p.dim / 2;
  float *wide_x = widened, *wide_y = wide_x + heads.size, *c = wide_y + heads.size, *s = c + half;
  convert_row(cos, half, c);
  convert_row(sin, half, s);
  for (int64_t h = 0; h < heads.count; ++h, x += heads.x_step, y += heads.y_step) {
    convert_row(x, heads.size, wide_x);
    turn(p, wide_x, c, s, wide_y, heads.size);
    convert_row(wide_y, heads.size, y);
  }
}

template <typename T>
const char* run_rotary(const Call& call) {
  const Params& p = *static_cast<const Params*>(call.params);
  const TensorRef &tx = call.in[0], &cos = call.in[1], &sin = call.in[2], &ty = call.out[0];
  const bool indexed = call.n_in > 3 && call.in[3].rank >= 0;
  if (element_count(ty) == 0) return nullptr;
  const int64_t rows = tx.shape[2];
  const Heads heads{tx.shape[1], tx.shape[3], tx.strides[1], ty.strides[1]};
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
  const int64_t items = tx.shape[0] * rows, elements = heads.count * heads.size;
  const int64_t grain = elements < kGrain ? kGrain / elements : 1;
  parallel_for(call, (items + grain - 1) / grain, [&](int64_t task, int worker) {
    const int64_t end = (task + 1) * grain < items ? (task + 1) * grain : items;
    float* widened = sizeof(T) == sizeof(float)
                         ? nullptr
                         : reinterpret_cast<float*>(call.scratch) + worker * widened_floats(call);
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
      turn_heads(p, heads, static_cast<const T*>(tx.data) + b * tx.strides[0] + s * tx.strides[2],
                 static_cast<const T*>(cos.data) + at_cos, static_cast<const T*>(sin.data) + at_sin,
                 static_cast<T*>(ty.data) + b * ty.strides[0] + s * ty.strides[2], widened);
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"rotary_f32", "", kFields, 2, sizeof(Params), nullptr, run_rotary<float>},
    {"rotary_bf16", "", kFields, 2, sizeof(Params), bf16_scratch, run_rotary<bf16>},
};

}  // namespace

Table rotary_table();
Table rotary_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
