// What runs a partition natively between numpy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

namespace zenith {

using Objects = std::vector<pybind11::object>;

// One call. loop: it is an iteration of a loop's body.
struct Run {
  pybind11::object context;  // Python's ExecutionContext
  int threads;
  bool profile;
  bool loop;

  explicit Run(const pybind11::object& of)
      : context(of),
        threads(of.attr("threads").cast<int>()),
        profile(of.attr("profile").cast<bool>()),
        loop(false) {}

  Run within_loop() const {
    Run inside(*this);
    inside.loop = true;
    return inside;
  }
};

// program: the Python object that this is the native part of. It is passed to each call, not held
// (it holds this), and asked where something is out of the ordinary.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual Objects run(const pybind11::object& program, const Objects& inputs,
                      const Run& how) const = 0;
};

inline Objects objects_of(const pybind11::handle& sequence) {
  Objects found;
  for (const pybind11::handle item : sequence) {
    found.push_back(pybind11::reinterpret_borrow<pybind11::object>(item));
  }
  return found;
}

inline pybind11::list list_of(const Objects& objects) {
  pybind11::list found(objects.size());
  for (size_t k = 0; k < objects.size(); ++k) found[k] = objects[k];
  return found;
}

}  // namespace zenith
