#include "bindings/convert.h"

PYBIND11_MODULE(_native, m) {
  m.doc() = "Zenith's native runtime: kernels, thread pool, execution plans.";
  zenith::bind_kernels(m);
  zenith::bind_plan(m);
  zenith::bind_call(m);
  zenith::bind_arrays(m);
  zenith::bind_walk(m);
  zenith::bind_host(m);
  zenith::bind_snapshot(m);
}
