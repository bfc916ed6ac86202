// zenith._native.ArrayCaller: calls of a bound plan on numpy arrays, once or as the body of a loop.
#include <algorithm>

#include "bindings/convert.h"
#include "zenith/plan.h"
#include "zenith/repeat.h"

namespace py = pybind11;

namespace zenith {
namespace {

// dtype and shape of an array.
struct Form {
  py::dtype dtype;
  std::vector<py::ssize_t> shape;

  explicit Form(const py::handle& pair)
      : dtype(pair.cast<py::tuple>()[0].cast<py::dtype>()),
        shape(pair.cast<py::tuple>()[1].cast<std::vector<py::ssize_t>>()) {}

  py::ssize_t bytes() const {
    py::ssize_t total = dtype.itemsize();
    for (const py::ssize_t n : shape) total *= n;
    return total;
  }

  // Whether `object` is a row-major array like this, or at least `rows` of them one after the
  // other. dtypes are compared by identity: numpy's own are singletons, and another object only
  // means a slower way.
  bool fits(const py::handle& object, int64_t rows = -1) const {
    if (!py::isinstance<py::array>(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    const py::ssize_t more = rows < 0 ? 0 : 1;
    return (array.flags() & py::array::c_style) != 0 && array.dtype().is(dtype) &&
           array.ndim() == static_cast<py::ssize_t>(shape.size()) + more &&
           (rows < 0 || array.shape(0) >= rows) &&
           std::equal(shape.begin(), shape.end(), array.shape() + more);
  }

  bool equals(const Form& other) const { return dtype.is(other.dtype) && shape == other.shape; }

  py::array empty() const { return py::array(dtype, shape); }

  py::array rows(int64_t count) const {
    std::vector<py::ssize_t> whole{count};
    whole.insert(whole.end(), shape.begin(), shape.end());
    return py::array(dtype, whole);
  }
};

constexpr py::ssize_t kBlock = 64 << 20;  // bytes of stacked rows for one call

uintptr_t address(const py::handle& array) {
  return reinterpret_cast<uintptr_t>(py::reinterpret_borrow<py::array>(array).data());
}

py::object failure(const RunError& error) { return py::make_tuple(error.step, error.message); }

class ArrayCaller {
 public:
  ArrayCaller(std::shared_ptr<BoundPlan> plan, const py::sequence& inputs,
              const py::sequence& outputs)
      : plan_(std::move(plan)) {
    for (const py::handle& pair : inputs) inputs_.emplace_back(pair);
    for (const py::handle& pair : outputs) outputs_.emplace_back(pair);
  }

  // Results as a list; None where the arrays are not of the plan's dtypes and shapes or not
  // row-major; (step, message) of a kernel that failed.
  py::object call(const py::sequence& arrays) const {
    if (arrays.size() != inputs_.size()) return py::none();
    std::vector<uintptr_t> from(inputs_.size()), to(outputs_.size());
    std::vector<py::object> alive(inputs_.size());
    for (size_t k = 0; k < from.size(); ++k) {
      alive[k] = arrays[k];
      if (!inputs_[k].fits(alive[k])) return py::none();
      from[k] = address(alive[k]);
    }
    py::list results(outputs_.size());
    for (size_t k = 0; k < to.size(); ++k) {
      py::array result = outputs_[k].empty();
      to[k] = address(result);
      results[k] = std::move(result);
    }
    RunError error;
    {
      const py::gil_scoped_release released;
      error = plan_->run(from, to, nullptr);
    }
    return error.message == nullptr ? py::object(std::move(results)) : failure(error);
  }

  // At most `count` iterations of the plan as a loop's body. Of its inputs, those in `sliced` are
  // the next row of what is given, and `states` says which output of the iteration before one is
  // (-1: it stays as given); rows of the outputs in `stacked` are kept; `condition` is the output
  // that says whether to go on (-1: always). (iterations, last condition, states in the order of
  // inputs, blocks of rows); None where sizes do not fit or would change; (step, message).
  py::object repeat(const py::sequence& arrays, const std::vector<bool>& sliced,
                    const std::vector<int32_t>& states, const std::vector<int32_t>& stacked,
                    int32_t condition, int64_t count) const {
    if (count < 1 || !repeats(arrays, sliced, states, stacked, condition, count)) return py::none();
    py::ssize_t row = 1;
    for (const int32_t k : stacked) row += at(k).bytes();
    count = std::max<int64_t>(std::min<int64_t>(count, kBlock / row), 1);

    Repeat how;
    how.condition = condition;
    std::vector<py::object> alive;
    for (size_t k = 0; k < inputs_.size(); ++k) {
      alive.push_back(arrays[k]);
      how.inputs.push_back({address(alive.back()), sliced[k] ? inputs_[k].bytes() : 0, states[k]});
    }
    std::vector<bool> read_next(outputs_.size(), false), placed(outputs_.size(), false);
    for (const int32_t k : states) {
      if (k >= 0) read_next[static_cast<size_t>(k)] = true;
    }
    how.outputs.resize(outputs_.size());
    py::list blocks;
    for (const int32_t k : stacked) {
      const auto index = static_cast<size_t>(k);
      const py::array block = at(k).rows(count);
      blocks.append(block);
      if (read_next[index] || placed[index]) {
        how.copies.push_back({k, address(block), at(k).bytes()});
      } else {
        how.outputs[index] = {{address(block), address(block)}, at(k).bytes()};
        placed[index] = true;
      }
    }
    std::vector<py::array> pairs[2];
    for (auto& side : pairs) side.resize(outputs_.size());
    for (size_t k = 0; k < outputs_.size(); ++k) {
      if (placed[k]) continue;
      for (int side = 0; side < 2; ++side) {
        pairs[side][k] = outputs_[k].empty();
        how.outputs[k].base[side] = address(pairs[side][k]);
      }
    }
    RepeatEnd end;
    {
      const py::gil_scoped_release released;
      end = run_repeatedly(*plan_, how, count);
    }
    if (end.error.message != nullptr) return failure(end.error);
    py::list last;
    for (const int32_t k : states) {
      if (k >= 0) last.append(pairs[(end.steps - 1) % 2][static_cast<size_t>(k)]);
    }
    return py::make_tuple(end.steps, end.going, last, blocks);
  }

 private:
  const Form& at(int32_t output) const { return outputs_.at(static_cast<size_t>(output)); }

  // Whether the arrays are what the plan takes, and what it gives is what the next iteration takes.
  bool repeats(const py::sequence& arrays, const std::vector<bool>& sliced,
               const std::vector<int32_t>& states, const std::vector<int32_t>& stacked,
               int32_t condition, int64_t count) const {
    const size_t n = inputs_.size();
    if (arrays.size() != n || sliced.size() != n || states.size() != n) return false;
    for (size_t k = 0; k < n; ++k) {
      if (!inputs_[k].fits(arrays[k], sliced[k] ? count : -1)) return false;
      if (states[k] >= 0 && !at(states[k]).equals(inputs_[k])) return false;
    }
    for (const int32_t k : stacked) at(k);
    if (condition < 0) return true;
    const Form& form = at(condition);
    return form.dtype.kind() == 'b' && form.bytes() == 1;
  }

  std::shared_ptr<BoundPlan> plan_;
  std::vector<Form> inputs_, outputs_;
};

}  // namespace

void bind_arrays(py::module_& m) {
  py::class_<ArrayCaller>(m, "ArrayCaller")
      .def(py::init<std::shared_ptr<BoundPlan>, const py::sequence&, const py::sequence&>(),
           py::arg("plan"), py::arg("inputs"), py::arg("outputs"))
      .def("__call__", &ArrayCaller::call, py::arg("arrays"))
      .def("repeat", &ArrayCaller::repeat, py::arg("arrays"), py::arg("sliced"), py::arg("states"),
           py::arg("stacked"), py::arg("condition"), py::arg("count"));
}

}  // namespace zenith
