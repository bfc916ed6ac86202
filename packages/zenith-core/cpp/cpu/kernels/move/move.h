// What the files of the move family share.
#pragma once

#include "cpu/kernels/move/numbers.h"
#include "cpu/kernels/move/strided.h"

namespace zenith::ZENITH_ISA {

const char* run_slice(const Call& call);
const char* run_tile(const Call& call);
const char* run_range(const Call& call);

namespace {

inline bool is_given(const Call& call, int index) {
  return call.n_in > index && call.in[index].rank >= 0;
}

// Element i of a vector or a scalar of integers.
inline int64_t integer_at(const TensorRef& t, int64_t i) {
  const int64_t step = t.rank > 0 ? t.strides[0] : 0;
  return read_integer(static_cast<const char*>(t.data) + i * step * item_size(t.dtype), t.dtype);
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
