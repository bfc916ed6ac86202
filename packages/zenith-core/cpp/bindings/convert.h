// Python objects to the runtime's types, shared by the binding files.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "zenith/params.h"
#include "zenith/tensor.h"

namespace zenith {

// A view of a numpy array (any strides that are multiples of the item size). bfloat16 has no numpy
// dtype of its own: pass dtype explicitly with a uint16 view.
TensorRef tensor_of(const pybind11::array& array);
std::vector<NamedParam> params_of(const pybind11::dict& params);

void bind_kernels(pybind11::module_& m);
void bind_plan(pybind11::module_& m);
void bind_call(pybind11::module_& m);
void bind_arrays(pybind11::module_& m);
void bind_walk(pybind11::module_& m);
void bind_host(pybind11::module_& m);
void bind_snapshot(pybind11::module_& m);

}  // namespace zenith
