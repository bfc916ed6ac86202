// Attention of bfloat16: a task widens what it reads of q, k and v and runs the float32 kernel on
// that, so scores, softmax and sums are float32.
#include "cpu/isa/bf16.h"
#include "cpu/kernels/attention/attention.h"

namespace zenith::ZENITH_ISA {
namespace {

// bfloat16: a task widens what it reads of q, k and v, and runs the float32 kernel on that. Sizes
// are in floats.
constexpr int64_t kHalfRows = 256;  // query rows of a task

struct HalfPlan : Sizes {
  int64_t cuts;
  int64_t q_size, k_size, v_size, y_size, inner, worker_size;
};

// The float32 call of one task: operands at `work`, in the order q, k, v, y, scratch.
struct HalfCall {
  TensorRef in[4], out[1];
  Call call;
};

void dense_heads(TensorRef& t, int64_t heads, int64_t rows, int64_t width) {
  t = {};
  t.dtype = DType::kF32;
  t.rank = 4;
  const int64_t shape[] = {1, heads, rows, width};
  int64_t stride = 1;
  for (int i = 3; i >= 0; --i) {
    t.shape[i] = shape[i];
    t.strides[i] = stride;
    stride *= shape[i];
  }
}

void half_call(const Call& call, const HalfPlan& p, int64_t rows, HalfCall& half) {
  dense_heads(half.in[0], p.heads, rows, p.d);
  dense_heads(half.in[1], 1, p.keys, p.d);
  dense_heads(half.in[2], 1, p.keys, p.e);
  dense_heads(half.out[0], p.heads, rows, p.e);
  half.call = {half.in, half.out, 3, 1, call.params, nullptr, {nullptr, nullptr, 1}};
}

HalfPlan half_plan_of(const Call& call) {
  HalfPlan p{};
  static_cast<Sizes&>(p) = sizes_of(call);
  p.cuts = p.rows > kHalfRows ? (p.rows + kHalfRows - 1) / kHalfRows : 1;
  const int64_t rows = (p.rows + p.cuts - 1) / p.cuts;
  p.q_size = round_up(p.heads * rows * p.d, 16);
  p.k_size = round_up(p.keys * p.d, 16);
  p.v_size = round_up(p.keys * p.e, 16);
  p.y_size = round_up(p.heads * rows * p.e, 16);
  for (int64_t n = p.rows / p.cuts; n <= rows; ++n) {  // tasks have so many rows, or one more
    HalfCall half{};
    half_call(call, p, n, half);
    const int64_t inner = attention_scratch(half.call) / 4;
    p.inner = inner > p.inner ? inner : p.inner;
  }
  p.worker_size = p.q_size + p.k_size + p.v_size + p.y_size + p.inner;
  return p;
}

// Rows [row, row + rows) of head h of item b, between bfloat16 and dense float32.
void widen_rows(const TensorRef& t, int64_t b, int64_t h, int64_t row, int64_t rows, float* to) {
  const bf16* from = row_of<const bf16>(t, b, h, row);
  for (int64_t r = 0; r < rows; ++r) {
    convert_row(from + r * t.strides[2], t.shape[3], to + r * t.shape[3]);
  }
}
void narrow_rows(const float* from, const TensorRef& t, int64_t b, int64_t h, int64_t row,
                 int64_t rows) {
  bf16* to = row_of<bf16>(t, b, h, row);
  for (int64_t r = 0; r < rows; ++r) {
    convert_row(from + r * t.shape[3], t.shape[3], to + r * t.strides[2]);
  }
}

// The mask of one task as a view: item b, heads from h0, rows from `row`.
TensorRef part_of(const TensorRef& mask, int64_t b, int64_t h0, int64_t heads, int64_t row,
                  int64_t rows) {
  TensorRef t = mask;
  const int64_t at = b * t.strides[0] + h0 * t.strides[1] + row * t.strides[2];
  t.data = static_cast<char*>(t.data) + at * item_size(t.dtype);
  t.shape[0] = 1;
  t.shape[1] = heads;
  t.shape[2] = rows;
  return t;
}

}  // namespace

int64_t half_attention_scratch(const Call& call) {
  return half_plan_of(call).worker_size * 4 * call.parallel.threads;
}

const char* run_half_attention(const Call& call) {
  if (element_count(call.out[0]) == 0) return nullptr;
  const HalfPlan p = half_plan_of(call);
  const TensorRef &q = call.in[0], &k = call.in[1], &v = call.in[2], &y = call.out[0];
  const TensorRef* mask = mask_of(call);
  parallel_for(call, q.shape[0] * p.groups * p.cuts, [&](int64_t task, int worker) {
    const int64_t cut = task % p.cuts, group = task / p.cuts % p.groups;
    const int64_t b = task / p.cuts / p.groups;
    const int64_t row = p.rows * cut / p.cuts, rows = p.rows * (cut + 1) / p.cuts - row;
    float* work = reinterpret_cast<float*>(call.scratch) + worker * p.worker_size;
    HalfCall half{};
    half_call(call, p, rows, half);
    float* wide_k = work + p.q_size;
    float* wide_v = wide_k + p.k_size;
    float* wide_y = wide_v + p.v_size;
    half.in[0].data = work;
    half.in[1].data = wide_k;
    half.in[2].data = wide_v;
    half.out[0].data = wide_y;
    half.call.scratch = reinterpret_cast<char*>(wide_y + p.y_size);
    const Present there = present(call, p, b);
    Params params = there.how;
    params.offset += row;
    half.in[1].shape[2] = half.in[2].shape[2] = there.keys;
    half.call.params = &params;
    if (mask != nullptr) {
      half.in[3] = part_of(*mask, b, group * p.heads, p.heads, row, rows);
      half.call.n_in = 4;
    }
    for (int64_t h = 0; h < p.heads; ++h) {
      widen_rows(q, b, group * p.heads + h, row, rows, work + h * rows * p.d);
    }
    widen_rows(k, b, group, 0, there.keys, wide_k);
    widen_rows(v, b, group, 0, there.keys, wide_v);
    run_attention(half.call);
    for (int64_t h = 0; h < p.heads; ++h) {
      narrow_rows(wide_y + h * rows * p.e, y, b, group * p.heads + h, row, rows);
    }
  });
  return nullptr;
}

}  // namespace zenith::ZENITH_ISA
