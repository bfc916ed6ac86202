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
// takes part; keys beyond its last column do not) or missing, lengths[B] (i64: so many keys of a
// batch are there) or missing. out: y[B, H, S, E]. H is a multiple of G. Last axes
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
[[maybe_unused]] int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused]] int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// heads: of one group; rows and keys have d numbers, values e.
struct Sizes {
  int64_t groups, heads, rows, keys, d, e;
};
[[maybe_unused]] Sizes sizes_of(const Call& call) {
  const TensorRef &q = call.in[0], &k = call.in[1], &v = call.in[2];
  return {k.shape[1], k.shape[1] > 0 ? q.shape[1] / k.shape[1] : 0,
          q.shape[2], k.shape[2],
          q.shape[3], v.shape[3]};
}

template <typename T>
[[gnu::always_inline]] inline T* row_of(const TensorRef& t, int64_t b, int64_t h, int64_t row) {
  return static_cast<T*>(t.data) + b * t.strides[0] + h * t.strides[1] + row * t.strides[2];
}

// Which keys of a batch are there, and where its query row 0 stands.
struct Present {
  int64_t keys;
  Params how;
};
[[maybe_unused]] Present present(const Call& call, const Sizes& s, int64_t batch) {
  Present p{s.keys, *static_cast<const Params*>(call.params)};
  if (call.n_in > 4 && call.in[4].data != nullptr) {
    const int64_t length =
        static_cast<const int64_t*>(call.in[4].data)[batch * call.in[4].strides[0]];
    p.keys = at_least(at_most(length, s.keys), 0);
    // No position is beyond this, and sums with it stay in range.
    p.how.offset = at_least(at_most(length, s.keys + s.rows), -s.rows) - s.rows;
  }
  return p;
}

// The mask, null without one.
[[maybe_unused]] const TensorRef* mask_of(const Call& call) {
  return call.n_in > 3 && call.in[3].data != nullptr ? &call.in[3] : nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
