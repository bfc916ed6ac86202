// Operators whose results have a size that only the data tells: they allocate their own results.
// Inputs are row-major; sizes and dtypes were checked by the caller.
#pragma once

#include <cstdint>
#include <vector>

#include "zenith/tensor.h"

namespace zenith {

// Positions of the elements that are not zero: rank rows of `count`, in row-major order.
std::vector<int64_t> nonzero(const TensorRef& x, int64_t* count);

// Positions below `limit` where a byte of `condition` is set.
std::vector<int64_t> set_positions(const TensorRef& condition, int64_t limit);

// Copies slices `picked` of x, seen as [outer, n, inner bytes], to `to` [outer, picked, inner].
void take_slices(const char* x, int64_t outer, int64_t n, int64_t inner,
                 const std::vector<int64_t>& picked, char* to);

// The different slices of x along an axis (x seen as [outer, n, inner] elements).
struct UniqueResult {
  std::vector<int64_t> first;    // where each slice appears first
  std::vector<int64_t> inverse;  // for each of the n slices, which of the results it is
  std::vector<int64_t> counts;
};
// sorted: ascending (NaN is above every number and equals NaN); otherwise in
// order of first appearance.
UniqueResult unique(const TensorRef& x, int64_t outer, int64_t n, int64_t inner, bool sorted);

// Greedy suppression. boxes [batches, n, 4], scores [batches, classes, n], both float32.
struct Suppression {
  int64_t most = 0;        // boxes per batch and class
  float overlap = 0;       // suppress above this intersection over union
  bool has_score = false;  // take only scores above `score`
  float score = 0;
  bool centers = false;  // boxes are x, y, width, height of their centers
};
// Triples (batch, class, box).
std::vector<int64_t> suppress(const float* boxes, const float* scores, int64_t batches,
                              int64_t classes, int64_t n, const Suppression& how);

}  // namespace zenith
