// A native program as it is called with numpy arrays: once, or as the body of a loop.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/runner.h"
#include "zenith/plan.h"

namespace zenith {

// How iterations of a loop hang together. Of every input: whether it is the next row of what is
// given, and which result of the iteration before it is (-1: none, it stays as given). stacked:
// results whose rows are kept. condition: the result that says whether to go on; -1: always.
struct Wiring {
  std::vector<bool> sliced;
  std::vector<int32_t> states;
  std::vector<int32_t> stacked;
  int32_t condition;

  Wiring(std::vector<bool> rows, std::vector<int32_t> fed, std::vector<int32_t> kept, int32_t go_on)
      : sliced(std::move(rows)),
        states(std::move(fed)),
        stacked(std::move(kept)),
        condition(go_on) {}
};

// What iterations came to: how many, the last condition, the states in the order of inputs, and
// for every stacked result a block of rows.
struct Repeated {
  int64_t steps;
  bool going;
  Objects states;
  std::vector<pybind11::array> blocks;
};

constexpr int64_t kBlock = 64 << 20;  // bytes of one block of rows

class ArrayProgram : public Runner {
 public:
  // inputs: dtype and axes, each a size, ~k for symbol k, or None where it is neither. outputs:
  // dtype, the plan's tensor and its rank. memory: most bytes a call may need.
  ArrayProgram(std::shared_ptr<Plan> plan, size_t n_symbols, const pybind11::sequence& inputs,
               const pybind11::sequence& outputs, int64_t memory);

  Objects run(const pybind11::object& program, const Objects& inputs,
              const Run& how) const override;

  // At most `count` iterations from row `first` on; nothing where sizes do not fit or would change.
  std::optional<Repeated> repeat(const pybind11::object& program, const Objects& inputs,
                                 const Wiring& wiring, int64_t first, int64_t count,
                                 const Run& how) const;

  int64_t rebinds() const { return rebinds_; }

 private:
  using Shape = std::vector<pybind11::ssize_t>;
  struct Form {
    pybind11::dtype dtype;
    std::vector<int64_t> axes;  // of an input; see the constructor
    int32_t tensor;             // of an output
    size_t rank;
    size_t first;  // of Bound::sizes
  };
  struct Bound {
    std::shared_ptr<BoundPlan> plan;
    Shape sizes;  // of inputs and outputs, one after the other
    int threads;
  };
  using Held = std::shared_ptr<const Bound>;

  bool fits(const Bound& bound, const Objects& inputs, const Run& how,
            const std::vector<bool>* sliced) const;
  Held recent(const Objects& inputs, const Run& how, const std::vector<bool>* sliced) const;
  Held rebind(const Objects& inputs, const Run& how, const std::vector<bool>* sliced) const;
  Held prepare(const pybind11::object& program, Objects& inputs, const Run& how) const;
  std::shared_ptr<Bound> spare() const;
  Held remember(std::shared_ptr<Bound> bound) const;
  void measure(Bound& bound) const;
  Shape shape(const Bound& bound, const Form& form) const;
  bool repeats(const Bound& bound, const Objects& inputs, const Wiring& wiring, int64_t rows) const;
  int64_t bytes(const Bound& bound, int32_t output) const;
  pybind11::array empty(const Bound& bound, size_t output) const;

  std::shared_ptr<Plan> plan_;
  size_t n_symbols_;
  std::vector<Form> inputs_, outputs_;
  int64_t memory_;
  size_t n_sizes_ = 0;
  bool plain_ = true;  // every size of an input is a number or a symbol
  // The last bound plans, the newest first; changed under the GIL only.
  mutable std::vector<std::shared_ptr<Bound>> recent_;
  mutable int64_t rebinds_ = 0;
};

}  // namespace zenith
