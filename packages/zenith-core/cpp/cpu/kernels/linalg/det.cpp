// Determinants of square matrices: elimination with row exchanges, in double.
#include "cpu/kernels/move/numbers.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

int64_t matrix_bytes(const TensorRef& x) {
  const int64_t n = x.shape[x.rank - 1];
  return (n * n * 8 + 63) / 64 * 64;
}
int64_t det_scratch(const Call& call) { return call.parallel.threads * matrix_bytes(call.in[0]); }

double eliminate(double* a, int64_t n) {
  double det = 1;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (__builtin_fabs(a[i * n + k]) > __builtin_fabs(a[pivot * n + k])) pivot = i;
    }
    const double top = a[pivot * n + k];
    if (top == 0) return 0;
    if (pivot != k) {
      det = -det;
      for (int64_t j = k; j < n; ++j) {
        const double swap = a[k * n + j];
        a[k * n + j] = a[pivot * n + j];
        a[pivot * n + j] = swap;
      }
    }
    det *= top;
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / top;
      for (int64_t j = k + 1; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
    }
  }
  return det;
}

// input: [..., n, n] with any strides; output: dense [...].
template <typename T>
const char* det(const Call& call) {
  const TensorRef& x = call.in[0];
  const int64_t n = x.shape[x.rank - 1], rows = x.strides[x.rank - 2], cols = x.strides[x.rank - 1];
  T* to = static_cast<T*>(call.out[0].data);
  parallel_for(call, element_count(call.out[0]), [&](int64_t i, int worker) {
    auto* a = reinterpret_cast<double*>(call.scratch + worker * matrix_bytes(x));
    int64_t offset = 0, rest = i;
    for (int d = x.rank - 3; d >= 0; --d) {
      offset += rest % x.shape[d] * x.strides[d];
      rest /= x.shape[d];
    }
    const T* from = static_cast<const T*>(x.data) + offset;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        a[r * n + c] = static_cast<double>(get(from[r * rows + c * cols]));
      }
    }
    put(to + i, eliminate(a, n));
  });
  return nullptr;
}

const char* run_det(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::kF32:
      return det<float>(call);
    case DType::kF64:
      return det<double>(call);
    case DType::kF16:
      return det<Half>(call);
    case DType::kBF16:
      return det<Brain>(call);
    default:
      return "a determinant of this dtype";
  }
}

const Kernel kKernels[] = {{"det", "", nullptr, 0, 0, det_scratch, run_det}};

}  // namespace

Table linalg_table();
Table linalg_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
