// zenith._native.Walk: an execution plan's partitions, called in order; Branch and Loop: the nodes
// If and Loop over walks.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "bindings/arrays.h"
#include "bindings/convert.h"

namespace py = pybind11;

namespace zenith {
namespace {

// Whether a condition holds; `program` judges what is not one bool.
bool truth(const py::object& condition, const py::object& program) {
  if (py::isinstance<py::array>(condition)) {
    const auto array = py::reinterpret_borrow<py::array>(condition);
    if (array.size() == 1 && array.dtype().kind() == 'b') {
      return *static_cast<const uint8_t*>(array.data()) != 0;
    }
  }
  return program.attr("truth")(condition).cast<bool>();
}

// Row `index` of a row-major array, as a view.
py::object row(const py::object& object, int64_t index) {
  if (!py::isinstance<py::array>(object)) return object[py::int_(index)];
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() < 1 || index >= array.shape(0)) throw py::index_error("no such row");
  const std::vector<py::ssize_t> shape(array.shape() + 1, array.shape() + array.ndim());
  const std::vector<py::ssize_t> strides(array.strides() + 1, array.strides() + array.ndim());
  const char* data = static_cast<const char*>(array.data()) + index * array.strides(0);
  return py::array(array.dtype(), shape, strides, data, array);
}

bool same_sizes(const py::object& a, const py::object& b) {
  if (!py::isinstance<py::array>(a) || !py::isinstance<py::array>(b)) return false;
  const auto x = py::reinterpret_borrow<py::array>(a);
  const auto y = py::reinterpret_borrow<py::array>(b);
  return std::equal(x.shape(), x.shape() + x.ndim(), y.shape(), y.shape() + y.ndim());
}

// Rows of one result, copied into blocks. A row of another shape begins another block.
class Rows {
 public:
  // left: how many more may come.
  void add(const py::object& item, int64_t left) {
    const auto given = py::reinterpret_borrow<py::array>(item);
    const bool plain = py::isinstance<py::array>(item) && given.dtype().kind() != 'O' &&
                       (given.flags() & py::array::c_style) != 0;
    if (!plain) {
      close();
      blocks_.append(item[py::make_tuple(py::none())]);
      return;
    }
    if (used_ == room_ || !fits(given)) open(given, left);
    const auto bytes = static_cast<size_t>(given.nbytes());
    std::memcpy(static_cast<char*>(block_.mutable_data()) + static_cast<size_t>(used_) * bytes,
                given.data(), bytes);
    ++used_;
  }

  void add_block(const py::object& block, int64_t rows) {
    close();
    blocks_.append(block[py::slice(0, rows, 1)]);
  }

  py::list take() {
    close();
    return std::move(blocks_);
  }

 private:
  bool fits(const py::array& item) const {
    return block_.dtype().is(item.dtype()) &&
           std::equal(item.shape(), item.shape() + item.ndim(), block_.shape() + 1,
                      block_.shape() + block_.ndim());
  }

  void open(const py::array& item, int64_t left) {
    close();
    room_ = std::clamp<int64_t>(kBlock / std::max<int64_t>(item.nbytes(), 1), 1, left);
    std::vector<py::ssize_t> shape{room_};
    shape.insert(shape.end(), item.shape(), item.shape() + item.ndim());
    block_ = py::array(item.dtype(), shape);
  }

  void close() {
    if (used_ > 0) blocks_.append(block_[py::slice(0, used_, 1)]);
    used_ = room_ = 0;
  }

  py::list blocks_;
  py::array block_;
  int64_t used_ = 0, room_ = 0;
};

// What iterations came to: how many, the last condition, the states, and for every stacked result
// its blocks of rows.
struct Iterations {
  int64_t steps = 0;
  bool going = true;
  Objects states;
  std::vector<py::list> blocks;
};

// Slots hold the inputs, then what partitions give. A result is one slot's.
class Walk {
 public:
  Walk(size_t n_inputs, size_t n_slots, std::vector<size_t> results, const py::dict& constants)
      : n_inputs_(n_inputs), n_slots_(n_slots), results_(std::move(results)) {
    for (const auto& [slot, array] : constants) {
      constants_.emplace_back(slot.cast<size_t>(), py::reinterpret_borrow<py::object>(array));
    }
  }

  // runner: its native part, or None: then `program` runs the partition.
  void add(const py::object& program, std::shared_ptr<Runner> runner, std::vector<size_t> inputs,
           std::vector<size_t> outputs) {
    for (const auto* slots : {&inputs, &outputs, &results_}) {
      for (const size_t slot : *slots) {
        if (slot >= n_slots_) throw py::index_error("no such slot");
      }
    }
    steps_.push_back({program, std::move(runner), std::move(inputs), std::move(outputs)});
  }

  Objects run(const Objects& inputs, const Run& how) const {
    if (inputs.size() != n_inputs_) throw py::value_error("a walk needs a value for every input");
    Objects slots;
    slots.reserve(n_slots_);
    slots = inputs;
    slots.resize(n_slots_);
    for (const auto& [slot, array] : constants_) slots[slot] = array;
    Objects given;
    for (const Step& step : steps_) {
      given.clear();
      given.reserve(step.inputs.size());
      for (const size_t slot : step.inputs) given.push_back(slots[slot]);
      Objects found =
          step.runner != nullptr
              ? step.runner->run(step.program, given, how)
              : objects_of(step.program.attr("run_arrays")(list_of(given), how.context));
      if (found.size() != step.outputs.size()) throw py::value_error("a result is missing");
      for (size_t k = 0; k < found.size(); ++k) slots[step.outputs[k]] = std::move(found[k]);
    }
    Objects results;
    results.reserve(results_.size());
    for (const size_t slot : results_) results.push_back(slots[slot]);
    return results;
  }

  // At most `count` runs as the body of `program`, a loop.
  Iterations repeat(const py::object& program, const Objects& inputs, const Wiring& wiring,
                    int64_t count, const Run& how) const {
    const std::optional<Wiring> direct = straight(wiring);
    Objects now(inputs);
    if (now.size() != wiring.sliced.size() || now.size() != wiring.states.size()) {
      throw py::value_error("a loop is wired to other inputs");
    }
    std::vector<Rows> rows(wiring.stacked.size());
    Iterations all;
    bool steady = true;
    while (all.going && all.steps < count) {
      if (steady && direct.has_value()) {
        const auto found =
            alone().repeat(steps_[0].program, now, *direct, all.steps, count - all.steps, how);
        if (found.has_value()) {
          feed(now, wiring, found->states);
          for (size_t k = 0; k < rows.size(); ++k)
            rows[k].add_block(found->blocks[k], found->steps);
          all.steps += found->steps;
          all.going = found->going;
          continue;
        }
      }
      Objects given(now);
      for (size_t k = 0; k < now.size(); ++k) {
        if (wiring.sliced[k]) given[k] = row(now[k], all.steps);
      }
      const Objects results = run(given, how);
      if (wiring.condition >= 0) all.going = truth(at(results, wiring.condition), program);
      for (size_t k = 0; k < rows.size(); ++k) {
        rows[k].add(at(results, wiring.stacked[k]), count - all.steps);
      }
      Objects states;
      for (const int32_t k : wiring.states) {
        if (k >= 0) states.push_back(at(results, k));
      }
      steady = feed(now, wiring, states);
      ++all.steps;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    for (Rows& each : rows) all.blocks.push_back(each.take());
    for (size_t k = 0; k < now.size(); ++k) {
      if (wiring.states[k] >= 0) all.states.push_back(now[k]);
    }
    return all;
  }

 private:
  struct Step {
    py::object program;
    std::shared_ptr<Runner> runner;
    std::vector<size_t> inputs, outputs;
  };

  static const py::object& at(const Objects& results, int32_t index) {
    return results.at(static_cast<size_t>(index));
  }

  // The next iteration's states; whether all have the sizes of the last.
  static bool feed(Objects& now, const Wiring& wiring, const Objects& states) {
    bool same = true;
    size_t next = 0;
    for (size_t k = 0; k < now.size(); ++k) {
      if (wiring.states[k] < 0) continue;
      same = same && same_sizes(now[k], states[next]);
      now[k] = states[next++];
    }
    return same;
  }

  const ArrayProgram& alone() const { return static_cast<const ArrayProgram&>(*steps_[0].runner); }

  // The wiring in terms of the outputs of the only partition, where this is one native program on
  // the inputs as they are.
  std::optional<Wiring> straight(const Wiring& wiring) const {
    if (steps_.size() != 1 ||
        dynamic_cast<const ArrayProgram*>(steps_[0].runner.get()) == nullptr ||
        steps_[0].inputs.size() != n_inputs_) {
      return std::nullopt;
    }
    for (size_t k = 0; k < n_inputs_; ++k) {
      if (steps_[0].inputs[k] != k) return std::nullopt;
    }
    const auto output = [&](int32_t result) -> int32_t {
      const std::vector<size_t>& outputs = steps_[0].outputs;
      const size_t slot = results_.at(static_cast<size_t>(result));
      const auto found = std::find(outputs.begin(), outputs.end(), slot);
      return found == outputs.end() ? -1 : static_cast<int32_t>(found - outputs.begin());
    };
    Wiring direct{wiring.sliced, {}, {}, -1};
    for (const int32_t k : wiring.states) {
      direct.states.push_back(k < 0 ? -1 : output(k));
      if (k >= 0 && direct.states.back() < 0) return std::nullopt;
    }
    for (const int32_t k : wiring.stacked) {
      direct.stacked.push_back(output(k));
      if (direct.stacked.back() < 0) return std::nullopt;
    }
    if (wiring.condition < 0) return direct;
    direct.condition = output(wiring.condition);
    if (direct.condition >= 0) return direct;
    const size_t slot = results_.at(static_cast<size_t>(wiring.condition));
    for (const auto& [at, array] : constants_) {  // "go on" that no iteration computes
      if (at == slot && truth(array, steps_[0].program)) return direct;
    }
    return std::nullopt;
  }

  size_t n_inputs_, n_slots_;
  std::vector<size_t> results_;
  std::vector<std::pair<size_t, py::object>> constants_;
  std::vector<Step> steps_;
};

// A body of control flow, and the positions of the values it captures.
struct Body {
  std::shared_ptr<Walk> walk;
  std::vector<size_t> captured;

  explicit Body(const py::tuple& pair)
      : walk(pair[0].cast<std::shared_ptr<Walk>>()),
        captured(pair[1].cast<std::vector<size_t>>()) {}

  Objects arguments(Objects formal, const Objects& inputs) const {
    for (const size_t k : captured) formal.push_back(inputs.at(k));
    return formal;
  }
};

// One input of a node: a position among a partition's, or a constant, which may be None.
class Source {
 public:
  explicit Source(const py::object& of) : constant_(of) {
    if (!py::isinstance<py::int_>(of)) return;
    position_ = of.cast<int64_t>();
  }

  const py::object& in(const Objects& inputs) const {
    return position_ < 0 ? constant_ : inputs.at(static_cast<size_t>(position_));
  }

 private:
  py::object constant_;
  int64_t position_ = -1;
};

Objects pick(const Objects& results, const std::vector<size_t>& wanted) {
  Objects found;
  for (const size_t k : wanted) found.push_back(results.at(k));
  return found;
}

// If: one of two walks.
class Branch : public Runner {
 public:
  // wanted: which results are given.
  Branch(const py::object& condition, const py::tuple& yes, const py::tuple& no,
         std::vector<size_t> wanted)
      : condition_(condition), yes_(yes), no_(no), wanted_(std::move(wanted)) {}

  Objects run(const py::object& program, const Objects& inputs, const Run& how) const override {
    const Body& body = truth(condition_.in(inputs), program) ? yes_ : no_;
    return pick(body.walk->run(body.arguments({}, inputs), how), wanted_);
  }

 private:
  Source condition_;
  Body yes_, no_;
  std::vector<size_t> wanted_;
};

constexpr int64_t kMost = 4096;  // iterations between two checks for signals

// Loop: a walk again and again, at most so often, while a condition holds.
class Loop : public Runner {
 public:
  // sources: of the node's inputs. Where results are stacked, `program` does it.
  Loop(const py::sequence& sources, const py::tuple& body, Wiring wiring,
       std::vector<size_t> wanted)
      : body_(body), wiring_(std::move(wiring)), wanted_(std::move(wanted)) {
    for (const py::object& source : objects_of(sources)) sources_.emplace_back(source);
    if (sources_.size() < 2) throw py::value_error("a loop has a limit and a condition");
  }

  Objects run(const py::object& program, const Objects& inputs, const Run& how) const override {
    const Run inside = how.within_loop();
    const py::object& limit = sources_[0].in(inputs);
    const py::object& first = sources_[1].in(inputs);
    const int64_t most = most_of(limit, program);
    bool going = first.is_none() || truth(first, program);
    Objects states;
    for (size_t k = 2; k < sources_.size(); ++k) states.push_back(sources_[k].in(inputs));
    std::vector<py::list> blocks(wiring_.stacked.size());
    for (int64_t step = 0; going && step < most;) {
      const int64_t count = std::min(kMost, most - step);
      py::array_t<int64_t> steps(count);
      std::iota(steps.mutable_data(), steps.mutable_data() + count, step);
      Objects formal{steps, first_true()};
      formal.insert(formal.end(), states.begin(), states.end());
      Iterations done = body_.walk->repeat(program, body_.arguments(std::move(formal), inputs),
                                           wiring_, count, inside);
      states = std::move(done.states);
      going = done.going;
      step += done.steps;
      for (size_t k = 0; k < blocks.size(); ++k) {
        for (const py::handle block : done.blocks[k]) blocks[k].append(block);
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    if (!blocks.empty()) {
      py::list all;
      for (const py::list& each : blocks) all.append(each);
      for (const py::object& rows : objects_of(program.attr("stacked")(all))) {
        states.push_back(rows);
      }
    }
    return pick(states, wanted_);
  }

 private:
  static int64_t most_of(const py::object& limit, const py::object& program) {
    if (limit.is_none()) return std::numeric_limits<int64_t>::max();
    if (py::isinstance<py::array_t<int64_t>>(limit)) {
      const auto array = py::reinterpret_borrow<py::array>(limit);
      if (array.size() == 1) return *static_cast<const int64_t*>(array.data());
    }
    return program.attr("count")(limit).cast<int64_t>();
  }

  // What the body is told: it runs, so the condition holds.
  static py::array first_true() {
    py::array_t<bool> holds(std::vector<py::ssize_t>{});
    *holds.mutable_data() = true;
    return holds;
  }

  std::vector<Source> sources_;
  Body body_;
  Wiring wiring_;
  std::vector<size_t> wanted_;
};

}  // namespace

void bind_walk(py::module_& m) {
  py::class_<Walk, std::shared_ptr<Walk>>(m, "Walk")
      .def(py::init<size_t, size_t, std::vector<size_t>, const py::dict&>(), py::arg("n_inputs"),
           py::arg("n_slots"), py::arg("results"), py::arg("constants"))
      .def("add", &Walk::add, py::arg("program"), py::arg("runner"), py::arg("inputs"),
           py::arg("outputs"))
      .def(
          "run",
          [](const Walk& self, const py::sequence& inputs, const py::object& context) {
            return list_of(self.run(objects_of(inputs), Run(context)));
          },
          py::arg("inputs"), py::arg("context"))
      .def(
          "repeat",
          [](const Walk& self, const py::object& program, const py::sequence& inputs,
             const Wiring& wiring, int64_t count, const py::object& context) {
            const Run how = Run(context).within_loop();
            Iterations all = self.repeat(program, objects_of(inputs), wiring, count, how);
            return py::make_tuple(all.steps, list_of(all.states), all.blocks);
          },
          py::arg("program"), py::arg("inputs"), py::arg("wiring"), py::arg("count"),
          py::arg("context"));
  py::class_<Wiring>(m, "Wiring")
      .def(py::init<std::vector<bool>, std::vector<int32_t>, std::vector<int32_t>, int32_t>(),
           py::arg("sliced"), py::arg("states"), py::arg("stacked"), py::arg("condition"));
  py::class_<Branch, Runner, std::shared_ptr<Branch>>(m, "Branch")
      .def(py::init<const py::object&, const py::tuple&, const py::tuple&, std::vector<size_t>>(),
           py::arg("condition"), py::arg("yes"), py::arg("no"), py::arg("wanted"));
  py::class_<Loop, Runner, std::shared_ptr<Loop>>(m, "Loop").def(
      py::init<const py::sequence&, const py::tuple&, Wiring, std::vector<size_t>>(),
      py::arg("sources"), py::arg("body"), py::arg("wiring"), py::arg("wanted"));
}

}  // namespace zenith
