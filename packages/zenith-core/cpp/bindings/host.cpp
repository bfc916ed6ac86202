// zenith._native: operators that allocate their own results, over numpy arrays.
#include "zenith/host.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "bindings/convert.h"

namespace py = pybind11;

namespace zenith {
namespace {

template <typename T>
py::array array_of(const std::vector<T>& values, std::vector<py::ssize_t> shape) {
  py::array_t<T> array(std::move(shape));
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

TensorRef row_major(const py::array& array) {
  if ((array.flags() & py::array::c_style) == 0) {
    throw std::invalid_argument("an operand must be row-major");
  }
  return tensor_of(array);
}

// `dtype`: the code of the elements where numpy has none for them (bfloat16 as uint16).
TensorRef row_major(const py::array& array, int dtype) {
  TensorRef t = row_major(array);
  if (dtype != 0) t.dtype = static_cast<DType>(dtype);
  return t;
}

// x seen as [outer, n, inner] around an axis; without one, all elements in a line.
struct View {
  int64_t outer = 1, n = 1, inner = 1;
};
View view_of(const TensorRef& x, std::optional<int> axis) {
  View view;
  if (!axis.has_value()) {
    view.n = element_count(x);
    return view;
  }
  if (*axis < 0 || *axis >= x.rank) throw std::invalid_argument("the axis does not exist");
  for (int d = 0; d < x.rank; ++d) {
    (d < *axis ? view.outer : d == *axis ? view.n : view.inner) *= x.shape[d];
  }
  return view;
}

// Slices of x along the axis, as a new array.
py::array taken(const py::array& x, const View& view, std::optional<int> axis,
                const std::vector<int64_t>& picked) {
  std::vector<py::ssize_t> shape;
  if (axis.has_value()) {
    shape.assign(x.shape(), x.shape() + x.ndim());
    shape[static_cast<size_t>(*axis)] = static_cast<py::ssize_t>(picked.size());
  } else {
    shape = {static_cast<py::ssize_t>(picked.size())};
  }
  py::array result(x.dtype(), shape);
  const auto* from = static_cast<const char*>(x.data());
  auto* to = static_cast<char*>(result.mutable_data());
  const int64_t inner = view.inner * x.itemsize();
  const py::gil_scoped_release released;
  take_slices(from, view.outer, view.n, inner, picked, to);
  return result;
}

py::array bind_nonzero(const py::array& x, int dtype) {
  const TensorRef ref = row_major(x, dtype);
  int64_t count = 0;
  std::vector<int64_t> rows;
  {
    const py::gil_scoped_release released;
    rows = nonzero(ref, &count);
  }
  return array_of(rows, {ref.rank, count});
}

py::array bind_compress(const py::array& x, const py::array& condition, std::optional<int> axis) {
  const TensorRef ref = row_major(x), mask = row_major(condition);
  if (mask.dtype != DType::kBool || mask.rank != 1) {
    throw std::invalid_argument("the condition is a vector of bool");
  }
  const View view = view_of(ref, axis);
  return taken(x, view, axis, set_positions(mask, view.n));
}

py::tuple bind_unique(const py::array& x, std::optional<int> axis, bool sorted, int dtype) {
  const TensorRef ref = row_major(x, dtype);
  const View view = view_of(ref, axis);
  UniqueResult result;
  {
    const py::gil_scoped_release released;
    result = unique(ref, view.outer, view.n, view.inner, sorted);
  }
  const auto found = static_cast<py::ssize_t>(result.first.size());
  return py::make_tuple(taken(x, view, axis, result.first), array_of(result.first, {found}),
                        array_of(result.inverse, {static_cast<py::ssize_t>(view.n)}),
                        array_of(result.counts, {found}));
}

py::array bind_suppress(const py::array& boxes, const py::array& scores, int64_t most,
                        float overlap, std::optional<float> score, bool centers) {
  const TensorRef b = row_major(boxes), s = row_major(scores);
  if (b.dtype != DType::kF32 || s.dtype != DType::kF32 || b.rank != 3 || s.rank != 3 ||
      b.shape[2] != 4 || b.shape[0] != s.shape[0] || b.shape[1] != s.shape[2]) {
    throw std::invalid_argument("boxes are float32 [batch, n, 4], scores [batch, class, n]");
  }
  Suppression how;
  how.most = most;
  how.overlap = overlap;
  how.has_score = score.has_value();
  how.score = score.value_or(0.0f);
  how.centers = centers;
  std::vector<int64_t> triples;
  {
    const py::gil_scoped_release released;
    triples = suppress(static_cast<const float*>(b.data), static_cast<const float*>(s.data),
                       s.shape[0], s.shape[1], s.shape[2], how);
  }
  return array_of(triples, {static_cast<py::ssize_t>(triples.size() / 3), 3});
}

}  // namespace

void bind_host(py::module_& m) {
  m.def("nonzero", &bind_nonzero, py::arg("x"), py::arg("dtype") = 0);
  m.def("compress", &bind_compress, py::arg("x"), py::arg("condition"), py::arg("axis"));
  m.def("unique", &bind_unique, py::arg("x"), py::arg("axis"), py::arg("sorted"),
        py::arg("dtype") = 0, "Values, first positions, inverse and counts.");
  m.def("suppress", &bind_suppress, py::arg("boxes"), py::arg("scores"), py::arg("most"),
        py::arg("overlap"), py::arg("score"), py::arg("centers"),
        "Greedy non-maximum suppression: rows of batch, class and box.");
}

}  // namespace zenith
