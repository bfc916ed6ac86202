// Writing by index. The output holds the data already (a copy step ran before); updates go on top
// in the order of their indices, so equal indices always give the same result: targets are divided
// among the threads, never one target between two.
#include "cpu/kernels/gather/gather.h"
#include "cpu/kernels/move/numbers.h"

namespace zenith::ZENITH_ISA {
namespace {

// target op= update, n items.
using Combine = void (*)(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n);

template <typename T>
void assign_row(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
  copy_row<T>(to, to_step, from, from_step, n);
}

// Integers wrap around: sums and products are taken unsigned.
template <typename T>
struct Wide {
  using type = uint64_t;
};
template <>
struct Wide<float> {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <typename T, int R>
void reduce_row(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
  using W = typename Wide<typename Work<T>::type>::type;
  for (int64_t i = 0; i < n; ++i) {
    T* target = reinterpret_cast<T*>(to + i * to_step);
    const auto a = get(*target), b = get(*reinterpret_cast<const T*>(from + i * from_step));
    if constexpr (R == kAdd) put(target, static_cast<W>(a) + static_cast<W>(b));
    if constexpr (R == kMul) put(target, static_cast<W>(a) * static_cast<W>(b));
    if constexpr (R == kMin) put(target, a < b || a != a ? a : b);  // a NaN stays
    if constexpr (R == kMax) put(target, a > b || a != a ? a : b);
  }
}

// Of bool, a sum is "or" and a product is "and".
template <bool AND>
void reduce_truth(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    char& target = to[i * to_step];
    target = AND ? target & from[i * from_step] : target | from[i * from_step];
  }
}

template <typename T>
Combine reduce_of(int64_t reduction) {
  switch (reduction) {
    case kAdd:
      return reduce_row<T, kAdd>;
    case kMul:
      return reduce_row<T, kMul>;
    case kMin:
      return reduce_row<T, kMin>;
    case kMax:
      return reduce_row<T, kMax>;
    default:
      return nullptr;
  }
}

Combine combine_of(DType dtype, int64_t reduction) {
  if (reduction == kNone) {
    switch (item_size(dtype)) {
      case 1:
        return assign_row<uint8_t>;
      case 2:
        return assign_row<uint16_t>;
      case 4:
        return assign_row<uint32_t>;
      default:
        return assign_row<uint64_t>;
    }
  }
  switch (dtype) {
    case DType::kF32:
      return reduce_of<float>(reduction);
    case DType::kF64:
      return reduce_of<double>(reduction);
    case DType::kI32:
      return reduce_of<int32_t>(reduction);
    case DType::kI64:
      return reduce_of<int64_t>(reduction);
    case DType::kI16:
      return reduce_of<int16_t>(reduction);
    case DType::kI8:
      return reduce_of<int8_t>(reduction);
    case DType::kU64:
      return reduce_of<uint64_t>(reduction);
    case DType::kU32:
      return reduce_of<uint32_t>(reduction);
    case DType::kU16:
      return reduce_of<uint16_t>(reduction);
    case DType::kU8:
      return reduce_of<uint8_t>(reduction);
    case DType::kF16:
      return reduce_of<Half>(reduction);
    case DType::kBF16:
      return reduce_of<Brain>(reduction);
    case DType::kBool:
      return reduction == kMul || reduction == kMin ? reduce_truth<true> : reduce_truth<false>;
    default:
      return nullptr;
  }
}

void combine_nest(const Nest& nest, Combine combine, char* dst, const char* src) {
  int64_t index[kMaxRank] = {};
  dst += nest.dst_start;
  src += nest.src_start;
  for (int64_t o = 0; o < nest.outer_count; ++o) {
    int64_t to = 0, from = 0;
    for (int d = 0; d < nest.outer; ++d) {
      to += index[d] * nest.axes[d].dst;
      from += index[d] * nest.axes[d].src;
    }
    for (int64_t r = 0; r < nest.r.n; ++r) {
      combine(dst + to + r * nest.r.dst, nest.c.dst, src + from + r * nest.r.src, nest.c.src,
              nest.c.n);
    }
    for (int d = nest.outer - 1; d >= 0 && ++index[d] == nest.axes[d].n; --d) index[d] = 0;
  }
}

constexpr const char* kNoCombine = "no such reduction for this dtype";

}  // namespace

// inputs: indices, updates. Rows along the last axis; those that differ only in their `axis`
// coordinate may hit one target and stay on one thread.
const char* run_scatter_elements(const Call& call) {
  const auto& p = *static_cast<const ScatterElementsParams*>(call.params);
  const TensorRef &indices = call.in[0], &updates = call.in[1], &out = call.out[0];
  const Combine combine = combine_of(out.dtype, p.reduction);
  if (combine == nullptr) return kNoCombine;
  const bool is_long = indices.dtype == DType::kI64;
  const int axis = static_cast<int>(p.axis), last = out.rank - 1;
  const int64_t item = item_size(out.dtype), index_item = is_long ? 8 : 4;
  const int64_t repeats = axis == last ? 1 : indices.shape[axis];
  const int64_t to_step = axis == last ? 0 : out.strides[last] * item;
  const int64_t scale = out.strides[axis] * item, update_step = updates.strides[last] * item;
  TensorRef groups = indices;
  if (axis != last) groups.shape[axis] = at_most(1, repeats);
  int failed = 0;
  for_rows(call, groups, [&](const Rows& rows) {
    int64_t to = 0, from = 0, at = 0;
    for (int d = 0; d < last; ++d) {
      at += rows.index[d] * indices.strides[d];
      from += rows.index[d] * updates.strides[d];
      if (d != axis) to += rows.index[d] * out.strides[d];
    }
    char* dst = static_cast<char*>(out.data) + to * item;
    for (int64_t a = 0; a < repeats; ++a) {
      const char* index_at =
          static_cast<const char*>(indices.data) + (at + a * indices.strides[axis]) * index_item;
      const char* src =
          static_cast<const char*>(updates.data) + (from + a * updates.strides[axis]) * item;
      // One index repeated along the row (rows of a cache): the row is combined at once.
      const int64_t run = rows.step == 0 && axis != last ? rows.n : 1;
      for (int64_t i = 0; i < rows.n; i += run) {
        int64_t index = read_index(index_at + i * rows.step, is_long);
        if (!wrap_index(&index, out.shape[axis])) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        combine(dst + i * to_step + index * scale, to_step, src + i * update_step, update_step,
                run);
      }
    }
  });
  return failed != 0 ? kOutOfRange : nullptr;
}

int64_t scatter_nd_scratch(const Call& call) { return Rows(call.in[0]).count * 8; }

// inputs: indices, updates.
const char* run_scatter_nd(const Call& call) {
  const auto& p = *static_cast<const ScatterNdParams*>(call.params);
  const TensorRef &indices = call.in[0], &updates = call.in[1], &out = call.out[0];
  const Combine combine = combine_of(out.dtype, p.reduction);
  if (combine == nullptr) return kNoCombine;
  if (element_count(updates) == 0) return nullptr;
  int64_t* offsets = reinterpret_cast<int64_t*>(call.scratch);
  if (const char* error = slice_offsets(indices, out, 0, offsets)) return error;
  const int lead = indices.rank - 1;
  const Nest nest = slice_nest(updates, out, updates.rank - lead);
  const int64_t count = Rows(indices).count;
  const int64_t bytes = element_count(updates) * nest.item;
  const int64_t tasks = bytes < 65536 || count == 1 ? 1 : call.parallel.threads;
  parallel_for(call, tasks, [&](int64_t task, int) {
    int64_t index[kMaxRank] = {};
    for (int64_t i = 0; i < count; ++i) {
      // A target belongs to one task: a multiplicative hash of its offset says to which.
      const uint64_t hash = static_cast<uint64_t>(offsets[i]) * 0x9E3779B97F4A7C15u >> 32;
      if (tasks == 1 || static_cast<int64_t>(hash % static_cast<uint64_t>(tasks)) == task) {
        int64_t from = 0;
        for (int d = 0; d < lead; ++d) from += index[d] * updates.strides[d];
        char* dst = static_cast<char*>(out.data) + offsets[i];
        const char* src = static_cast<const char*>(updates.data) + from * nest.item;
        if (p.reduction == kNone) {
          copy_nest(nest, dst, src);
        } else {
          combine_nest(nest, combine, dst, src);
        }
      }
      for (int d = lead - 1; d >= 0 && ++index[d] == indices.shape[d]; --d) index[d] = 0;
    }
  });
  return nullptr;
}

// inputs: update, write_indices [batch] (missing: zeros). Row b of the update goes into row b of
// the cache from position write_indices[b] of `axis` on; circular wraps around its end.
const char* run_tensor_scatter(const Call& call) {
  const auto& p = *static_cast<const TensorScatterParams*>(call.params);
  const TensorRef &update = call.in[0], &out = call.out[0];
  if (element_count(update) == 0) return nullptr;
  const int axis = static_cast<int>(p.axis);
  const int64_t item = item_size(out.dtype), length = update.shape[axis], room = out.shape[axis];
  const bool indexed = call.n_in > 1 && call.in[1].rank >= 0;
  if (length > room) return "the update is longer than the cache";
  for (int64_t b = 0; b < update.shape[0]; ++b) {
    int64_t start = 0;
    if (indexed) {
      const TensorRef& at = call.in[1];
      const bool is_long = at.dtype == DType::kI64;
      start = read_index(static_cast<const char*>(at.data) + b * at.strides[0] * (is_long ? 8 : 4),
                         is_long);
    }
    if (p.circular != 0 && start >= 0) start %= room;
    if (start < 0 || (p.circular == 0 && start > room - length)) return kOutOfRange;
    const int64_t first = at_most(length, room - start);
    char* dst = static_cast<char*>(out.data) + b * out.strides[0] * item;
    const char* src = static_cast<const char*>(update.data) + b * update.strides[0] * item;
    for (int part = 0; part < 2; ++part) {
      TensorRef piece = update;
      piece.shape[axis] = part == 0 ? first : length - first;
      const Nest nest =
          make_nest(out.rank - 1, piece.shape + 1, update.strides + 1, out.strides + 1, item);
      copy_parallel(call, nest, dst + (part == 0 ? start : 0) * out.strides[axis] * item,
                    src + (part == 0 ? 0 : first) * update.strides[axis] * item);
    }
  }
  return nullptr;
}

}  // namespace zenith::ZENITH_ISA
