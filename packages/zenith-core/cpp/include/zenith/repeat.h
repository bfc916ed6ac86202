// A bound plan run again and again on its own results: the body of Loop and Scan.
#pragma once

#include <cstdint>
#include <vector>

#include "zenith/plan.h"

namespace zenith {

struct Repeat {
  // The plan's input in iteration i: what `output` gave in the iteration before, where there was
  // one; else memory at first + i * stride.
  struct Input {
    uintptr_t first;
    int64_t stride = 0;
    int32_t output = -1;
  };
  // Where the plan's output goes in iteration i: base[i % 2] + i * stride.
  struct Output {
    uintptr_t base[2];
    int64_t stride = 0;
  };
  // A row of `bytes` copied from an output after every iteration, to rows + i * bytes.
  struct Copy {
    int32_t output;
    uintptr_t rows;
    int64_t bytes;
  };
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::vector<Copy> copies;
  int32_t condition = -1;  // the output, a bool, that says whether to go on; -1: always
};

struct RepeatEnd {
  int64_t steps = 0;  // iterations done
  bool going = true;  // the last condition
  RunError error;
};

// At most `count` iterations.
RepeatEnd run_repeatedly(const BoundPlan& plan, const Repeat& repeat, int64_t count);

}  // namespace zenith
