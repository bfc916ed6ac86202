// Reading by index: Gather, GatherND, GatherElements, OneHot. Slices are whole strided sub-tensors;
// their offsets are worked out and checked first, then all threads copy.
#include "cpu/kernels/gather/gather.h"

#include "cpu/kernels/move/numbers.h"

namespace zenith::ZENITH_ISA {
namespace {

// Output axes are [outer][indexed][inner]; data has the same outer axes in front.
void copy_slices(const Call& call, const TensorRef& data, const TensorRef& out, int outer,
                 int inner, const int64_t* offsets) {
  const Nest nest = slice_nest(data, out, inner);
  const bool one_run = is_one_run(nest);
  const int lead = out.rank - inner;
  const int64_t item = nest.item;
  int64_t count = 1, indexed = 1, slice = item;
  for (int d = 0; d < lead; ++d) count *= out.shape[d];
  for (int d = outer; d < lead; ++d) indexed *= out.shape[d];
  for (int d = lead; d < out.rank; ++d) slice *= out.shape[d];
  if (count == 0 || slice == 0) return;
  if (count == 1) {
    copy_parallel(call, nest, static_cast<char*>(out.data),
                  static_cast<const char*>(data.data) + offsets[0]);
    return;
  }
  const int64_t per_task = ceil_div(65536, slice);
  parallel_for(call, ceil_div(count, per_task), [&](int64_t task, int) {
    const int64_t begin = task * per_task, end = at_most(count, begin + per_task);
    int64_t index[kMaxRank] = {}, to = 0, from = 0;
    int64_t rest = begin;
    for (int d = lead - 1; d >= 0; --d) {
      index[d] = rest % out.shape[d];
      rest /= out.shape[d];
      to += index[d] * out.strides[d];
      if (d < outer) from += index[d] * data.strides[d];
    }
    int64_t k = begin % indexed;
    for (int64_t i = begin; i < end; ++i) {
      char* dst = static_cast<char*>(out.data) + to * item;
      const char* src = static_cast<const char*>(data.data) + from * item + offsets[k];
      if (one_run) {
        move_run(dst, src, slice);
      } else {
        copy_nest(nest, dst, src);
      }
      if (++k == indexed) k = 0;
      for (int d = lead - 1; d >= 0; --d) {
        to += out.strides[d];
        if (d < outer) from += data.strides[d];
        if (++index[d] < out.shape[d]) break;
        to -= out.strides[d] * out.shape[d];
        if (d < outer) from -= data.strides[d] * data.shape[d];
        index[d] = 0;
      }
    }
  });
}

// Gather: data, indices -> data[:axis] + indices + data[axis+1:].
struct GatherParams {
  int64_t axis;
};
const Field kGatherFields[] = {ZENITH_FIELD(GatherParams, axis, kInt, 1)};

int64_t gather_scratch(const Call& call) { return element_count(call.in[1]) * 8; }

const char* run_gather(const Call& call) {
  const int axis = static_cast<int>(static_cast<const GatherParams*>(call.params)->axis);
  const TensorRef &data = call.in[0], &indices = call.in[1];
  if (element_count(call.out[0]) == 0) return nullptr;
  int64_t* offsets = reinterpret_cast<int64_t*>(call.scratch);
  const bool is_long = indices.dtype == DType::kI64;
  const int64_t scale = data.strides[axis] * item_size(data.dtype), n = data.shape[axis];
  Rows rows(indices);
  const int64_t step = rows.step;
  for (int64_t row = 0; row < rows.count; ++row, rows.next()) {
    const char* from = rows.of(indices);
    for (int64_t i = 0; i < rows.n; ++i) {
      int64_t index = read_index(from + i * step, is_long);
      if (!wrap_index(&index, n)) return kOutOfRange;
      *offsets++ = index * scale;
    }
  }
  copy_slices(call, data, call.out[0], axis, data.rank - axis - 1,
              reinterpret_cast<int64_t*>(call.scratch));
  return nullptr;
}

// GatherND: the last axis of indices names a slice, after batch_dims axes walked together.
struct GatherNdParams {
  int64_t batch_dims;
};
const Field kGatherNdFields[] = {ZENITH_FIELD(GatherNdParams, batch_dims, kInt, 1)};

const char* run_gather_nd(const Call& call) {
  const int batch = static_cast<int>(static_cast<const GatherNdParams*>(call.params)->batch_dims);
  const TensorRef &data = call.in[0], &indices = call.in[1];
  if (element_count(call.out[0]) == 0) return nullptr;
  int64_t* offsets = reinterpret_cast<int64_t*>(call.scratch);
  if (const char* error = slice_offsets(indices, data, batch, offsets)) return error;
  copy_slices(call, data, call.out[0], 0, call.out[0].rank - (indices.rank - 1), offsets);
  return nullptr;
}

int64_t gather_nd_scratch(const Call& call) { return Rows(call.in[1]).count * 8; }

// GatherElements: out[i] = data[i with its axis coordinate replaced by indices[i]].
struct GatherElementsParams {
  int64_t axis;
};
const Field kGatherElementsFields[] = {ZENITH_FIELD(GatherElementsParams, axis, kInt, 1)};

template <typename T>
bool gather_row(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t scale,
                const char* index_at, int64_t index_step, bool is_long, int64_t limit, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    int64_t index = read_index(index_at + i * index_step, is_long);
    if (!wrap_index(&index, limit)) return false;
    move_item<T>(to + i * to_step, from + i * from_step + index * scale);
  }
  return true;
}

const char* run_gather_elements(const Call& call) {
  const int axis = static_cast<int>(static_cast<const GatherElementsParams*>(call.params)->axis);
  const TensorRef &data = call.in[0], &indices = call.in[1], &out = call.out[0];
  const bool is_long = indices.dtype == DType::kI64;
  const int64_t item = item_size(out.dtype);
  const int last = out.rank - 1;
  int failed = 0;
  for_rows(call, indices, [&](const Rows& rows) {
    int64_t from = 0, to = 0;
    for (int d = 0; d < last; ++d) {
      to += rows.index[d] * out.strides[d];
      if (d != axis) from += rows.index[d] * data.strides[d];
    }
    char* dst = static_cast<char*>(out.data) + to * item;
    const char* src = static_cast<const char*>(data.data) + from * item;
    const int64_t to_step = out.strides[last] * item, scale = data.strides[axis] * item;
    const int64_t from_step = axis == last ? 0 : data.strides[last] * item;
    const char* index_at = rows.of(indices);
    bool good = false;
    switch (item) {
#define ZENITH_ROW(T)                                                                     \
  good = gather_row<T>(dst, to_step, src, from_step, scale, index_at, rows.step, is_long, \
                       data.shape[axis], rows.n)
      case 1:
        ZENITH_ROW(uint8_t);
        break;
      case 2:
        ZENITH_ROW(uint16_t);
        break;
      case 4:
        ZENITH_ROW(uint32_t);
        break;
      default:
        ZENITH_ROW(uint64_t);
        break;
#undef ZENITH_ROW
    }
    if (!good) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
  });
  return failed != 0 ? kOutOfRange : nullptr;
}

// OneHot: indices of any number type, values [off, on] -> output with the depth axis last. An index
// outside the depth gives a row of off.
const char* run_one_hot(const Call& call) {
  const TensorRef &indices = call.in[0], &values = call.in[1], &out = call.out[0];
  const char* off = static_cast<const char*>(values.data);
  const char* on = off + values.strides[0] * item_size(values.dtype);
  for_rows(call, out, [&](const Rows& rows) {
    char* to = rows.of(out);
    copy_row(rows.item, to, rows.step, off, 0, rows.n);
    int64_t at = 0;
    for (int d = 0; d + 1 < out.rank; ++d) at += rows.index[d] * indices.strides[d];
    const char* p = static_cast<const char*>(indices.data) + at * item_size(indices.dtype);
    int64_t index = read_integer(p, indices.dtype);
    if (index >= -rows.n && wrap_index(&index, rows.n)) {
      copy_row(rows.item, to + index * rows.step, rows.step, on, 0, 1);
    }
  });
  return nullptr;
}

// ReverseSequence: inputs x and lengths [batch]; the first lengths[b] steps in time of each batch
// entry come in reverse order, the others as they are.
struct ReverseParams {
  int64_t batch_axis;
  int64_t time_axis;
};
const Field kReverseFields[] = {
    ZENITH_FIELD(ReverseParams, batch_axis, kInt, 1),
    ZENITH_FIELD(ReverseParams, time_axis, kInt, 1),
};

const char* run_reverse_sequence(const Call& call) {
  const auto& p = *static_cast<const ReverseParams*>(call.params);
  const int batch = static_cast<int>(p.batch_axis), time = static_cast<int>(p.time_axis);
  const TensorRef &x = call.in[0], &lengths = call.in[1], &out = call.out[0];
  const int last = out.rank - 1;
  const auto length_of = [&](int64_t b) {
    const char* at = static_cast<const char*>(lengths.data);
    return read_integer(at + b * lengths.strides[0] * item_size(lengths.dtype), lengths.dtype);
  };
  for (int64_t b = 0; b < x.shape[batch]; ++b) {
    const int64_t length = length_of(b);
    if (length < 0 || length > x.shape[time]) return "a sequence is longer than the time axis";
  }
  const int64_t item = item_size(x.dtype), x_step = x.strides[last] * item;
  const auto source = [](int64_t t, int64_t length) { return t < length ? length - 1 - t : t; };
  for_rows(call, out, [&](const Rows& rows) {
    char* to = rows.of(out);
    int64_t from = 0;
    for (int d = 0; d < last; ++d) {
      if (d != time) from += rows.index[d] * x.strides[d];
    }
    const char* src = static_cast<const char*>(x.data) + from * item;
    if (time == last) {
      const int64_t n = length_of(rows.index[batch]);
      copy_row(item, to, rows.step, src + (n - 1) * x_step, -x_step, n);
      copy_row(item, to + n * rows.step, rows.step, src + n * x_step, x_step, rows.n - n);
      return;
    }
    const int64_t t = rows.index[time], scale = x.strides[time] * item;
    if (batch != last) {
      const char* at = src + source(t, length_of(rows.index[batch])) * scale;
      copy_row(item, to, rows.step, at, x_step, rows.n);
      return;
    }
    for (int64_t b = 0; b < rows.n; ++b) {
      const char* at = src + b * x_step + source(t, length_of(b)) * scale;
      copy_row(item, to + b * rows.step, rows.step, at, x_step, 1);
    }
  });
  return nullptr;
}

const Field kScatterElementsFields[] = {
    ZENITH_FIELD(ScatterElementsParams, axis, kInt, 1),
    ZENITH_FIELD(ScatterElementsParams, reduction, kInt, 1),
};
const Field kScatterNdFields[] = {ZENITH_FIELD(ScatterNdParams, reduction, kInt, 1)};
const Field kTensorScatterFields[] = {
    ZENITH_FIELD(TensorScatterParams, axis, kInt, 1),
    ZENITH_FIELD(TensorScatterParams, circular, kInt, 1),
};
const Field kTopkFields[] = {ZENITH_FIELD(TopkParams, largest, kInt, 1)};

#define ZENITH_ROW(name, list, Params, scratch, run) \
  {name, "", list, sizeof(list) / sizeof(*list), sizeof(Params), scratch, run}
const Kernel kKernels[] = {
    ZENITH_ROW("gather", kGatherFields, GatherParams, gather_scratch, run_gather),
    ZENITH_ROW("gather_nd", kGatherNdFields, GatherNdParams, gather_nd_scratch, run_gather_nd),
    ZENITH_ROW("gather_elements", kGatherElementsFields, GatherElementsParams, nullptr,
               run_gather_elements),
    {"one_hot", "", nullptr, 0, 0, nullptr, run_one_hot},
    ZENITH_ROW("reverse_sequence", kReverseFields, ReverseParams, nullptr, run_reverse_sequence),
    ZENITH_ROW("scatter_elements", kScatterElementsFields, ScatterElementsParams, nullptr,
               run_scatter_elements),
    ZENITH_ROW("scatter_nd", kScatterNdFields, ScatterNdParams, scatter_nd_scratch, run_scatter_nd),
    ZENITH_ROW("tensor_scatter", kTensorScatterFields, TensorScatterParams, nullptr,
               run_tensor_scatter),
    ZENITH_ROW("topk", kTopkFields, TopkParams, topk_scratch, run_topk),
};

}  // namespace

Table gather_table();
Table gather_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
