// zenith._native.Plan: building, binding and running execution plans.
#include "zenith/plan.h"

#include <cstdlib>
#include <cstring>

#include "bindings/convert.h"
#include "zenith/memory.h"

namespace py = pybind11;

namespace zenith {
namespace {

// An int, or a list of ints: a postfix program (see ExprOp).
Size size_of(Plan& plan, const py::handle& value) {
  if (py::isinstance<py::int_>(value)) {
    Size size;
    size.value = value.cast<int64_t>();
    return size;
  }
  return plan.expression(value.cast<std::vector<int64_t>>());
}

std::vector<Size> sizes_of(Plan& plan, const py::sequence& values) {
  std::vector<Size> sizes;
  for (const py::handle& value : values) sizes.push_back(size_of(plan, value));
  return sizes;
}

// Keeps a Python array alive for as long as the plan does.
std::shared_ptr<void> keep(const py::array& array) {
  auto* owner = new py::object(array);
  return std::shared_ptr<void>(const_cast<void*>(array.data()), [owner](void*) {
    const py::gil_scoped_acquire gil;
    delete owner;
  });
}

// A row-major copy on a 64-byte boundary.
py::array aligned_copy(const py::array& source) {
  void* data = allocate(source.nbytes());
  const py::capsule owner(data, [](void* p) { std::free(p); });
  std::vector<py::ssize_t> shape(source.shape(), source.shape() + source.ndim());
  py::array copy(source.dtype(), shape, data, owner);
  py::module_::import("numpy").attr("copyto")(copy, source);
  return copy;
}

}  // namespace

void bind_plan(py::module_& m) {
  m.def("aligned_copy", &aligned_copy, "A row-major copy whose data starts on 64 bytes.");
  m.def(
      "place_blocks",
      [](const std::vector<std::tuple<int64_t, int32_t, int32_t>>& blocks) {
        std::vector<Lifetime> lifetimes;
        for (const auto& [bytes, first, last] : blocks) lifetimes.push_back({bytes, first, last});
        int64_t total = 0;
        std::vector<int64_t> offsets = place_blocks(lifetimes, &total);
        return py::make_tuple(offsets, total);
      },
      py::arg("blocks"), "Arena offsets for (bytes, first step, last step) blocks, and the total.");

  py::class_<BoundPlan, std::shared_ptr<BoundPlan>>(m, "BoundPlan")
      .def_property_readonly("arena_bytes", &BoundPlan::arena_bytes)
      .def_property_readonly("storage_offsets", &BoundPlan::storage_offsets)
      .def("shape_of", &BoundPlan::shape_of)
      .def(
          "run",
          [](const BoundPlan& self, const std::vector<uintptr_t>& inputs,
             const std::vector<uintptr_t>& outputs) -> py::object {
            RunError error;
            {
              const py::gil_scoped_release released;
              error = self.run(inputs, outputs, nullptr);
            }
            if (error.message == nullptr) return py::none();
            return py::make_tuple(error.step, error.message);
          },
          py::arg("inputs"), py::arg("outputs"),
          "One call of the whole plan. None, or (step, message) of the kernel that failed.")
      .def(
          "profile",
          [](const BoundPlan& self, const std::vector<uintptr_t>& inputs,
             const std::vector<uintptr_t>& outputs, int32_t n_steps) {
            std::vector<int64_t> times(static_cast<size_t>(n_steps), 0);
            RunError error;
            {
              const py::gil_scoped_release released;
              error = self.run(inputs, outputs, times.data());
            }
            if (error.message != nullptr) throw std::runtime_error(error.message);
            return times;
          },
          py::arg("inputs"), py::arg("outputs"), py::arg("n_steps"), "Nanoseconds per step.");

  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan")
      .def(py::init<int32_t>(), py::arg("n_symbols"))
      .def("input",
           [](Plan& self, int32_t index, const py::object& bytes) {
             return self.add_storage({Place::kInput, index, nullptr, size_of(self, bytes)});
           })
      .def("output",
           [](Plan& self, int32_t index, const py::object& bytes) {
             return self.add_storage({Place::kOutput, index, nullptr, size_of(self, bytes)});
           })
      .def("arena",
           [](Plan& self, const py::object& bytes) {
             return self.add_storage({Place::kArena, -1, nullptr, size_of(self, bytes)});
           })
      .def(
          "constant",
          [](Plan& self, const py::array& array) {
            if ((array.flags() & py::array::c_style) == 0) {
              throw std::invalid_argument("a plan constant must be row-major");
            }
            Size bytes;
            bytes.value = array.nbytes();
            return self.add_storage({Place::kConstant, -1, keep(array), bytes});
          },
          "Adopts a row-major array without copying it.")
      .def("tensor",
           [](Plan& self, int32_t storage, int32_t dtype, const py::sequence& shape,
              const py::sequence& strides, const py::object& offset) {
             return self.add_tensor({storage, static_cast<DType>(dtype), sizes_of(self, shape),
                                     sizes_of(self, strides), size_of(self, offset)});
           })
      .def("step",
           [](Plan& self, const std::string& isa, const std::string& kernel,
              std::vector<int32_t> inputs, std::vector<int32_t> outputs, const py::dict& params,
              const py::dict& dynamic) {
             std::vector<std::pair<std::string, Size>> sizes;
             for (const auto& [name, value] : dynamic) {
               sizes.emplace_back(name.cast<std::string>(), size_of(self, value));
             }
             return self.add_step(isa, kernel, std::move(inputs), std::move(outputs),
                                  params_of(params), sizes);
           })
      .def("guard",
           [](Plan& self, const py::object& size, std::string message) {
             self.add_guard(size_of(self, size), std::move(message));
           })
      .def("bind", py::overload_cast<const std::vector<int64_t>&, int>(&Plan::bind),
           py::arg("dims"), py::arg("threads"))
      .def_property_readonly("n_steps", &Plan::n_steps)
      .def_property_readonly("constant_bytes", &Plan::constant_bytes);
}

}  // namespace zenith
