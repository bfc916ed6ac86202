// zenith._native.Caller: a model's calls, from the tensors of a framework to new ones.
#include <algorithm>
#include <new>
#include <vector>

#include "bindings/convert.h"
#include "bindings/tensors.h"
#include "zenith/memory.h"
#include "zenith/plan.h"

namespace py = pybind11;

namespace zenith {
namespace {

// A bound plan, the inputs it is for, and the functions that make its results.
struct Bound {
  struct Input {
    uint64_t kind;
    std::vector<int64_t> shape;
    py::object type;  // Python's: kinds are comparable within one
  };
  std::vector<Input> inputs;
  std::shared_ptr<BoundPlan> plan;
  std::vector<py::object> make;

  bool fits(size_t index, py::handle tensor, const TensorView& view) const {
    const Input& input = inputs[index];
    return view.kind == input.kind && static_cast<size_t>(view.rank) == input.shape.size() &&
           std::equal(input.shape.begin(), input.shape.end(), view.shape) &&
           reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) == input.type.ptr();
  }
};

// Most calls have the sizes of the call before: those need neither a key nor a lookup. Any other
// asks `bind`, which keeps the plans bound to sizes of before. State is replaced as a whole, under
// the GIL, so that many threads may call at once.
class Caller {
 public:
  Caller(py::function bind, py::function fail) : bind_(std::move(bind)), fail_(std::move(fail)) {}

  // targets: where the last results are written; they are not among those returned.
  py::list call(const py::list& tensors, const py::list& targets) {
    std::vector<uintptr_t> from(tensors.size()), to;
    std::shared_ptr<const Bound> bound = last_;
    bool fits = bound != nullptr && bound->inputs.size() == tensors.size();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const py::handle tensor = tensors[i];
      const TensorView view = view_of(tensor);
      from[i] = reinterpret_cast<uintptr_t>(view.data);
      fits = fits && bound->fits(i, tensor, view);
    }
    if (!fits) last_ = bound = bind(tensors);
    if (targets.size() > bound->make.size()) throw py::value_error("more targets than results");
    py::list results(bound->make.size() - targets.size());
    to.reserve(bound->make.size());
    for (size_t i = 0; i < results.size(); ++i) {
      py::object made = bound->make[i]();
      const TensorView view = view_of(made);
      prefer_huge_pages(view.data, view.bytes());
      to.push_back(reinterpret_cast<uintptr_t>(view.data));
      results[i] = std::move(made);
    }
    for (const py::handle target : targets) {
      to.push_back(reinterpret_cast<uintptr_t>(view_of(target).data));
    }
    run(*bound, from, to);
    return results;
  }

 private:
  std::shared_ptr<const Bound> bind(const py::list& tensors) const {
    auto bound = std::make_shared<Bound>();
    py::tuple key(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      const py::handle tensor = tensors[i];
      const TensorView view = view_of(tensor);
      py::tuple shape(static_cast<size_t>(view.rank));
      for (int axis = 0; axis < view.rank; ++axis) {
        shape[static_cast<size_t>(axis)] = py::int_(view.shape[axis]);
      }
      key[i] = py::make_tuple(dtype_name(tensor), shape);
      bound->inputs.push_back(
          {view.kind,
           {view.shape, view.shape + view.rank},
           py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())))});
    }
    const auto found = bind_(key).cast<py::tuple>();
    bound->plan = found[0].cast<std::shared_ptr<BoundPlan>>();
    bound->make = found[1].cast<std::vector<py::object>>();
    return bound;
  }

  void run(const Bound& bound, const std::vector<uintptr_t>& from,
           const std::vector<uintptr_t>& to) const {
    RunError error;
    bool memory = true;
    {
      const py::gil_scoped_release released;
      try {
        error = bound.plan->run(from, to, nullptr);
      } catch (const std::bad_alloc&) {
        memory = false;
      }
    }
    if (memory && error.message == nullptr) return;
    fail_(bound.plan, error.step, memory ? py::object(py::str(error.message)) : py::none());
    throw std::logic_error("a failed call must raise");
  }

  const py::function bind_, fail_;
  std::shared_ptr<const Bound> last_;
};

}  // namespace

void bind_call(py::module_& m) {
  py::class_<Caller>(m, "Caller")
      .def(py::init<py::function, py::function>(), py::arg("bind"), py::arg("fail"))
      .def("call", &Caller::call, py::arg("tensors"), py::arg("targets") = py::list(),
           "New tensors for dense ones in the order of the inputs, by one run of the bound plan.");
}

}  // namespace zenith
