// zenith._native.Snapshot: whether Python objects are still what they were, in one call.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings/convert.h"

namespace py = pybind11;

namespace zenith {
namespace {

// What a reader says of an object. A getset descriptor (an attribute of a C type) is asked
// directly, without the look-up by name that a Python caller pays for; anything else is called.
py::object read(py::handle reader, py::handle object) {
  PyTypeObject* const kind = Py_TYPE(reader.ptr());
  PyObject* const value =
      kind == &PyGetSetDescr_Type
          ? kind->tp_descr_get(reader.ptr(), object.ptr(),
                               reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())))
          : PyObject_CallOneArg(reader.ptr(), object.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// Reads an integer of the C++ object that lies `offset` bytes into a Python object, by a function
// of the library that made it: `int64_t f(const void*)`, or `int32_t f(const void*, void**)` that
// gives an address and an error code.
class NativeReader {
 public:
  NativeReader(uintptr_t function, size_t offset, bool gives_address)
      : function_(function), offset_(offset), gives_address_(gives_address) {
    if (function == 0) throw std::invalid_argument("a reader needs a function");
  }

  // False where the library reports an error.
  bool read(const PyObject* object, int64_t& value) const {
    const char* const found = reinterpret_cast<const char*>(object) + offset_;
    if (!gives_address_) {
      value = reinterpret_cast<int64_t (*)(const void*)>(function_)(found);
      return true;
    }
    void* address = nullptr;
    const bool fine =
        reinterpret_cast<int32_t (*)(const void*, void**)>(function_)(found, &address) == 0;
    value = static_cast<int64_t>(reinterpret_cast<intptr_t>(address));
    return fine;
  }

 private:
  uintptr_t function_;
  size_t offset_;
  bool gives_address_;
};

bool equal(const py::object& left, const py::object& right) {
  const int same = PyObject_RichCompareBool(left.ptr(), right.ptr(), Py_EQ);
  if (same < 0) throw py::error_already_set();
  return same == 1;
}

class Snapshot {
 public:
  void add(size_t position, py::object object, const std::vector<py::object>& readers) {
    Item item{position, std::move(object), {}, {}};
    for (const py::object& reader : readers) {
      if (py::isinstance<NativeReader>(reader)) {
        const auto& native = reader.cast<const NativeReader&>();
        int64_t value = 0;
        if (!native.read(item.object.ptr(), value)) throw std::invalid_argument("cannot be read");
        item.native.emplace_back(native, value);
      } else {
        item.readings.emplace_back(reader, read(reader, item.object));
      }
    }
    items_.push_back(std::move(item));
  }

  bool matches(const py::tuple& given) const {
    for (const Item& item : items_) {
      if (!same(item, given)) return false;
    }
    return true;
  }

  std::vector<size_t> changed(const py::tuple& given) const {
    std::vector<size_t> positions;
    for (const Item& item : items_) {
      if (!same(item, given)) positions.push_back(item.position);
    }
    return positions;
  }

 private:
  struct Item {
    size_t position;
    py::object object;
    std::vector<std::pair<py::object, py::object>> readings;  // who reads, and what it read
    std::vector<std::pair<NativeReader, int64_t>> native;
  };

  static bool same(const Item& item, const py::tuple& given) {
    if (item.position >= given.size()) throw py::index_error("an argument is missing");
    if (PyTuple_GET_ITEM(given.ptr(), static_cast<py::ssize_t>(item.position)) !=
        item.object.ptr()) {
      return false;
    }
    for (const auto& [reader, before] : item.native) {
      int64_t now = 0;
      if (!reader.read(item.object.ptr(), now) || now != before) return false;
    }
    for (const auto& [reader, before] : item.readings) {
      if (!equal(read(reader, item.object), before)) return false;
    }
    return true;
  }

  std::vector<Item> items_;
};

}  // namespace

void bind_snapshot(py::module_& m) {
  py::class_<NativeReader>(m, "NativeReader")
      .def(py::init<uintptr_t, size_t, bool>(), py::arg("function"), py::arg("offset"),
           py::arg("gives_address"));
  py::class_<Snapshot>(m, "Snapshot", "Arguments of a call, and what readers said of each.")
      .def(py::init<>())
      .def("add", &Snapshot::add, py::arg("position"), py::arg("object"), py::arg("readers"))
      .def("matches", &Snapshot::matches, py::arg("given"),
           "Whether all are the same objects, and every reader says the same.")
      .def("changed", &Snapshot::changed, py::arg("given"), "The positions where that is not so.");
}

}  // namespace zenith
