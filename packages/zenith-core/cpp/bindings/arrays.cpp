// zenith._native.ArrayProgram: a native program as it is called with numpy arrays.
#include "bindings/arrays.h"

#include <algorithm>
#include <new>
#include <stdexcept>

#include "bindings/convert.h"
#include "zenith/repeat.h"

namespace py = pybind11;

namespace zenith {
namespace {

constexpr size_t kRecent = 4;

uintptr_t address(const py::handle& array) {
  return reinterpret_cast<uintptr_t>(py::reinterpret_borrow<py::array>(array).data());
}

// `call` without the GIL; a RunError, or none and false where there was no memory.
template <typename F>
bool without_gil(const F& call) {
  const py::gil_scoped_release released;
  try {
    call();
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

[[noreturn]] void fail(const py::object& program, const std::shared_ptr<BoundPlan>& plan,
                       const RunError& error, bool memory) {
  program.attr("fail")(plan, error.step, memory ? py::object(py::str(error.message)) : py::none());
  throw std::logic_error("a failed call must raise");
}

}  // namespace

ArrayProgram::ArrayProgram(std::shared_ptr<Plan> plan, size_t n_symbols, const py::sequence& inputs,
                           const py::sequence& outputs, int64_t memory)
    : plan_(std::move(plan)), n_symbols_(n_symbols), memory_(memory) {
  for (const py::handle& item : inputs) {
    const auto pair = item.cast<py::tuple>();
    Form form{pair[0].cast<py::dtype>(), {}, -1, 0, n_sizes_};
    for (const py::handle axis : pair[1]) {
      plain_ = plain_ && !axis.is_none();
      form.axes.push_back(axis.is_none() ? 0 : axis.cast<int64_t>());
    }
    n_sizes_ += form.rank = form.axes.size();
    inputs_.push_back(std::move(form));
  }
  for (const py::handle& item : outputs) {
    const auto triple = item.cast<py::tuple>();
    const auto rank = triple[2].cast<size_t>();
    outputs_.push_back(
        {triple[0].cast<py::dtype>(), {}, triple[1].cast<int32_t>(), rank, n_sizes_});
    n_sizes_ += rank;
  }
}

ArrayProgram::Shape ArrayProgram::shape(const Bound& bound, const Form& form) const {
  const auto first = bound.sizes.begin() + static_cast<std::ptrdiff_t>(form.first);
  return Shape(first, first + static_cast<std::ptrdiff_t>(form.rank));
}

py::array ArrayProgram::empty(const Bound& bound, size_t output) const {
  return py::array(outputs_[output].dtype, shape(bound, outputs_[output]));
}

int64_t ArrayProgram::bytes(const Bound& bound, int32_t output) const {
  const Form& form = outputs_.at(static_cast<size_t>(output));
  int64_t total = form.dtype.itemsize();
  for (size_t a = 0; a < form.rank; ++a) total *= bound.sizes[form.first + a];
  return total;
}

// Whether the arrays (or rows, where sliced) are row-major, of these sizes and of the plan's
// dtypes. Those are compared by identity: numpy's own are singletons, and another object only means
// a slower way.
bool ArrayProgram::fits(const Bound& bound, const Objects& inputs, const Run& how,
                        const std::vector<bool>* sliced) const {
  if (inputs.size() != inputs_.size() || bound.threads != how.threads) return false;
  for (size_t k = 0; k < inputs.size(); ++k) {
    if (!py::isinstance<py::array>(inputs[k])) return false;
    const auto array = py::reinterpret_borrow<py::array>(inputs[k]);
    const py::ssize_t more = sliced != nullptr && (*sliced)[k] ? 1 : 0;
    const py::ssize_t* sizes = bound.sizes.data() + inputs_[k].first;
    if (array.ndim() != static_cast<py::ssize_t>(inputs_[k].rank) + more ||
        !std::equal(sizes, sizes + inputs_[k].rank, array.shape() + more) ||
        (array.flags() & py::array::c_style) == 0 || !array.dtype().is(inputs_[k].dtype)) {
      return false;
    }
  }
  return true;
}

ArrayProgram::Held ArrayProgram::recent(const Objects& inputs, const Run& how,
                                        const std::vector<bool>* sliced) const {
  for (size_t i = 0; i < recent_.size(); ++i) {
    if (!fits(*recent_[i], inputs, how, sliced)) continue;
    const auto at = recent_.begin() + static_cast<std::ptrdiff_t>(i);
    std::rotate(recent_.begin(), at, at + 1);
    return recent_.front();
  }
  return nullptr;
}

// The oldest plan, where nobody else holds it: its memory serves again.
std::shared_ptr<ArrayProgram::Bound> ArrayProgram::spare() const {
  std::shared_ptr<Bound> bound;
  if (recent_.size() == kRecent) {
    bound = std::move(recent_.back());
    recent_.pop_back();
    if (bound.use_count() == 1 && bound->plan.use_count() == 1) return bound;
  }
  return std::make_shared<Bound>(Bound{std::make_shared<BoundPlan>(), {}, 0});
}

ArrayProgram::Held ArrayProgram::remember(std::shared_ptr<Bound> bound) const {
  recent_.insert(recent_.begin(), std::move(bound));
  return recent_.front();
}

// Sizes of the outputs, after those of the inputs.
void ArrayProgram::measure(Bound& bound) const {
  for (const Form& output : outputs_) bound.plan->append_shape(output.tensor, bound.sizes);
}

// Binds for sizes that change from one iteration of a loop to the next, without Python, and keeps
// the plan only until others come. Nothing where something is not as it should be: then Python
// binds, and says what.
ArrayProgram::Held ArrayProgram::rebind(const Objects& inputs, const Run& how,
                                        const std::vector<bool>* sliced) const {
  if (!plain_ || inputs.size() != inputs_.size()) return nullptr;
  const std::shared_ptr<Bound> bound = spare();
  bound->threads = how.threads;
  bound->sizes.clear();
  std::vector<int64_t> dims(n_symbols_, -1);
  for (size_t k = 0; k < inputs.size(); ++k) {
    if (!py::isinstance<py::array>(inputs[k])) return nullptr;
    const auto array = py::reinterpret_borrow<py::array>(inputs[k]);
    const py::ssize_t more = sliced != nullptr && (*sliced)[k] ? 1 : 0;
    const std::vector<int64_t>& axes = inputs_[k].axes;
    if (array.ndim() != static_cast<py::ssize_t>(axes.size()) + more) return nullptr;
    bound->sizes.insert(bound->sizes.end(), array.shape() + more, array.shape() + array.ndim());
    for (size_t a = 0; a < axes.size(); ++a) {
      const int64_t size = bound->sizes[inputs_[k].first + a];
      int64_t wanted = axes[a];
      if (wanted < 0) {
        int64_t& dim = dims.at(static_cast<size_t>(~wanted));
        wanted = dim = dim < 0 ? size : dim;
      }
      if (size != wanted) return nullptr;
    }
  }
  for (int64_t& dim : dims) dim = std::max<int64_t>(dim, 0);
  try {
    plan_->bind(dims, how.threads, *bound->plan);
  } catch (const std::exception&) {
    return nullptr;
  }
  measure(*bound);
  int64_t total = bound->plan->arena_bytes();
  for (const Form& output : outputs_) {
    int64_t size = output.dtype.itemsize();
    for (size_t a = 0; a < output.rank; ++a) {
      if (__builtin_mul_overflow(size, bound->sizes[output.first + a], &size)) return nullptr;
    }
    if (__builtin_add_overflow(total, size, &total) || total > memory_) return nullptr;
  }
  if (!fits(*bound, inputs, how, sliced)) return nullptr;
  ++rebinds_;
  return remember(bound);
}

// Bound by Python; `inputs` become what the plan takes.
ArrayProgram::Held ArrayProgram::prepare(const py::object& program, Objects& inputs,
                                         const Run& how) const {
  const auto found = program.attr("prepare")(list_of(inputs), how.threads).cast<py::tuple>();
  inputs = objects_of(found[0]);
  const std::shared_ptr<Bound> bound = spare();
  bound->plan = found[1].cast<std::shared_ptr<BoundPlan>>();
  bound->threads = how.threads;
  bound->sizes.clear();
  for (const py::object& object : inputs) {
    const auto array = object.cast<py::array>();
    bound->sizes.insert(bound->sizes.end(), array.shape(), array.shape() + array.ndim());
  }
  measure(*bound);
  if (!fits(*bound, inputs, how, nullptr)) throw std::logic_error("arrays do not fit their plan");
  return remember(bound);
}

Objects ArrayProgram::run(const py::object& program, const Objects& inputs, const Run& how) const {
  if (how.profile) return objects_of(program.attr("profiled")(list_of(inputs), how.context));
  const Objects* given = &inputs;
  Objects dense;
  Held bound = recent(inputs, how, nullptr);
  if (bound == nullptr && how.loop) bound = rebind(inputs, how, nullptr);
  if (bound == nullptr) {
    dense = inputs;
    bound = prepare(program, dense, how);
    given = &dense;
  }
  std::vector<uintptr_t> from(inputs.size()), to(outputs_.size());
  for (size_t k = 0; k < from.size(); ++k) from[k] = address((*given)[k]);
  Objects results(outputs_.size());
  for (size_t k = 0; k < to.size(); ++k) {
    py::array result = empty(*bound, k);
    to[k] = address(result);
    results[k] = std::move(result);
  }
  RunError error;
  const bool memory = without_gil([&] { error = bound->plan->run(from, to, nullptr); });
  if (!memory || error.message != nullptr) fail(program, bound->plan, error, memory);
  return results;
}

// Whether there are `rows` rows, and the plan gives what the next iteration takes.
bool ArrayProgram::repeats(const Bound& bound, const Objects& inputs, const Wiring& wiring,
                           int64_t rows) const {
  for (size_t k = 0; k < inputs.size(); ++k) {
    if (wiring.sliced[k] && py::reinterpret_borrow<py::array>(inputs[k]).shape(0) < rows) {
      return false;
    }
    if (wiring.states[k] < 0) continue;
    const auto state = static_cast<size_t>(wiring.states[k]);
    if (!outputs_.at(state).dtype.is(inputs_[k].dtype) ||
        shape(bound, outputs_[state]) != shape(bound, inputs_[k])) {
      return false;
    }
  }
  for (const int32_t k : wiring.stacked) outputs_.at(static_cast<size_t>(k));
  if (wiring.condition < 0) return true;
  return outputs_.at(static_cast<size_t>(wiring.condition)).dtype.kind() == 'b' &&
         bytes(bound, wiring.condition) == 1;
}

std::optional<Repeated> ArrayProgram::repeat(const py::object& program, const Objects& inputs,
                                             const Wiring& wiring, int64_t first, int64_t count,
                                             const Run& how) const {
  if (how.profile || count < 1) return std::nullopt;
  Held bound = recent(inputs, how, &wiring.sliced);
  if (bound == nullptr) bound = rebind(inputs, how, &wiring.sliced);
  if (bound == nullptr || !repeats(*bound, inputs, wiring, first + count)) return std::nullopt;
  int64_t row = 1;
  for (const int32_t k : wiring.stacked) row += bytes(*bound, k);
  count = std::max<int64_t>(std::min(count, kBlock / row), 1);

  Repeat repeat;
  repeat.condition = wiring.condition;
  for (size_t k = 0; k < inputs_.size(); ++k) {
    const int64_t stride =
        wiring.sliced[k] ? py::reinterpret_borrow<py::array>(inputs[k]).strides(0) : 0;
    const uintptr_t start = address(inputs[k]) + static_cast<uintptr_t>(first * stride);
    repeat.inputs.push_back({start, stride, wiring.states[k]});
  }
  std::vector<bool> read_next(outputs_.size(), false), placed(outputs_.size(), false);
  for (const int32_t k : wiring.states) {
    if (k >= 0) read_next[static_cast<size_t>(k)] = true;
  }
  repeat.outputs.resize(outputs_.size());
  Repeated done;
  for (const int32_t k : wiring.stacked) {
    const auto index = static_cast<size_t>(k);
    Shape rows = shape(*bound, outputs_[index]);
    rows.insert(rows.begin(), count);
    done.blocks.emplace_back(outputs_[index].dtype, rows);
    const uintptr_t block = address(done.blocks.back());
    if (read_next[index] || placed[index]) {
      repeat.copies.push_back({k, block, bytes(*bound, k)});
    } else {
      repeat.outputs[index] = {{block, block}, bytes(*bound, k)};
      placed[index] = true;
    }
  }
  Objects pairs[2];
  for (int side = 0; side < 2; ++side) {
    pairs[side].resize(outputs_.size());
    for (size_t k = 0; k < outputs_.size(); ++k) {
      if (placed[k]) continue;
      pairs[side][k] = empty(*bound, k);
      repeat.outputs[k].base[side] = address(pairs[side][k]);
    }
  }
  RepeatEnd end;
  const bool memory = without_gil([&] { end = run_repeatedly(*bound->plan, repeat, count); });
  if (!memory || end.error.message != nullptr) fail(program, bound->plan, end.error, memory);
  done.steps = end.steps;
  done.going = end.going;
  for (const int32_t k : wiring.states) {
    if (k >= 0) done.states.push_back(pairs[(end.steps - 1) % 2][static_cast<size_t>(k)]);
  }
  return done;
}

void bind_arrays(py::module_& m) {
  py::class_<Runner, std::shared_ptr<Runner>>(m, "Runner")
      .def(
          "run",
          [](const Runner& self, const py::object& program, const py::sequence& inputs,
             const py::object& context) {
            return list_of(self.run(program, objects_of(inputs), Run(context)));
          },
          py::arg("program"), py::arg("inputs"), py::arg("context"));
  py::class_<ArrayProgram, Runner, std::shared_ptr<ArrayProgram>>(m, "ArrayProgram")
      .def(py::init<std::shared_ptr<Plan>, size_t, const py::sequence&, const py::sequence&,
                    int64_t>(),
           py::arg("plan"), py::arg("n_symbols"), py::arg("inputs"), py::arg("outputs"),
           py::arg("memory"))
      .def_property_readonly("rebinds", &ArrayProgram::rebinds);
}

}  // namespace zenith
