// What the files of the gather family share.
#pragma once

#include "cpu/kernels/move/strided.h"

namespace zenith::ZENITH_ISA {

const char* run_scatter_elements(const Call& call);
const char* run_scatter_nd(const Call& call);
int64_t scatter_nd_scratch(const Call& call);
const char* run_tensor_scatter(const Call& call);
const char* run_topk(const Call& call);
int64_t topk_scratch(const Call& call);

// A scatter's reduction; combine rows exist for 4- and 8-byte numbers and for bytes.
enum Reduction { kNone, kAdd, kMul, kMin, kMax };

struct ScatterElementsParams {
  int64_t axis;
  int64_t reduction;
};
struct ScatterNdParams {
  int64_t reduction;
};
struct TensorScatterParams {
  int64_t axis;
  int64_t circular;
};
struct TopkParams {
  int64_t largest;
};

namespace {

constexpr const char* kOutOfRange = "an index lies outside its axis";

// Indices are int64 or int32.
[[gnu::always_inline]] inline int64_t read_index(const char* p, bool is_long) {
  return is_long ? *reinterpret_cast<const int64_t*>(p) : *reinterpret_cast<const int32_t*>(p);
}

// Negative indices count from the end; false when outside.
[[gnu::always_inline]] inline bool wrap_index(int64_t* index, int64_t n) {
  if (*index < 0) *index += n;
  return *index >= 0 && *index < n;
}

// For each index tuple (last axis of `indices`), the byte offset of the slice it names in `t`;
// tuple entry k speaks of axis first_axis + k. The first first_axis axes of both walk together.
inline const char* slice_offsets(const TensorRef& indices, const TensorRef& t, int first_axis,
                                 int64_t* offsets) {
  const bool is_long = indices.dtype == DType::kI64;
  const int64_t item = item_size(t.dtype), index_item = is_long ? 8 : 4;
  Rows rows(indices);
  for (int64_t row = 0; row < rows.count; ++row, rows.next()) {
    int64_t offset = 0, at = 0;
    for (int d = 0; d < first_axis; ++d) offset += rows.index[d] * t.strides[d];
    for (int d = 0; d + 1 < indices.rank; ++d) at += rows.index[d] * indices.strides[d];
    const char* from = static_cast<const char*>(indices.data) + at * index_item;
    for (int64_t k = 0; k < rows.n; ++k) {
      int64_t index = read_index(from + k * rows.step, is_long);
      if (!wrap_index(&index, t.shape[first_axis + k])) return kOutOfRange;
      offset += index * t.strides[first_axis + k];
    }
    offsets[row] = offset * item;
  }
  return nullptr;
}

// The nest of one slice: the last `inner` axes of both tensors.
inline Nest slice_nest(const TensorRef& src, const TensorRef& dst, int inner) {
  return make_nest(inner, dst.shape + dst.rank - inner, src.strides + src.rank - inner,
                   dst.strides + dst.rank - inner, item_size(dst.dtype));
}

inline bool is_one_run(const Nest& nest) {
  return nest.outer_count == 1 && nest.r.n == 1 && nest.c.src == nest.item &&
         nest.c.dst == nest.item;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
