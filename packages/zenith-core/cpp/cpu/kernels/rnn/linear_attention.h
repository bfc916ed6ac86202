// Attention whose memory of the past is one matrix per head, ai.onnx:LinearAttention.
#pragma once

#include "cpu/isa/vecmath.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// Inputs, all float32: query [B, T, Hq * dk], key [B, T, H * dk], value [B, T, H * dv]; past state
// [B, H, dk, dv]; decay [B, T, H * dk] or [B, T, H], in log space; beta [B, T, H] or [B, T, 1]. The
// last three may be missing: a state of zeros, no decay, no correction. Outputs [B, T, Hq * dv] and
// the state. The last axis of every operand has stride 1, and the states are row-major.
struct LinearAttentionParams {
  int64_t query_heads, heads;
  float scale;
};
const Field kLinearAttentionFields[] = {ZENITH_FIELD(LinearAttentionParams, query_heads, kInt, 1),
                                        ZENITH_FIELD(LinearAttentionParams, heads, kInt, 1),
                                        ZENITH_FIELD(LinearAttentionParams, scale, kFloat, 1)};

const float* row_at(const TensorRef& t, int64_t b, int64_t step) {
  return static_cast<const float*>(t.data) + b * t.strides[0] + step * t.strides[1];
}

// y += a * x
[[gnu::always_inline]] inline void add_scaled(float a, const float* __restrict x,
                                              float* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

int64_t value_bytes(const Call& call) { return (call.out[1].shape[3] * 4 + 63) / 64 * 64; }

int64_t linear_attention_scratch(const Call& call) {
  return call.parallel.threads * value_bytes(call);
}

// One head of one item over all steps; `state` is read and written.
void attend(const Call& call, int64_t b, int64_t head, float* state, float* update) {
  const LinearAttentionParams& p = *static_cast<const LinearAttentionParams*>(call.params);
  const TensorRef& ty = call.out[0];
  const int64_t depth = call.out[1].shape[2], width = call.out[1].shape[3];
  const int64_t group = p.query_heads / p.heads;
  const auto given = [&](int i) { return i < call.n_in && call.in[i].rank >= 0; };
  const bool decays = given(4), corrects = given(5);
  const bool decay_per_row = decays && call.in[4].shape[2] != p.heads;
  const int64_t betas = corrects ? call.in[5].shape[2] : 1;
  for (int64_t t = 0; t < ty.shape[1]; ++t) {
    const float* key = row_at(call.in[1], b, t) + head * depth;
    const float* value = row_at(call.in[2], b, t) + head * width;
    if (decays) {
      const float* g = row_at(call.in[4], b, t) + (decay_per_row ? head * depth : head);
      float factor = vexp(splat(g[0]))[0];
      for (int64_t d = 0; d < depth; ++d) {
        if (decay_per_row) factor = vexp(splat(g[d]))[0];
        for (int64_t i = 0; i < width; ++i) state[d * width + i] *= factor;
      }
    }
    std::memcpy(update, value, static_cast<size_t>(width) * 4);
    if (corrects) {
      for (int64_t d = 0; d < depth; ++d) add_scaled(-key[d], state + d * width, update, width);
      const float beta = row_at(call.in[5], b, t)[betas == 1 ? 0 : head];
      for (int64_t i = 0; i < width; ++i) update[i] *= beta;
    }
    for (int64_t d = 0; d < depth; ++d) add_scaled(key[d], update, state + d * width, width);
    for (int64_t q = head * group; q < (head + 1) * group; ++q) {
      const float* query = row_at(call.in[0], b, t) + q * depth;
      float* y = const_cast<float*>(row_at(ty, b, t)) + q * width;
      std::memset(y, 0, static_cast<size_t>(width) * 4);
      for (int64_t d = 0; d < depth; ++d) add_scaled(query[d], state + d * width, y, width);
      for (int64_t i = 0; i < width; ++i) y[i] *= p.scale;
    }
  }
}

const char* run_linear_attention(const Call& call) {
  const LinearAttentionParams& p = *static_cast<const LinearAttentionParams*>(call.params);
  const TensorRef& after = call.out[1];
  const int64_t size = after.shape[2] * after.shape[3];
  if (size == 0) return nullptr;
  parallel_for(call, after.shape[0] * p.heads, [&](int64_t task, int worker) {
    float* state = static_cast<float*>(after.data) + task * size;
    if (call.n_in > 3 && call.in[3].rank >= 0) {
      const float* before = static_cast<const float*>(call.in[3].data) + task * size;
      std::memcpy(state, before, static_cast<size_t>(size) * 4);
    } else {
      std::memset(state, 0, static_cast<size_t>(size) * 4);
    }
    float* update = reinterpret_cast<float*>(call.scratch + worker * value_bytes(call));
    attend(call, task / p.heads, task % p.heads, state, update);
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
