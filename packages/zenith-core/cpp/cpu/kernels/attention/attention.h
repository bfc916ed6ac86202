// What the files of the attention family share.
#pragma once

#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {

int64_t attention_scratch(const Call& call);
const char* run_attention(const Call& call);
int64_t half_attention_scratch(const Call& call);
const char* run_half_attention(const Call& call);

namespace {

// in: q[B, H, S, D], k[B, G, T, D], v[B, G, T, E], mask[B, H, S, <= T] (f32 added, or bool: true
// takes part; keys beyond its last column do not) or missing, in float32 also lengths[B] (i64: so
// many keys of a batch are there) or missing. out: y[B, H, S, E]. H is a multiple of G. Last axes
// of q, k, v and y have stride 1; all other strides are free. Query row s stands at position
// p = offset + s, with lengths at p = lengths[b] - S + s, and sees the keys [p - left, p + right],
// up to p when causal; a negative left or right is no bound. A row that sees no key is 0.
struct Params {
  float scale;
  float softcap;  // softcap * tanh(score / softcap) before the mask; 0 is off
  int64_t causal, offset, left, right;
};
[[maybe_unused]] const Field kParamFields[] = {
    ZENITH_FIELD(Params, scale, kFloat, 1), ZENITH_FIELD(Params, softcap, kFloat, 1),
    ZENITH_FIELD(Params, causal, kInt, 1),  ZENITH_FIELD(Params, offset, kInt, 1),
    ZENITH_FIELD(Params, left, kInt, 1),    ZENITH_FIELD(Params, right, kInt, 1),
};
[[maybe_unused]] constexpr int kParamCount = sizeof(kParamFields) / sizeof(*kParamFields);

[[maybe_unused]] int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace
}  // namespace zenith::ZENITH_ISA
