// TopK along the last axis. Values become unsigned keys that sort as the answer does (NaN is the
// greatest number, -0 equals 0); equal keys rank by index. A few of many come from a heap of the
// best so far, many from a radix sort.
#include "cpu/kernels/gather/gather.h"
#include "cpu/kernels/move/numbers.h"

namespace zenith::ZENITH_ISA {
namespace {

template <typename Key>
struct Candidate {
  Key key;
  Key index;
};

// Ascending keys. Floats: the bits of a non-negative number already sort; the others are flipped.
template <typename U>
[[gnu::always_inline]] inline U float_key(U bits, U infinity) {
  constexpr U kSign = U{1} << (sizeof(U) * 8 - 1);
  const U magnitude = bits & static_cast<U>(~kSign);
  const U flipped = static_cast<U>(bits & kSign ? ~bits : bits | kSign);
  return magnitude > infinity ? static_cast<U>(~U{0}) : magnitude == 0 ? kSign : flipped;
}
template <typename T>
struct Keys;
template <>
struct Keys<float> {
  using type = uint32_t;
  static type of(float v) { return float_key<uint32_t>(bits_of_float(v), 0x7f800000u); }
};
template <>
struct Keys<double> {
  using type = uint64_t;
  static type of(double v) {
    uint64_t bits;
    std::memcpy(&bits, &v, 8);
    return float_key<uint64_t>(bits, 0x7ff0000000000000u);
  }
};
template <>
struct Keys<Half> {
  using type = uint32_t;
  static type of(Half v) { return float_key<uint16_t>(v.v, 0x7c00u); }
};
template <>
struct Keys<Brain> {
  using type = uint32_t;
  static type of(Brain v) { return float_key<uint16_t>(v.v, 0x7f80u); }
};
template <typename T, typename U>
struct IntegerKeys {
  using type = U;
  static U of(T v) {
    constexpr U kSign = U{1} << (sizeof(U) * 8 - 1);
    return static_cast<T>(-1) < T{0} ? static_cast<U>(v) ^ kSign : static_cast<U>(v);
  }
};
template <>
struct Keys<int8_t> : IntegerKeys<int8_t, uint32_t> {};
template <>
struct Keys<int16_t> : IntegerKeys<int16_t, uint32_t> {};
template <>
struct Keys<int32_t> : IntegerKeys<int32_t, uint32_t> {};
template <>
struct Keys<int64_t> : IntegerKeys<int64_t, uint64_t> {};
template <>
struct Keys<uint8_t> : IntegerKeys<uint8_t, uint32_t> {};
template <>
struct Keys<uint16_t> : IntegerKeys<uint16_t, uint32_t> {};
template <>
struct Keys<uint32_t> : IntegerKeys<uint32_t, uint32_t> {};
template <>
struct Keys<uint64_t> : IntegerKeys<uint64_t, uint64_t> {};

template <typename Key>
[[gnu::always_inline]] inline bool before(const Candidate<Key>& a, const Candidate<Key>& b) {
  return a.key != b.key ? a.key < b.key : a.index < b.index;
}

// The worst of the heap is at the root.
template <typename Key>
void sift_down(Candidate<Key>* heap, int64_t at, int64_t n) {
  const Candidate<Key> moving = heap[at];
  for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
    if (child + 1 < n && before(heap[child], heap[child + 1])) ++child;
    if (!before(moving, heap[child])) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moving;
}

template <typename T, typename Key>
void select_heap(const T* data, int64_t step, int64_t n, int64_t k, Key flip,
                 Candidate<Key>* heap) {
  for (int64_t i = 0; i < k; ++i) {
    heap[i] = {static_cast<Key>(Keys<T>::of(data[i * step]) ^ flip), static_cast<Key>(i)};
  }
  for (int64_t i = k / 2 - 1; i >= 0; --i) sift_down(heap, i, k);
  for (int64_t i = k; i < n; ++i) {
    const Key key = static_cast<Key>(Keys<T>::of(data[i * step]) ^ flip);
    if (key < heap[0].key) {  // an equal one further back ranks behind
      heap[0] = {key, static_cast<Key>(i)};
      sift_down(heap, 0, k);
    }
  }
  for (int64_t i = k - 1; i > 0; --i) {
    const Candidate<Key> worst = heap[0];
    heap[0] = heap[i];
    heap[i] = worst;
    sift_down(heap, 0, i);
  }
}

// Sorts n candidates by key, stable; the result is in `items`. Bytes that are the same in all keys
// cost nothing.
template <typename Key>
void radix_sort(Candidate<Key>* items, Candidate<Key>* other, int64_t n) {
  constexpr int kBytes = sizeof(Key);
  Key all = ~Key{0}, any = 0;
  for (int64_t i = 0; i < n; ++i) {
    all &= items[i].key;
    any |= items[i].key;
  }
  Candidate<Key>* from = items;
  for (int byte = 0; byte < kBytes; ++byte) {
    const int shift = byte * 8;
    if (((all ^ any) >> shift & 255) == 0) continue;
    int64_t start[256] = {};
    for (int64_t i = 0; i < n; ++i) ++start[from[i].key >> shift & 255];
    int64_t sum = 0;
    for (int64_t& count : start) {
      const int64_t here = count;
      count = sum;
      sum += here;
    }
    for (int64_t i = 0; i < n; ++i) other[start[from[i].key >> shift & 255]++] = from[i];
    Candidate<Key>* swap = from;
    from = other;
    other = swap;
  }
  if (from != items) {
    for (int64_t i = 0; i < n; ++i) items[i] = from[i];
  }
}

bool uses_heap(int64_t k, int64_t n) { return k <= 16 || k * 32 <= n; }

// Candidates of one worker, in bytes: the heap, or two arrays to sort between.
int64_t worker_bytes(int64_t k, int64_t n, int64_t candidate) {
  return ceil_div((uses_heap(k, n) ? k : 2 * n) * candidate, 64) * 64;
}

template <typename T>
const char* topk(const Call& call) {
  using Key = typename Keys<T>::type;
  const bool largest = static_cast<const TopkParams*>(call.params)->largest != 0;
  const Key flip = largest ? static_cast<Key>(~Key{0}) : Key{0};
  const TensorRef &x = call.in[0], &values = call.out[0], &indices = call.out[1];
  const int last = x.rank - 1;
  const int64_t k = values.shape[last], n = x.shape[last];
  const int64_t bytes = worker_bytes(k, n, sizeof(Candidate<Key>));
  const Rows first(values);
  if (k == 0 || first.count == 0) return nullptr;
  if (n > INT64_C(0xffffffff)) return "the axis of a topk has more than 2^32 elements";
  const int64_t per_task = ceil_div(16384, n);
  parallel_for(call, ceil_div(first.count, per_task), [&](int64_t task, int worker) {
    auto* found = reinterpret_cast<Candidate<Key>*>(call.scratch + worker * bytes);
    Rows rows(values);
    rows.seek(task * per_task);
    const int64_t end = at_most(first.count, (task + 1) * per_task);
    for (int64_t row = task * per_task; row < end; ++row, rows.next()) {
      int64_t from = 0, to = 0;
      for (int d = 0; d < last; ++d) {
        from += rows.index[d] * x.strides[d];
        to += rows.index[d] * indices.strides[d];
      }
      const int64_t step = x.strides[last];
      const T* data = static_cast<const T*>(x.data) + from;
      if (uses_heap(k, n)) {
        select_heap<T, Key>(data, step, n, k, flip, found);
      } else {
        for (int64_t i = 0; i < n; ++i) {
          found[i] = {static_cast<Key>(Keys<T>::of(data[i * step]) ^ flip), static_cast<Key>(i)};
        }
        radix_sort(found, found + n, n);
      }
      T* value = reinterpret_cast<T*>(rows.of(values));
      int64_t* index = static_cast<int64_t*>(indices.data) + to;
      for (int64_t i = 0; i < k; ++i) {
        const int64_t at = static_cast<int64_t>(found[i].index);
        value[i * values.strides[last]] = data[at * step];
        index[i * indices.strides[last]] = at;
      }
    }
  });
  return nullptr;
}

}  // namespace

int64_t topk_scratch(const Call& call) {
  const TensorRef &x = call.in[0], &values = call.out[0];
  const int last = values.rank - 1;
  const int64_t candidate = item_size(x.dtype) == 8 ? 16 : 8;
  return call.parallel.threads * worker_bytes(values.shape[last], x.shape[last], candidate);
}

const char* run_topk(const Call& call) {
  const TensorRef &x = call.in[0], &values = call.out[0];
  if (values.shape[x.rank - 1] > x.shape[x.rank - 1]) return "k is above the size of the axis";
  switch (x.dtype) {
    case DType::kF32:
      return topk<float>(call);
    case DType::kF64:
      return topk<double>(call);
    case DType::kF16:
      return topk<Half>(call);
    case DType::kBF16:
      return topk<Brain>(call);
    case DType::kI64:
      return topk<int64_t>(call);
    case DType::kI32:
      return topk<int32_t>(call);
    case DType::kI16:
      return topk<int16_t>(call);
    case DType::kI8:
      return topk<int8_t>(call);
    case DType::kU64:
      return topk<uint64_t>(call);
    case DType::kU32:
      return topk<uint32_t>(call);
    case DType::kU16:
      return topk<uint16_t>(call);
    case DType::kU8:
      return topk<uint8_t>(call);
    default:
      return "topk has no such dtype";
  }
}

}  // namespace zenith::ZENITH_ISA
