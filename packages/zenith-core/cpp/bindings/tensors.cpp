#include "bindings/tensors.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <string>
#include <unordered_map>

#include "bindings/dlpack.h"

namespace py = pybind11;

namespace zenith {
namespace {

// The exchange table of a Python type, or null. Types are kept alive: an address is never reused.
const DLExchange* exchange_of(PyTypeObject* type) {
  static auto* known = new std::unordered_map<PyTypeObject*, const DLExchange*>();
  const auto found = known->find(type);
  if (found != known->end()) return found->second;
  const DLExchange* table = nullptr;
  const py::handle object(reinterpret_cast<PyObject*>(type));
  if (py::hasattr(object, "__dlpack_c_exchange_api__")) {
    const py::object capsule = object.attr("__dlpack_c_exchange_api__");
    table =
        static_cast<const DLExchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (table == nullptr) throw py::error_already_set();
    if (table->version.major != kDLPackMajor) table = nullptr;
  }
  object.inc_ref();
  known->emplace(type, table);
  return table;
}

DLTensor dl_tensor(py::handle tensor) {
  const DLExchange* table = exchange_of(Py_TYPE(tensor.ptr()));
  if (table == nullptr) {
    throw py::type_error(std::string("not a tensor: ") + Py_TYPE(tensor.ptr())->tp_name);
  }
  DLTensor read{};
  if (table->read(tensor.ptr(), &read) != 0) throw py::error_already_set();
  return read;
}

bool dense(const DLTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  int64_t step = 1;
  bool gapless = true;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] == 0) return true;
    gapless = gapless && (tensor.shape[axis] == 1 || tensor.strides[axis] == step);
    step *= tensor.shape[axis];
  }
  return gapless;
}

bool empty(const DLTensor& tensor) {
  return std::any_of(tensor.shape, tensor.shape + tensor.rank, [](int64_t n) { return n == 0; });
}

}  // namespace

TensorView view_of(py::handle tensor) {
  TensorView view;
  if (py::isinstance<py::array>(tensor)) {
    static_assert(sizeof(py::ssize_t) == sizeof(int64_t));
    const auto array = py::reinterpret_borrow<py::array>(tensor);
    if ((array.flags() & py::array::c_style) == 0) throw py::value_error("not row-major");
    view.data = const_cast<void*>(array.data());
    view.kind = reinterpret_cast<uint64_t>(py::detail::array_proxy(tensor.ptr())->descr);
    view.rank = static_cast<int>(array.ndim());
    view.shape = reinterpret_cast<const int64_t*>(array.shape());
    view.item = array.itemsize();
    return view;
  }
  const DLTensor read = dl_tensor(tensor);
  if (read.device.type != kDLCpu) throw py::value_error("not in CPU memory");
  if (!dense(read)) throw py::value_error("not row-major");
  if (read.data == nullptr && !empty(read)) throw py::value_error("no memory behind the tensor");
  view.data = static_cast<char*>(read.data) + read.byte_offset;
  view.kind = static_cast<uint64_t>(read.dtype.code) << 32 |
              static_cast<uint64_t>(read.dtype.bits) << 16 | read.dtype.lanes;
  view.rank = read.rank;
  view.shape = read.shape;
  view.item = read.dtype.bits * read.dtype.lanes / 8;
  return view;
}

py::str dtype_name(py::handle tensor) {
  if (py::isinstance<py::array>(tensor)) {
    const py::object dtype = tensor.attr("dtype");
    return py::str(dtype.attr(dtype.attr("isnative").cast<bool>() ? "name" : "str"));
  }
  const DLDataType dtype = dl_tensor(tensor).dtype;
  if (dtype.code == kDLBool) return "bool";
  static const std::unordered_map<int, const char*> names = {
      {kDLInt, "int"}, {kDLUInt, "uint"}, {kDLFloat, "float"}, {kDLBfloat, "bfloat"}};
  const auto name = names.find(dtype.code);
  if (name == names.end()) throw py::type_error("a tensor of an element type numpy has not");
  return name->second + std::to_string(dtype.bits);
}

}  // namespace zenith
