// TopK along the last axis: a heap of the k best, its worst at the root, then sorted in place.
// Equal values rank by index; NaN counts as the greatest number.
#include "cpu/kernels/gather/gather.h"

namespace zenith::ZENITH_ISA {
namespace {

template <typename T>
struct Candidate {
  T value;
  int64_t index;
};

template <typename T>
[[gnu::always_inline]] inline bool greater(T a, T b) {
  return a > b || (a != a && b == b);
}

template <typename T>
[[gnu::always_inline]] inline bool before(const Candidate<T>& a, const Candidate<T>& b,
                                          bool largest) {
  if (largest ? greater(a.value, b.value) : greater(b.value, a.value)) return true;
  if (largest ? greater(b.value, a.value) : greater(a.value, b.value)) return false;
  return a.index < b.index;
}

template <typename T>
void sift_down(Candidate<T>* heap, int64_t at, int64_t n, bool largest) {
  const Candidate<T> moving = heap[at];
  for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
    if (child + 1 < n && before(heap[child], heap[child + 1], largest)) ++child;
    if (!before(moving, heap[child], largest)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moving;
}

int64_t heap_bytes(int64_t k) { return ceil_div(k * 16, 64) * 64; }

template <typename T>
void topk(const Call& call) {
  const bool largest = static_cast<const TopkParams*>(call.params)->largest != 0;
  const TensorRef &x = call.in[0], &values = call.out[0], &indices = call.out[1];
  const int last = x.rank - 1;
  const int64_t k = values.shape[last], n = x.shape[last];
  const Rows first(values);
  if (k == 0 || first.count == 0) return;
  const int64_t per_task = ceil_div(16384, n);
  parallel_for(call, ceil_div(first.count, per_task), [&](int64_t task, int worker) {
    auto* heap = reinterpret_cast<Candidate<T>*>(call.scratch + worker * heap_bytes(k));
    Rows rows(values);
    rows.seek(task * per_task);
    const int64_t end = at_most(first.count, (task + 1) * per_task);
    for (int64_t row = task * per_task; row < end; ++row, rows.next()) {
      int64_t from = 0, to = 0;
      for (int d = 0; d < last; ++d) {
        from += rows.index[d] * x.strides[d];
        to += rows.index[d] * indices.strides[d];
      }
      const T* data = static_cast<const T*>(x.data) + from;
      for (int64_t i = 0; i < k; ++i) heap[i] = {data[i * x.strides[last]], i};
      for (int64_t i = k / 2 - 1; i >= 0; --i) sift_down(heap, i, k, largest);
      for (int64_t i = k; i < n; ++i) {
        const Candidate<T> candidate{data[i * x.strides[last]], i};
        if (before(candidate, heap[0], largest)) {
          heap[0] = candidate;
          sift_down(heap, 0, k, largest);
        }
      }
      for (int64_t i = k - 1; i > 0; --i) {
        const Candidate<T> worst = heap[0];
        heap[0] = heap[i];
        heap[i] = worst;
        sift_down(heap, 0, i, largest);
      }
      T* value = reinterpret_cast<T*>(rows.of(values));
      int64_t* index = static_cast<int64_t*>(indices.data) + to;
      for (int64_t i = 0; i < k; ++i) {
        value[i * values.strides[last]] = heap[i].value;
        index[i * indices.strides[last]] = heap[i].index;
      }
    }
  });
}

}  // namespace

int64_t topk_scratch(const Call& call) {
  const TensorRef& values = call.out[0];
  return call.parallel.threads * heap_bytes(values.shape[values.rank - 1]);
}

const char* run_topk(const Call& call) {
  const TensorRef &x = call.in[0], &values = call.out[0];
  if (values.shape[x.rank - 1] > x.shape[x.rank - 1]) return "k is above the size of the axis";
  switch (call.in[0].dtype) {
    case DType::kF32:
      topk<float>(call);
      break;
    case DType::kF64:
      topk<double>(call);
      break;
    case DType::kI32:
      topk<int32_t>(call);
      break;
    case DType::kI64:
      topk<int64_t>(call);
      break;
    case DType::kI8:
      topk<int8_t>(call);
      break;
    case DType::kU8:
      topk<uint8_t>(call);
      break;
    default:
      return "topk has no such dtype";
  }
  return nullptr;
}

}  // namespace zenith::ZENITH_ISA
