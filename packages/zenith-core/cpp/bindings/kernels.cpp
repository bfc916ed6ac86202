// zenith._native: the kernel tables, and one kernel called on its own (tests, benchmarks, tuning).
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#include "bindings/convert.h"
#include "zenith/memory.h"
#include "zenith/pool.h"
#include "zenith/registry.h"

namespace py = pybind11;

namespace zenith {

TensorRef tensor_of(const py::array& array) {
  TensorRef t{};
  const py::dtype dtype = array.dtype();
  const int64_t size = dtype.itemsize();
  const char kind = dtype.kind();
  if (kind == 'f') {
    t.dtype = size == 4 ? DType::kF32 : size == 8 ? DType::kF64 : DType::kF16;
  } else if (kind == 'i') {
    t.dtype = size == 1   ? DType::kI8
              : size == 2 ? DType::kI16
              : size == 4 ? DType::kI32
                          : DType::kI64;
  } else if (kind == 'u') {
    t.dtype = size == 1   ? DType::kU8
              : size == 2 ? DType::kU16
              : size == 4 ? DType::kU32
                          : DType::kU64;
  } else if (kind == 'b') {
    t.dtype = DType::kBool;
  } else {
    throw std::invalid_argument("no native dtype for numpy dtype " +
                                py::str(dtype).cast<std::string>());
  }
  if (array.ndim() > kMaxRank) throw std::invalid_argument("rank above 8");
  t.rank = static_cast<int32_t>(array.ndim());
  for (int i = 0; i < t.rank; ++i) {
    t.shape[i] = array.shape(i);
    if (array.strides(i) % size != 0) throw std::invalid_argument("stride splits an element");
    t.strides[i] = array.strides(i) / size;
  }
  t.data = const_cast<void*>(array.data());
  return t;
}

static ParamValue param_of(const std::string& name, const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return static_cast<int64_t>(value.cast<bool>());
  if (py::isinstance<py::int_>(value)) return value.cast<int64_t>();
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::sequence>(value)) {
    bool all_ints = true;
    for (const py::handle& item : value) all_ints = all_ints && py::isinstance<py::int_>(item);
    if (all_ints) return value.cast<std::vector<int64_t>>();
    return value.cast<std::vector<double>>();
  }
  throw std::invalid_argument("parameter '" + name + "' has a type no kernel takes");
}

std::vector<NamedParam> params_of(const py::dict& params) {
  std::vector<NamedParam> named;
  for (const auto& [key, value] : params) {
    const std::string name = key.cast<std::string>();
    named.push_back({name, param_of(name, value)});
  }
  return named;
}

namespace {

const Kernel& kernel_or_throw(const std::string& isa, const std::string& name) {
  const Kernel* kernel = find_kernel(isa, name);
  if (kernel == nullptr) throw std::invalid_argument("no kernel " + name + " for " + isa);
  return *kernel;
}

const Packer& packer_or_throw(const std::string& isa, const std::string& name) {
  const Packer* packer = find_packer(isa, name);
  if (packer == nullptr) throw std::invalid_argument("no packer " + name + " for " + isa);
  return *packer;
}

std::vector<TensorRef> operands_of(const py::sequence& arrays) {
  std::vector<TensorRef> refs;
  for (const py::handle& item : arrays) {
    if (item.is_none()) {
      TensorRef missing{};
      missing.rank = -1;
      refs.push_back(missing);
    } else {
      refs.push_back(tensor_of(py::reinterpret_borrow<py::array>(item)));
    }
  }
  return refs;
}

struct Free {
  void operator()(char* p) const { std::free(p); }
};
using Block = std::unique_ptr<char, Free>;

Block aligned_block(int64_t bytes) { return Block(allocate(bytes)); }

void call_kernel(const std::string& isa, const std::string& name, const py::sequence& inputs,
                 const py::sequence& outputs, const py::dict& params, int threads, int repeat) {
  const Kernel& kernel = kernel_or_throw(isa, name);
  const std::vector<TensorRef> in = operands_of(inputs);
  const std::vector<TensorRef> out = operands_of(outputs);
  const std::vector<char> filled =
      fill_params(name, kernel.fields, kernel.n_fields, kernel.params_size, params_of(params));
  Call call{in.data(),
            out.data(),
            static_cast<int>(in.size()),
            static_cast<int>(out.size()),
            filled.data(),
            nullptr,
            parallel(threads)};
  const Block scratch = aligned_block(kernel.scratch == nullptr ? 0 : kernel.scratch(call));
  call.scratch = scratch.get();
  const char* error = nullptr;
  {
    const py::gil_scoped_release released;
    for (int i = 0; i < repeat && error == nullptr; ++i) error = kernel.run(call);
  }
  if (error != nullptr) throw std::runtime_error(name + ": " + error);
}

py::array_t<uint8_t> pack(const std::string& isa, const std::string& name, const py::array& source,
                          const py::dict& params) {
  const Packer& packer = packer_or_throw(isa, name);
  const std::vector<char> filled =
      fill_params(name, packer.fields, packer.n_fields, packer.params_size, params_of(params));
  const TensorRef src = tensor_of(source);
  const int64_t bytes = packer.bytes(src, filled.data());
  char* data = aligned_block(bytes).release();
  const py::capsule owner(data, [](void* p) { std::free(p); });
  packer.pack(src, data, filled.data());
  return py::array_t<uint8_t>({bytes}, {1}, reinterpret_cast<uint8_t*>(data), owner);
}

void unpack(const std::string& isa, const std::string& name, const py::array_t<uint8_t>& packed,
            const py::array& target, const py::dict& params) {
  const Packer& packer = packer_or_throw(isa, name);
  const std::vector<char> filled =
      fill_params(name, packer.fields, packer.n_fields, packer.params_size, params_of(params));
  const TensorRef dst = tensor_of(target);
  TensorRef shape = dst;
  shape.data = nullptr;
  if (packed.nbytes() < packer.bytes(shape, filled.data())) {
    throw std::invalid_argument(name + ": packed size does not fit the target's shape");
  }
  packer.unpack(packed.data(), dst, filled.data());
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const Isa& isa : usable_isas()) names.emplace_back(isa.name);
        return names;
      },
      "Instruction sets this machine runs and ZENITH_ISA allows, best first.");
  m.def(
      "complete_isas",
      [] {
        std::vector<std::string> names;
        for (const Isa& isa : usable_isas()) {
          if (isa.base == nullptr) names.emplace_back(isa.name);
        }
        return names;
      },
      "Those of isas() that have every kernel; the others overlay some on one of these.");
  m.def("built_isas", &built_isas, "Instruction sets compiled into this build, best first.");
  m.def("available_threads", &available_threads);
  m.def(
      "kernels",
      [](const std::string& isa) {
        py::dict rows;
        for (const Isa& candidate : usable_isas()) {
          if (isa != candidate.name) continue;
          const IsaTables tables = candidate.tables();
          for (int f = 0; f < tables.n_families; ++f) {
            const Table table = tables.family(f);
            for (int i = 0; i < table.n_kernels; ++i)
              rows[table.kernels[i].name] = table.kernels[i].variant;
          }
        }
        return rows;
      },
      py::arg("isa"), "Kernel rows of one ISA, without those of its base: name -> variant.");
  m.def(
      "kernel_isa",
      [](const std::string& isa, const std::string& kernel) {
        kernel_or_throw(isa, kernel);
        return kernel_owner(isa, kernel)->name;
      },
      py::arg("isa"), py::arg("kernel"),
      "Whose row runs when `isa` is asked for a kernel: its own, or one below it.");
  m.def("call", &call_kernel, py::arg("isa"), py::arg("kernel"), py::arg("inputs"),
        py::arg("outputs"), py::arg("params"), py::arg("threads") = 0, py::arg("repeat") = 1,
        "Runs one kernel on numpy arrays, writing into outputs. None is a missing operand.");
  m.def("pack", &pack, py::arg("isa"), py::arg("packer"), py::arg("source"), py::arg("params"));
  m.def("unpack", &unpack, py::arg("isa"), py::arg("packer"), py::arg("packed"), py::arg("target"),
        py::arg("params"));
}

}  // namespace zenith
