// The tensors of Python frameworks, read where they are: address, element type and shape.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace zenith {

// One tensor of a call. Shape and strides (in elements) belong to the tensor; strides may be null:
// row-major.
struct TensorView {
  void* data = nullptr;
  uint64_t kind = 0;  // the element type, comparable among tensors of one Python type
  int rank = 0;
  const int64_t* shape = nullptr;
  int64_t item = 0;  // bytes of an element

  int64_t bytes() const {
    int64_t total = item;
    for (int axis = 0; axis < rank; ++axis) total *= shape[axis];
    return total;
  }
};

// Reads a numpy array, or a tensor of a type with DLPack's exchange table in C. Throws ValueError
// for a tensor that is not row-major or not in CPU memory, TypeError for other objects.
TensorView view_of(pybind11::handle tensor);

// The numpy name of a tensor's element type, as plans know it.
pybind11::str dtype_name(pybind11::handle tensor);

}  // namespace zenith
