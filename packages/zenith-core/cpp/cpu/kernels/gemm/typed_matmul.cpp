// Products of matrices that are not f32: f64, and integers that wrap around. Plain and exact for
// its type; no packing ahead of time and no epilogue.
#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

struct NoParams {
  int64_t unused;
};

constexpr int64_t kColumns = 64;  // of a tile
constexpr int kRows = 4;          // of a tile

// Offset of item `index` of the batch axes of `shape`; axes of size 1 in t repeat.
int64_t item_offset(const TensorRef& t, const TensorRef& shape, int64_t index) {
  int64_t offset = 0;
  for (int i = shape.rank - 3; i >= 0; --i) {
    if (t.shape[i] != 1) offset += index % shape.shape[i] * t.strides[i];
    index /= shape.shape[i];
  }
  return offset;
}

// ROWS rows of y, `cols` columns: each row of B is read once for all of them.
template <typename T, int ROWS>
void tile(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_step, int64_t b_col,
          int64_t depth, T* y, int64_t y_row, int64_t y_col, int64_t cols) {
  T acc[ROWS][kColumns] = {};
  T line[kColumns];
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_step) {
    const T* w = b;
    if (b_col != 1) {
      for (int64_t j = 0; j < cols; ++j) line[j] = b[j * b_col];
      w = line;
    }
    for (int i = 0; i < ROWS; ++i) {
      const T x = a[i * a_row];
      for (int64_t j = 0; j < cols; ++j) acc[i][j] += x * w[j];
    }
  }
  for (int i = 0; i < ROWS; ++i) {
    for (int64_t j = 0; j < cols; ++j) y[i * y_row + j * y_col] = acc[i][j];
  }
}

template <typename T>
void run_tiles(const Call& call) {
  const TensorRef &ta = call.in[0], &tb = call.in[1], &ty = call.out[0];
  const int r = ty.rank;
  const int64_t m = ty.shape[r - 2], n = ty.shape[r - 1], depth = ta.shape[r - 1];
  int64_t batch = 1;
  for (int i = 0; i < r - 2; ++i) batch *= ty.shape[i];
  const int64_t columns = (n + kColumns - 1) / kColumns, rows = (m + kRows - 1) / kRows;
  parallel_for(call, batch * columns * rows, [&](int64_t task, int) {
    const int64_t item = task / (columns * rows);
    const int64_t row = task % rows * kRows, col = task / rows % columns * kColumns;
    const int64_t cols = n - col < kColumns ? n - col : kColumns;
    const int64_t a_row = ta.strides[r - 2], a_step = ta.strides[r - 1];
    const int64_t b_step = tb.strides[r - 2], b_col = tb.strides[r - 1];
    const int64_t y_row = ty.strides[r - 2], y_col = ty.strides[r - 1];
    const T* a = static_cast<const T*>(ta.data) + item_offset(ta, ty, item) + row * a_row;
    const T* b = static_cast<const T*>(tb.data) + item_offset(tb, ty, item) + col * b_col;
    T* y = static_cast<T*>(ty.data) + item_offset(ty, ty, item) + row * y_row + col * y_col;
    if (m - row >= kRows) {
      tile<T, kRows>(a, a_row, a_step, b, b_step, b_col, depth, y, y_row, y_col, cols);
    } else {
      for (int64_t i = 0; i < m - row; ++i) {
        tile<T, 1>(a + i * a_row, a_row, a_step, b, b_step, b_col, depth, y + i * y_row, y_row,
                   y_col, cols);
      }
    }
  });
}

// in: A and B of one rank with y, any strides, batch axes of size 1 repeat; out: y, any strides.
const char* run_matmul_typed(const Call& call) {
  if (element_count(call.out[0]) == 0) return nullptr;
  switch (call.out[0].dtype) {
    case DType::kF64:
      run_tiles<double>(call);
      return nullptr;
    case DType::kI32:
    case DType::kU32:
      run_tiles<uint32_t>(call);
      return nullptr;
    case DType::kI64:
    case DType::kU64:
      run_tiles<uint64_t>(call);
      return nullptr;
    default:
      return "no product for this dtype";
  }
}

const Kernel kKernels[] = {
    {"matmul_typed", "", nullptr, 0, sizeof(NoParams), nullptr, run_matmul_typed},
};

}  // namespace

Table gemm_typed_table();
Table gemm_typed_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
