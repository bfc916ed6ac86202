// Batched products of two computed tensors: y[..., M, N] = epilogue(A[..., M, K] * B[..., K, N]).
// Panels of B are packed on the fly, each right before all rows of A meet it.
#include "cpu/kernels/gemm/gemm.h"
#include "cpu/kernels/gemm/micro.h"

namespace zenith::ZENITH_ISA {
namespace {

// Last two axes as a matrix, the others as a batch. All three tensors have one rank.
struct Problem {
  int64_t batch, m, n, depth;
  int64_t a_row, a_step, b_step, b_col, y_row, y_col;

  explicit Problem(const Call& call) {
    const TensorRef &a = call.in[0], &b = call.in[1], &y = call.out[0];
    const int r = y.rank;
    m = y.shape[r - 2];
    n = y.shape[r - 1];
    depth = a.shape[r - 1];
    batch = 1;
    for (int i = 0; i < r - 2; ++i) batch *= y.shape[i];
    a_row = a.strides[r - 2];
    a_step = a.strides[r - 1];
    b_step = b.strides[r - 2];
    b_col = b.strides[r - 1];
    y_row = y.strides[r - 2];
    y_col = y.strides[r - 1];
  }
};

Split split_product(int64_t m, int64_t panels, int64_t depth, int64_t batch, int threads) {
  // Rows of A one task goes through for each panel: they should stay in L2, or nearly.
  constexpr int64_t kBlockBytes = 1 << 20;
  // Below this much work per task a second worker costs more than it brings.
  constexpr int64_t kLeastFlops = 200 * 1000, kLeastBytes = 1 << 16;
  // Tasks per worker. One core may be slower than another, by a quarter when it shares its hardware
  // with somebody else: the last task to end decides.
  constexpr int64_t kTasks = 8;
  const int64_t block = most(8 * kMR, kBlockBytes / (4 * most(depth, 1)));
  const int64_t work =
      most(2 * m * panels * kNR * depth / kLeastFlops, panels * kNR * depth * 4 / kLeastBytes) *
      most(batch, 1);
  const int64_t want =
      threads == 1 ? 1 : most(1, ceil_div(least(kTasks * threads, work), most(batch, 1)));
  Split s{most(1, ceil_div(m, block)), most(1, least(panels, want))};
  if (s.rows * s.panels < want) s.rows = least(most(1, ceil_div(m, kMR)), ceil_div(want, s.panels));
  return s;
}

// Offset of item `index` of the batch axes of `shape`; axes of size 1 in t repeat.
int64_t batch_offset(const TensorRef& t, const TensorRef& shape, int64_t index) {
  int64_t offset = 0;
  for (int i = shape.rank - 3; i >= 0; --i) {
    if (t.shape[i] != 1) offset += index % shape.shape[i] * t.strides[i];
    index /= shape.shape[i];
  }
  return offset;
}

// Vector times matrix: y[n] = sum_k x[k] * w[k][n], for products with one row or one column.
struct VectorProduct {
  const float* x;  // stride 1
  const float* w;
  int64_t w_step;  // stride along the depth
  int64_t w_col;
  int64_t depth;
  float* y;
  int64_t y_col;
};

template <int kRows>
void dots(const VectorProduct& v, int64_t col) {
  vf acc[kRows][2] = {};
  const float* w = v.w + col * v.w_col;
  int64_t k = 0;
  for (; k + 2 * kLanes <= v.depth; k += 2 * kLanes) {
    for (int h = 0; h < 2; ++h) {
      const vf x = load(v.x + k + h * kLanes);
      for (int i = 0; i < kRows; ++i) acc[i][h] += x * load(w + i * v.w_col + k + h * kLanes);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float total = sum(acc[i][0] + acc[i][1]);
    for (int64_t j = k; j < v.depth; ++j) total += v.x[j] * w[i * v.w_col + j];
    v.y[(col + i) * v.y_col] = total;
  }
}

// kVectors vectors of neighbouring columns at once.
template <int kVectors>
void columns(const VectorProduct& v, int64_t col) {
  vf acc[kVectors] = {};
  const float* w = v.w + col;
  for (int64_t k = 0; k < v.depth; ++k, w += v.w_step) {
    const vf x = splat(v.x[k]);
    for (int i = 0; i < kVectors; ++i) acc[i] += x * load(w + i * kLanes);
  }
  for (int i = 0; i < kVectors; ++i) {
    for (int j = 0; j < kLanes; ++j) v.y[(col + i * kLanes + j) * v.y_col] = acc[i][j];
  }
}

void vector_product(const VectorProduct& v, int64_t col, int64_t end) {
  if (v.w_step == 1) {
    for (; col + 4 <= end; col += 4) dots<4>(v, col);
    for (; col < end; ++col) dots<1>(v, col);
    return;
  }
  if (v.w_col == 1) {
    for (; col + 8 * kLanes <= end; col += 8 * kLanes) columns<8>(v, col);
    for (; col + kLanes <= end; col += kLanes) columns<1>(v, col);
  }
  for (; col < end; ++col) {
    float total = 0;
    for (int64_t k = 0; k < v.depth; ++k) {
      total += v.x[k] * v.w[k * v.w_step + col * v.w_col];
    }
    v.y[col * v.y_col] = total;
  }
}

int64_t scratch_per_worker(const Problem& p) { return (p.depth * kNR * 4 + 63) / 64 * 64; }

void run_vector(const Call& call, const Problem& p, const Epilogue& epilogue) {
  const bool one_row = p.m == 1;
  const int64_t n = one_row ? p.n : p.m;
  const int64_t x_step = one_row ? p.a_step : p.b_step;
  const int64_t groups =
      split_product(1, ceil_div(n, kNR), p.depth, p.batch, call.parallel.threads).panels;
  parallel_for(call, p.batch * groups, [&](int64_t task, int worker) {
    const int64_t item = task / groups, group = task % groups;
    const float* a =
        static_cast<const float*>(call.in[0].data) + batch_offset(call.in[0], call.out[0], item);
    const float* b =
        static_cast<const float*>(call.in[1].data) + batch_offset(call.in[1], call.out[0], item);
    float* y = static_cast<float*>(call.out[0].data) + batch_offset(call.out[0], call.out[0], item);
    const float* x = one_row ? a : b;
    if (x_step != 1) {
      float* copy = reinterpret_cast<float*>(call.scratch + worker * scratch_per_worker(p));
      for (int64_t k = 0; k < p.depth; ++k) copy[k] = x[k * x_step];
      x = copy;
    }
    const VectorProduct v =
        one_row ? VectorProduct{x, b, p.b_step, p.b_col, p.depth, y, p.n == 1 ? 1 : p.y_col}
                : VectorProduct{x, a, p.a_step, p.a_row, p.depth, y, p.y_row};
    const int64_t col = n * group / groups, end = n * (group + 1) / groups;
    vector_product(v, col, end);
    if (one_row) {
      apply_epilogue(epilogue, 0, col, 1, end - col, y + col, 0);
    } else {
      apply_epilogue(epilogue, col, 0, end - col, 1, y + col * p.y_row, p.y_row);
    }
  });
}

}  // namespace

int64_t matmul_scratch(const Call& call) {
  return scratch_per_worker(Problem(call)) * call.parallel.threads;
}

// Inputs: A and B of any strides (fast when an axis of the last two has stride 1), batch axes of
// size 1 repeat; then the epilogue's operands, the same for every item of the batch. The output has
// stride 1 on its last axis.
const char* run_matmul(const Call& call) {
  const Problem p(call);
  if (p.batch == 0 || p.m == 0 || p.n == 0) return nullptr;
  const Epilogue epilogue =
      make_epilogue(static_cast<const ProductParams*>(call.params)->epilogue, call.in + 2);
  if (p.m == 1 || p.n == 1) {
    run_vector(call, p, epilogue);
    return nullptr;
  }
  const int64_t panels = ceil_div(p.n, kNR);
  const Split split = split_product(p.m, panels, p.depth, p.batch, call.parallel.threads);
  const int64_t per_item = split.rows * split.panels;
  parallel_for(call, p.batch * per_item, [&](int64_t task, int worker) {
    const int64_t item = task / per_item, block = task % per_item / split.panels;
    const int64_t group = task % split.panels;
    const float* a =
        static_cast<const float*>(call.in[0].data) + batch_offset(call.in[0], call.out[0], item);
    const float* b =
        static_cast<const float*>(call.in[1].data) + batch_offset(call.in[1], call.out[0], item);
    float* y = static_cast<float*>(call.out[0].data) + batch_offset(call.out[0], call.out[0], item);
    float* panel = reinterpret_cast<float*>(call.scratch + worker * scratch_per_worker(p));
    const int64_t row = p.m * block / split.rows;
    const int64_t rows = p.m * (block + 1) / split.rows - row;
    const int64_t end = panels * (group + 1) / split.panels;
    for (int64_t i = panels * group / split.panels; i < end; ++i) {
      const int64_t col = i * kNR, cols = least(kNR, p.n - col);
      pack_panel(b + col * p.b_col, p.b_step, p.b_col, p.depth, cols, panel);
      multiply_panel({a + row * p.a_row, p.a_row, p.a_step, rows, panel, p.depth, panel, false,
                      y + row * p.y_row + col, p.y_row, cols, row, col},
                     epilogue);
    }
  });
  return nullptr;
}

}  // namespace zenith::ZENITH_ISA
